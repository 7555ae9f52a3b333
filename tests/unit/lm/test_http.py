"""The way to a server: certificates, proxies, waits, connections that break."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from telellm.lm import endpoint, http
from telellm.lm.endpoint import EndpointModel
from telellm.recipe import LanguageModel
from telellm.stage import StageFailed
from tests.certificates import make_certificates
from tests.language_model_server import Answer, LanguageModelServer, completion


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def encrypted(server: LanguageModelServer, tmp_path: Path) -> tuple[LanguageModelServer, Path]:
    """A server with a certificate of a private authority, and the authority's file."""
    authority, certificate = make_certificates(tmp_path, 9, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    server.url = server.url.replace("http:", "https:")
    return server, authority


def model_at(address: str) -> EndpointModel:
    return EndpointModel(LanguageModel.model_validate({"endpoint": address}), "served")


def test_a_private_certificate_is_trusted_where_the_environment_names_it(
    encrypted: tuple[LanguageModelServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = encrypted
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert model_at(server.url).generate(["ask"] * 5, 5) == ["fine"] * 5


def test_a_certificate_that_nobody_trusts_is_refused(
    encrypted: tuple[LanguageModelServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    with pytest.raises(StageFailed, match="certificate"):
        model_at(encrypted[0].url).generate(["ask"], 5)
    assert encrypted[0].requests == []


def test_requests_go_through_the_proxy_of_the_environment(
    server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    assert model_at("http://a-model.invalid/v1").generate(["ask"], 5) == ["fine"]


@pytest.mark.parametrize("hosts", ["127.0.0.1", "localhost,127.0.0.1", "*"])
def test_a_host_that_needs_no_proxy_is_asked_itself(
    server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(StageFailed, match="cannot be reached"):
        model_at(server.url).generate(["ask"], 5)
    monkeypatch.setenv("NO_PROXY", hosts)
    assert model_at(server.url).generate(["ask"], 5) == ["fine"]


def test_an_encrypted_server_is_reached_through_a_proxy(
    encrypted: tuple[LanguageModelServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = encrypted
    asked = []

    class Tunnel(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            host, port = self.path.split(":")
            self.send_response(200)
            self.send_header("Retry-After", "50")
            self.end_headers()
            there = socket.create_connection((host, int(port)))
            back = threading.Thread(target=pump, args=(there, self.connection), daemon=True)
            back.start()
            pump(self.connection, there)

        def log_message(self, *arguments: Any) -> None:
            pass

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Tunnel)
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    server.answer = lambda request, number: (503, {}) if number == 1 else completion("through")
    try:
        assert model_at(server.url).generate(["ask"], 5) == ["through"]
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert set(asked) == {server.url.removeprefix("https://").removesuffix("/v1")}


def test_a_server_tells_how_long_to_wait(server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []

    def busy_once(request: dict[str, Any], number: int) -> Answer:
        times.append(time.monotonic())
        return (429, {}) if number == 1 else completion("now")

    server.answer = busy_once
    server.headers = {"Retry-After": "0.4"}
    monkeypatch.setattr(http, "SHORTEST_WAIT", 30.0)
    assert model_at(server.url).generate(["ask"], 5) == ["now"]
    assert 0.35 < times[1] - times[0] < 20


def test_a_connection_that_the_server_closed_is_opened_again(server: LanguageModelServer) -> None:
    server.headers = {"Connection": "close"}
    assert model_at(server.url).generate([f"{number}" for number in range(70)], 5) == ["fine"] * 70


def test_a_connection_that_breaks_is_tried_again(server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SHORTEST_WAIT", 0.01)

    def break_first(request: dict[str, Any], number: int) -> Answer:
        if number == 1:
            raise ConnectionAbortedError
        return completion("whole")

    server.answer = break_first
    monkeypatch.setattr(server.http, "handle_error", lambda *arguments: None)
    assert model_at(server.url).generate(["ask"], 5) == ["whole"]


def test_what_is_not_json_is_shown(server: LanguageModelServer) -> None:
    server.answer = lambda request, number: (200, "<html>Welcome")
    with pytest.raises(http.Refused, match="not JSON: <html>Welcome"):
        list(http.Server(server.url, "key", 5, 1, 1).post_each("", [b"{}"], 1))


def test_other_protocols_are_not_spoken(tmp_path: Path) -> None:
    (tmp_path / "v1").write_text("{}")
    with pytest.raises(http.Unanswered):
        list(http.Server(f"file://{tmp_path}", "key", 5, 1, 1).post_each("v1", [b"{}"], 1))


def raw_server(answers: Iterator[bytes]) -> tuple[str, socket.socket]:
    """A server that sends bytes as they are: an endless answer ends when the client does."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    connection.recv(65536)
                    for piece in answers:
                        connection.sendall(piece)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/v1", listening


def endless(head: bytes, piece: bytes) -> Iterator[bytes]:
    return chain([head], repeat(piece))


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 2**16),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 2**16 + b"\r\n"),
        endless(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"x" * 1000 + b"\r\n"),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "chunks", "headers", "interim answers"],
)
def test_an_answer_without_end_is_ended(answer: Iterator[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    monkeypatch.setattr(http, "LARGEST_ANSWER", 2**22)
    address, listening = raw_server(answer)
    began = time.monotonic()
    with listening, pytest.raises(StageFailed):
        model_at(address).generate(["ask"], 5)
    assert time.monotonic() - began < 60  # of 600 that an answer may take


def test_an_answer_that_comes_byte_by_byte_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)

    def slowly() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            time.sleep(0.02)
            yield b" "

    address, listening = raw_server(slowly())
    settings = LanguageModel.model_validate({"endpoint": address, "timeout_seconds": 0.5})
    with listening, pytest.raises(StageFailed, match=r"no answer within 0\.5 s"):
        EndpointModel(settings, "served").generate(["ask"], 5)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_server_that_repeats_the_key_does_not_have_it_told(
    server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret\n")  # as a Secret from a file often is
    server.answer = lambda request, number: (status, f"you sent {server.keys[-1]}")
    with pytest.raises(StageFailed) as caught:
        model_at(server.url).generate(["ask"], 5)
    told: BaseException | None = caught.value
    while told is not None:
        assert "very-secret" not in str(told)
        told = told.__cause__
    assert server.keys == ["Bearer sk-very-secret"]


def test_a_request_does_not_follow_to_another_server(
    server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    other = LanguageModelServer()
    server.headers = {"Location": f"{other.url}/chat/completions"}
    for status in (301, 302, 307, 308):
        server.answer = lambda request, number, status=status: (status, {})  # type: ignore[misc]
        with pytest.raises(StageFailed, match="it sends on to"):
            model_at(server.url).generate(["ask"], 5)
    assert other.requests == []


@pytest.mark.parametrize("told", ["1e9", "nan", "inf", "-1", "9" * 400, "Fri, 31 Dec 2099 23:59:59 GMT", ""])
def test_an_absurd_time_to_wait_is_not_waited(
    server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(http, "SHORTEST_WAIT", 0.01)
    server.headers = {"Retry-After": told}
    server.answer = lambda request, number: (429, {}) if number == 1 else completion("now")
    assert model_at(server.url).generate(["ask"], 5) == ["now"]
