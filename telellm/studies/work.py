"""Work: the steps of the pipeline `study` beside those that other pipelines have.

Every step of a trial is a process of its own, `telellm stage …`, as in a container: one that dies for lack of memory
ends its trial and nothing else. On a cluster that process starts a job and follows it.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import FrameType

from telellm.listed import put_list
from telellm.progress import Progress, default_emit, read_event
from telellm.runs import fail, open_run
from telellm.stage import StageFailed, digest_of, read_notes
from telellm.store import Store
from telellm.studies.trials import Trial, groups_of, read_outcome, trials_of, write_outcome, write_trials

LINES_KEPT = 15
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
"""How a process ends that was told to stop: then the study is stopped, and no arm has failed."""


class StepFailed(StageFailed):
    """A step of a trial failed; the study goes on with the next trial."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step, self.reason = step, reason


def begin_study(run: str) -> str:
    """Check what a study will take, and write down each trial's recipe; returns the run's address.

    Ends the process with 2 and one message where the budget does not allow it.
    """
    progress = Progress("plan")
    try:
        store, name, recipe = open_run(run)
        trials = trials_of(recipe)
        note = f"{len(recipe.study.all_arms())} arms, {len(trials)} trials; no budget is set"
        if recipe.study.budget_gpu_hours:
            from telellm.studies.budget import costs_of, refuse_over_budget

            hours = refuse_over_budget(recipe, costs_of(trials, store))
            note = f"{len(trials)} trials, {hours:,.3g} of {recipe.study.budget_gpu_hours:,g} GPU hours"
        write_trials(store, name, trials)
    except Exception as error:
        fail("plan", error, progress)
    progress.send(state="done", note=note)
    return run


def prepare_trials(run: str, documents: str, questions: str) -> list[str]:
    """Make what several trials share, each once: packed text, and the scores of base models.

    Returns groups of trials, each as the run's address and their names with spaces between: those of a group share
    their pretraining, so they are done one after another, and the groups side by side. (In a loop, `kfp.local` gives a
    task nothing but the loop's item.) What fails here fails again in its trial, and is told there.
    """
    store, name, recipe = open_run(run)
    inputs = {"documents": documents, "questions": questions}
    store.write_json(_inputs_of(name), inputs)
    trials = trials_of(recipe)
    seen: set[tuple[str, str]] = set()
    for trial in trials:
        for step, key in (("pack", trial.packing), ("evaluate-base", trial.base)):
            if key and (step, key) not in seen:
                seen.add((step, key))
                try:
                    _run_step(store, name, trial, step, inputs)
                except StepFailed as failed:
                    Progress("prepare").say(f"{trial.name}: {failed}")
    return [" ".join([run, *(trial.name for trial in group)]) for group in groups_of(trials)]


def run_trials(group: str) -> str:
    """Do the trials of a group one after another; one that fails is written down as such. Returns what became of them.

    A trial goes on where it was cut off; one that failed before is tried again.
    """
    signal.signal(signal.SIGTERM, _stop)
    run, *names = group.split()
    store, study, recipe = open_run(run)
    inputs = store.read_json(_inputs_of(study))
    assert inputs is not None, "prepare_trials wrote it"
    known = {trial.name: trial for trial in trials_of(recipe)}
    for name in names:
        _run_trial(store, study, known[name], inputs)
    return " ".join(f"{name}:{read_outcome(store, study, known[name])['state']}" for name in names)


def list_trials(run: str) -> str:
    """Write down what became of each trial and where its outputs are; returns the place of that list."""
    store, name, recipe = open_run(run)
    found = []
    for trial in trials_of(recipe):
        notes = read_notes(store, trial.run(name))
        steps = {label: note["output"] for label, note in notes.items() if label in set(_steps(trial))}
        found.append({"arm": trial.arm, "seed": trial.seed, "name": trial.name, "steps": steps})
        found[-1] |= read_outcome(store, name, trial)
    return put_list(store, "trials", digest_of(found), found)


