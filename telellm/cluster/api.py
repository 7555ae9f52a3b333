"""Api: the requests to a Kubernetes API server that jobs need, and what a person can do when one is refused."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_SECONDS = 30
WATCH_SECONDS = 300
PATIENCE_SECONDS = 300
"""An API server that restarts is back within this time; who waits for a job waits for it too."""
Object = dict[str, Any]


class ClusterError(RuntimeError):
    """The cluster does not answer or refuses a request; the message says what to do."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0: no answer came."""


def in_cluster() -> bool:
    """Say whether this process runs in a pod that may talk to its cluster's API."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists()


class Api:
    """The API server of the kubeconfig, or of the cluster in which this process is a pod; objects are plain dicts."""

    def __init__(self, namespace: str = "") -> None:
        """Connect; `namespace` is where jobs live, by default that of the pod or of the kubeconfig's context."""
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException

        try:
            if in_cluster():
                config.load_incluster_config()
                known = (SERVICE_ACCOUNT / "namespace").read_text()
            else:
                config.load_kube_config()
                known = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except (ConfigException, OSError) as error:
            raise ClusterError(
                f"cluster: there is no usable kubeconfig ({error}); set KUBECONFIG, or turn cluster.enabled off"
            ) from None
        self.namespace = namespace or known
        self.client = client.ApiClient()
        self.server = self.client.configuration.host

    def get(self, path: str) -> Object:
        """Return an object."""
        return self._ask("GET", path)

    def find(self, path: str) -> Object | None:
        """Return an object, or None where there is none."""
        try:
            return self._ask("GET", path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, body: Object) -> Object:
        """Create an object in a collection."""
        return self._ask("POST", path, body)

    def patch(self, path: str, body: Object) -> Object:
        """Change fields of an object (JSON merge patch)."""
        kind = "application/merge-patch+json"
        response = self._call("PATCH", path, body, REQUEST_SECONDS, whole=True, content_type=kind)
        answer: Object = json.loads(response.data)
        return answer

    def delete(self, path: str) -> None:
        """Delete an object and what it owns; nothing happens where there is none."""
        try:
            self._ask("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"})
        except ClusterError as error:
            if error.status != 404:
                raise

    def list(self, path: str, selector: str) -> tuple[Object, ...]:
        """Return the objects of a collection that have the labels."""
        return self.list_at(path, selector)[0]

    def list_at(self, path: str, selector: str) -> tuple[tuple[Object, ...], str]:
        """Return the objects of a collection that have the labels, and the version from which to watch it."""
        listed = self.get(f"{path}?{urlencode({'labelSelector': selector})}")
        return tuple(listed["items"]), listed["metadata"]["resourceVersion"]

    def watch(self, path: str, selector: str, version: str) -> Iterator[Object]:
        """Yield an object of a collection whenever one changes after `version`, for some minutes.

        A deleted object is yielded a last time, with `deleted` set.
        """
        query = {
            "labelSelector": selector,
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": WATCH_SECONDS,
        }
        for line in self._stream(f"{path}?{urlencode(query)}", read_seconds=WATCH_SECONDS + REQUEST_SECONDS):
            event = json.loads(line)
            if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                yield event["object"] | ({"deleted": True} if event["type"] == "DELETED" else {})
            elif event["type"] == "ERROR":  # the version is too old: who needs it lists again
                return

    def log(self, pod: str, container: str) -> Iterator[str]:
        """Yield the lines of a container's log as they are written, until it ends."""
        query = urlencode({"container": container, "follow": "true"})
        yield from self._stream(f"{self.pods}/{pod}/log?{query}", read_seconds=None)

    @property
    def pods(self) -> str:
        """The collection of pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def _stream(self, path: str, read_seconds: float | None) -> Iterator[str]:
        import urllib3

        response = self._call("GET", path, None, (REQUEST_SECONDS, read_seconds), whole=False)
        rest = b""
        try:
            for chunk in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"cluster: {self.server} broke off: {type(error).__name__}") from error
        finally:
            response.close()
        if rest:
            yield rest.decode("utf-8", "replace")

    def _ask(self, method: str, path: str, body: Object | None = None) -> Object:
        response = self._call(method, path, body, REQUEST_SECONDS, whole=True)
        answer: Object = json.loads(response.data)
        return answer

    def _call(
        self,
        method: str,
        path: str,
        body: Object | None,
        timeout: Any,
        whole: bool,
        content_type: str = "application/json",
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return self.client.call_api(
                path,
                method,
                body=body,
                header_params={"Accept": "application/json", "Content-Type": content_type},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=timeout,
            )
        except ApiException as error:
            raise _refused(error.status or 0, error.body, f"{method} {path.partition('?')[0]}") from None
        except (HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ClusterError(
                f"cluster: {self.server} does not answer ({type(reason).__name__}: {reason}); check KUBECONFIG and the "
                "network"
            ) from None


def _refused(status: int, body: Any, what: str) -> ClusterError:
    try:
        answer: Mapping[str, Any] = json.loads(body)
        said = str(answer.get("message") or answer)
    except (TypeError, ValueError):
        said = str(body)[:500]
    remedy = {
        401: "; the kubeconfig's credentials are refused: renew them",
        403: "; bind the Role of k8s/rbac.yaml to this account in the namespace",
        404: "; is the training operator installed? k8s/training-operator.yaml",
    }.get(status, "")
    if "denied the request" in said:  # by an admission webhook: no right is missing
        remedy = "; look at k8s/ and the recipe's cluster section"
    return ClusterError(f"cluster: {what}: {said}{remedy}", status)


def patiently(seconds: float = PATIENCE_SECONDS) -> Iterator[float]:
    """Yield pauses that grow, until `seconds` have passed."""
    deadline, pause = time.monotonic() + seconds, 0.5
    while time.monotonic() < deadline:
        yield pause
        pause = min(2 * pause, 10.0)
