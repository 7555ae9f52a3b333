"""A bundle is loaded into a real registry: what arrives is what the chart asks for, by its digest, and nothing else.

`helm` must be on the path, and `go`, which builds the registry (distribution) and the client that reads it (crane).
"""

import base64
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.certificates import make_certificates
from tests.unit.test_bundle import IMAGES, ROOT, unpacked

MISSING = [program for program in ("helm", "go") if shutil.which(program) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not on the path: {MISSING}")
PROGRAMS = (
    "github.com/distribution/distribution/v3/cmd/registry@v3.1.2",
    "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
)
USER, PASSWORD = "loader", "only-for-this-test"
HTPASSWD = f"{USER}:$2b$04$UdiFlF3o3nRqv.OlPq0fF.n4qihvb31UX3x3Jk9mS7YAFBwYk6g5O\n"
FOLDER = "mirror/telecom"


@pytest.fixture(scope="module")
def programs() -> Path:
    """A folder with registry and crane: built once on this machine (about a minute)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "telellm-tests"
    folder = cache / hashlib.sha256(" ".join(PROGRAMS).encode()).hexdigest()[:12]
    if not all((folder / name).exists() for name in ("registry", "crane")):
        environment = os.environ | {"GOBIN": str(folder), "CGO_ENABLED": "0"}
        for program in PROGRAMS:
            subprocess.run(["go", "install", program], check=True, env=environment, capture_output=True)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return unpacked(tmp_path / "bundle")


@dataclass(frozen=True)
class Site:
    """A registry, and what a person there has set."""

    address: str
    """As it is given to load.sh, with a folder."""
    name: str
    """As images are called after it."""
    environment: Mapping[str, str]
    log: Path
    has_tokens: bool = False

    def load(self, bundle: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(bundle / "load.sh"), self.address]
        given = {**self.environment, "PYTHON": sys.executable, **environment}
        return subprocess.run(command, env=given, capture_output=True, text=True)

    def asked(self, *methods: str) -> list[str]:
        """Return the lines of the registry's log about requests of these methods."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if any(f'"{method} /v2/' in line for method in methods)]


class Tokens(BaseHTTPRequestHandler):
    """Gives tokens to who knows the password, for what they ask for and no longer than a minute, as Harbor does."""

    key = ec.generate_private_key(ec.SECP256R1())

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers["Authorization"] != login:
            return self.answer(401, {})
        access = []
        for scope in asked.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "site", "sub": USER, "aud": asked["service"][0], "access": access, "jti": str(time.time_ns())}
        text = ".".join(
            encoded(json.dumps(part).encode())
            for part in (
                {"alg": "ES256", "typ": "JWT", "kid": "test"},
                claims | {"iat": now, "nbf": now - 10, "exp": now + 60},
            )
        )
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return self.answer(200, {"token": f"{text}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"})

    def answer(self, status: int, body: dict[str, str]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *words: object) -> None:
        pass

    @classmethod
    def known_keys(cls) -> dict[str, object]:
        numbers = cls.key.public_key().public_numbers()
        x, y = (encoded(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return {"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "test", "alg": "ES256", "use": "sig"}]}


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificates(tmp_path, 10, "127.0.0.1")


@pytest.fixture
def tokens(certificates: tuple[Path, Path]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[1])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}/token"
    server.shutdown()


@pytest.fixture(params=["with TLS and a password", "with TLS and tokens", "without either"])
def site(
    request: pytest.FixtureRequest, programs: Path, certificates: tuple[Path, Path], tokens: str, tmp_path: Path
) -> Iterator[Site]:
    is_guarded = request.param != "without either"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = f"127.0.0.1:{port}"
    config: dict[str, object] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": name},
    }
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    if is_guarded:
        authority, certificate = certificates
        config["http"] = {"addr": name, "tls": {"certificate": str(certificate), "key": str(certificate)}}
        (tmp_path / "htpasswd").write_text(HTPASSWD)
        (tmp_path / "keys.json").write_text(json.dumps(Tokens.known_keys()))
        config["auth"] = {"htpasswd": {"realm": "site", "path": str(tmp_path / "htpasswd")}}
        if "tokens" in request.param:
            issued = {"realm": tokens, "service": "registry", "issuer": "site", "jwks": str(tmp_path / "keys.json")}
            config["auth"] = {"token": issued | {"signingalgorithms": ["ES256"]}}
        environment |= {"SSL_CERT_FILE": str(authority), "REGISTRY_USER": USER, "REGISTRY_PASSWORD": PASSWORD}
    (tmp_path / "registry.yaml").write_text(json.dumps(config))
    log = tmp_path / "registry.log"
    with log.open("wb") as output:
        command = [str(programs / "registry"), "serve", str(tmp_path / "registry.yaml")]
        server = subprocess.Popen(command, stdout=output, stderr=output, env={"OTEL_TRACES_EXPORTER": "none"})
        try:
            for _ in range(100):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            scheme = "" if is_guarded else "http://"
            has_tokens = "tokens" in request.param
            yield Site(f"{scheme}{name}/{FOLDER}", f"{name}/{FOLDER}", environment, log, has_tokens)
        finally:
            server.kill()
            server.wait()


def read(site: Site, programs: Path, reference: str) -> subprocess.CompletedProcess[str]:
    """Let crane read an image whole, and compare every digest in it."""
    login = {"auths": {site.name.partition("/")[0]: {"username": USER, "password": PASSWORD}}}
    home = site.log.parent / "crane"
    home.mkdir(exist_ok=True)
    (home / "config.json").write_text(json.dumps(login))
    command = [str(programs / "crane"), "validate", "--remote", reference]
    return subprocess.run(command, env={**site.environment, "DOCKER_CONFIG": str(home)}, capture_output=True, text=True)


def test_what_is_loaded_is_what_the_chart_asks_for(site: Site, programs: Path, bundle: Path) -> None:
    result = site.load(bundle)
    assert result.returncode == 0, result.stderr
    loaded = [line for line in result.stdout.splitlines() if "@sha256:" in line]
    assert len(loaded) == len(IMAGES)
    # crane asks no server of tokens that has a private address
    for reference in loaded if not site.has_tokens else ():
        found = read(site, programs, reference)
        assert found.returncode == 0, found.stderr
    # what load.sh says to do next
    assert f"-f images.yaml --set global.imageRegistry={site.name}\n" in result.stdout
    command = [
        "helm",
        "template",
        "t",
        str(ROOT / "helm" / "telellm"),
        "--kube-version",
        "1.34.0",
        "-f",
        str(bundle / "images.yaml"),
    ]
    command += ["--set", f"global.imageRegistry={site.name}"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for reference in loaded:
        assert reference in rendered
    # what images share was sent once, and taken over by the registry for the others
    assert len(site.asked("PUT")) == 3 * 3 + 1
    assert len([line for line in site.asked("POST") if "mount=" in line and " 201 " in line]) == len(IMAGES) - 1


def test_a_second_load_sends_nothing(site: Site, programs: Path, bundle: Path) -> None:
    first = site.load(bundle)
    sent = site.asked("POST", "PUT", "PATCH")
    again = site.load(bundle)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert site.asked("POST", "PUT", "PATCH") == sent and sent


def test_a_load_that_was_cut_off_goes_on(site: Site, programs: Path, bundle: Path) -> None:
    index = bundle / "images" / "index.json"
    whole = json.loads(index.read_text())
    index.write_text(json.dumps({**whole, "manifests": whole["manifests"][:1]}))
    write_sums(bundle)
    assert site.load(bundle).returncode == 0
    before = len(site.asked("PUT"))
    index.write_text(json.dumps(whole))
    write_sums(bundle)
    result = site.load(bundle)
    assert result.returncode == 0
    assert len(site.asked("PUT")) - before == 2 * 3


def write_sums(bundle: Path) -> None:
    """Make the checksums those of the files as they are now."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(bundle)}\n" for path in files]
    (bundle / "SHA256SUMS").write_text("".join(lines))


def flip(bundle: Path) -> None:
    file = max((bundle / "images" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    file.write_bytes(b"\0" + file.read_bytes()[1:])


def leave_out(bundle: Path) -> None:
    next((bundle / "images" / "blobs" / "sha256").iterdir()).unlink()


def put_in(bundle: Path) -> None:
    (bundle / "images" / "blobs" / "sha256" / ("0" * 64)).write_text("not of this bundle")


def link(bundle: Path) -> None:
    file = next((bundle / "images" / "blobs" / "sha256").iterdir())
    file.unlink()
    file.symlink_to("/etc/passwd")


def sum_outside(bundle: Path) -> None:
    sums = bundle / "SHA256SUMS"
    sums.write_text(sums.read_text() + f"{hashlib.sha256(b'').hexdigest()}  ../../../../../../dev/null\n")


def digest_outside(bundle: Path) -> None:
    change_index(bundle, "digest", "sha256:../../../../../../../../../../etc/passwd")


def name_outside(bundle: Path) -> None:
    annotations = {"org.opencontainers.image.ref.name": "registry.local/../../other/minio:0.1.0"}
    change_index(bundle, "annotations", annotations)


def change_index(bundle: Path, key: str, value: object) -> None:
    index = bundle / "images" / "index.json"
    whole = json.loads(index.read_text())
    whole["manifests"][-1][key] = value
    index.write_text(json.dumps(whole))
    write_sums(bundle)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "the bundle is damaged"),
        (leave_out, "the bundle is damaged"),
        (put_in, "the bundle is damaged"),
        (link, "the bundle is damaged"),
        (sum_outside, "the bundle is damaged"),
        (digest_outside, "is no digest"),
        (name_outside, "is no name of an image"),
    ],
)
def test_a_bundle_that_is_torn_or_leaves_its_folder_is_refused_before_anything_is_sent(
    site: Site, bundle: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(bundle)
    result = site.load(bundle)
    assert result.returncode == 1
    assert said in result.stderr and "Traceback" not in result.stderr
    assert not site.asked("HEAD", "GET", "POST", "PUT")


def test_who_may_not_push_is_told_how_to_log_in(site: Site, bundle: Path) -> None:
    if "REGISTRY_USER" not in site.environment:
        return
    for user, said in (("", "log in: REGISTRY_USER and REGISTRY_PASSWORD"), ("other", "401")):
        result = site.load(bundle, REGISTRY_USER=user)
        assert result.returncode == 1
        assert said in result.stderr and "Traceback" not in result.stderr, result.stderr
    result = site.load(bundle, SSL_CERT_FILE="")
    assert result.returncode == 1 and "SSL_CERT_FILE=ca.pem" in result.stderr
    assert not site.asked("PUT")
