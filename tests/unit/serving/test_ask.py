import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from telellm.execution import execute
from telellm.recipe import RecipeError, parse
from telellm.records import Document
from telellm.retrieval.passages import Passage
from telellm.serving import ask as asking
from telellm.serving.ask import Answer, Documents, ask, find_documents, suggestion
from telellm.serving.named_models import NamedModel, resolve
from telellm.stage import Context, stage
from telellm.store import Store
from tests.tiny_model import make_tiny_model

RECIPE = "name: first\nmodel: {{name: {model}}}\nsources: {{one: {{category: web, path: raw}}}}\n"


@stage(sections=("name",), produces=Document)
def decontaminate(context: Context, settings: Any) -> Iterator[Document]:
    text = "# Access\n\nA handset sends a preamble.\nThen it waits."
    yield Document.create("standard", "a", text, title="Access in cells", source_url="https://example.org/a")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(tiny: Path, directory_store: Store) -> Store:
    """A store with a run that has a base model and a snapshot."""
    recipe = parse(RECIPE.format(model=tiny))
    directory_store.write("runs/first/recipe.yaml", recipe.to_yaml().encode())
    execute(decontaminate, recipe, directory_store, "first", {})
    return directory_store


def test_a_model_answers_with_the_passages_that_were_found(run: Store, capsys: pytest.CaptureFixture[str]) -> None:
    models = resolve("first", run)
    documents = find_documents(models, run, "What does a handset send?")
    assert [passage.document for passage in documents.passages] == ["standard_a"]
    answers = ask(models, "What does a handset send?", documents, 5)
    assert [answer.state for answer in answers] == ["done"]
    said = capsys.readouterr().out
    assert said.startswith("base: ") and "[1] standard_a  Access in cells, Access" in said
    assert "A handset sends a preamble.\n      https://example.org/a" in said


def test_a_missing_index_is_made_once(run: Store, capfd: pytest.CaptureFixture[str]) -> None:
    find_documents([], run, "a handset")
    assert "index" in capfd.readouterr().err
    find_documents([], run, "a handset")
    assert capfd.readouterr().err == ""


def test_a_store_without_a_snapshot_is_told(directory_store: Store) -> None:
    with pytest.raises(RecipeError, match=r"has no snapshot to find documents in\n  make one: telellm run"):
        find_documents([], directory_store, "a handset")


def test_a_model_that_fails_does_not_keep_the_others_from_answering(run: Store, tiny: Path) -> None:
    models = [NamedModel("gone", "", endpoint="http://127.0.0.1:9/v1"), NamedModel("tiny", str(tiny))]
    first, second = ask(models, "Why?", None, 3)
    assert first.state == "failed" and "127.0.0.1:9" in first.text
    assert second.state == "done"


@pytest.mark.parametrize(("width", "side_by_side"), [(120, True), (60, False)])
def test_answers_stand_side_by_side_where_there_is_room(width: int, side_by_side: bool) -> None:
    from rich.console import Console

    console = Console(file=StringIO(), width=width)
    answers = [Answer(NamedModel(label, ""), f"answer of {label}") for label in ("base", "instruct")]
    console.print(asking._columns(answers, console))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert any("answer of base" in line and "answer of instruct" in line for line in lines) == side_by_side


def test_a_question_that_no_passage_fits_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ask([], "Why?", Documents("first"), 3)
    assert "no passage of the run first shares a word" in capsys.readouterr().out


def test_a_long_first_line_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    ask([], "Why?", Documents("first", [Passage("web_1", "T", "", "", "word " * 100)]), 3)
    assert "…" in capsys.readouterr().out


def test_the_end_of_a_run_says_what_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = suggestion(Store.open("store").uri, "first", "Why's that?", {"PATH": ""})
    assert said.endswith("""ask first 'Why'"'"'s that?' --with-documents""")
    assert suggestion("s3://bucket/x", "first", "Why?", {"PATH": ""}).endswith("--store s3://bucket/x")


@pytest.mark.parametrize(
    "said",
    [
        *(b"data: {x\n\n", b"data: [1]\n\n", b'data: {"choices": [1]}\n\n', b"data: " + b"[" * 100_000 + b"\n\n"),
        b'data: {"choices": [{"delta": {"content": 5}}]}\n\n',
    ],
    ids=lambda said: said[:24],
)
def test_an_endpoint_whose_answer_is_none_keeps_no_other_model_from_answering(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + said)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        (answer,) = ask([NamedModel("far", "far", endpoint=address)], "What?", None, 5)
    assert answer.state == "failed" and address in answer.text
