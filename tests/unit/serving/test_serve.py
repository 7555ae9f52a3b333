"""A real server process, real engines, real clients; the pointer moves while they ask."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from telellm import registry
from telellm.recipe import RecipeError
from telellm.serving.serve import Front
from telellm.serving.server_check import ANSWER_TOKENS, SHORTEST, check_server
from telellm.store import Store
from tests.conftest import end_with_parent, free_ports
from tests.tiny_model import make_tiny_model

WHO = {"by": "test", "why": "test", "at": "2026-01-01T00:00:00Z"}
EXAMPLE = {"statement": "What is a cell?", "answer": "An area that a station serves.", "id": "web_1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A registry with two versions, the first in production."""
    folder = tmp_path_factory.mktemp("serve")
    model = make_tiny_model(folder / "out" / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "told").mkdir()
    (folder / "told" / "report.json").write_text(json.dumps({"tele_eval": {"examples": [EXAMPLE]}}))
    store = Store.open(str(folder / "store"))
    for version in ("v1", "v2"):
        (model / "version.json").write_text(json.dumps(version))
        store.commit(f"stages/instruct/{version}", folder / "out", {"content": version})
        manifest = {"name": "telecom", "version": version, "made_at": version, "run": "r", "outputs": {}}
        manifest |= {"model": f"stages/instruct/{version}", "gate": {"promoted": True, "reason": ""}}
        store.commit(f"models/telecom/{version}", folder / "told", manifest)
    registry.promote(store, "telecom", "v1", before=None, **WHO)
    shutil.rmtree(folder / "out")
    return store


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "telellm.cli", "serve", "telecom", "--store", store.uri, "--poll", "0.3"]
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=os.environ | {"OMP_NUM_THREADS": "1"}, preexec_fn=end_with_parent
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        try:
            if httpx2.get(f"{address}/health").status_code == 200:
                break
        except httpx2.TransportError:
            assert process.poll() is None
        time.sleep(0.1)
    yield address, process
    process.kill()
    process.wait()


def test_a_health_check_asks_a_question_of_tele_eval(server: tuple[str, object], store: Store) -> None:
    asked = {"messages": [{"role": "user", "content": EXAMPLE["statement"]}], "max_tokens": ANSWER_TOKENS}
    answer = httpx2.post(f"{server[0]}/v1/chat/completions", json=asked | {"temperature": 0}, timeout=60).json()
    said = answer["choices"][0]["message"]["content"].strip()
    checks = {check.name: check for check in check_server(f"{server[0]}/v1", store)}
    assert checks["server answer"].state == ("ok" if len(said) >= SHORTEST else "failed")
    assert (" ".join(said.split())[:40] if len(said) >= SHORTEST else EXAMPLE["statement"]) in checks[
        "server answer"
    ].said
    assert checks["server likelihood"].state == "warning"  # transformers serve tells none
    assert "serves telecom" in checks["server"].said
    (nothing,) = check_server("http://127.0.0.1:9/v1", store)
    assert nothing.state == "failed" and "ends in /v1" in nothing.said


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("chat/completions", b"{", 400),
        ("chat/completions", b"[" * 100_000, 400),
        ("chat/completions", b"[1]", 400),
        ("chat/completions", b"model=/etc/other", 400),
        ("chat/completions", b"\xff\xfe", 400),
        ("chat/completions", b" " * (2**23 + 1), 413),
        ("completions", b'{"prompt": "x", "max_tokens": -1}', 400),
        ("completions", b'{"prompt": "x", "max_tokens": 1e99}', 400),
        ("completions", b'{"prompt": "x", "max_tokens": 1000000000}', 400),
        ("completions", b'{"prompt": "x", "max_tokens": true}', 400),
        ("audio/transcriptions", b"model=/etc/other", 404),
        ("systemone", b"{}", 404),
        ("%2e%2e/load_model", b'{"model": "owner/other"}', 404),
        ("../load_model", b'{"model": "owner/other"}', 404),
    ],
)
def test_what_no_client_sends_is_answered_without_the_engine(
    server: tuple[str, object], path: str, content: bytes, status: int
) -> None:
    host, _, port = server[0].removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    with suppress(BrokenPipeError, ConnectionResetError):  # the server need not read all of it
        connection.request("POST", f"/v1/{path}", content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("x-telellm-version")) == (status, None)
    connection.close()


def test_no_request_sets_what_the_engine_was_started_with(server: tuple[str, object]) -> None:
    asked = {"prompt": "What is a cell?", "max_tokens": 2, "generation_config": '{"max_new_tokens": 900}'}
    answer = httpx2.post(f"{server[0]}/v1/completions", json=asked | {"model": "owner/other"}, timeout=60)
    assert answer.status_code == 200 and answer.json()["model"] == "telecom"


def test_who_hangs_up_early_or_sends_no_end_keeps_nobody_waiting(server: tuple[str, object]) -> None:
    host, _, port = server[0].removeprefix("http://").partition(":")
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 500, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    open_ends = []
    for number in range(20):
        stranger = socket.create_connection((host, int(port)))
        stranger.sendall(head + (body if number % 2 else body[:-1]))
        open_ends.append(stranger) if number % 4 == 0 else stranger.close()
    asked = {"messages": [{"role": "user", "content": "What is a cell?"}], "max_tokens": 2}
    answer = httpx2.post(f"{server[0]}/v1/chat/completions", json=asked, timeout=60)
    assert answer.status_code == 200
    for stranger in open_ends:
        stranger.close()


def test_the_pointer_moves_under_load_and_no_request_fails(
    server: tuple[str, "subprocess.Popen[bytes]"], store: Store
) -> None:
    address, process = server
    answers: list[tuple[int, str, str]] = []
    ended = threading.Event()

    def client(stream: bool) -> None:
        asked = {"model": "telecom", "messages": [{"role": "user", "content": "What is a cell?"}], "max_tokens": 12}
        with httpx2.Client(timeout=120) as connection:
            while not ended.is_set():
                found = connection.post(f"{address}/v1/chat/completions", json=asked | {"stream": stream})
                answers.append((found.status_code, found.headers["x-telellm-version"], found.text))

    clients = [threading.Thread(target=client, args=(number % 2 == 0,)) for number in range(3)]
    for each in clients:
        each.start()
    registry.promote(store, "telecom", "v2", before="v1", **WHO)
    for _ in range(1200):
        if any(version == "telecom v2" for _, version, _ in answers):
            break
        time.sleep(0.1)
    ended.set()
    for each in clients:
        each.join()
    assert {status for status, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == {"telecom v1", "telecom v2"}
    assert all('"finish_reason"' in text and '"model":"telecom"' in text for _, _, text in answers)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_name_of_several_models_is_refused(directory_store: Store, tmp_path: Path) -> None:
    recipe = "name: first\nmodel: {name: owner/base}\nsources: {one: {category: web, path: raw}}\n"
    directory_store.write("runs/first/recipe.yaml", recipe.encode())
    note = {"output": "stages/pretrain/1", "manifest": {"finished_at": "x"}}
    directory_store.write_json("runs/first/stages/pretrain.json", note)
    with pytest.raises(RecipeError, match="first is a run with several models"):
        Front("first", directory_store, [], print)
