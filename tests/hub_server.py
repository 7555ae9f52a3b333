"""A server that gives models as a Hugging Face hub does: a list with digests, small files, and large ones elsewhere."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1f2e3d4c5b6a79881f2e3d4c5b6a79881f2e3d4c"


class HubServer:
    """Models by name, each a folder, at the branch `main`; `token`: only who has it gets them.

    Weights lie on a server of their own, which refuses who shows it a token of the hub. `damaged`: so many of its
    answers break off.
    """

    def __init__(self, models: dict[str, Path], token: str = "", damaged: int = 0) -> None:
        self.models, self.token, self.damaged = models, token, damaged
        self.asked: list[str] = []
        self.weights = _serve(self._give_weights)
        self.server = _serve(self._give)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        for server in (self.server, self.weights):
            server.shutdown()
            server.server_close()

    def _give(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path).strip("/")
        self.asked.append(f"{request.command} {path}")
        if self.token and request.headers["Authorization"] != f"Bearer {self.token}":
            return _answer(request, 401, b'{"error": "gated"}')
        name = next((name for name in self.models if f"{name}/" in f"{path}/"), None)
        if name is None:
            return _answer(request, 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        if path.startswith("api/models/"):
            _, kind, revision = path.rsplit("/", 2)
            if revision not in ("main", COMMIT):
                return _answer(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files = sorted(path for path in self.models[name].rglob("*") if path.is_file())
            listed = [self._entry(file, file.relative_to(self.models[name]).as_posix()) for file in files]
            tree = [{"type": "file", "path": e["rfilename"], "size": e["size"], "oid": e["blobId"]} for e in listed]
            told = tree if kind == "tree" else {"id": name, "sha": COMMIT, "siblings": listed}
            return _answer(request, 200, json.dumps(told).encode())
        _, _, revision, file = path.removeprefix(name).split("/", 3)
        found = self.models[name] / file
        if revision not in ("main", COMMIT) or not found.is_file():
            return _answer(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
        if found.suffix == ".safetensors":
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(found.stat().st_size)}
            headers["Location"] = f"http://127.0.0.1:{self.weights.server_port}/{name}/{file}"
            return _answer(request, 302, b"", headers)
        return _answer(request, 200, found.read_bytes(), headers)

    def _entry(self, path: Path, name: str) -> dict[str, object]:
        entry: dict[str, object] = {"rfilename": name, "size": path.stat().st_size, "blobId": name}
        if path.suffix == ".safetensors":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": path.stat().st_size, "pointerSize": 134}
        return entry

    def _give_weights(self, request: BaseHTTPRequestHandler) -> None:
        if request.headers["Authorization"]:
            return _answer(request, 400, b"only one way to sign a request is allowed")
        name = next(name for name in self.models if request.path.startswith(f"/{name}/"))
        content = (self.models[name] / request.path.removeprefix(f"/{name}/")).read_bytes()
        if self.damaged and request.command == "GET":
            self.damaged -= 1
            return _answer(request, 200, content[:100], length=len(content))
        return _answer(request, 200, content)


def _answer(
    request: BaseHTTPRequestHandler,
    status: int,
    content: bytes,
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> None:
    request.send_response(status)
    for key, value in (headers or {}).items():
        request.send_header(key, value)
    request.send_header("Content-Length", str(len(content) if length is None else length))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


def _serve(give: object) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            give(self)  # type: ignore[operator]

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server
