"""General tasks: what is asked is what lm-eval asks, whatever the directories of the data sets look like."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.benchmark.general_tasks import TASKS, general_digest, general_texts, read_general_task
from telellm.benchmark.questions import Dirty
from telellm.recipe import GeneralTask, RecipeError
from tests.general_data import ARC, GSM8K, HELLASWAG, mmlu, write_general_data

FACTS = json.loads(Path(__file__).with_name("lm_eval_facts.json").read_text())
"""What lm-eval 0.4.13 asks of the same rows; written by benchmarks/forgetting.py."""
FOLDERS = {name: name for name in TASKS} | dict.fromkeys(("arc_easy", "arc_challenge"), "ai2_arc")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_general_data(tmp_path_factory.mktemp("data"))


def settings(task: str, path: Path | str, **others: Any) -> GeneralTask:
    return GeneralTask.model_validate({"task": task, "path": str(path)} | others)


def lines(folder: Path, name: str, rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return folder


@pytest.mark.parametrize("which", FACTS)
def test_a_task_asks_what_lm_eval_asks(which: str, data: Path) -> None:
    task, few_shot = which.removesuffix(" examples").split(", ")
    asked = read_general_task(settings(task, data / FOLDERS[task], few_shot=int(few_shot)), seed=1)
    expected = [(fact["prompt"], fact.get("endings", [])) for fact in FACTS[which]]
    found = [(question.prompt, list(question.endings)) for question in asked.questions]
    assert sorted(found) == sorted(expected)
    assert (asked.num_rows, asked.few_shot, asked.skipped) == (len(found), int(few_shot), Counter())


def test_only_the_folder_of_a_task_is_read(data: Path, tmp_path: Path) -> None:
    for task, first in (("arc_easy", 0), ("arc_challenge", 1)):
        for path in (data / "ai2_arc", data / "ai2_arc" / TASKS[task].config):
            found = read_general_task(settings(task, path), seed=1).questions
            assert [question.statement for question in found] == [row["question"] for row in ARC[first : first + 2]]
    with pytest.raises(RecipeError, match=r"arc_easy: .*ARC-Challenge: no file of the split test is there"):
        read_general_task(settings("arc_easy", data / "ai2_arc" / "ARC-Challenge"), seed=1)
    one = shutil.copytree(data / "mmlu" / "anatomy", tmp_path / "anatomy")
    assert len(read_general_task(settings("mmlu", one), seed=1).questions) == 4
    assert len(read_general_task(settings("mmlu", f"file://{data}/mmlu"), seed=1).questions) == 8


@pytest.mark.parametrize("name", ["hellaswag_val.jsonl", "data/validation.json", "validation/0000.jsonl"])
def test_a_split_is_known_by_the_names_that_publishers_use(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    lines(path.parent, path.name, HELLASWAG[:1])
    lines(tmp_path, "dataset_infos.json", [{"splits": {"validation": 3}}])
    found = read_general_task(settings("hellaswag", tmp_path), seed=1)
    assert [question.right for question in found.questions] == ["Put it into the oven."]


def test_rows_that_ask_nothing_are_counted_by_reason(tmp_path: Path) -> None:
    good = mmlu("anatomy", 1)
    rows = [
        *(good, good, "not json", "[1]", {**good, "choices": ["a", "b"]}, {**good, "answer": 4}),
        *({**good, "answer": "1", "question": "Why?"}, {**good, "question": " "}, {"question": "Who?"}),
        {**good, "choices": ["a", "", "b", "c"]},
    ]
    found = read_general_task(settings("mmlu", lines(tmp_path, "test.jsonl", rows)), seed=1)
    assert [question.statement for question in found.questions] == ["What lies in valley 1 of anatomy?", "Why?"]
    assert found.num_rows == len(rows)
    assert found.skipped == {
        "asked before": 1,
        "not an object": 2,
        "not four options": 1,
        "no such answer": 1,
        "no question": 1,
        "a column is missing": 1,
        "empty option": 1,
    }


def test_questions_are_drawn_by_the_seed_with_the_same_examples(data: Path) -> None:
    every = {q.id: q for q in read_general_task(settings("mmlu", data / "mmlu", few_shot=1), seed=1).questions}
    drawn = {
        seed: read_general_task(settings("mmlu", data / "mmlu", few_shot=1, max_questions=3), seed).questions
        for seed in (1, 2)
    }
    assert [len(found) for found in drawn.values()] == [3, 3] and drawn[1] != drawn[2]
    assert all(every[question.id].prompt == question.prompt for question in drawn[1])


def test_no_question_is_an_example_of_itself(data: Path) -> None:
    found = read_general_task(settings("hellaswag", data / "hellaswag", few_shot=2), seed=1).questions
    for question in found:
        others = [other for other in found if other.id != question.id]
        beginnings = {before.prompt.split("\n\n")[-1] + before.solution for before in others}
        assert set(question.prompt.split("\n\n")[:-1]) == beginnings


def test_what_is_missing_is_said_with_what_is_there(data: Path, tmp_path: Path) -> None:
    def said(task: str, path: Path, **others: Any) -> str:
        with pytest.raises(RecipeError) as caught:
            read_general_task(settings(task, path, **others), seed=1)
        return str(caught.value)

    assert said("mmlu", tmp_path / "none") == f"evaluation.forgetting: mmlu: {tmp_path}/none does not exist"
    assert "no .json, .jsonl, .parquet or .zip file is there" in said("mmlu", tmp_path)
    only_train = lines(tmp_path / "a", "train.jsonl", GSM8K)
    assert said("gsm8k", only_train) == (
        f"evaluation.forgetting: gsm8k: {only_train}: no file of the split test is there; one is called "
        "main/test-00000-of-00001.parquet, test.jsonl or alike\n  files there: train.jsonl"
    )
    other = lines(tmp_path / "b", "test.jsonl", GSM8K)
    assert said("arc_easy", other) == (
        f"evaluation.forgetting: arc_easy: {other}: test.jsonl has no column choices, answerKey; a row of arc_easy has "
        "question, choices, answerKey\n  columns there: question, answer"
    )
    assert said("gsm8k", data / "gsm8k", few_shot=3) == (
        f"evaluation.forgetting: gsm8k: few_shot: 3: of its questions the split train of {data}/gsm8k has only 1; "
        "ask for fewer"
    )
    assert "few_shot: 4: of college_biology the split dev of" in said("mmlu", data / "mmlu", few_shot=4)
    nothing = lines(tmp_path / "c", "test.jsonl", [{"question": "Why?", "answer": "So."}])
    assert said("gsm8k", nothing).endswith("the files of the split test ask nothing (no such answer 1)")


def test_the_digest_changes_with_what_is_read(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data / "gsm8k", tmp_path / "gsm8k")
    before = [general_digest(settings("gsm8k", path, few_shot=n)) for path in (data / "gsm8k", copy) for n in (0, 1)]
    assert before[0] == before[2] and before[1] == before[3] != before[0]
    shutil.copy(copy / "main" / "test-00000-of-00001.parquet", copy / "main" / "train-00000-of-00001.parquet")
    assert general_digest(settings("gsm8k", copy, few_shot=0)) == before[0]
    assert general_digest(settings("gsm8k", copy, few_shot=1)) != before[1]


def test_the_scan_reads_every_question_with_its_right_answer(data: Path) -> None:
    texts = list(general_texts(settings("hellaswag", data / "hellaswag", max_questions=1)))
    assert texts[1] == "Rowing: A man sits in a boat. He rows across the lake."
    assert len(texts) == 3
    first = next(general_texts(settings("gsm8k", data / "gsm8k")))
    assert first == "Ann has 3 pens and buys 4. How many has she? She has 3 + 4 = <<3+4=7>>7 pens.\n#### 7"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["text", "label", "x"]), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(TASKS)), st.data())
def test_any_row_is_a_question_or_left_out_for_a_reason(task: str, data: st.DataObject) -> None:
    good = {"mmlu": mmlu("anatomy", 1), "hellaswag": HELLASWAG[0], "gsm8k": GSM8K[0]}.get(task, ARC[0])
    row = dict(good) | data.draw(st.dictionaries(st.sampled_from(TASKS[task].columns), VALUES))
    try:
        question = TASKS[task].read(task, row)
    except Dirty as reason:
        assert str(reason)
    else:
        assert len(question.options) == len(question.endings) and question.right is not None
        question.prompt.encode()


def test_a_row_that_no_model_can_be_asked_is_left_out_in_little_time(tmp_path: Path) -> None:
    row = HELLASWAG[0]
    rows = [
        {**row, "ctx_a": "[" * 60_000},  # took the square of its length
        {**row, "ctx_a": "[" * 100_000},
        {**row, "endings": ["a" * 40_000, "b" * 40_000]},
        {**row, "endings": [f"{number}" for number in range(10_000)]},
        {**row, "ctx_a": "[step] One [two] three] [four"},
    ]
    found = read_general_task(settings("hellaswag", lines(tmp_path, "validation.jsonl", rows)), seed=1)
    assert found.skipped == {"too long": 2, "too many options": 1}
    assert "One three] [four" in found.questions[-1].statement
