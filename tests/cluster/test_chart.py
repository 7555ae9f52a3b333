"""The chart against a real API server: every object of every set of values, and a small installation from its first
pod to its last.

`helm` must be on the path. The training operator is that of the other tests: a cluster has one.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import wait_until
from tests.cluster.conftest import REGISTRY, TAG
from tests.unit.test_chart import CHART, MATRIX, chart

__all__ = ["chart"]
NAMESPACE = "telellm-chart-tests"
OURS = "telellm/chart-tests"
ABSENT = {"monitoring.coreos.com", "kueue.x-k8s.io"}
"""Groups whose operators a test cluster need not have."""
INSTALLED = """
pipelines: {enabled: false}
trainingOperator: {enabled: false}
minio: {sourceBuckets: [raw]}
telellm:
  recipes:
    small:
      model: {name: "s3://models/base"}
      sources: {web: {category: web, path: "s3://raw/web", licence: CC0-1.0}}
      cluster: {stages: [ingest]}
"""

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm on the path")


@pytest.fixture(scope="session")
def documents() -> None:
    """These tests need no documents and no namespace of the others."""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace at level "restricted"."""
    remove()
    kubectl("create", "namespace", NAMESPACE)
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    kubectl("label", "namespace", NAMESPACE, f"{OURS}=made", *levels)
    yield NAMESPACE
    remove()


def remove() -> None:
    if f"namespace/{NAMESPACE}" in kubectl("get", "namespace", "-l", f"{OURS}=made", "-o", "name").split():
        subprocess.run(["helm", "uninstall", "telellm", "-n", NAMESPACE, "--wait"], capture_output=True)
        kubectl("delete", "namespace", NAMESPACE, "--timeout=240s")


def kubectl(*words: str, given: str = "") -> str:
    result = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True)
    assert result.returncode == 0, f"kubectl {' '.join(words)}: {result.stderr}"
    return result.stdout


def helm(*words: str) -> str:
    result = subprocess.run(["helm", *words, "-n", NAMESPACE], capture_output=True, text=True)
    assert result.returncode == 0, f"helm {' '.join(words)}: {result.stderr}"
    return result.stdout


def rendered(chart: Path, *words: str) -> list[dict]:
    """Return the objects as `helm install` makes them on this cluster, with what look-ups find."""
    text = helm("template", "telellm", str(chart), "--kube-version", "1.34.0", *words)
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def opaque_secrets() -> dict[str, dict[str, str]]:
    found = json.loads(kubectl("get", "secret", "-n", NAMESPACE, "-o", "json"))["items"]
    return {secret["metadata"]["name"]: secret["data"] for secret in found if secret["type"] == "Opaque"}


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_the_api_server_takes_every_object(chart: Path, namespace: str, name: str) -> None:
    values = ["-f", str(MATRIX[name])] if name else []
    objects = rendered(chart, *values)
    # a pod is refused without its account and its priority class, and a dry run makes none
    accounts = [found for found in objects if found["kind"] == "ServiceAccount"]
    kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(accounts))
    for pod in (found for found in objects if found["kind"] == "Pod"):
        pod["spec"].pop("priorityClassName", None)
    known = [found for found in objects if found["apiVersion"].partition("/")[0] not in ABSENT]
    command = ["kubectl", "apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-"]
    result = subprocess.run(command, input=yaml.safe_dump_all(known), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "would violate" not in result.stderr, result.stderr
    assert len(result.stdout.splitlines()) == len(known)


def test_secrets_that_are_there_stay(chart: Path, namespace: str) -> None:
    values = ["-f", str(MATRIX["all-on"])]

    def secrets() -> list[dict]:
        found = rendered(chart, "--dry-run=server", *values)
        return [o for o in found if o["kind"] == "Secret" and "data" in o]

    first = secrets()
    assert {o["metadata"]["name"]: o["data"] for o in first} != {o["metadata"]["name"]: o["data"] for o in secrets()}
    kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(first))
    try:
        assert {o["metadata"]["name"]: o["data"] for o in first} == {
            o["metadata"]["name"]: o["data"] for o in secrets()
        }
    finally:
        kubectl("delete", "-n", namespace, "secret", *(o["metadata"]["name"] for o in first))


@pytest.mark.parametrize(
    ("account", "rights"),
    [
        ("telellm-launcher", {"create jobs.batch", "delete jobs.batch", "list pods", "get pods/log"}),
        ("telellm-stage", set()),
    ],
)
def test_accounts_may_do_what_they_must_and_no_more(
    chart: Path, namespace: str, account: str, rights: set[str]
) -> None:
    roles = [o for o in rendered(chart) if o["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(roles))
    asked = rights | {
        "get secrets",
        "list secrets",
        "create pods",
        "update configmaps",
        "create pods/exec",
        "get nodes",
    }
    for right in asked:
        verb, what = right.split()
        what, _, part = what.partition("/")
        command = ["kubectl", "auth", "can-i", verb, what, f"--subresource={part}", "-n", namespace]
        who = f"--as=system:serviceaccount:{namespace}:{account}"
        answer = subprocess.run([*command, who], capture_output=True, text=True).stdout.strip()
        assert (answer == "yes") is (right in rights), f"{account}: {right}: {answer}"
    kubectl("delete", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(roles))


def test_a_small_installation_works_is_upgraded_and_leaves_nothing(chart: Path, namespace: str, tmp_path: Path) -> None:
    load_images()
    (tmp_path / "values.yaml").write_text(INSTALLED)
    words = ["telellm", str(chart), "-f", str(CHART / "values-small.yaml"), "-f", str(tmp_path / "values.yaml")]
    words += ["--wait", "--wait-for-jobs", "--timeout", "5m", "--set", f"global.imageRegistry={REGISTRY}"]
    words += [word for image in ("minio", "launcher") for word in ("--set", f"images.{image}.tag={TAG}")]
    assert "helm test telellm" in helm("install", *words)
    tested = helm("test", "telellm")
    assert "Succeeded" in tested
    before = opaque_secrets()
    node = kubectl("get", "pod", "-n", namespace, "telellm-minio-0", "-o", "jsonpath={.metadata.uid}")
    helm("upgrade", *words, "--set", "minio.lifecycle.runsDays=3")
    assert opaque_secrets() == before
    assert kubectl("get", "pod", "-n", namespace, "telellm-minio-0", "-o", "jsonpath={.metadata.uid}") == node
    helm("test", "telellm")
    helm("uninstall", "telellm", "--wait")
    wait_until("nothing is left", lambda: not leftovers(), 60)


def leftovers() -> list[str]:
    """Return what a release left in its namespace and in the cluster; Kubernetes itself keeps some objects in each."""
    kinds = kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events") and "metrics.k8s.io" not in kind]
    found = kubectl("get", "-n", NAMESPACE, ",".join(kinds), "-o", "name", "--ignore-not-found").split()
    found += kubectl(
        "get",
        "clusterroles,clusterrolebindings,priorityclasses,validatingwebhookconfigurations,customresourcedefinitions",
        "-l",
        "app.kubernetes.io/instance=telellm",
        "-o",
        "name",
    ).split()
    return [name for name in found if name not in ("configmap/kube-root-ca.crt", "serviceaccount/default")]


def load_images() -> None:
    if command := os.environ.get("TELELLM_LOAD_IMAGE"):
        names = " ".join(f"{REGISTRY}/telellm/{image}:{TAG}" for image in ("minio", "launcher"))
        subprocess.run(f"{command} {names}", shell=True, check=True, capture_output=True)
