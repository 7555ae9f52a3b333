"""Faults: killed processes, a full disk, a pipe that breaks, a server that goes away. Work that is done is kept.

This file is also the program that the tests kill: `python test_faults.py STORE NUM_SHARDS` runs two stages.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import parse
from telellm.records import Document
from telellm.stage import Output, Shard, StageFailed, digest_of, stage
from telellm.store import Store, StoreUnavailable

SMALL = "name: small\nmodel: {name: owner/model}\nsources:\n  one: {category: web, path: raw}\n"
NUM_SHARDS = 8
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and /proc")


def divide(context, settings):
    return [Shard(f"s{number:02}", digest_of(number), number) for number in range(settings.shard_files)]


@stage(sections=("corpus.ingest",), produces=Document, divide=divide, workers=2)
def slow(context, settings, number):
    """Make documents slowly, and write down who made which."""
    with Path(os.environ["FAULTS_LOG"]).open("a") as log:
        log.write(f"{number} {os.getpid()}\n")
    for index in range(20):
        time.sleep(float(os.environ.get("FAULTS_SLEEP", "0")) / 20)
        yield Document.create("web", f"{number:02}-{index}", f"text {index} of {number}" + "x" * 1000 * index)


@stage(sections=("corpus.deduplicate",), produces=Document)
def unite(context, settings, documents):
    """Copy all documents to one output."""
    yield from documents.records(Document)


def run_both(store, num_shards=NUM_SHARDS):
    """Run both stages; returns the content's digest."""
    opened, recipe = Store.open(str(store)), parse(SMALL, changes=[f"corpus.ingest.shard_files={num_shards}"])
    place = execute(slow, recipe, opened, "one", {}, progress=Progress("slow", lambda event: None))
    place = execute(unite, recipe, opened, "one", {"documents": place}, progress=Progress("unite", lambda event: None))
    return Output.find(opened, place).content


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The file in which each shard writes its number and its process."""
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def expected(tmp_path, log):
    """The digest of a run that nothing disturbs."""
    found = run_both(tmp_path / "undisturbed")
    log.unlink()
    return found


def begun(log):
    """Return (shard, process) of every shard that began."""
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def alive(pid):
    """Say whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def start(store, **environment):
    return subprocess.Popen(
        [sys.executable, __file__, str(store), str(NUM_SHARDS)],
        env=os.environ | {"FAULTS_SLEEP": "0.2"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished_shards(store):
    return {
        Store.open(str(store)).read_json(key)["shard"]
        for key in Store.open(str(store)).list("stages/slow/shards")
        if key.endswith("manifest.json")
    }


@pytest.mark.parametrize("seed", [1])
def test_a_killed_stage_leaves_no_worker_and_goes_on_where_it_stopped(tmp_path, log, expected, seed):
    store, at = tmp_path / "store", random.Random(seed).randint(3, NUM_SHARDS - 3)
    process = start(store)
    wait_until(lambda: len(begun(log)) >= at)
    process.kill()
    process.communicate()
    workers = {pid for _, pid in begun(log)}
    assert process.pid not in workers and len(workers) == 2
    wait_until(lambda: not any(alive(pid) for pid in workers), seconds=10)
    done = finished_shards(store)
    assert 0 < len(done) < NUM_SHARDS
    log.unlink()
    assert run_both(store) == expected
    again = {f"s{number:02}" for number, _ in begun(log)}
    assert again == {f"s{number:02}" for number in range(NUM_SHARDS)} - done


def test_a_killed_worker_is_one_message_and_loses_only_its_shard(tmp_path, log, expected):
    store = tmp_path / "store"
    process = start(store)
    wait_until(lambda: len(begun(log)) >= 5)
    os.kill(begun(log)[-1][1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    message = errors.strip().splitlines()[-1]
    assert "StageFailed: slow, shard s" in message
    assert "a worker died without a word, most often for lack of memory; finished shards are kept: run again" in message
    done = finished_shards(store)
    assert len(done) >= 3
    log.unlink()
    assert run_both(store) == expected
    assert {f"s{number:02}" for number, _ in begun(log)}.isdisjoint(done)


def test_ctrl_c_ends_the_stage_and_its_workers_at_once(tmp_path, log, expected):
    process = start(tmp_path / "store", FAULTS_SLEEP="2")
    wait_until(lambda: len(begun(log)) >= 2)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert errors.count("Traceback") == 1 and errors.strip().endswith("KeyboardInterrupt")
    assert not any(alive(pid) for _, pid in begun(log))
    assert run_both(tmp_path / "store") == expected


def test_two_processes_on_one_store_end_with_the_same_content(tmp_path, log, expected):
    pair = [start(tmp_path / "store", FAULTS_SLEEP="0.05") for _ in range(2)]
    for process in pair:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert out.strip() == expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; mounting it needs root, as the tests have it in CI."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.fail(f"no small file system can be mounted: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_message_and_the_run_goes_on_once_there_is_room(tmp_path, small_disk, log, expected):
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * (2**20 - 40 * 2**10))
    with pytest.raises(StoreUnavailable) as caught:
        run_both(small_disk / "store")
    message = str(caught.value)
    assert "the disk is full; make room or choose another --store, then run again" in message
    assert "\n" not in message and str(small_disk) in message
    store = Store.open(str(small_disk / "store"))
    for key in store.list(""):
        if key.endswith("manifest.json"):
            for name, entry in store.read_json(key)["files"].items():
                store.fetch(entry.get("key", f"{key.removesuffix('/manifest.json')}/{name}"), entry["sha256"])
    filler.unlink()
    assert run_both(small_disk / "store") == expected


def test_a_full_temporary_folder_is_named(tmp_path, small_disk, log, monkeypatch):
    (small_disk / "filler").write_bytes(b"\0" * 2**20)
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(StageFailed, match=r"slow, shard s00: the disk of .*/disk is full; make room or set TMPDIR"):
        run_both(tmp_path / "store", num_shards=1)


def test_a_stage_ends_when_nobody_listens_any_more(tmp_path, log):
    process = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "store"), str(NUM_SHARDS), "events"],
        env=os.environ | {"FAULTS_SLEEP": "0.5", "TELELLM_EVENTS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert b'"stage": "slow"' in process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == -signal.SIGTERM
    wait_until(lambda: not any(alive(pid) for _, pid in begun(log)), seconds=10)
    assert len(begun(log)) < NUM_SHARDS


if __name__ == "__main__":
    if sys.argv[3:]:
        events = parse(SMALL, changes=[f"corpus.ingest.shard_files={sys.argv[2]}"])
        execute(slow, events, Store.open(sys.argv[1]), "one", {})
    else:
        sys.stdout.write(run_both(sys.argv[1], int(sys.argv[2])) + "\n")


def test_a_step_that_fails_on_this_machine_is_not_tried_again(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "page.html").write_text("<p>A page.")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{SMALL}cluster: {{enabled: true}}\n")
    telellm = Path(sys.executable).with_name("telellm")
    command = [telellm, "run", recipe, "--pipeline", "corpus", "--store", tmp_path / "store"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("error: store: file:") == 1, result.stderr
