"""Runs: one execution of a pipeline on this machine or in a cluster, and what its components call.

A run's address is `<store>/runs/<name>`; its recipe lies there, and a note of every stage's output.
"""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError, parse
from telellm.stage import Output, Stage, StageFailed
from telellm.store import InvalidStore, Store, StoreUnavailable, TornOutput

STAGES = {
    "ingest": "telellm.corpus.ingest",
    "clean": "telellm.corpus.clean",
    "screen": "telellm.corpus.screen",
    "deduplicate": "telellm.corpus.deduplicate",
    "decontaminate": "telellm.corpus.decontaminate",
    "tele-eval": "telellm.tele_eval.tele_eval",
    "pack": "telellm.training.pack",
    "pretrain": "telellm.training.pretrain",
    "instruct": "telellm.training.instruct",
    "evaluate": "telellm.evaluation.evaluate",
    "report": "telellm.report.report",
}
"""Every stage, in the order of the pipeline, and the module that holds it."""


def find_stage(name: str) -> Stage:
    """Return a stage by its name; raises `RecipeError` for a name that is not one."""
    if name not in STAGES:
        raise RecipeError(f'"{name}" is not a stage\n  known stages: {", ".join(STAGES)}')
    found: Stage = getattr(import_module(STAGES[name]), name.replace("-", "_"))
    return found


def start_run(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> str:
    """Check a recipe and write it to the store; returns the run's address.

    `changes` are lines of `section.field=value`. Ends the process with 1 or 2 and one message when it fails.
    """
    try:
        lines = [line.strip() for line in changes.splitlines() if line.strip()]
        parsed = parse(recipe, changes=[*lines, *([f"model.name={model}"] if model else [])])
        opened = Store.open(store)
        opened.write(f"runs/{name or parsed.name}/recipe.yaml", parsed.to_yaml().encode())
    except Exception as error:
        fail("start", error)
    return f"{opened.uri}/runs/{name or parsed.name}"


def open_run(address: str) -> tuple[Store, str, Recipe]:
    """Return a run's store, name and recipe; raises `RecipeError` where there is no such run."""
    uri, marker, name = address.rpartition("/runs/")
    if not marker:
        raise RecipeError(f"{address}: the address of a run ends in /runs/NAME")
    store = Store.open(uri)
    try:
        text = store.read(f"runs/{name}/recipe.yaml").decode()
    except FileNotFoundError:
        known = sorted({key.split("/")[1] for key in store.list("runs")})
        raise RecipeError(
            f"{store.uri}: there is no run {name}" + (f"\n  known runs: {', '.join(known)}" if known else "")
        ) from None
    return store, name, parse(text, source=f"recipe of the run {name}")


def run_stage(stage: str, run: str, label: str = "", shards: tuple[int, int] | None = None, **inputs: str) -> str:
    """Run one stage of a run, as a component or a container does; returns the place of its output.

    Ends the process with 1 or 2 and one message when it fails.
    """
    progress = Progress(label or stage)
    try:
        store, name, recipe = open_run(run)
        progress.note("")
        return execute(find_stage(stage), recipe, store, name, inputs, shards=shards, label=label, progress=progress)
    except Exception as error:
        fail(label or stage, error, progress)


def fail(where: str, error: Exception, progress: Progress | None = None) -> NoReturn:
    """Show one message and end: 2 for what the user gave, 1 for work that failed; a traceback with `--debug`."""
    if os.environ.get("TELELLM_DEBUG") == "1":
        raise error
    code = exit_code(error)
    (progress or Progress(where)).send(state="failed", message=message_of(error), code=code)
    sys.exit(code)


def exit_code(error: Exception) -> int:
    """Return 2 for what the user gave and 1 for work that failed."""
    return 2 if isinstance(error, RecipeError | InvalidStore) else 1


def message_of(error: Exception) -> str:
    """Return an error as one message; errors that no one foresaw keep their type."""
    if isinstance(error, RecipeError | InvalidStore | StageFailed | StoreUnavailable | TornOutput):
        return str(error)
    return f"{type(error).__name__}: {error}\n  run again with --debug for the traceback"


def is_new(run: str, documents: str) -> bool:
    """Say whether a snapshot's content differs from what the last finished night trained on."""
    store, _, recipe = open_run(run)
    last = store.read_json(f"corpora/{recipe.name}/last-night.json") or {}
    snapshot = Output.find(store, documents)
    new = last.get("content") != snapshot.content
    note = f"{snapshot.num_records:,} documents" if new else f"nothing new since the run {last.get('run')}"
    Progress("news").send(state="done", note=note)
    return new


def remember_snapshot(run: str, documents: str) -> str:
    """Note that a night is done with this snapshot; returns its content's digest."""
    store, name, recipe = open_run(run)
    content = Output.find(store, documents).content
    store.write_json(f"corpora/{recipe.name}/last-night.json", {"content": content, "snapshot": documents, "run": name})
    return content


def show_report(run: str, place: str, page: str, card: str) -> Mapping[str, float]:
    """Copy a finished report to where Kubeflow shows it; returns its scores by name."""
    store, _, _ = open_run(run)
    report = Output.find(store, place)
    for name, target in (("report.html", page), ("model-card.md", card)):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_bytes(report.path(name).read_bytes())
    scores: dict[str, float] = report.summary().get("scores", {})
    return scores
