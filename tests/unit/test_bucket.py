"""What goes wrong with a bucket, and what is said then."""

import hashlib
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from telellm.store import InvalidStore, Store, StoreUnavailable
from tests.certificates import make_certificates
from tests.tls_proxy import listen

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


@pytest.fixture
def with_tls(s3_server, bucket_uri, monkeypatch, tmp_path):
    """Put TLS before the S3 server, with a certificate of a private authority; returns that authority's file."""
    listeners = []

    def start(days=30, name="127.0.0.1"):
        authority, certificate = make_certificates(tmp_path, days, name)
        server = urlsplit(s3_server.endpoint)
        listener = listen(certificate, ("127.0.0.1", 0), (server.hostname, server.port))
        listeners.append(listener)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{listener.getsockname()[1]}")
        for variable in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(variable, raising=False)
        return str(authority)

    yield start
    for listener in listeners:
        listener.close()


def test_a_private_authority_is_trusted_when_it_is_named(with_tls, bucket_uri, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", with_tls())
    store = Store.open(bucket_uri)
    store.write("a", b"1")
    assert store.read("a") == b"1"


def test_a_private_authority_that_is_not_named_is_one_message(with_tls, bucket_uri):
    with_tls()
    with pytest.raises(StoreUnavailable) as caught:
        Store.open(bucket_uri)
    said = str(caught.value)
    assert "is refused: unable to get local issuer certificate; set AWS_CA_BUNDLE to a file with the" in said
    assert not caught.value.passing and "\n" not in said


def test_a_certificate_that_has_expired_is_one_message(with_tls, bucket_uri, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", with_tls(days=1))
    with pytest.raises(StoreUnavailable, match="certificate has expired; renew the server's certificate"):
        Store.open(bucket_uri)


def test_a_certificate_for_another_server_is_one_message(with_tls, bucket_uri, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", with_tls(name="192.0.2.1"))
    with pytest.raises(StoreUnavailable, match=r"the certificate of https://127.0.0.1:\d+ is refused: IP address mis"):
        Store.open(bucket_uri)


def test_work_waits_for_a_server_that_is_away(environment, failing_server):
    endpoint, asked = failing_server([200, *[503] * 12, 200])
    environment(AWS_ENDPOINT_URL=endpoint, **CREDENTIALS)
    store = Store.open("s3://bucket/prefix")
    store.write("a", b"1")
    assert len(asked) == 14


def test_a_store_that_is_opened_waits_only_where_patience_is_set(environment, failing_server):
    endpoint, _ = failing_server([503] * 5 + [200])
    environment(AWS_ENDPOINT_URL=endpoint, **CREDENTIALS)
    with pytest.raises(StoreUnavailable):
        Store.open("s3://bucket/prefix")
    endpoint, asked = failing_server([503] * 5 + [200])
    environment(AWS_ENDPOINT_URL=endpoint, TELELLM_STORE_PATIENCE="30", **CREDENTIALS)
    Store.open("s3://bucket/prefix")
    assert len(asked) == 6


def test_the_threads_of_a_machine_read_an_object_once(bucket_uri, tmp_path, monkeypatch):
    store = Store.open(bucket_uri)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "a").write_bytes(b"content")
    digest = store.commit("one", tmp_path / "output", {})["files"]["a"]["sha256"]
    read = []
    download = store.download
    monkeypatch.setattr(store, "download", lambda key, path: (read.append(key), time.sleep(0.05), download(key, path)))
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store.fetch("one/a", digest), range(8)))
    assert len(paths) == 1 and read == ["one/a"]


@pytest.fixture
def careless_server():
    """A server that keeps objects in memory, looks at conditions or not, and can lose the answer to a write."""
    servers = []

    def start(objects, conditions=True, lost=0):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self):
                nonlocal lost
                body, now = self.rfile.read(int(self.headers["Content-Length"])), objects.get(self.path)
                wanted, new = self.headers.get("If-Match"), self.headers.get("If-None-Match")
                if conditions and ((new and now is not None) or (wanted and (now is None or tag(now) != wanted))):
                    return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                objects[self.path] = body
                if lost and "/checks/" not in self.path:
                    lost -= 1
                    self.close_connection = True
                    return None
                return self.answer(200, b"", body)

            def do_GET(self):
                if (found := objects.get(self.path)) is None:
                    return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return self.answer(200, found, found)

            def do_HEAD(self):
                self.answer(200, b"")

            def do_DELETE(self):
                objects.pop(self.path, None)
                self.answer(204, b"")

            def answer(self, status, body, content=b""):
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("ETag", tag(content))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        def tag(content):
            return f'"{hashlib.md5(content).hexdigest()}"'

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_that_keeps_no_conditions_is_refused_where_one_of_two_must_win(environment, careless_server):
    objects = {"/bucket/pointer": b"0"}
    environment(AWS_ENDPOINT_URL=careless_server(objects, conditions=False), **CREDENTIALS)
    with pytest.raises(StoreUnavailable, match=r"does not keep conditions of writes .* use a server that does"):
        Store.open("s3://bucket").swap("pointer", b"0", b"1")
    assert objects == {"/bucket/pointer": b"0"}


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_swap_whose_answer_is_lost_is_known_to_have_won(environment, careless_server, before):
    objects = {"/bucket/pointer": before} if before else {}
    environment(AWS_ENDPOINT_URL=careless_server(objects, lost=1), **CREDENTIALS)
    store = Store.open("s3://bucket")
    assert store.swap("pointer", before, b"after")
    assert objects == {"/bucket/pointer": b"after"}
    assert not store.swap("pointer", before, b"again")
