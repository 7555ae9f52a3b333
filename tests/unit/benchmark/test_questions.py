"""What rows ask: read strictly to score, leniently to scan; whatever they hold, nothing is raised."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.benchmark.files import NotJson
from telellm.benchmark.questions import FORMATS, ChoiceQuestion, all_files, read_choices, read_texts, to_choices
from telellm.recipe import Benchmark, RecipeError

TELEQNA = {"question": "What?", "option 1": "x", "option 2": "y", "option 10": "z", "answer": "option 10: z"}


def asked(row: Any, form: str) -> ChoiceQuestion | str:
    """The question of a row, or the reason why it is none."""
    found = to_choices(iter([row]), form, "name")
    return found.questions[0] if found.questions else next(iter(found.skipped))


@pytest.mark.parametrize(
    ("form", "row", "options", "answer"),
    [
        ("teleqna", TELEQNA, ("x", "y", "z"), 2),
        ("teleqna", TELEQNA | {"answer": "option 1"}, ("x", "y", "z"), 0),
        ("teleqna", TELEQNA | {"answer": "option 2: y, as in the text"}, ("x", "y", "z"), 1),
        ("oranbench", ["What?", ["1. x", "2. y", "3. z"], "3"], ("x", "y", "z"), 2),
        ("oranbench", ["What?", ["1. x", "2. y"], 1], ("x", "y"), 0),
        ("oranbench", ["What?", ["2.4 GHz", "3.5 GHz"], "2"], ("2.4 GHz", "3.5 GHz"), 1),
        ("srsranbench", ["What?", ["1. x", "2. y"], "2"], ("x", "y"), 1),
        ("srsranbench", {"question": "What?", "choices": ["1. x", "2. y"], "answer": 1}, ("x", "y"), 1),
        ("open-telco", {"question": "What?", "choices": ["x", "y"], "answer": 0, "subject": "s"}, ("x", "y"), 0),
        ("open-telco", {"question": "What?", "choices": ["0", "1"], "answer": "0"}, ("0", "1"), 0),
        ("open-telco", {"question": "What?", "choices": ["x", "y"], "answer": "B"}, ("x", "y"), 1),
        ("generic", {"Question": "What?", "Options": {"A": "x", "B": "y"}, "Answer": "B"}, ("x", "y"), 1),
        ("generic", {"question": "What?", "choices": {"text": ["x", "y"]}, "answer": "y"}, ("x", "y"), 1),
        ("generic", {"question": "What?", "options": ["(a) x", "(b) y"], "answer": "b"}, ("x", "y"), 1),
        ("generic", ["What?", ["x", "y"], "1"], ("x", "y"), 0),
        ("generic", {"question": "What?", "options": [5, 7.5], "answer": 1}, ("5", "7.5"), 1),
    ],
)
def test_each_format_names_its_answer_in_its_way(form: str, row: Any, options: tuple[str, ...], answer: int) -> None:
    question = asked(row, form)
    assert isinstance(question, ChoiceQuestion)
    assert (question.statement, question.options, question.answer) == ("What?", options, answer)


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [
        ("teleqna", ["What?", ["x", "y"], "1"], "not an object"),
        ("teleqna", {"question": "What?", "answer": "x"}, "no options"),
        ("teleqna", TELEQNA | {"answer": "option 4: w"}, "no such answer"),
        ("teleqna", TELEQNA | {"answer": "option 1: y"}, "the answer names one option and says another"),
        ("oranbench", {"question": "What?"}, "not a list"),
        ("oranbench", ["What?", "2"], "no options"),
        ("oranbench", ["What?", [], "2"], "no options"),
        ("oranbench", ["", ["x", "y"], "2"], "no question"),
        ("oranbench", ["What?", ["x", "y"], "3"], "no such answer"),
        ("oranbench", ["What?", ["x", "y"], 0], "no such answer"),
        ("open-telco", {"question": "What?", "answer": 0.5}, "no options"),
        ("open-telco", {"question": "What?", "choices": ["x", "y"], "answer": 2}, "no such answer"),
        ("open-telco", {"question": "What?", "choices": ["x", "y"], "answer": True}, "no such answer"),
        ("generic", {"question": "What?", "options": ["x", " "], "answer": 0}, "empty option"),
        ("generic", {"question": "What?", "options": ["x  y", "X y"], "answer": 0}, "two options are alike"),
        ("generic", {"question": "What?", "options": ["x", None], "answer": 0}, "option is not text"),
        ("generic", {"question": "What?", "options": list(range(40)), "answer": 0}, "too many options"),
        ("generic", "What?", "not an object or a list"),
        ("generic", NotJson(3, ""), "not JSON"),
    ],
)
def test_a_dirty_row_has_a_reason(form: str, row: Any, reason: str) -> None:
    assert asked(row, form) == reason


@pytest.mark.parametrize(
    ("option", "fixed"),
    [
        ("All of the above", True),
        ("Both options 1 and 2", True),
        ("A and B", True),
        ("None of these", True),
        ("Neither of the above", True),
        ("An optional feature of a base station", False),
        ("Both the UE and the gNB", False),
        ("It uses a or e", False),
    ],
)
def test_an_option_that_speaks_of_others_fixes_their_order(option: str, fixed: bool) -> None:
    question = asked({"question": "What?", "options": ["x", option], "answer": 0}, "generic")
    assert isinstance(question, ChoiceQuestion) and question.fixed == fixed


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1", "B", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["question", "Question", "options", "choices", "option 1", "option 2", "answer"])
ANY_ROW = st.one_of(
    VALUES,
    st.dictionaries(FIELDS, VALUES, max_size=5),
    st.tuples(st.text(max_size=9), st.lists(st.text(max_size=9), max_size=4), VALUES).map(list),
    st.just(NotJson(1, "")),
)


@given(st.lists(ANY_ROW, max_size=8), st.sampled_from(sorted(FORMATS)))
def test_every_row_is_a_question_or_is_counted(rows: list[Any], form: str) -> None:
    found = to_choices(iter(rows), form, "name")
    assert len(found.questions) + found.skipped.total() == found.num_rows == len(rows)
    for question in found.questions:
        assert 0 <= question.answer < len(question.options)
        json.dumps([question.statement, *question.options], ensure_ascii=False).encode()


@given(st.one_of(st.binary(max_size=80), st.lists(ANY_ROW.filter(lambda row: not isinstance(row, NotJson))).map(str)))
def test_no_file_raises_anything_but_a_recipe_error(content: bytes | str) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(content if isinstance(content, bytes) else content.replace("'", '"').encode(errors="replace"))
        file.flush()
        for form in FORMATS:
            benchmark = Benchmark.model_validate({"name": "a", "path": file.name, "format": form})
            try:
                found = read_choices(benchmark, 1)
                assert len(found.questions) + found.skipped.total() == found.num_rows
            except RecipeError as error:
                assert str(error).startswith("evaluation.multiple_choice: a: ")
        try:
            list(read_texts(Path(file.name), "here"))
        except RecipeError as error:
            assert str(error).startswith("here: ")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["What?", ["1. this", "2. that"], "2"]], ["What? that"]),
        ([{"question": "What?", "options": ["this", "that"], "answer": 0}], ["What? this"]),
        ([{"question": "What?", "choices": ["this", "that"], "answer": "that"}], ["What? that"]),
        ([{"question": "What?", "choices": {"text": ["this", "that"]}, "answer": "B"}], ["What? that"]),
        ({"question 0": {"question": "What?", "option 1": "x", "option 2": "y", "answer": "option 2: y"}}, ["What? y"]),
        ([{"question": "What?", "options": 5, "answer": "option 3: gone"}], ["What? option 3: gone"]),
        ([{"question": "What?", "options": ["a", "b"], "answer": "option 3: gone"}], ["What? gone"]),
        ([{"statement": "What?", "answer": "Radio waves."}], ["What? Radio waves."]),
        ([{"prompt": "What?"}], ["What?"]),
        ([{"id": 3}, "text", None, {"question": "What?"}], ["What?"]),
        ({"version": "1", "data": [{"question": "What?"}, {"question": "Why?"}]}, ["What?", "Why?"]),
    ],
)
def test_questions_are_read_however_they_are_written(rows: object, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows))
    assert list(read_texts(path, "here")) == expected
    if isinstance(rows, list):
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        assert list(read_texts(path, "here")) == expected


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"{'question': 1}\n", b"What is this?\n", b"[]", b"3", b'{"a": 1}']
)
def test_a_file_of_no_questions_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"questions\.txt"):
        list(read_texts(path, "here"))


def test_a_broken_line_is_scanned_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "What?"}\n{"question": "Why\n')
    assert list(read_texts(tmp_path / "a.jsonl", "here")) == ["What?", '{"question": "Why']


def test_a_benchmark_of_another_format_is_named_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([TELEQNA, TELEQNA]))
    benchmark = Benchmark.model_validate({"name": "a", "path": str(tmp_path / "a.json"), "format": "oranbench"})
    with pytest.raises(RecipeError, match=r'format "oranbench" \(not a list 2\)\n  known formats: teleqna, oranbench'):
        read_choices(benchmark, 1)


def test_a_draw_is_the_same_for_every_model_and_a_repeated_question_counts_once(tmp_path: Path) -> None:
    rows = [[f"What is {number % 30}?", ["1. x", "2. y"], "1"] for number in range(40)]
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, rows)))
    benchmark = Benchmark.model_validate(
        {"name": "a", "path": str(tmp_path), "format": "oranbench", "max_questions": 9}
    )
    first, again, other = (read_choices(benchmark, seed) for seed in (1, 1, 2))
    assert first.questions == again.questions != other.questions
    assert len(first.questions) == 9
    assert first.skipped == Counter({"asked before": 10})


def test_all_files_of_a_recipe_come_once_with_their_password(tmp_path: Path) -> None:
    for name in ("a.json", "b.json", "copy.json"):
        (tmp_path / name).write_text("[1]" if name != "b.json" else "[2]")
    choices = [Benchmark.model_validate({"name": "c", "path": str(tmp_path / "copy.json"), "password_variable": "P"})]
    found = all_files([str(tmp_path / "a.json"), str(tmp_path / "b.json")], choices, "here")
    assert [(path.name, variable) for path, variable in found] == [("b.json", ""), ("copy.json", "P")]
