"""Push the images of a bundle into a registry, as they are: their digests stay. Python's own library alone, no Docker.

    ./load.sh [http://]REGISTRY[/FOLDER]

Who may push there: REGISTRY_USER and REGISTRY_PASSWORD, or what `docker login` or `podman login` wrote down. A private
authority: SSL_CERT_FILE=ca.pem. `http://` before the registry: one without TLS. What is there is not sent again.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import stat
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

LAYOUT = Path(__file__).absolute().parent / "images"
NAME = "org.opencontainers.image.ref.name"
PLACE = re.compile(r"(?P<path>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ATTEMPTS = 4
TIMEOUT = 600
"""Longest silence of a registry (seconds)."""


class Refused(Exception):
    """What cannot be loaded, and why."""


class Answer(NamedTuple):
    """What a registry answered."""

    status: int
    headers: Mapping[str, str]
    said: str = ""


def main() -> int:
    """Load the bundle beside this file; returns the exit status."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write(__doc__)
        return 2
    try:
        load(LAYOUT, Registry(sys.argv[1]))
    except Refused as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def load(layout: Path, registry: Registry) -> None:
    """Check all that a layout names, then push what is not there, and write each image's name and digest there."""
    images = []
    for entry in json.loads((layout / "index.json").read_text(encoding="utf-8"))["manifests"]:
        name = entry["annotations"][NAME]
        manifest = json.loads(blob(layout, entry).read_bytes())
        parts = [manifest["config"], *manifest["layers"]]
        for part in parts:
            blob(layout, part)
        images.append((*registry.place(name), entry, parts))
    sent: dict[str, str] = {}
    for path, tag, entry, parts in images:
        if not registry.has_manifest(path, tag, entry):
            for part in parts:
                registry.push(path, part["digest"], blob(layout, part), sent.get(part["digest"], ""))
                sent[part["digest"]] = path
            registry.push_manifest(path, tag, entry, blob(layout, entry))
        else:
            sent.update({part["digest"]: path for part in parts})
        sys.stdout.write(f"{registry.host}/{path}:{tag}@{entry['digest']}\n")
        sys.stdout.flush()


def blob(layout: Path, described: Mapping[str, Any]) -> Path:
    """Return the file that a digest means; raises `Refused` where there is none, or it is not in the layout."""
    digest = described.get("digest")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Refused(f"{digest!r} is no digest: the bundle is not what make bundle wrote")
    file = layout / "blobs" / "sha256" / digest[7:]
    try:
        found = file.lstat()
    except OSError:
        raise Refused(f"{file} is missing; copy the bundle again") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size != described.get("size"):
        raise Refused(f"{file} is not the file of {described.get('size')} bytes that it should be")
    return file


