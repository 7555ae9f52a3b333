import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from telellm.cluster.api import Api, ClusterError
from telellm.cluster.serving import ANNOTATION, turn
from telellm.store import Store

PATH = "/apis/apps/v1/namespaces/platform/deployments/telellm-serving"


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """A server that answers for one Deployment as Kubernetes does; yields its pods' metadata."""
    metadata: dict[str, object] = {"annotations": {"checksum/probe": "x"}, "labels": {"a": "b"}}
    kinds: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_PATCH(self) -> None:
            kinds.append(self.headers["Content-Type"])
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            changed = body["spec"]["template"]["metadata"]["annotations"]
            metadata["annotations"] = {**metadata["annotations"], **changed}  # type: ignore[dict-item]
            self.answer()

        def answer(self) -> None:
            self.send_response(200 if self.path == PATH else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"spec": {"template": {"metadata": metadata}}}).encode())

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x", "users": [{"name": "x", "user": {}}]}
    config |= {"clusters": [{"name": "x", "cluster": cluster}]}
    config |= {"contexts": [{"name": "x", "context": {"cluster": "x", "user": "x", "namespace": "platform"}}]}
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    yield metadata
    server.shutdown()
    assert set(kinds) <= {"application/merge-patch+json"}


def promoted(store: Store, *versions: str) -> None:
    move = {"before": None, "action": "promote", "at": "", "by": "", "why": ""}
    moves = [move | {"version": version} for version in versions]
    store.write("models/telecom/production.json", json.dumps({"moves": moves}).encode())


def test_pods_get_the_version_in_production_once(directory_store: Store, deployment: dict[str, object]) -> None:
    api = Api()
    assert turn(directory_store, "telecom", "telellm-serving", api) == ""
    promoted(directory_store, "v1")
    assert turn(directory_store, "telecom", "telellm-serving", api) == "v1"
    assert deployment["annotations"] == {"checksum/probe": "x", ANNOTATION: "v1"}
    assert turn(directory_store, "telecom", "telellm-serving", api) == ""
    promoted(directory_store, "v1", "v2")
    assert turn(directory_store, "telecom", "telellm-serving", api) == "v2"


def test_a_deployment_that_is_not_there_is_told(directory_store: Store, deployment: dict[str, object]) -> None:
    promoted(directory_store, "v1")
    with pytest.raises(ClusterError):
        turn(directory_store, "telecom", "other", Api())
