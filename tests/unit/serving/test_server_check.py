"""A server that is checked may be any: the key goes to it alone, and no answer keeps the check."""

from pathlib import Path

import pytest

from telellm.doctor import Check
from telellm.serving import server_check
from telellm.serving.server_check import check_server
from telellm.store import Store
from tests.language_model_server import LanguageModelServer


def checks(url: str, store: Store) -> list[Check]:
    return list(check_server(url, store))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, directory_store: Store) -> LanguageModelServer:
    """A server whose only model is known from the list, and a question for it."""
    running = LanguageModelServer()
    handler = running.http.RequestHandlerClass

    def do_get(self: object) -> None:
        data = b'{"data": [{"id": "served"}]}'
        self.send_response(200)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(data)))  # type: ignore[attr-defined]
        self.end_headers()  # type: ignore[attr-defined]
        self.wfile.write(data)  # type: ignore[attr-defined]

    monkeypatch.setattr(handler, "do_GET", do_get, raising=False)
    directory_store.write("runs/r/recipe.yaml", b"name: r")
    report = b'{"tele_eval": {"examples": [{"statement": "What?", "answer": "That."}]}}'
    directory_store.write("runs/r/report/report.json", report)
    return running


def test_the_key_does_not_follow_to_another_server(
    server: LanguageModelServer, directory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret\n")
    other = LanguageModelServer()
    server.headers = {"Location": f"{other.url}/chat/completions"}
    server.answer = lambda request, number: (302, {})
    found = checks(server.url, directory_store)
    assert server.keys[0] == "Bearer sk-very-secret" and other.requests == []
    assert [check.state for check in found] == ["ok", "failed", "warning"]
    assert not any("secret" in check.said for check in found)


@pytest.mark.parametrize(
    "answer",
    ["", "[", "data: [", "data: [1]", 'data: {"choices": [1]}', "data: " + "[" * 100_000, "data: " * 10, "x" * 2**20],
)
def test_an_answer_that_is_none_is_a_failed_check(
    server: LanguageModelServer, directory_store: Store, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_check, "LARGEST_BYTES", 2**18)
    server.answer = lambda request, number: (200, answer)
    assert "failed" in [check.state for check in checks(server.url, directory_store)]


def test_a_store_without_questions_asks_nothing(server: LanguageModelServer, tmp_path: Path) -> None:
    assert checks(server.url, Store.open(str(tmp_path / "empty")))[-1].state == "failed"
    assert server.requests == []
