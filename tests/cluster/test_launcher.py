"""How jobs end: refused, failed, queued, cancelled, adopted; each is told, and nothing is left behind."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from telellm.cluster.api import Api, ClusterError
from telellm.cluster.jobs import Job
from telellm.cluster.launcher import launch
from telellm.cluster.preflight import check_rights
from telellm.cluster.templates import Work, pytorch_job, shards_job
from telellm.progress import Progress
from telellm.recipe import Cluster as Settings
from telellm.recipe import Recipe
from telellm.store import Store
from tests.cluster.cluster import Cluster, copy_output, losses, remembered_jobs, wait_until
from tests.cluster.conftest import MANY

NewRun = Callable[..., tuple[Store, str]]
ROLE = "telellm-launcher"
RIGHTS = [
    *((kind, verb) for kind in ("pytorchjobs", "jobs") for verb in ("create", "get", "list", "delete")),
    *(("pods", verb) for verb in ("list", "watch")),
    ("pods/log", "get"),
]
OTHERS = [
    *(("get", "secrets"), ("create", "pods"), ("delete", "pods"), ("create", "pods/exec"), ("get", "configmaps")),
    *(("patch", "pytorchjobs.kubeflow.org"), ("update", "jobs.batch"), ("list", "nodes")),
]


@pytest.fixture(autouse=True)
def as_the_launcher(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests ask the cluster in their own process, they ask as the launcher's account too."""
    # its client has read KUBECONFIG when it was imported
    file = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(file, cluster.environment["KUBECONFIG"])


