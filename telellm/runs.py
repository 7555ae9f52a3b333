"""Runs: one execution of a pipeline on this machine or in a cluster, and what its components call.

A run's address is `<store>/runs/<name>`; its recipe lies there, and a note of every stage's output.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from telellm.attempts import end_if_hopeless, note_hopeless
from telellm.cluster.api import ClusterError, in_cluster
from telellm.cluster.follower import JobFailed
from telellm.cluster.launcher import launch_stage
from telellm.cluster.pods import PEER_LOST
from telellm.cluster.preflight import is_launcher
from telellm.doctor import require
from telellm.execution import execute
from telellm.failures import record_failure
from telellm.lm.models import share_model
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError, parse
from telellm.stage import Interrupted, Output, Stage, StageFailed
from telellm.store import InvalidStore, Store, StoreUnavailable, TornOutput
from telellm.training.nodes import follow
from telellm.training.torchrun import find_node

STAGES = {
    "ingest": "telellm.corpus.ingest",
    "clean": "telellm.corpus.clean",
    "screen": "telellm.corpus.screen",
    "deduplicate": "telellm.corpus.deduplicate",
    "decontaminate": "telellm.corpus.decontaminate",
    "draft": "telellm.tele_eval.draft",
    "distinct": "telellm.tele_eval.distinct",
    "tele-eval": "telellm.tele_eval.tele_eval",
    "index": "telellm.retrieval.index",
    "pack": "telellm.training.pack",
    "pretrain": "telellm.training.pretrain",
    "instruct": "telellm.training.instruct",
    "evaluate": "telellm.evaluation.evaluate",
    "report": "telellm.report.report",
    "study": "telellm.report.study",
}
"""Every stage, in the order of the pipeline, and the module that holds it."""
TRAINING = ("pretrain", "instruct")
RUN_NAME = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,99}")
PAGES_BESIDE = re.compile(r'href="(report|questions)\.html"')


def find_stage(name: str) -> Stage:
    """Return a stage by its name; raises `RecipeError` for a name that is not one."""
    if name not in STAGES:
        raise RecipeError(f'"{name}" is not a stage\n  known stages: {", ".join(STAGES)}')
    found: Stage = getattr(import_module(STAGES[name]), name.replace("-", "_"))
    return found


def check_name(name: str) -> str:
    """Return the name of a run, a folder of the store; raises `RecipeError` where it cannot be one."""
    if not RUN_NAME.fullmatch(name):
        raise RecipeError(
            f'--name: "{name}" is no name of a run: letters, digits, hyphens, underscores and points, at most 100, '
            "the first a letter or digit"
        )
    return name


def start_run(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> str:
    """Check a recipe and write it to the store; returns the run's address.

    `changes` are lines of `section.field=value`. In a pod of a cluster, or where the recipe turns `cluster` on, what
    jobs need is checked first, and a model or conversations of this machine are put into the store. Ends the process
    with 1 or 2 and one message when it fails.
    """
    progress = Progress("start")
    try:
        parsed = change(recipe, model, changes)
        name = check_name(name or parsed.name)
        opened = Store.open(store)
        if parsed.cluster.enabled:
            require(parsed, opened, progress)
            parsed = share(parsed, opened, progress)
        opened.write(f"runs/{name}/recipe.yaml", parsed.to_yaml().encode())
    except Exception as error:
        fail("start", error, progress)
    return f"{opened.uri}/runs/{name}"


def change(recipe: str, model: str, changes: str) -> Recipe:
    """Return a recipe's text with the changes that a pipeline was given; in a pod of a cluster its jobs run there."""
    lines = [line.strip() for line in changes.splitlines() if line.strip()]
    in_pod = ["cluster.enabled=true"] if in_cluster() else []
    return parse(recipe, changes=[*lines, *in_pod, *([f"model.name={model}"] if model else [])])


def share(recipe: Recipe, store: Store, progress: Progress | None = None) -> Recipe:
    """Return the recipe with addresses in the store for what its jobs read and only this machine or a hub has."""
    changes = []
    if set(recipe.cluster.stages) & set(TRAINING) and "://" not in recipe.model.name:
        changes.append(f"model.name={share_model(recipe.model.name, recipe.model.revision, store, progress)}")
    data, vendor = recipe.training.instruct.data, recipe.training.instruct.vendor
    if "instruct" in recipe.cluster.stages and vendor and "://" not in vendor:
        shared = share_model(vendor, recipe.training.instruct.vendor_revision, store, progress)
        changes.append(f"training.instruct.vendor={shared}")
    if "instruct" in recipe.cluster.stages and data and "://" not in data:
        content = Path(data).read_bytes()
        place = f"conversations/{sha256(content).hexdigest()[:20]}/{Path(data).name}"
        store.write(place, content)
        changes.append(f"training.instruct.data={store.uri}/{place}")
    return parse(recipe.to_yaml(), changes=changes)


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


def run_stage(
    stage: str, run: str, label: str = "", shards: tuple[int, int] | None = None, key: str = "", **inputs: str
) -> str:
    """Run one stage of a run, as a component or a container does; returns the place of its output.

    A stage that the recipe's `cluster` section names is done by a job; `key` is given to the pods of such a job. Ends
    the process with 1 or 2 and one message when it fails.
    """
    label = label or stage
    progress = Progress(label)
    try:
        store, name, recipe = open_run(run)
        progress.note("")
        node = find_node()
        if key and node is not None and node.rank > 0:
            follow(store, name, stage, label, key, node, progress)
            return ""
        elsewhere = None
        if not key:
            end_if_hopeless(store, name, label)
        if not key and _is_job(stage, recipe):
            elsewhere = job_of(stage, run, label, inputs, recipe, progress)
        return execute(
            find_stage(stage),
            recipe,
            store,
            name,
            inputs,
            shards=shards,
            label=label,
            progress=progress,
            elsewhere=elsewhere,
            expected_key=key,
        )
    except Exception as error:
        if not key and not shards:  # a pod's failure is that of the step that started it
            _tell(run, label, error, progress)
        fail(label, error, progress)


