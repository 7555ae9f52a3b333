"""Forgetting: log-likelihoods, answers and verdicts are those of lm-eval on the same model and rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from telellm.benchmark.general_tasks import GeneralQuestions, read_general_task
from telellm.evaluation.forgetting import add_up_general, ask_general, continued, describe_general, judge_result
from telellm.lm.models import load_model, load_tokenizer
from telellm.recipe import GeneralTask
from tests.general_data import write_general_data
from tests.tiny_model import make_tiny_model

FACTS = json.loads((Path(__file__).parents[1] / "benchmark" / "lm_eval_facts.json").read_text())
"""What lm-eval 0.4.13 finds with the tiny model; written by benchmarks/forgetting.py."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_general_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    return load_model(str(folder)), load_tokenizer(str(folder))


def asked(task: str, data: Path, few_shot: int | None = None) -> GeneralQuestions:
    folder = "ai2_arc" if task.startswith("arc") else task
    return read_general_task(GeneralTask(task=task, path=str(data / folder), few_shot=few_shot), seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("which", FACTS)
def test_a_task_finds_what_lm_eval_finds(which: str, data: Path, model: tuple[Any, Any]) -> None:
    task, few_shot = which.removesuffix(" examples").split(", ")
    questions = asked(task, data, int(few_shot))
    done: list[int] = []
    rows = ask_general(*model, task, questions, 8, done.append)
    assert sum(done) == len(rows) == len(FACTS[which])
    facts = {fact["prompt"]: fact for fact in FACTS[which]}
    for question, row in zip(questions.questions, rows, strict=True):
        fact = facts[question.prompt]
        assert row["correct"] == fact["correct"]
        if task == "gsm8k":
            assert row["generated"] == fact["text"].strip() and row["log_likelihoods"] is None
        else:
            assert row["log_likelihoods"][0] == pytest.approx(fact["log_likelihoods"], abs=1e-3)
    scores = add_up_general(rows)[f"forgetting.{task}.accuracy"]
    assert scores["value"] == pytest.approx(sum(fact["correct"] for fact in facts.values()) / len(rows))
    assert scores["n"] == len(rows)


def test_rows_name_question_answer_and_subject(data: Path, model: tuple[Any, Any]) -> None:
    row = ask_general(*model, "mmlu", asked("mmlu", data), 8, lambda number: None)[-1]
    assert (row["task"], row["split"], row["category"]) == ("forgetting.mmlu", "benchmark", "anatomy")
    assert (row["statement"], row["answer"]) == ("What lies in valley 3 of anatomy?", "three rivers")
    assert row["orders"] == [[0, 1, 2, 3]] and len(row["options"]) == 4 and row["generated"] is None


@pytest.mark.parametrize(
    ("text", "solution", "correct"),
    [  # as lm-eval's strict match has it
        (" So 7.\n#### 7", "x\n#### 7", 1.0),
        ("#### 1,234.", "a\n#### 1234", 1.0),
        ("#### 1234", "a\n#### 1,234", 1.0),
        ("the answer is 7", "a\n#### 7", 0.0),
        ("####7", "a\n#### 7", 0.0),
        ("#### 7 pens\n#### 8", "a\n#### 7", 1.0),
        ("#### 8\n#### 7", "a\n#### 7", 0.0),
        ("#### $7", "a\n#### 7", 0.0),
        ("#### 7.0", "a\n#### 7", 0.0),
        ("#### -7", "a\n#### -7", 1.0),
        ("#### 7", "a\n#### $7", 1.0),
        ("#### 7..", "a\n#### 7", 0.0),
    ],
)
def test_a_written_result_is_judged_as_lm_eval_judges_it(text: str, solution: str, correct: float) -> None:
    assert judge_result(text, solution) == correct


def test_of_what_is_too_long_the_beginning_is_left_out(data: Path, model: tuple[Any, Any]) -> None:
    question = asked("hellaswag", data).questions[0]
    (whole,) = continued(model[1], question, 1024)
    longest = len(whole.text) - 3
    cut = continued(model[1], question, longest)
    assert [one.endings[0] for one in cut] == whole.endings
    for one in cut:  # the model reads all but the last token
        assert len(one.text) + len(one.endings[0]) == longest + 1
        assert one.text == whole.text[-len(one.text) :]
    (fits,) = continued(model[1], question, len(whole.text) + max(map(len, whole.endings)) - 1)
    assert fits == whole


def test_what_helps_to_read_a_score_is_there(data: Path) -> None:
    tasks = ("mmlu", "arc_easy", "gsm8k")
    measured = {f"forgetting.{task}.accuracy" for task in tasks}
    about = describe_general({task: asked(task, data, 0) for task in (*tasks, "arc_challenge")}, measured)
    assert tuple(about) == tasks
    assert about["mmlu"] == {
        **{"asked": 8, "few_shot": 0, "chance": 0.25, "score": "acc", "rows": 8, "skipped": {}},
    }
    assert about["arc_easy"]["chance"] == pytest.approx((1 / 4 + 1 / 5) / 2)
    assert (about["arc_easy"]["score"], about["gsm8k"]["score"]) == ("acc_norm", "strict match")
