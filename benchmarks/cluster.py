"""Where the time goes from the launcher's start to the first training step, and from a lost worker to the next step.

    python benchmarks/cluster.py RECIPE --store s3://bucket/prefix [--times N]

KUBECONFIG and the store's variables as for `telellm run RECIPE`, whose corpus is made first. Each time, training is
started anew (another seed) and followed; then once more, and when it has passed a checkpoint, every process in a
worker's pod is killed with SIGKILL.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from benchmarks import record
from telellm.cluster.api import Api, ClusterError
from telellm.progress import read_event
from telellm.recipe import Recipe, load
from telellm.runs import run_stage, start_run
from telellm.store import Store

PHASES = ("launcher", "scheduling", "image start", "program and rendezvous", "data and model", "first step")
CORPUS = "benchmark-corpus"
CODE = "import sys; from telellm.runs import run_stage; run_stage('pretrain', sys.argv[1], packed=sys.argv[2])"


class Watched:
    """What happened to the pods of one job, by the clock of this machine."""

    def __init__(self, api: Api, run: str) -> None:
        self.moments: dict[str, float] = {}
        self.ended: list[float] = []
        self.pods: dict[str, str] = {}
        threading.Thread(
            target=self._watch, args=(api, f"telellm/run={run},telellm/step=pretrain"), daemon=True
        ).start()

    def _watch(self, api: Api, selector: str) -> None:
        while True:
            try:
                _, version = api.list_at(api.pods, selector)
                for pod in api.watch(api.pods, selector, version):
                    self._see(pod)
            except ClusterError:
                time.sleep(0.2)

    def _see(self, pod: dict[str, Any]) -> None:
        now, name, status = time.monotonic(), pod["metadata"]["name"], pod["status"]
        self.pods[name] = status["phase"]
        self.moments.setdefault("created", now)
        if any(c["type"] == "PodScheduled" and c["status"] == "True" for c in status.get("conditions", [])):
            self.moments["scheduled"] = self.moments.get("scheduled", now)
        if status["phase"] == "Running":
            self.moments[f"running {name}"] = self.moments.get(f"running {name}", now)
        if status["phase"] == "Succeeded":
            self.moments.setdefault(f"succeeded {name}", now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    recipe = load(options.recipe, [*options.set, "cluster.enabled=true"])
    packed = make_corpus(recipe, options.store)
    starts = [measure_start(recipe, options.store, packed) for _ in range(options.times)]
    recoveries = [measure_recovery(recipe, options.store, packed) for _ in range(options.times)]
    rows = [("phase", "median", "least", "greatest")]
    for phase in (*PHASES, "all until the first step", "after the pods' end"):
        seconds = [start[phase] for start in starts]
        rows.append((phase, *(f"{value:.1f} s" for value in (statistics.median(seconds), min(seconds), max(seconds)))))
    values = (statistics.median(recoveries), min(recoveries), max(recoveries))
    rows.append(("SIGKILL of a worker → next step", *(f"{value:.1f} s" for value in values)))
    print(record.table(rows))
    print(f"{recipe.cluster.training.nodes} nodes, model {recipe.model.name.rsplit('/', 1)[-1]}")
    record.write("cluster", {"nodes": recipe.cluster.training.nodes, "starts": starts, "recovery_seconds": recoveries})


def make_corpus(recipe: Recipe, store: str) -> str:
    """Make the packed sequences, if they are not there; returns their place."""
    run = start_run(recipe.to_yaml(), store, CORPUS)
    documents = run_stage("ingest", run)
    for stage in ("clean", "screen", "deduplicate", "decontaminate"):
        documents = run_stage(stage, run, documents=documents)
    return run_stage("pack", run, documents=documents)


def start(store: str, packed: str) -> "tuple[subprocess.Popen[str], str]":
    """Start the launcher as a step of a pipeline does, on work that was never done; returns it and the run's name."""
    opened, name = Store.open(store), f"benchmark-{uuid.uuid4().hex[:8]}"
    recipe = yaml.safe_load(opened.read(f"runs/{CORPUS}/recipe.yaml"))  # with the shared model's address
    recipe["training"]["pretrain"]["seed"] = uuid.uuid4().int % 10**6
    opened.write(f"runs/{name}/recipe.yaml", yaml.safe_dump(recipe).encode())
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CODE, f"{opened.uri}/runs/{name}", packed],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TELELLM_EVENTS": "1"},
    )
    return process, name


def events(process: "subprocess.Popen[str]") -> Iterator[tuple[float, dict[str, Any]]]:
    assert process.stdout is not None
    for line in process.stdout:
        if event := read_event(line):
            yield time.monotonic(), event


def measure_start(recipe: Recipe, store: str, packed: str) -> dict[str, float]:
    """Return the seconds of each phase."""
    began = time.monotonic()
    process, name = start(store, packed)
    watched = Watched(Api(recipe.cluster.namespace), name)
    at: dict[str, float] = {}
    for now, event in events(process):
        note = event.get("note", "")
        if "processes met" in note:
            at.setdefault("met", now)
        elif "dealt out" in note:
            at.setdefault("dealt", now)
        elif event.get("unit") == "steps":
            at.setdefault("step", now)
    ended = time.monotonic()
    assert process.wait() == 0
    moments = watched.moments
    running = max(moment for key, moment in moments.items() if key.startswith("running"))
    succeeded = max(moment for key, moment in moments.items() if key.startswith("succeeded"))
    marks = [began, moments["created"], moments["scheduled"], running, at["met"], at["dealt"], at["step"]]
    phases = {phase: round(late - early, 2) for phase, early, late in zip(PHASES, marks[:-1], marks[1:], strict=True)}
    return phases | {
        "all until the first step": round(at["step"] - began, 2),
        "after the pods' end": round(ended - succeeded, 2),
    }


def measure_recovery(recipe: Recipe, store: str, packed: str) -> float:
    """Return the seconds from SIGKILL of all processes in a worker's pod to a step that is new."""
    process, name = start(store, packed)
    namespace = recipe.cluster.namespace
    watched = Watched(Api(namespace), name)
    killed = reached = 0.0
    for now, event in events(process):
        if event.get("unit") != "steps":
            continue
        done = event.get("done", 0)
        if not killed and done > recipe.training.pretrain.checkpoint_steps + 2:
            worker = next(pod for pod in watched.pods if pod.endswith("-worker-0"))
            kill = "import os, signal; os.kill(-1, signal.SIGKILL)"
            subprocess.run(
                ["kubectl", "-n", namespace, "exec", worker, "--", "python", "-c", kill], capture_output=True
            )
            killed, reached = time.monotonic(), done
        elif killed and done > reached:
            reached = float("inf")
            seconds = now - killed
    assert process.wait() == 0
    return round(seconds, 2)


if __name__ == "__main__":
    main()
