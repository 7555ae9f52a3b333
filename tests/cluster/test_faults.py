"""What clusters do: pods die, the store goes away. The work goes on, nothing is lost, nothing is torn."""

import time
from collections.abc import Callable

import pytest

from telellm.recipe import Recipe
from telellm.store import Store
from tests.cluster.cluster import Cluster, Process, checkpoints, copy_output, losses, note, torn, wait_until
from tests.cluster.conftest import MANY

NewRun = Callable[..., tuple[Store, str]]
STOPPED_SECONDS = 60
CHECKPOINT_STEPS = 10
KILL = """
import os, signal
for name in filter(str.isdigit, os.listdir("/proc")):
    if int(name) not in (1, os.getpid()):
        os.kill(int(name), signal.SIGKILL)
"""
"""Kills the training program and torchrun; the kernel keeps such signals from the first process of a container."""


def kill_processes(cluster: Cluster, pod: str) -> None:
    cluster.kubectl("exec", pod, "--", "python", "-c", KILL)


def kill_pod(cluster: Cluster, pod: str) -> None:
    cluster.kubectl("delete", "pod", pod, "--force", "--grace-period=0")


def shards(store: Store) -> dict[str, str]:
    """Return the manifests of finished shards, each with what changes when it is written again."""
    written = store.client.list_objects(store.bucket, f"{store.prefix}/stages/ingest/shards/", recursive=True)  # type: ignore[attr-defined]
    return {o.object_name: f"{o.etag} {o.last_modified}" for o in written if o.object_name.endswith("/manifest.json")}


def test_training_goes_on_from_its_last_checkpoint_when_workers_and_master_are_killed(
    cluster: Cluster, new_run: NewRun, packed: tuple[Store, str], in_one_process: tuple[Store, str]
) -> None:
    store, run = new_run()
    process = cluster.stage("pretrain", run, packed=copy_output(*packed, store))
    for kill, replica in ((kill_processes, "worker-0"), (kill_pod, "worker-0"), (kill_pod, "master-0")):
        reached = max(checkpoints(store), default=0)
        process.until("a new checkpoint", lambda reached=reached: max(checkpoints(store), default=0) > reached)
        pod = process.until(f"{replica} runs", lambda replica=replica: cluster.running(replica))
        last, uid, times = max(checkpoints(store)), cluster.pods()[pod], len(resumed(process))
        kill(cluster, pod)
        process.until("it is another pod", lambda pod=pod, uid=uid: cluster.pods().get(pod, uid) != uid)
        process.until("training goes on", lambda times=times: len(resumed(process)) > times)
        assert resumed(process)[-1][0] >= last
    process.end()
    assert all(done - step <= CHECKPOINT_STEPS for step, done in resumed(process))
    assert losses(store, "run", "pretrain") == pytest.approx(losses(*in_one_process, "pretrain"), abs=1e-3)
    assert torn(store) == []
    assert cluster.is_empty()


def resumed(process: Process) -> list[tuple[int, int]]:
    """Return for each time that training went on: its checkpoint's step, and the last step that was seen before."""
    found, furthest = [], 0
    for event in process.events():
        _, marker, step = str(event.get("message", "")).partition("goes on after step ")
        if marker:
            found.append((int(step), furthest))
        elif event.get("unit") == "steps":
            furthest = max(furthest, event["done"])
    return found


def test_a_killed_corpus_pod_costs_what_it_had_in_hand(cluster: Cluster, new_run: NewRun, many: str) -> None:
    store, run = new_run(*MANY, "cluster.shards.cpus=0.2")
    process = cluster.stage("ingest", run)
    process.until("a shard is done", lambda: shards(store))
    before, pod = shards(store), cluster.running("0")
    kill_pod(cluster, pod)
    other = {uid for name, uid in cluster.pods().items() if "-1-" in name}
    process.until("another pod does its part", lambda: cluster.running("0"))
    assert {uid for name, uid in cluster.pods().items() if "-1-" in name} <= other
    process.end()
    after = shards(store)
    assert len(before) < len(after)
    assert {key: after[key] for key in before} == before
    assert note(store, "run", "ingest")["manifest"]["content"] == many
    assert torn(store) == []


@pytest.fixture(scope="module")
def many(cluster: Cluster, recipe_with: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the corpus that this machine makes of many documents."""
    store = Store.open(str(tmp_path_factory.mktemp("many")))
    store.write("runs/run/recipe.yaml", recipe_with(*MANY, "cluster.enabled=false").to_yaml().encode())
    cluster.stage("ingest", f"{store.uri}/runs/run").end()
    return str(note(store, "run", "ingest")["manifest"]["content"])


def test_a_store_that_is_away_for_a_minute_is_waited_for(
    cluster: Cluster, new_run: NewRun, packed: tuple[Store, str], in_one_process: tuple[Store, str], many: str
) -> None:
    store, run = new_run()
    _, corpus = new_run(*MANY, "cluster.shards.cpus=0.1", name="corpus")
    place = copy_output(*packed, store)
    ingest, training = cluster.stage("ingest", corpus), cluster.stage("pretrain", run, packed=place)
    ingest.until("a shard is done", lambda: shards(store))
    training.until("a checkpoint is there", lambda: checkpoints(store))
    pods = cluster.pods()
    assert len(pods) == 4, "too fast: no work is left that could be disturbed"
    cluster.scale_minio(0)
    began = time.monotonic()
    try:
        wait_until("the minute is over", lambda: time.monotonic() - began > STOPPED_SECONDS)
        assert cluster.pods() == pods
    finally:
        cluster.scale_minio(1)
    said = training.end() + ingest.end()
    assert "ended with code" not in said
    assert losses(store, "run", "pretrain") == pytest.approx(losses(*in_one_process, "pretrain"), abs=1e-3)
    assert note(store, "corpus", "ingest")["manifest"]["content"] == many
    assert torn(store) == []
