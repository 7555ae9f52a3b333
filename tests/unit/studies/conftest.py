"""The steps of trials, done in the test's own process."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from telellm.execution import execute
from telellm.progress import Progress
from telellm.runs import find_stage, open_run
from telellm.stage import Context, Output, StageFailed
from telellm.store import Store
from telellm.studies import work
from telellm.studies.trials import Trial
from tests.unit.studies.small_study import Bodies


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Bodies:
    """The steps of trials are done in this process, with other bodies."""
    found = Bodies()

    def in_this_process(store: Store, study: str, trial: Trial, step: str, places: Mapping[str, str]) -> str:
        stage = find_stage(step.partition("-")[0])

        def body(context: Context, settings: Any, **inputs: Output | None) -> None:
            found.run(stage.name, context, inputs)

        _, run, recipe = open_run(f"{store.uri}/runs/{trial.run(study)}")
        inputs = work.inputs_of(trial, step, places)
        quiet = Progress(step, lambda event: None)
        try:
            return execute(replace(stage, body=body), recipe, store, run, inputs, label=step, progress=quiet)
        except StageFailed as error:
            raise work.StepFailed(step, str(error)) from None

    monkeypatch.setattr(work, "_run_step", in_this_process)
    return found
