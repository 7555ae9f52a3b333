"""What goes wrong with a bucket, and what is said then."""

import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from telellm.store import InvalidStore, Store, StoreUnavailable

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something", "AWS_REGION": "us-east-1"}


@pytest.fixture
def environment(monkeypatch):
    """Set the variables of a bucket store, and no others."""

    def change(**variables):
        for name in ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "AWS_SHARED_CREDENTIALS_FILE", "HOME", *CREDENTIALS):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.fixture
def failing_server():
    """Start a server that answers every request with the given status and S3 error, and counts them."""
    servers = []

    def start(statuses, code="InternalError"):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked.append(self.path)
                status = statuses[min(len(asked), len(statuses)) - 1]
                body = f"<Error><Code>{code}</Code><Message>all disks are gone</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body) if status != 200 else 0))
                self.end_headers()
                if self.command != "HEAD" and status != 200:
                    self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

            def log_message(self, *_):
                pass

        asked = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_server_that_does_not_answer_is_one_message_in_bounded_time(environment):
    endpoint = f"http://127.0.0.1:{closed_port()}"
    environment(AWS_ENDPOINT_URL=endpoint, **CREDENTIALS)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        Store.open("s3://bucket/prefix")
    assert time.monotonic() - began < 60
    assert str(caught.value).splitlines() == [
        f"store: s3://bucket/prefix: {endpoint} does not answer (NewConnectionError); "
        "check AWS_ENDPOINT_URL, the network, and AWS_CA_BUNDLE for a private certificate"
    ]


def test_wrong_credentials_are_named(s3_server, bucket_uri, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnavailable, match=r"SignatureDoesNotMatch: .*check AWS_SECRET_ACCESS_KEY"):
        Store.open(bucket_uri)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StoreUnavailable, match="check AWS_ACCESS_KEY_ID"):
        Store.open(bucket_uri)


def test_no_credentials_at_all_are_named(environment, tmp_path):
    environment(AWS_ENDPOINT_URL="http://127.0.0.1:9", HOME=str(tmp_path))
    with pytest.raises(StoreUnavailable, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
        Store.open("s3://bucket/prefix")


def test_credentials_may_be_a_mounted_file(s3_server, bucket_uri, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    store = Store.open(bucket_uri)
    store.write("a", b"1")
    assert store.read("a") == b"1"


def test_a_bucket_that_is_not_there_is_named(bucket_uri):
    with pytest.raises(StoreUnavailable, match="there is no bucket another-bucket; create it, or name another one"):
        Store.open("s3://another-bucket/prefix")


@pytest.mark.parametrize("address", ["s3:///prefix", "s3://B_/prefix", "s3://a/prefix"])
def test_what_cannot_be_a_bucket_is_refused(environment, address):
    environment(AWS_ENDPOINT_URL="http://127.0.0.1:9", **CREDENTIALS)
    with pytest.raises(InvalidStore, match="write s3://bucket/prefix"):
        Store.open(address)


@pytest.mark.parametrize("endpoint", ["http://", "ftp://host:1", "https://:9000"])
def test_an_endpoint_that_is_none_is_refused(environment, endpoint):
    environment(AWS_ENDPOINT_URL=endpoint, **CREDENTIALS)
    with pytest.raises(InvalidStore, match=r"AWS_ENDPOINT_URL: .* write https://host:port"):
        Store.open("s3://bucket/prefix")


def test_a_server_that_fails_for_a_moment_is_asked_again(environment, failing_server):
    endpoint, asked = failing_server([503, 500, 200])
    environment(AWS_ENDPOINT_URL=endpoint, **CREDENTIALS)
    Store.open("s3://bucket/prefix")
    assert len(asked) == 3


def test_a_server_that_goes_on_failing_is_quoted(environment, failing_server):
    endpoint, asked = failing_server([200, 500])
    environment(AWS_ENDPOINT_URL=endpoint, TELELLM_STORE_PATIENCE="2", **CREDENTIALS)
    store = Store.open("s3://bucket/prefix")
    with pytest.raises(StoreUnavailable, match=r"InternalError: all disks are gone; see the server's log"):
        store.write("a", b"1")
    assert len(asked) > 4


def test_a_server_that_is_full_says_so(environment, failing_server):
    endpoint, _ = failing_server([200, 507], code="XMinioStorageFull")
    environment(AWS_ENDPOINT_URL=endpoint, **CREDENTIALS)
    store = Store.open("s3://bucket/prefix")
    with pytest.raises(StoreUnavailable, match=r"XMinioStorageFull.*the server is full: make room there"):
        store.write("a", b"1")


def test_what_was_fetched_is_not_fetched_again(bucket_uri, tmp_path):
    store = Store.open(bucket_uri)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "a").write_bytes(b"content")
    manifest = store.commit("one", tmp_path / "output", {})
    digest = manifest["files"]["a"]["sha256"]
    first = store.fetch("one/a", digest)
    store.delete("one")
    assert store.fetch("one/a", digest) == first and first.read_bytes() == b"content"
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(FileNotFoundError):
        store.read("one/a")