def settle_study(run: str) -> None:
    """End the process with 1 where a trial did not come to its end; the report has been written before."""
    store, name, recipe = open_run(run)
    progress = Progress("trials")
    outcomes = {trial.name: read_outcome(store, name, trial) for trial in trials_of(recipe)}
    lost = [f"{trial}: {_told(found)}" for trial, found in outcomes.items() if found["state"] != "done"]
    if lost:
        text = "\n  ".join([f"{len(lost)} of {len(outcomes)} trials did not come to their end:", *lost])
        fail("trials", StageFailed(f"{text}\n  run again: what is finished is kept"), progress)
    progress.send(state="done", note=f"{len(outcomes)} trials are done")


def _told(outcome: dict[str, str]) -> str:
    if outcome["state"] == "failed":
        return f"failed at {outcome['step']}: {outcome['reason'].splitlines()[0]}"
    return "was cut off"


def _inputs_of(study: str) -> str:
    """Return where a study's training text and questions are written down for its trials."""
    return f"runs/{study}/inputs.json"


def _run_trial(store: Store, study: str, trial: Trial, inputs: Mapping[str, str]) -> None:
    progress = Progress(trial.name)
    write_outcome(store, study, trial, {"state": "unfinished"})
    places = dict(inputs)
    try:
        for step in _steps(trial):
            places[step] = _run_step(store, study, trial, step, places)
    except StepFailed as failed:
        write_outcome(store, study, trial, {"state": "failed", "step": failed.step, "reason": failed.reason})
        progress.say(f"failed at {failed}; the study goes on")
        return
    write_outcome(store, study, trial, {"state": "done"})
    progress.send(state="done", note="trained and scored")


def _steps(trial: Trial) -> Iterator[str]:
    """Yield a trial's steps in order; `evaluate-…` are the stage evaluate, the others stages of their name."""
    training = trial.recipe.training
    if training.pretrain.method != "none":
        yield "pack"
    yield "evaluate-base"
    if training.pretrain.method != "none":
        yield from ("pretrain", "evaluate-pretrained")
    if training.instruct.method != "none":
        yield from ("instruct", "evaluate-instruct")


INPUTS = {
    "pack": {"documents": "documents"},
    "pretrain": {"packed": "pack"},
    "instruct": {"model": "pretrain"},
    "evaluate-base": {"questions": "questions"},
    "evaluate-pretrained": {"questions": "questions", "model": "pretrain"},
    "evaluate-instruct": {"questions": "questions", "model": "instruct"},
}
"""Step → each of its inputs, and whose output it is; without pretraining the instruct model starts from the base."""


def inputs_of(trial: Trial, step: str, places: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs of a trial's step, of `places` of outputs by the steps that made them.

    Where literature is measured, every model is scored on what the hold-out left out of the training text as well.
    """
    sources = dict(INPUTS[step])
    if step.startswith("evaluate-") and "literature" in trial.recipe.evaluation.metrics:
        sources["held_out"] = "documents"
    return {name: places[source] for name, source in sources.items() if source in places}


def _run_step(store: Store, study: str, trial: Trial, step: str, places: Mapping[str, str]) -> str:
    """Run a step of a trial in a process; returns the place of its output. Raises `StepFailed` with its own words."""
    inputs = inputs_of(trial, step, places)
    given = [part for name, place in inputs.items() for part in ("--input", f"{name}={place}")]
    address = f"{store.uri}/runs/{trial.run(study)}"
    stage = step.partition("-")[0]
    command = [sys.executable, "-m", "telellm.cli", "stage", stage, "--run", address, "--label", step, *given]
    show = default_emit()
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    said = ""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"TELELLM_EVENTS": "1"}
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            event = read_event(line)
            if event is None:
                lines.append(line.strip())
            elif event["state"] == "failed":
                said = str(event["message"])
            elif event["state"] != "skipped":
                show(event | {"stage": f"{trial.name} {step}"})
        code = process.wait()
    finally:
        process.terminate()  # a job that it started goes with it
        process.wait()
    if code in STOPPED:
        sys.exit(143)
    if code < 0:
        said = said or f"its process was ended by signal {-code}, most often for lack of memory"
    if code:
        raise StepFailed(step, said or "\n".join(lines) or f"it ended with code {code}")
    return lines[-1]


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(143)
