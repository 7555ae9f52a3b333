"""A study does each piece of work once, goes on after a kill, and goes on where an arm fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from telellm.recipe import parse, vary
from telellm.records import Question
from telellm.runs import run_stage
from telellm.stage import Context, Output, StageFailed
from telellm.store import Store
from telellm.studies import work
from telellm.studies.trials import Trial, read_outcome, trials_of, write_trials
from tests.stages import given
from tests.unit.studies.small_study import RECIPE, Bodies, begin, go

ONCE = {"pack": 4, "pretrain": 8, "evaluate": 10}
"""Of 2 models × 2 methods × 2 shares: text packed for each model and share, both base models and every model scored."""


def test_what_trials_share_is_done_once(bodies: Bodies, tmp_path: Path) -> None:
    _, address, documents, questions = begin(tmp_path)
    groups = work.prepare_trials(address, documents, questions)
    assert bodies.done == {"pack": 4, "evaluate": 2}
    assert [len(group.split()) for group in groups] == [2] * 8
    for group in groups:
        assert work.run_trials(group).endswith(":done")
    assert bodies.done == ONCE
    go(address, documents, questions)
    assert bodies.done == ONCE, "a second run does nothing again"


def test_arms_that_differ_after_pretraining_share_it_one_after_another(bodies: Bodies, tmp_path: Path) -> None:
    arms = "{arms: {talk: [], vector: [training.instruct.method=chat-vector, training.instruct.vendor=owner/chat]}}"
    recipe = RECIPE.partition("training:")[0] + f"study: {arms}\n"
    # conversations are read to name the output
    (tmp_path / "talk.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    recipe += f"training: {{instruct: {{data: {tmp_path / 'talk.jsonl'}}}}}\n"
    _, address, documents, questions = begin(tmp_path, recipe)
    (group,) = work.prepare_trials(address, documents, questions)
    work.run_trials(group)
    assert bodies.done == {"pack": 1, "pretrain": 1, "instruct": 2, "evaluate": 4}


def test_a_study_that_was_killed_goes_on(bodies: Bodies, tmp_path: Path) -> None:
    store, address, documents, questions = begin(tmp_path)

    def killed(stage: str, context: Context) -> None:
        if bodies.done["pretrain"] == 3:
            raise KeyboardInterrupt

    bodies.trouble = killed
    with pytest.raises(KeyboardInterrupt):
        go(address, documents, questions)
    states = [read_outcome(store, "s", trial)["state"] for trial in trials_of(parse(RECIPE))]
    assert states.count("done") == 2 and states.count("failed") == 0
    bodies.trouble = lambda stage, context: None
    go(address, documents, questions)
    assert bodies.done == ONCE


def test_an_arm_that_fails_is_named_and_the_others_go_on(
    bodies: Bodies, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, address, documents, questions = begin(tmp_path)

    def trouble(stage: str, context: Context) -> None:
        if stage == "pretrain" and context.run.endswith("small-lora-half-17"):
            raise StageFailed("pretrain: the loss is nan at step 3: lower the learning rate")

    bodies.trouble = trouble
    outcomes = go(address, documents, questions)
    assert sum(outcome.endswith(":done") for outcome in outcomes) == 7
    place = run_stage("study", address, trials=work.list_trials(address))
    facts = json.loads(Output.find(store, place).path("study.json").read_text())
    (lost,) = [arm for arm in facts["arms"] if not arm["seeds"]]
    assert lost["name"] == "small-lora-half"
    assert lost["sentence"] == (
        "small-lora-half-17 failed at pretrain: pretrain: the loss is nan at step 3: lower the learning rate"
    )
    with pytest.raises(SystemExit) as ended:
        work.settle_study(address)
    assert ended.value.code == 1
    assert (
        "1 of 8 trials did not come to their end:\n  small-lora-half-17: failed at pretrain" in capfd.readouterr().err
    )
    bodies.trouble = lambda stage, context: None
    go(address, documents, questions)
    work.settle_study(address)
    assert bodies.done == ONCE


def test_the_report_is_made_again_only_when_a_trial_is_another(bodies: Bodies, tmp_path: Path) -> None:
    _, address, documents, questions = begin(tmp_path)
    before = work.list_trials(address)
    assert work.list_trials(address) == before
    go(address, documents, questions)
    after = work.list_trials(address)
    assert after != before and work.list_trials(address) == after


@pytest.fixture
def trial(tmp_path: Path) -> tuple[Store, Trial, dict[str, str]]:
    """A trial whose steps are processes: it evaluates a model that is not there."""
    store = Store.open(str(tmp_path / "store"))
    recipe = parse(RECIPE)
    (first, *_) = trials_of(recipe)
    first = Trial(first.arm, first.seed, vary(first.recipe, [f"model.name={tmp_path}/nothing"]))
    write_trials(store, "s", [first])
    questions = given([Question("a?", "b", "web_1")], recipe, store)
    return store, first, {"questions": questions}


def test_a_step_is_a_process_whose_own_words_are_kept(trial: tuple[Store, Trial, dict[str, str]]) -> None:
    store, first, places = trial
    with pytest.raises(work.StepFailed, match="there is no such file or folder") as failed:
        work._run_step(store, "s", first, "evaluate-base", places)
    assert failed.value.step == "evaluate-base"


def test_a_process_that_dies_without_a_word_fails_its_step_and_one_that_is_stopped_stops_the_study(
    trial: tuple[Store, Trial, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, first, places = trial
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -$SIGNAL $$\nsleep 10\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("SIGNAL", "KILL")
    with pytest.raises(work.StepFailed, match="ended by signal 9, most often for lack of memory"):
        work._run_step(store, "s", first, "evaluate-base", places)
    monkeypatch.setenv("SIGNAL", "TERM")
    with pytest.raises(SystemExit) as ended:
        work._run_step(store, "s", first, "evaluate-base", places)
    assert ended.value.code == 143


def test_a_step_that_is_told_to_stop_takes_its_process_with_it(tmp_path: Path) -> None:
    """As when a run is cancelled in Kubeflow: the process that it started must delete its job."""
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\ntrap 'echo gone > {tmp_path}/gone; exit 143' TERM\ntouch {tmp_path}/began\n"
        "while true; do sleep 0.1; done\n"
    )
    program.chmod(0o755)
    code = f"""
