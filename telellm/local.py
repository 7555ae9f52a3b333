"""Local runs: a Kubeflow pipeline executed on this machine by `kfp.local`, shown as a line a stage and a summary."""

import io
import os
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from telellm.progress import Console, Event, duration, read_event
from telellm.recipe import Recipe
from telellm.serving.ask import suggestion
from telellm.serving.named_models import questions_of
from telellm.stage import read_notes
from telellm.store import Store, cache_directory

TAIL_LINES = 25
REPORTS = {"report": ("report.html", "report.json"), "study": ("study.html", "study.json")}
"""Stage that writes a report → its files."""
SCORES = ("adapt", "nightly")
"""Pipelines that score reference models."""
SETTLED = "trials"
"""The step of a study that fails where an arm did: the report was written before."""


class EventReader(io.TextIOBase):
    """Standard output while `kfp.local` runs: events are drawn, everything else goes to a log."""

    def __init__(self, console: Console, log: TextIO) -> None:
        self.console, self.log = console, log
        self.failure: Event | None = None
        self.shown_since = False
        """Whether other steps, which did not need the one that failed, have said something after it."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = ""

    def write(self, text: str) -> int:
        """Take text as it comes; whole lines are read."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._read(line)
        return len(text)

    def isatty(self) -> bool:
        """No colours in the log."""
        return False

    def _read(self, line: str) -> None:
        event = read_event(line)
        if event is None:
            self.log.write(line + "\n")
            if line.strip():
                self.tail.append(line)
            return
        self.shown_since = self.failure is not None
        if event["state"] == "failed":
            self.failure, self.shown_since = event, False
        self.console.show(event)

    def end(self) -> None:
        """Show a failure once more where it is not the last that is seen."""
        if self.failure is not None and self.shown_since:
            self.console.show(self.failure)


def run_pipeline(pipeline: str, recipe: Recipe, store: str, name: str) -> int:
    """Run a pipeline of `pipelines/` in processes of this machine; returns the exit status.

    Raises `RecipeError` or `StoreUnavailable` for what can be known before anything runs.
    """
    from telellm.checks import check, find_away
    from telellm.doctor import check_references, check_servers
    from telellm.runs import check_name

    check_name(name)
    opened = Store.open(store)
    check(recipe)
    began = time.monotonic()
    console = Console(sys.stderr)
    served = [*check_servers(recipe), *(check_references(recipe) if pipeline in SCORES else ())]
    # of finished work nothing is asked again: what is away is no mistake yet
    for away in (*find_away(recipe), *(found.said for found in served if found.state == "warning")):
        console.line(f"warning: {away}")
    log_path = cache_directory() / "logs" / f"{name}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("w") as log, tempfile.TemporaryDirectory(prefix="telellm-kfp-") as folder:
        reader = EventReader(console, log)
        try:
            with _environment(), redirect_stdout(reader):
                _run_with_kfp(pipeline, {"recipe": recipe.to_yaml(), "store": opened.uri, "name": name}, folder)
        except RuntimeError as error:
            reader.end()
            if reader.failure is not None:
                if reader.failure["stage"] == SETTLED:
                    show_result(opened, name)
                return int(reader.failure["code"])
            console.line(
                "\n".join([*reader.tail, f"error: a stage ended without a word ({error}); finished work is kept"])
            )
            console.line(f"  the whole log: {log_path}")
            return 1
    console.line(f"{'finished':<14}  {duration(time.monotonic() - began):>11}  run {name} in {opened.uri}")
    show_result(opened, name)
    return 0


def show_result(store: Store, run: str) -> None:
    """Print where a run's results are: the report if there is one, else its last output."""
    notes = read_notes(store, run)
    reports = [label for label in notes if label in REPORTS]
    if not reports:
        last = list(notes)[-1]
        sys.stdout.write(f"{last}: {store.uri}/{notes[last]['output']}\n")
        return
    report = notes[reports[-1]]
    for line in report["manifest"]["summary"].get("lines", []):
        sys.stdout.write(f"{line}\n")
    for question in questions_of(store, report["output"])[:1]:
        sys.stdout.write(f"ask its models: {suggestion(store.uri, run, question['statement'])}\n")
    for file in REPORTS[reports[-1]]:
        place = f"{store.uri}/{report['output']}/{file}"
        sys.stdout.write(place.removeprefix("file://") + "\n")


def _run_with_kfp(pipeline: str, arguments: dict[str, Any], folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kfp import local

        from pipelines import PIPELINES

        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=folder, raise_on_error=True)
        _fit_to_one_machine(PIPELINES[pipeline].pipeline_spec)
        PIPELINES[pipeline](**arguments)


def _fit_to_one_machine(spec: Any) -> None:
    """Take the retries from a pipeline's tasks, and let the parts of a loop follow one another.

    Only a pod can be lost, what fails on this machine has a reason; and one training takes all of its cores.
    """
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for task in dag.tasks.values():
            task.ClearField("retry_policy")
            if task.HasField("iterator_policy"):
                task.iterator_policy.parallelism_limit = 1


@contextmanager
def _environment() -> Iterator[None]:
    """What the processes of the stages find: they pass events on, and kfp imports little in them."""
    changes = {
        "TELELLM_EVENTS": "1",
        "_KFP_RUNTIME": "true",
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    before = {key: os.environ.get(key) for key in changes}
    import kfp  # noqa: F401  # read whole here, before `_KFP_RUNTIME` makes it small

    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
