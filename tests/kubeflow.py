"""A server that answers as Kubeflow's API does, as far as recurring runs go; by itself it serves in a pod.

Only the standard library is needed.
"""

import json
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Kubeflow(ThreadingHTTPServer):
    """The pipeline `nightly` with some versions; pages of one item; remembers what was asked of it."""

    def __init__(self, *versions: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, Handler)
        self.versions = versions
        self.recurring: dict[str, dict[str, Any]] = {}
        self.experiments: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.most = 0
        self.starting = 0


class Handler(BaseHTTPRequestHandler):
    server: Kubeflow

    def do_GET(self) -> None:
        path = self.seen()
        if self.server.starting:
            self.server.starting -= 1
            return self.answer({}, 503)
        if path == "/healthz":
            return self.answer({})
        if path == "/pipelines/names/nightly":
            return self.answer({"pipeline_id": "p", "display_name": "nightly"})
        if path == "/pipelines/p/versions":
            versions = [{"pipeline_version_id": f"v-{n}", "display_name": n} for n in self.server.versions]
            return self.page("pipeline_versions", versions)
        if path == "/experiments":
            return self.page("experiments", self.server.experiments)
        if path == "/recurringruns":
            return self.page("recurringRuns", list(self.server.recurring.values()))
        return self.answer({"message": "not found"}, 404)

    def do_POST(self) -> None:
        path, server = self.seen(), self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if path == "/experiments":
            server.experiments.append(body | {"experiment_id": f"e{len(server.experiments)}"})
            return self.answer(server.experiments[-1])
        assert path == "/recurringruns"
        made = body | {"recurring_run_id": uuid.uuid4().hex, "status": "ENABLED"}
        server.recurring[made["recurring_run_id"]] = made
        server.most = max(server.most, len(server.recurring))
        return self.answer(made)

    def do_DELETE(self) -> None:
        self.server.recurring.pop(self.seen().rpartition("/")[2])
        self.answer({})

    def seen(self) -> str:
        path = urlsplit(self.path).path.removeprefix("/apis/v2beta1")
        self.server.asked.append(f"{self.command} {path}")
        return path

    def page(self, key: str, items: list[dict[str, Any]]) -> None:
        start = int(parse_qs(urlsplit(self.path).query).get("page_token", ["0"])[0] or 0)
        answer: dict[str, Any] = {key: items[start : start + 1]} if items else {}
        self.answer(answer | ({"next_page_token": str(start + 1)} if start + 1 < len(items) else {}))

    def answer(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    Kubeflow(*sys.argv[1:], address=("", 8888)).serve_forever()
