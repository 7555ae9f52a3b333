"""A study over its budget is refused before anything runs, with what each trial would take."""

from pathlib import Path

import pytest

from telellm.recipe import Recipe, RecipeError, parse
from telellm.runs import start_run
from telellm.store import Store
from telellm.studies import work
from telellm.studies.budget import costs_of, refuse_over_budget
from telellm.studies.trials import trials_of
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study of a tiny model on a few files, as if it ran on GPUs."""
    folder = tmp_path_factory.mktemp("budget")
    make_tiny_model(folder / "model")
    (folder / "raw").mkdir()
    for number in range(4):
        (folder / "raw" / f"{number}.md").write_text("The cell is handed over to its neighbour. " * 4000)
    return f"""
name: small
model: {{name: {folder}/model}}
sources: {{one: {{category: web, path: {folder}/raw}}}}
lm: {{endpoint: "http://localhost:1/v1", model: teacher}}
training: {{pack: {{sequence_length: 256}}, instruct: {{method: none}}}}
cluster: {{training: {{gpus_per_node: 2}}}}
study:
  seeds: [1, 2]
  arms:
    one: [training.pretrain.epochs=1]
    four: [training.pretrain.epochs=4]
    none: [training.pretrain.method=none]
    half: [training.pretrain.epochs=4, training.pack.share=0.5]
"""


def hours(recipe: Recipe) -> dict[str, float]:
    return {cost.trial: cost.gpu_hours for cost in costs_of(trials_of(recipe), None)}


def test_each_trial_costs_what_it_trains(text: str) -> None:
    found = {cost.trial: cost for cost in costs_of(trials_of(parse(text)), None)}
    assert len(found) == 8
    assert found["four-1"].tokens == pytest.approx(4 * found["one-1"].tokens, rel=0.02)
    assert found["half-1"].tokens == pytest.approx(found["four-1"].tokens / 2, rel=0.02)
    assert found["none-1"].tokens == 0
    assert found["four-1"].gpu_hours > found["one-1"].gpu_hours > found["none-1"].gpu_hours > 0
    assert found["four-1"].gpu_hours == found["four-2"].gpu_hours


def test_what_trials_share_is_counted_once(text: str) -> None:
    arms = "arms: {a: [], b: [training.instruct.method=chat-vector, training.instruct.vendor=owner/chat]}"
    first, second = costs_of(trials_of(parse(text.partition("study:")[0] + f"study: {{{arms}}}")), None)
    assert first.tokens > 0 and second.tokens == 0


def test_a_study_over_its_budget_is_refused_with_a_table_and_a_remedy(text: str) -> None:
    recipe = parse(text)
    total = sum(hours(recipe).values())
    allowed = parse(text, changes=[f"study.budget_gpu_hours={total * 1.01}"])
    costs = costs_of(trials_of(allowed), None)
    assert refuse_over_budget(allowed, costs) == pytest.approx(total)
    tight = parse(text, changes=[f"study.budget_gpu_hours={total * 0.9}"])
    with pytest.raises(RecipeError) as refused:
        refuse_over_budget(tight, costs)
    lines = str(refused.value).splitlines()
    assert lines[0].startswith("study.budget_gpu_hours: ") and "8 arms and seeds would take" in lines[0]
    assert [line.split()[0] for line in lines[1:9]] == [trial.name for trial in trials_of(recipe)]
    assert "training.pack.share" in lines[9]


def test_over_the_budget_nothing_starts(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(tmp_path / "store"))
    tight = text.replace("study:", "study:\n  budget_gpu_hours: 1.0e-12")
    with pytest.raises(SystemExit) as ended:
        work.begin_study(start_run(tight, store.uri, "s"))
    assert ended.value.code == 2 and "four-2" in capfd.readouterr().err
    assert not list(store.list("runs/s/arms"))
    work.begin_study(start_run(text.replace("study:", "study:\n  budget_gpu_hours: 1000"), store.uri, "s"))
    assert len(list(store.list("runs/s/arms"))) == 8