def test_a_program_that_fails_is_quoted(
    cluster: Cluster, new_run: NewRun, packed: tuple[Store, str], model: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(model, tmp_path / "broken")
    os.truncate(broken / "model.safetensors", 100_000)
    store, run = new_run(f"model.name={broken}")
    said = cluster.telellm("stage", "pretrain", "--run", run, "--input", f"packed={copy_output(*packed, store)}").end(1)
    error = said[said.index("error: ") :]
    assert "-master-0 ended with code 1 (Error): pretrain: the training program ended with code 1" in error
    assert re.search("(?i)safetensor.*(header|incomplete|metadata)", error)
    assert "Traceback" not in said
    assert cluster.is_empty()


def test_gpus_that_are_not_there_are_waited_for_until_the_queue_deadline(
    cluster: Cluster, new_run: NewRun, packed: tuple[Store, str]
) -> None:
    free = sum(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in cluster.get("nodes"))
    store, run = new_run(f"cluster.training.gpus_per_node={free + 8}", "cluster.queue_seconds=4")
    said = cluster.telellm("stage", "pretrain", "--run", run, "--input", f"packed={copy_output(*packed, store)}").end(1)
    assert "not all of its pods ran within 4.0 s (cluster.queue_seconds): 0/" in said
    assert "Insufficient nvidia.com/gpu" in said
    assert cluster.is_empty()


def test_an_image_that_is_not_there_ends_the_job_long_before_its_deadline(cluster: Cluster, new_run: NewRun) -> None:
    _, run = new_run("cluster.tag=nothing")
    said = cluster.telellm("stage", "ingest", "--run", run).end(1)
    assert "cannot start (ErrImage" in said or "cannot start (ImagePullBackOff)" in said, said
    assert "ingest:nothing" in said
    assert cluster.is_empty()


def test_a_pod_without_enough_memory_is_said_to_be_one(cluster: Cluster, new_run: NewRun) -> None:
    _, run = new_run("cluster.shards.memory_gib=0.02", "cluster.shards.retries=0")
    said = cluster.telellm("stage", "ingest", "--run", run).end(1)
    assert "ended with code 137 (OOMKilled)" in said
    assert cluster.is_empty()


def test_a_job_that_is_suspended_waits_in_the_queue_and_not_in_the_run(
    cluster: Cluster, new_run: NewRun, packed: tuple[Store, str]
) -> None:
    store, run = new_run("cluster.queue=nights", "cluster.run_seconds=30", "training.pretrain.max_steps=10")
    process = cluster.stage("pretrain", run, packed=copy_output(*packed, store))
    (job,) = process.until("the job is there", lambda: cluster.get("pytorchjobs"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "nights"

    def suspend(value: bool) -> None:  # as Kueue does
        patch = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
        cluster.kubectl("patch", "pytorchjob", job["metadata"]["name"], "--type=merge", "-p", patch)

    suspend(True)
    process.until("its pods are gone", lambda: not cluster.pods())
    process.until("it says so", lambda: re.search(r"waits 0:(3[1-9]|4\d): nights: .* is suspended", process.said()))
    suspend(False)
    process.end()
    assert list(losses(store, "run", "pretrain")) == list(range(1, 11))


def test_a_cancelled_run_leaves_no_pod(cluster: Cluster, recipe_with: Callable[..., Recipe]) -> None:
    recipe = cluster.folder / "cancelled.yaml"
    recipe.write_text(recipe_with(*MANY, "cluster.shards.cpus=0.1", "name=cancelled").to_yaml())
    process = cluster.telellm("run", recipe, "--pipeline", "corpus", "--store", "s3://telellm/cancelled")
    process.until("a pod of ingest runs", lambda: "cancelled-ingest" in cluster.running("0"))
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(60) != 0
    wait_until("nothing is left", cluster.is_empty)


def test_a_step_that_is_tried_again_adopts_its_job(cluster: Cluster, new_run: NewRun) -> None:
    _, run = new_run(*MANY, "cluster.shards.cpus=0.2")
    with remembered_jobs(cluster, "jobs") as seen:
        first = cluster.stage("ingest", run)
        first.until("its pods run", lambda: cluster.running("0") and cluster.running("1"))
        first.popen.kill()
        pods = cluster.pods()
        second = cluster.stage("ingest", run)
        name = second.until("it adopts", lambda: [n for n in seen() if f"goes on with the job {n}" in second.said()])[0]
        assert cluster.pods() == pods
        second.end()
        assert {job: len(uids) for job, uids in seen().items()} == {name: 1}
    assert cluster.is_empty()


def test_a_job_needs_each_right_of_the_role_and_no_other(cluster: Cluster, recipe_with: Callable[..., Recipe]) -> None:
    for kind in ("pytorchjobs", "jobs"):
        assert start(kind, recipe_with().cluster).strip().endswith("in namespace telellm-tests")
    for verb, resource in OTHERS:
        assert may(cluster, verb, resource) == "no", f"{verb} {resource}"


@contextmanager
def without(cluster: Cluster, resource: str, verb: str) -> Iterator[None]:
    """Take one verb on one resource from the launcher's role, while the body runs."""
    role = json.loads(cluster.kubectl("get", "role", ROLE, "-o", "json"))
    less = [r | {"verbs": [v for v in r["verbs"] if (r["resources"], v) != ([resource], verb)]} for r in role["rules"]]
    full_name = {"pytorchjobs": "pytorchjobs.kubeflow.org", "jobs": "jobs.batch"}.get(resource, resource)

    def give(rules: list[dict[str, Any]], answer: str) -> None:
        some = [rule for rule in rules if rule["verbs"]]
        cluster.kubectl("patch", "role", ROLE, "--type=merge", "-p", json.dumps({"rules": some}))
        wait_until("the role counts", lambda: may(cluster, verb, full_name) == answer)

    give(less, "no")
    try:
        yield
    finally:
        give(role["rules"], "yes")


def may(cluster: Cluster, verb: str, resource: str) -> str:
    """Return whether the launcher's account may do something: yes or no."""
    resource, _, part = resource.partition("/")
    account = f"--as=system:serviceaccount:{cluster.namespace}:{ROLE}"
    subresource = [f"--subresource={part}"] if part else []
    return cluster.kubectl("auth", "can-i", verb, resource, account, *subresource, check=False).strip()


@pytest.mark.parametrize(("resource", "verb"), RIGHTS, ids=[f"{verb} {resource}" for resource, verb in RIGHTS])
def test_a_right_that_is_missing_is_named(
    cluster: Cluster, recipe_with: Callable[..., Recipe], resource: str, verb: str
) -> None:
    settings = recipe_with().cluster
    kind = resource if resource in ("pytorchjobs", "jobs") else "pytorchjobs"
    try:
        with without(cluster, resource, verb):
            trouble, said = check_rights(Api(settings.namespace), settings)
            assert trouble == "failed"
            assert f"this account may not {verb} {resource} in namespace" in said
            said = start(kind, settings)
        assert re.search(rf'cannot {verb} resource "{resource}".*; bind the Role of k8s/rbac.yaml', said), said
    finally:
        cluster.kubectl("delete", kind, "-l", "app.kubernetes.io/managed-by=telellm")
        wait_until("its pods are gone", cluster.is_empty)


def start(kind: str, settings: Settings) -> str:
    """Start a job that does nothing, for long enough to be seen; returns what was said and how it was refused."""
    work = Work(f"small-{kind}", "s3://telellm/runs/small", kind, "launcher", ["sleep", "2"])
    small = settings.training.model_copy(update={"nodes": 1})
    settings = settings.model_copy(update={"training": small})
    job: Job = pytorch_job(work, settings) if kind == "pytorchjobs" else shards_job(work, settings, 1)
    said: list[str] = []
    try:
        progress = Progress("small", lambda event: said.append(str(event.get("message", ""))))
        launch(job, Api(settings.namespace), settings, progress)
    except ClusterError as error:
        said.append(str(error))
    return "\n".join(said)
