"""Jobs in a queue of Kueue, with the chart's own queues; for clusters that have Kueue."""

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from telellm.store import Store
from tests.cluster.cluster import Cluster, Process, copy_output, losses, wait_until
from tests.unit.test_chart import CHART

NewRun = Callable[..., tuple[Store, str]]
QUOTA = {"cpu": "4", "memory": "16Gi"}


@pytest.fixture(scope="module", autouse=True)
def queue(cluster: Cluster) -> Iterator[str]:
    """The chart's LocalQueue in the namespace, and its ClusterQueue; returns the latter's name."""
    if not cluster.kubectl("get", "crd", "clusterqueues.kueue.x-k8s.io", "--ignore-not-found"):
        pytest.skip("this cluster has no Kueue")
    quota = [word for name, amount in QUOTA.items() for word in ("--set", f"kueue.quota.{name}={amount}")]
    command = [
        "helm",
        "template",
        "telellm",
        str(CHART),
        "-n",
        cluster.namespace,
        "--set",
        "kueue.enabled=true",
        *quota,
    ]
    command += ["--set", r"kueue.quota.nvidia\.com/gpu=0", "--show-only", "templates/telellm/kueue.yaml"]
    command += ["--kube-version", "1.34.0"]
    queues = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cluster.kubectl("apply", "-f", "-", given=queues)
    account = f"--serviceaccount={cluster.namespace}:telellm-launcher"
    cluster.kubectl("create", "role", "telellm-queue", "--verb=list", "--resource=workloads.kueue.x-k8s.io")
    cluster.kubectl("create", "rolebinding", "telellm-queue", "--role=telellm-queue", account)
    name = f"{cluster.namespace}-telellm"
    try:
        wait_until("the queue is ready", lambda: _condition(cluster, "clusterqueue", name, "Active") == "True")
        yield name
    finally:
        cluster.kubectl("delete", "role,rolebinding", "telellm-queue", "--ignore-not-found")
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", given=queues)


def test_what_the_queue_holds_back_waits_with_its_words_and_is_admitted_later(
    cluster: Cluster, queue: str, new_run: NewRun, packed: tuple[Store, str]
) -> None:
    _stop(cluster, queue, "HoldAndDrain")
    changes = ("cluster.queue=telellm", "training.pretrain.max_steps=10")
    store, run = new_run(*changes)
    _, corpus = new_run(*changes, name="corpus")
    training = cluster.stage("pretrain", run, packed=copy_output(*packed, store))
    for process in (training, cluster.stage("ingest", corpus)):
        process.until("it says why", lambda process=process: f"telellm: ClusterQueue {queue} is " in _waits(process))
    assert cluster.pods() == {}
    _stop(cluster, queue, "None")
    for process in cluster.processes:
        process.end()
    assert list(losses(store, "run", "pretrain")) == list(range(1, 11))


def test_what_never_fits_into_the_queue_ends_with_its_words(
    cluster: Cluster, new_run: NewRun, packed: tuple[Store, str]
) -> None:
    store, run = new_run(
        "cluster.queue=telellm", "cluster.training.nodes=5", "cluster.training.cpus=1", "cluster.queue_seconds=8"
    )
    said = cluster.stage("pretrain", run, packed=copy_output(*packed, store)).end(1)
    assert "not all of its pods ran within 8.0 s (cluster.queue_seconds): telellm: " in said
    assert "insufficient quota for cpu" in said
    assert cluster.is_empty()


def _waits(process: Process) -> str:
    """Return why a process waits now."""
    notes = [str(event["note"]) for event in process.events() if event.get("note")]
    return next((note for note in reversed(notes) if note.startswith("waits ")), "")


def _stop(cluster: Cluster, queue: str, policy: str) -> None:
    patch = json.dumps({"spec": {"stopPolicy": policy}})
    cluster.kubectl("patch", "clusterqueue", queue, "--type=merge", "-p", patch)


def _condition(cluster: Cluster, kind: str, name: str, condition: str) -> str:
    path = f'jsonpath={{.status.conditions[?(@.type=="{condition}")].status}}'
    return cluster.kubectl("get", kind, name, "-o", path)
