"""Server check: does a model's server answer a question of Tele-Eval, how fast, and how well?"""

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from telellm import registry
from telellm.doctor import Check
from telellm.evaluation.perplexity import PROMPT
from telellm.recipe import Recipe
from telellm.serving.named_models import questions_of
from telellm.stage import known_runs
from telellm.store import Store

ANSWER_TOKENS = 48
TIMEOUT_SECONDS = 120
LARGEST_BYTES = 2**22
"""Of an answer, no more is read."""
NO_ANSWER = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer that is none raises."""
SHORTEST = 3
"""A shorter answer is none (characters)."""


def find_question(store: Store, name: str) -> dict[str, str] | None:
    """Return a question of Tele-Eval: of the model's version in production, or of the newest run that has a report."""
    pointer = registry.production(store, name) if name and "/" not in name else None
    places = [f"models/{name}/{pointer.version}"] if pointer else []
    places += [f"runs/{run}/report" for run in reversed(known_runs(store))]
    for place in places:
        for question in questions_of(store, place):
            return question
    return None


def check_server(url: str, store: Store, recipe: Recipe | None = None, name: str = "") -> Iterator[Check]:
    """Yield whether a server answers a question, how fast, how likely it finds the reference, how near its answer is.

    `url` ends in /v1; `name`: the model, by default the first that the server lists. Nearness is measured with the
    embedder of a recipe.
    """
    server = _Server(url)
    try:
        with server.ask("/models") as listed:
            names = [str(entry["id"]) for entry in _read(listed)["data"]]
        model = name or names[0]
        yield Check("server", "ok", f"{url} serves {', '.join(names[:5])}")
        question = find_question(store, model)
        if question is None:
            yield Check(
                "server answer",
                "failed",
                f"{store.uri} has no question of Tele-Eval; name the --store of a finished run, or make one: telellm "
                "run RECIPE",
            )
            return
        said = yield from _check_answer(server, model, question)
        yield _check_likelihood(server, model, question)
        if recipe is not None and said:
            yield _check_meaning(said, question, recipe)
    except (OSError, http.client.HTTPException, *NO_ANSWER) as error:
        yield Check("server", "failed", f"{url}: {error}; is it an OpenAI-compatible server whose URL ends in /v1?")


class _Server:
    """A server to ask, with the key of the environment, by Python's own library: the launcher's image has no other."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # a Secret often ends in a line's end, and what is said of such a header shows the key
        key = "".join(os.environ.get("OPENAI_API_KEY", "").split())
        self.opener = urllib.request.build_opener(_NoRedirects)
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def ask(self, path: str, asked: Mapping[str, Any] | None = None) -> Any:
        """Return an answer, open; raises `HTTPError` for one that is none."""
        data = None if asked is None else json.dumps(asked).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        return self.opener.open(request, timeout=TIMEOUT_SECONDS)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A server that sends on to another would have the key sent there too."""

    def redirect_request(self, *given: Any) -> None:
        return None


def _read(answer: Any) -> Any:
    return json.loads(answer.read(LARGEST_BYTES))


def _lines(answer: Any) -> Iterator[str]:
    """Yield the lines of a stream, while it is no longer and lasts no longer than an answer."""
    ends, left = time.monotonic() + TIMEOUT_SECONDS, LARGEST_BYTES
    while left > 0 and time.monotonic() < ends and (raw := answer.readline(left)):
        left -= len(raw)
        yield raw.decode("utf-8", "replace").strip()


def _check_answer(server: _Server, model: str, question: dict[str, str]) -> Generator[Check, None, str]:
    """Yield whether an answer came and how fast; returns it, "" where none came."""
    began = time.monotonic()
    first, said, tokens = 0.0, "", 0
    asked = {"model": model, "stream": True, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    message = {"messages": [{"role": "user", "content": question["statement"]}]}
    try:
        with server.ask("/chat/completions", asked | message) as answer:
            for line in _lines(answer):
                if not line.startswith("data:") or line.endswith("[DONE]"):
                    continue
                choices = json.loads(line.removeprefix("data:")).get("choices") or [{}]
                if piece := choices[0].get("delta", {}).get("content"):
                    first = first or time.monotonic() - began
                    said, tokens = said + piece, tokens + 1
    except urllib.error.HTTPError as error:
        told = error.read(200).decode("utf-8", "replace")
        yield Check("server answer", "failed", f"status {error.code}: {told}")
        return ""
    seconds = time.monotonic() - began
    if len(said.strip()) < SHORTEST:
        yield Check("server answer", "failed", f'no answer came to "{question["statement"]}" in {seconds:.1f} s')
        return ""
    rate = f"{tokens / seconds:.1f} pieces/s" if seconds else ""
    short = " ".join(said.split())[:80]
    yield Check("server answer", "ok", f'in {seconds:.1f} s, the first word after {first:.1f} s, {rate}: "{short}…"')
    return said


def _check_likelihood(server: _Server, model: str, question: dict[str, str]) -> Check:
    """Ask how likely the reference answer is: of the prompt's own tokens (`echo`), as vLLM gives them."""
    prompt = PROMPT.format(statement=question["statement"])
    asked = {"model": model, "prompt": f"{prompt} {question['answer']}", "echo": True, "logprobs": 1, "max_tokens": 1}
    try:
        with server.ask("/completions", asked | {"temperature": 0}) as answer:
            found = _read(answer)["choices"][0]["logprobs"]
        pairs = zip(found["text_offset"], found["token_logprobs"], strict=True)
        end = len(prompt) + 1 + len(question["answer"])
        scores = [score for at, score in pairs if len(prompt) <= at < end and score is not None]
        perplexity = math.exp(-sum(scores) / len(scores))
    except (OSError, *NO_ANSWER):
        return Check(
            "server likelihood", "warning", "not given: this server tells no likelihood of a prompt (vLLM does)"
        )
    return Check(
        "server likelihood", "ok", f"perplexity of the reference answer {perplexity:.1f}, {len(scores)} tokens"
    )


def _check_meaning(said: str, question: dict[str, str], recipe: Recipe) -> Check:
    from telellm.evaluation.semscore import score

    (cosine,) = score([said], [question["answer"]], recipe.evaluation.embedder)
    return Check(
        "server meaning", "ok", f"SemScore {cosine:.2f} against the reference answer ({recipe.evaluation.embedder})"
    )
