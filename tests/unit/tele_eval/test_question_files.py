import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.recipe import RecipeError
from telellm.records import Question, Rejected
from telellm.tele_eval import question_files
from telellm.tele_eval.question_files import find_question_files, question_of, read_questions

ROWS = [
    {"Statement": f"What is {number}?", "Answer": f"It is {number} dB.", "ID": f"standard_{number}"}
    for number in range(700)
]


def as_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in ROWS))


def as_array(path: Path) -> None:
    path.write_text("\ufeff" + json.dumps(ROWS, indent=2))


def as_parquet(path: Path) -> None:
    table = pyarrow.Table.from_pylist([row | {"more": "text"} for row in ROWS])
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("write", [as_lines, as_array, as_parquet])
def test_a_set_with_the_fields_of_the_paper_is_read(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "set.json")
    wanted = [Question(row["Statement"], row["Answer"], row["ID"], split="") for row in ROWS]
    assert list(read_questions(tmp_path / "set.json")) == wanted


def test_a_set_with_fields_of_its_own_keeps_them() -> None:
    row = {
        "statement": "What?",
        "answer": "That.",
        "id": "web_1",
        "kind": "value",
        "evidence": "e",
        "split": "held-out",
    }
    assert question_of(row | {"clause": "5"}) == Question("What?", "That.", "web_1", "value", "e", "held-out", "5")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "not an object"),
        ({"Statement": "What?", "Answer": "That."}, "id is missing"),
        ({"Statement": "  ", "Answer": "That.", "id": "1"}, "statement is missing"),
        ({"Statement": "What?", "Answer": ["That."], "id": "1"}, "answer is no text"),
        ({"Statement": "What?", "Answer": "x" * 20_000, "id": "1"}, "answer is too long"),
        ({"Statement": "What\0?", "Answer": "That.", "id": "1"}, "control characters"),
        ({"Statement": "What?", "Answer": "That.", "id": "1", "split": "test"}, "unknown split"),
    ],
)
def test_a_row_that_is_not_fit_has_its_reason(row: object, reason: str) -> None:
    assert question_of(row) == reason


def test_broken_and_endless_rows_spoil_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_files, "MAXIMUM_ROW", 1000)
    lines = [json.dumps(ROWS[0]), "{broken", json.dumps(ROWS[1] | {"x": "y" * 5000}), "[" * 900, json.dumps(ROWS[2])]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    found = list(read_questions(tmp_path / "set.jsonl"))
    assert [item.reason if isinstance(item, Rejected) else "" for item in found] == [
        *("", "not JSON", "row is too long", "not JSON", "")
    ]
    assert found[1].item["file"] == "set.jsonl:2"  # type: ignore[union-attr,index]


def test_an_array_that_breaks_off_keeps_what_was_whole(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text(json.dumps(ROWS)[:-300])
    found = list(read_questions(tmp_path / "set.json"))
    assert 690 < len(found) < 700 and isinstance(found[-1], Rejected)
    assert found[-1].reason == "not JSON from here on"


@pytest.mark.parametrize("content", [b"PK\x03\x04....", b"PAR1" + b"\0" * 50, b"\x1f\x8b\x08\x00...."])
def test_what_is_no_set_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.json").write_bytes(content)
    with pytest.raises(RecipeError, match=r"tele_eval.path: .*set.json cannot be read"):
        list(read_questions(tmp_path / "set.json"))


def test_a_file_that_is_not_there_and_an_archive_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tele_eval.path: .* does not exist"):
        find_question_files(str(tmp_path / "none"))
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(RecipeError, match=r"set.zip is an archive"):
        find_question_files(str(tmp_path))


@given(st.binary(max_size=300))
def test_any_bytes_give_questions_rejects_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "set.jsonl"
    for begin in (b"", b"[", b'{"Statement": "'):
        path.write_bytes(begin + content)
        try:
            for item in read_questions(path):
                assert isinstance(item, Question | Rejected)
        except RecipeError as error:
            assert "tele_eval.path" in str(error)