import sys
from telellm.recipe import parse
from telellm.store import Store
from telellm.studies import work
from telellm.studies.trials import trials_of
from tests.unit.studies.small_study import RECIPE
sys.executable = {str(program)!r}
store = Store.open({str(tmp_path / "store")!r})
store.write_json("runs/s/inputs.json", {{"documents": "d", "questions": "q"}})
store.write("runs/s/recipe.yaml", parse(RECIPE).to_yaml().encode())
work.run_trials(f"{{store.uri}}/runs/s small-full-all-17")
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    for _ in range(600):
        if (tmp_path / "began").exists():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 143
    assert (tmp_path / "gone").exists()
    found = json.loads((tmp_path / "store/runs/s/arms/small-full-all-17/outcome.json").read_text())
    assert found == {"state": "unfinished"}, "a trial that was stopped has not failed"


def test_what_starts_the_jobs_of_a_trial_needs_no_library_of_their_stages() -> None:
    """The image `study` has numpy, pyarrow, jinja2 and kubernetes; it names each job by the digest of its work."""
    code = """
import sys
missing = ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors", "datasets", "openai", "tantivy")
missing += ("sentence_transformers", "pyzipper", "xxhash", "gguf", "huggingface_hub")
sys.modules.update(dict.fromkeys(missing))
from telellm.recipe import parse
from telellm.runs import find_stage
from telellm.studies import work
from telellm.studies.trials import JOBS, trials_of
from tests.unit.studies.small_study import RECIPE
recipe = parse(RECIPE, changes=["training.instruct.method=chat-vector", "training.instruct.vendor=owner/chat"])
for trial in trials_of(recipe):
    for name in (*JOBS, "study"):
        stage = find_stage(name)
        stage.identity(trial.recipe) if stage.identity else None
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
