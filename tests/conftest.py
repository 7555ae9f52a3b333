"""What many tests use: a real S3 server, a store of each kind, and a recipe."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from telellm.recipe import Recipe, parse
from telellm.store import Store
from tests.language_model_server import LanguageModelServer

# several processes share few cores here: one that waits for its threads must not keep a core busy with that
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile("telellm", deadline=None, max_examples=50)
settings.load_profile("telellm")

BUCKET = "telellm-tests"
RECIPE = """
name: small
model: {name: owner/model}
sources:
  one: {category: web, path: raw}
"""


@dataclass(frozen=True)
class S3Server:
    """A SeaweedFS server with one identity and one bucket."""

    endpoint: str
    access_key: str = "telellm"
    secret_key: str = "telellm-secret"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


def free_ports(number: int) -> list[int]:
    """Return ports of this machine that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def end_with_parent() -> None:
    """A server ends even when the tests are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on free ports, with a bucket; it ends with the tests."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    weed = Path(sys.executable).with_name("weed")
    server = S3Server("")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = free_ports(8)
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
    port = dict(zip(names, ports, strict=True))
    server = S3Server(f"http://127.0.0.1:{port['s3']}")
    command = [
        *(str(weed), "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={port['master']}", f"-master.port.grpc={port['master.grpc']}", "-master.electionTimeout=1s"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=128", "-volume.minFreeSpace=1MiB"),
        *(f"-volume.port={port['volume']}", f"-volume.port.grpc={port['volume.grpc']}"),
        *(f"-filer.port={port['filer']}", f"-filer.port.grpc={port['filer.grpc']}"),
        *("-s3", f"-s3.port={port['s3']}", f"-s3.port.grpc={port['s3.grpc']}", f"-s3.config={folder / 's3.json'}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_parent, cwd=folder)
    try:
        make_bucket(server, process, folder / "log")
        yield server
    finally:
        process.kill()
        process.wait()
        for number in ports:
            for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{number}.sock"):
                left.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def make_bucket(server: S3Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the server answers and takes an object."""
    import io

    import urllib3
    from minio import Minio

    client = Minio(
        server.endpoint.removeprefix("http://"),
        access_key=server.access_key,
        secret_key=server.secret_key,
        region="us-east-1",
        secure=False,
        http_client=urllib3.PoolManager(retries=False, timeout=5),
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
            client.put_object(BUCKET, "ready", io.BytesIO(b"yes"), 3)
            return
        except Exception:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-4000:]}") from None
            time.sleep(0.1)


@pytest.fixture
def bucket_uri(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of its own in the bucket, its credentials in the environment, and a cache of its own."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TELELLM_CACHE", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{tmp_path.name}-{os.getpid()}"


@pytest.fixture(params=["directory", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind."""
    if request.param == "bucket":
        return Store.open(request.getfixturevalue("bucket_uri"))
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def directory_store(tmp_path: Path) -> Store:
    """A store in a folder."""
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The smallest recipe."""
    return parse(RECIPE, folder=tmp_path)


@pytest.fixture
def recipe_with(tmp_path: Path) -> Callable[..., Recipe]:
    """The smallest recipe, with changes as `--set` takes them."""
    return lambda *changes: parse(RECIPE, folder=tmp_path, changes=changes)


@pytest.fixture
def server() -> Iterator[LanguageModelServer]:
    """A server of language models that ends with the test."""
    running = LanguageModelServer()
    yield running
    running.close()
