"""A store that cannot be used: one message, before any job of a training is there."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from telellm.recipe import Recipe
from tests.certificates import make_certificates
from tests.cluster.cluster import ROOT, Cluster, Process
from tests.cluster.conftest import LAUNCHER

READER = """
cat >/tmp/reads.json <<END
{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": ["arn:aws:s3:::*"],
 "Action": ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]}]}
END
mc admin policy create here reads /tmp/reads.json
mc admin user add here reader only-reads-here
mc admin policy attach here reads --user reader
"""
WRONG = [
    ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
    ({"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
    (
        {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "only-reads-here"},
        "AccessDenied",
        "give the user of AWS_ACCESS_KEY_ID the right to list, read, write and delete there",
    ),
]
IDS = ["wrong secret", "wrong key", "no right to write"]


@pytest.fixture(scope="module", autouse=True)
def reader(cluster: Cluster) -> None:
    """A user of MinIO who may read but not write."""
    cluster.in_minio(READER)


@pytest.fixture
def run(
    cluster: Cluster, recipe_with: Callable[..., Recipe], jobs_ever: Callable[[], dict[str, set[str]]]
) -> Iterator[Callable[..., Process]]:
    """Return what starts the whole pipeline; no PyTorchJob may have been there at the end."""
    recipe = cluster.folder / "refused.yaml"
    recipe.write_text(recipe_with("name=refused").to_yaml())

    def start(store: str = "s3://telellm/refused", **environment: str) -> Process:
        return cluster.telellm("run", recipe, "--pipeline", "adapt", "--store", store, **environment)

    yield start
    assert jobs_ever() == {}
    assert cluster.is_empty()


@pytest.mark.parametrize(("changes", "reason", "remedy"), WRONG, ids=IDS)
def test_a_store_that_refuses_this_machine_is_one_message(
    run: Callable[..., Process], changes: dict[str, str], reason: str, remedy: str
) -> None:
    error = one_error(run(**changes).end(1))
    assert reason in error and remedy in error


@pytest.mark.parametrize(("changes", "reason", "remedy"), WRONG, ids=IDS)
def test_a_store_that_refuses_the_pods_is_one_message(
    cluster: Cluster, run: Callable[..., Process], changes: dict[str, str], reason: str, remedy: str
) -> None:
    with secret_of_pods(cluster, changes):
        error = one_error(run().end(1))
    assert "store from a pod: " in error and reason in error and remedy in error


def test_a_server_that_pods_do_not_find_is_one_message(cluster: Cluster, run: Callable[..., Process]) -> None:
    with secret_of_pods(cluster, {"AWS_ENDPOINT_URL": "http://nowhere.invalid:9000"}):
        error = one_error(run().end(1))
    assert "store from a pod: " in error and "nowhere.invalid has no address here" in error


def test_a_bucket_that_is_not_there_is_one_message(run: Callable[..., Process]) -> None:
    error = one_error(run("s3://no-such-bucket/runs").end(1))
    assert "there is no bucket no-such-bucket; create it, or name another one" in error


def test_an_authority_that_pods_do_not_know_is_one_message(
    cluster: Cluster, run: Callable[..., Process], tmp_path: Path
) -> None:
    with tls_before_minio(cluster, tmp_path, days=30, known=False):
        error = one_error(run().end(1))
    assert "store from a pod: " in error and f"the certificate of https://tls.{cluster.namespace}:9443" in error
    assert "issuer certificate; set AWS_CA_BUNDLE to a file with the certificate of the authority" in error


def test_a_certificate_that_has_expired_is_one_message(
    cluster: Cluster, run: Callable[..., Process], tmp_path: Path
) -> None:
    with tls_before_minio(cluster, tmp_path, days=1, known=True):
        error = one_error(run().end(1))
    assert "store from a pod: " in error
    assert "certificate has expired; renew the server's certificate, or set this machine's clock" in error


def test_pods_trust_the_authority_of_the_config_map(
    cluster: Cluster, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_with().to_yaml())
    with tls_before_minio(cluster, tmp_path, days=30, known=True):
        said = cluster.telellm("doctor", recipe, "--store", "s3://telellm/tls").end()
    assert re.search("^ok +store from a pod ", said, re.MULTILINE), said


def test_a_cluster_without_room_for_the_pod_that_checks_the_store_is_a_warning(
    cluster: Cluster, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_with("cluster.node_selector={kind: none}", "cluster.queue_seconds=3").to_yaml())
    said = cluster.telellm("doctor", recipe, "--store", "s3://telellm/full").end()
    assert re.search("^warning +store from a pod +not checked: .* within 3.0 s .*didn't match", said, re.MULTILINE), (
        said
    )


@contextmanager
def tls_before_minio(cluster: Cluster, folder: Path, days: int, known: bool) -> Iterator[None]:
    """Let pods reach MinIO over TLS alone, while the body runs; they know its private authority or do not."""
    server = f"tls.{cluster.namespace}"
    authority, certificate = make_certificates(folder, days, server)
    script, arguments = ROOT / "tests" / "tls_proxy.py", ("server.pem", "9443", "minio", "9000")
    cluster.start_script("tls", script, 9443, *arguments, image=LAUNCHER, server__pem=certificate.read_text())
    changes = {"AWS_ENDPOINT_URL": f"https://{server}:9443"}
    if known:
        cluster.kubectl("create", "configmap", "telellm-ca", f"--from-file=ca.crt={authority}")
        changes["AWS_CA_BUNDLE"] = "/etc/telellm/ca/ca.crt"
    try:
        with secret_of_pods(cluster, changes):
            yield
    finally:
        cluster.stop_script("tls")
        cluster.kubectl("delete", "configmap", "telellm-ca", "--ignore-not-found")


@contextmanager
def secret_of_pods(cluster: Cluster, changes: dict[str, str]) -> Iterator[None]:
    """Change what pods find in the Secret of the store, while the body runs."""
    before = json.loads(cluster.kubectl("get", "secret", "telellm-store", "-o", "json"))["data"]

    def put(data: dict[str, str | None]) -> None:
        cluster.kubectl("patch", "secret", "telellm-store", "--type=merge", "-p", json.dumps({"data": data}))

    put({name: base64.b64encode(value.encode()).decode() for name, value in changes.items()})
    try:
        yield
    finally:
        put(before | {name: None for name in changes if name not in before})


def one_error(said: str) -> str:
    """Return the message of a run that failed; it is the only one, and no traceback."""
    assert said.count("error: ") == 1, said
    assert "Traceback" not in said
    return said[said.index("error: ") :]
