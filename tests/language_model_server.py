"""A server that speaks OpenAI's protocol over HTTP and answers with what a test says."""

import json
import math
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from telellm.lm.endpoint import EndpointModel
from telellm.recipe import LanguageModel

Answer = tuple[int, dict[str, Any] | str]
"""Status, and what is sent as JSON, or as it is."""


def completion(text: str, logprobs: list[tuple[str, float]] | None = None) -> Answer:
    tops = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in logprobs or []]
    content = [{**tops[0], "top_logprobs": tops}] if tops else None
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": content} if content else None,
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "served",
        "choices": [choice],
        "usage": usage,
    }


class _Server(ThreadingHTTPServer):
    request_queue_size = 512  # of more than these, who connects at the same moment is left to try again a second later


class LanguageModelServer:
    """An HTTP server that speaks the protocol and answers with what a function says."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda request, number: completion("fine")
        self.headers = {"retry-after-ms": "5"}
        """What it says beside each answer."""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(request)
                    outer.keys.append(self.headers["Authorization"])
                    number = len(outer.requests)
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                status, body = outer.answer(request, number)
                with lock:
                    outer.busy -= 1
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # whoever asked has gone
                    pass

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def model(self, **settings: Any) -> EndpointModel:
        return EndpointModel(LanguageModel.model_validate({"endpoint": self.url} | settings), "served")

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def embeddings(vectors: list[list[float]]) -> Answer:
    """Return the answer to a request for embeddings."""
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return 200, {"object": "list", "model": "served", "data": data, "usage": usage}
