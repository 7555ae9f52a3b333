import json
from pathlib import Path

import pytest

from telellm import cli
from telellm.export import export
from telellm.recipe import RecipeError, parse
from telellm.records import Document, Question
from telellm.stage import Output
from telellm.store import Store
from telellm.tele_eval.question_files import read_questions
from tests.stages import given

RECIPE = parse("name: q\nmodel: {name: owner/model}\nsources: {one: {category: web, path: raw}}\n")
DOCUMENTS = [Document.create("wiki", "1", "A cell is é.", title="Cells"), Document.create("web", "2", "text\nmore")]
QUESTIONS = [Question("What is $x$?", "It is 4.7 µs.", "wiki_1", "value", "evidence", "held-out", "5 Cells")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    for step, place in (
        ("decontaminate", given(DOCUMENTS, RECIPE, store)),
        ("tele-eval", given(QUESTIONS, RECIPE, store)),
    ):
        manifest = Output.find(store, place).manifest
        store.write_json(f"runs/monday/stages/{step}.json", {"output": place, "manifest": manifest})
    return store


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_corpus_is_written_with_the_fields_of_the_paper(store: Store, tmp_path: Path) -> None:
    assert export(store, "corpus", "monday", tmp_path / "out" / "data.jsonl") == 2
    first, second = lines(tmp_path / "out" / "data.jsonl")
    assert list(first) == ["id", "category", "content", "metadata"]
    assert (first["content"], second["id"]) == ("A cell is é.", "web_2")


def test_questions_are_written_with_the_fields_of_the_paper_and_read_again(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "questions", "monday", "--store", store.uri, "--out", str(tmp_path / "q.jsonl")]
    assert cli.main(arguments) == 0
    assert "1 rows" in capsys.readouterr().out
    assert lines(tmp_path / "q.jsonl") == [{"Statement": "What is $x$?", "Answer": "It is 4.7 µs.", "id": "wiki_1"}]
    assert list(read_questions(tmp_path / "q.jsonl")) == [Question("What is $x$?", "It is 4.7 µs.", "wiki_1", split="")]
    assert cli.main([*arguments, "--all-fields"]) == 0
    assert list(read_questions(tmp_path / "q.jsonl")) == QUESTIONS


def test_an_output_is_found_by_its_place_too(store: Store, tmp_path: Path) -> None:
    place = given(QUESTIONS, RECIPE, store)
    assert export(store, "questions", place, tmp_path / "q.jsonl") == 1


def test_a_run_without_questions_is_named_with_the_known_runs(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the run sunday has no questions yet\n  known runs: monday"):
        export(store, "questions", "sunday", tmp_path / "q.jsonl")
    assert not (tmp_path / "q.jsonl").exists()