def _is_job(stage: str, recipe: Recipe) -> bool:
    """Say whether a job does a stage's work.

    In Kubeflow the step's image decides too: that of a stage does the work itself, as it has no client of Kubernetes,
    and the launcher's cannot. Raises `RecipeError` where nobody would.
    """
    is_named = recipe.cluster.enabled and stage in recipe.cluster.stages
    if not is_named and is_launcher():
        raise RecipeError(
            f"cluster.stages: lacks {stage}: in Kubeflow its step has the launcher's image, which holds no library of "
            "a stage; add it"
        )
    return is_named and not (in_cluster() and find_spec("kubernetes") is None)


def _tell(run: str, label: str, error: Exception, progress: Progress) -> None:
    """Tell of a night that fails, and the attempts to come of what failed for good.

    Whatever goes wrong with that does not take the place of the failure itself.
    """
    try:
        store, name, recipe = open_run(run)
        if isinstance(error, JobFailed) or exit_code(error) == 2:  # a job was tried again while it ran
            note_hopeless(store, name, label, message_of(error), exit_code(error))
        trouble = record_failure(store, recipe, name, label, message_of(error))
    except Exception as another:
        trouble = f"nobody is told of this failure: {message_of(another)}"
    if trouble:
        progress.say(trouble)


def index_documents(run: str, documents: str) -> str:
    """Index a run's snapshot; returns the index's place, or "" where the run's recipe has no retrieval."""
    _, _, recipe = open_run(run)
    return run_stage("index", run, documents=documents) if recipe.retrieval.enabled else ""


def unseen_text(run: str, held_out: str) -> str:
    """Return the place of a run's training text, or "" where its recipe measures nothing on what was left out of it."""
    _, _, recipe = open_run(run)
    return held_out if "literature" in recipe.evaluation.metrics else ""


def job_of(
    stage: str, run: str, label: str, inputs: Mapping[str, str], recipe: Recipe, progress: Progress
) -> Callable[[str, int], None]:
    """Return what has a stage's work done by a job in the cluster."""

    def elsewhere(key: str, num_shards: int) -> None:
        given = [part for name, place in inputs.items() if place for part in ("--input", f"{name}={place}")]
        command = ["telellm", "stage", stage, "--run", run, "--label", label, "--key", key, *given]
        trains = stage in TRAINING and recipe.section(f"training.{stage}").method in ("full", "lora")
        launch_stage(stage, run, label, key, command, num_shards, recipe.cluster, progress, trains=trains)

    return elsewhere


def fail(where: str, error: Exception, progress: Progress | None = None) -> NoReturn:
    """Show one message and end: 2 for what the user gave, 1 for work that failed; a traceback with `--debug`."""
    if os.environ.get("TELELLM_DEBUG") == "1":
        raise error
    code = exit_code(error)
    (progress or Progress(where)).send(state="failed", message=message_of(error), code=code)
    sys.exit(code)


def exit_code(error: Exception) -> int:
    """Return 2 for what the user gave and 1 for work that failed.

    In a pod of a PyTorchJob, what something outside ended has the code that makes the operator start the pod again.
    """
    interrupted = isinstance(error, Interrupted) or (isinstance(error, StoreUnavailable) and error.passing)
    if interrupted and find_node() is not None:
        return PEER_LOST
    return 2 if isinstance(error, RecipeError | InvalidStore) else 1


def message_of(error: Exception) -> str:
    """Return an error as one message; errors that no one foresaw keep their type."""
    if isinstance(error, RecipeError | InvalidStore | StageFailed | StoreUnavailable | TornOutput | ClusterError):
        return str(error)
    return f"{type(error).__name__}: {error}\n  run again with --debug for the traceback"


def show_report(run: str, place: str, page: str, questions: str, card: str) -> Mapping[str, float]:
    """Copy a finished report to where Kubeflow shows it; returns its scores by name."""
    return _show(run, place, {"report.html": page, "questions.html": questions, "model-card.md": card})


def show_study(run: str, place: str, page: str) -> Mapping[str, float]:
    """Copy the finished report of a study to where Kubeflow shows it; returns the arms' scores by name."""
    return _show(run, place, {"study.html": page})


def _show(run: str, place: str, targets: Mapping[str, str]) -> Mapping[str, float]:
    store, _, _ = open_run(run)
    report = Output.find(store, place)
    for name in set(targets) & set(report.manifest["files"]):
        target = Path(targets[name])
        target.parent.mkdir(parents=True, exist_ok=True)
        text = report.path(name).read_text(encoding="utf-8")
        # a link to the page beside it leads nowhere in Kubeflow, which shows each by itself
        target.write_text(PAGES_BESIDE.sub('title="see the artifacts of this step"', text), encoding="utf-8")
    scores: dict[str, float] = report.summary().get("scores", {})
    # Kubeflow reads them as JSON, which knows no other numbers: the step would fail
    return {name: value for name, value in scores.items() if value is not None and math.isfinite(value)}