class Registry:
    """A registry, and a folder in it, by the API of OCI's distribution specification."""

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.rstrip("/").rpartition("://")
        self.host, _, self.folder = rest.partition("/")
        self.scheme = scheme or "https"
        self.login = find_login(self.host)
        self.authorization = ""
        self.opener = urllib.request.build_opener(NoRedirect())

    def place(self, name: str) -> tuple[str, str]:
        """Return the path and tag that an image has here: those that `global.imageRegistry` makes the chart ask for."""
        host, slash, rest = name.partition("/")
        short = rest if slash and re.search("[.:]", host) else name
        found = PLACE.fullmatch(short)
        if not found or "//" in short or ".." in short:
            raise Refused(f"index.json names an image {name!r}, and that is no name of an image")
        return f"{self.folder}/{found['path']}".lstrip("/"), found["tag"]

    def has_manifest(self, path: str, tag: str, entry: Mapping[str, Any]) -> bool:
        """Say whether a tag is this manifest already; then its layers are there, too."""
        answer = self.ask("HEAD", f"{path}/manifests/{tag}", headers={"Accept": entry["mediaType"]})
        return answer.status == 200 and answer.headers.get("Docker-Content-Digest") == entry["digest"]

    def push(self, path: str, digest: str, file: Path, elsewhere: str) -> None:
        """Send a blob, unless it is there, or in another repository from which the registry can take it."""
        if self.ask("HEAD", f"{path}/blobs/{digest}").status in (200, 307):
            return
        begin = f"{path}/blobs/uploads/"
        if elsewhere and elsewhere != path:
            begin += "?" + urllib.parse.urlencode({"mount": digest, "from": elsewhere})
        answer = self.ask("POST", begin, data=b"")
        if answer.status == 201:
            return
        place = self._must(answer, (202,), f"{path}: an upload").headers["Location"]
        place += ("&" if "?" in place else "?") + urllib.parse.urlencode({"digest": digest})
        self._must(self.ask("PUT", place, file=file), (201,), f"{path}: {digest}")

    def push_manifest(self, path: str, tag: str, entry: Mapping[str, Any], file: Path) -> None:
        """Give a tag to a manifest whose blobs are there."""
        kind = {"Content-Type": entry["mediaType"]}
        answer = self.ask("PUT", f"{path}/manifests/{tag}", data=file.read_bytes(), headers=kind)
        self._must(answer, (201,), f"{path}:{tag}")

    def ask(
        self,
        method: str,
        place: str,
        data: bytes | None = None,
        file: Path | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return an answer below 500; asks again where the registry is away. Raises `Refused` when it stays away."""
        url = urllib.parse.urljoin(f"{self.scheme}://{self.host}/v2/", place)
        said, may_log_in = "", True
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(2**attempt)
            try:
                answer = self._ask_once(method, url, data, file, headers or {})
                if answer.status == 401 and may_log_in:
                    may_log_in = False
                    self._log_in(answer.headers.get("WWW-Authenticate", ""))
                    answer = self._ask_once(method, url, data, file, headers or {})
            except (OSError, http.client.HTTPException) as error:
                said = str(getattr(error, "reason", error))
                if "CERTIFICATE_VERIFY_FAILED" in said:
                    raise Refused(f"{self.host}: {said}; name its authority: SSL_CERT_FILE=ca.pem") from None
                continue
            if answer.status < 500 and answer.status != 429:
                return answer
            said = f"status {answer.status} {answer.said}"
        raise Refused(f"{self.host} does not do {method} {urllib.parse.urlsplit(url).path}: {said}")

    def _ask_once(
        self, method: str, url: str, data: bytes | None, file: Path | None, headers: Mapping[str, str]
    ) -> Answer:
        request = urllib.request.Request(
            url, data, {"Content-Type": "application/octet-stream", **headers}, method=method
        )
        if self.authorization and urllib.parse.urlsplit(url).netloc == self.host:
            request.add_header("Authorization", self.authorization)
        try:
            if file is None:
                with self.opener.open(request, timeout=TIMEOUT) as answer:
                    return Answer(answer.status, answer.headers)
            with file.open("rb") as content:
                request.data = content
                request.add_header("Content-Length", str(file.stat().st_size))
                with self.opener.open(request, timeout=TIMEOUT) as answer:
                    return Answer(answer.status, answer.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read(400).decode("utf-8", "replace").strip())

    def _log_in(self, challenge: str) -> None:
        """Show who we are in the way that the registry asks for: a password, or a token that another server gives."""
        kind, _, rest = challenge.partition(" ")
        basic = {"Authorization": f"Basic {self.login}"} if self.login else {}
        if kind.lower() == "basic":
            self.authorization = basic.get("Authorization", "")
        elif kind.lower() == "bearer":
            asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            if self.scheme == "https" and not asked.get("realm", "").startswith("https://"):
                raise Refused(
                    f"{self.host} sends us to {asked.get('realm')} for a token: our password goes over TLS alone"
                )
            scopes = [("scope", scope) for scope in asked.get("scope", "").split()]
            query = urllib.parse.urlencode([("service", asked.get("service", "")), *scopes])
            request = urllib.request.Request(f"{asked.get('realm', '')}?{query}", headers=basic)
            try:
                with self.opener.open(request, timeout=60) as answer:
                    found = json.load(answer)
            except (OSError, ValueError) as error:
                raise Refused(f"{self.host}: {asked.get('realm')} gives no token: {error}{self._advice()}") from None
            self.authorization = f"Bearer {found.get('token') or found.get('access_token')}"

    def _advice(self) -> str:
        return "" if self.login else "; log in: REGISTRY_USER and REGISTRY_PASSWORD, or docker login"

    def _must(self, answer: Answer, wanted: tuple[int, ...], what: str) -> Answer:
        if answer.status in (401, 403):
            said = f"status {answer.status} {answer.said}{self._advice()}"
            raise Refused(f"{self.host} does not let us push {what}: {said}")
        if answer.status not in wanted:
            raise Refused(f"{self.host} does not take {what}: status {answer.status} {answer.said}")
        return answer


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A registry that sends us elsewhere for a blob has it; our password is not for that place."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nobody."""


def find_login(host: str) -> str:
    """Return user and password for a registry, as HTTP wants them; "" where there are none."""
    user, password = os.environ.get("REGISTRY_USER"), os.environ.get("REGISTRY_PASSWORD")
    if user and password:
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    home = Path.home()
    places = [os.environ.get("REGISTRY_AUTH_FILE"), f"{os.environ.get('XDG_RUNTIME_DIR', '')}/containers/auth.json"]
    places.append(f"{os.environ.get('DOCKER_CONFIG') or home / '.docker'}/config.json")
    for place in filter(None, places):
        try:
            found = json.loads(Path(place).read_text(encoding="utf-8"))["auths"][host]["auth"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found:
            return str(found)
    return ""


if __name__ == "__main__":
    sys.exit(main())
