"""A language model at an OpenAI-compatible endpoint (vLLM in the cluster)."""

import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from telellm.lm.client import Choice, Turns
from telellm.lm.http import Refused, Server, Unanswered
from telellm.recipe import LanguageModel
from telellm.stage import StageFailed

T = TypeVar("T")
Answer = Mapping[str, Any]
ATTEMPTS = 6
"""Times that one answer is asked for; between them there are longer and longer waits, or as long as it is told."""
TOP_LOGPROBS = 20
"""The most likely first tokens that are asked for: what servers give at most by default."""
ROUNDING = 1e-3
"""So much above 0 a log-probability may come (nats)."""
AHEAD = 4
"""Prompts that are taken ahead of the first one without an answer, for each request in flight."""


class EndpointModel:
    """Sends `max_concurrency` requests at a time; the key comes from a variable of the environment.

    `section` is that of the recipe which names the endpoint, for what is said when it fails.
    """

    def __init__(
        self, settings: LanguageModel, name: str, section: str = "lm", key_variable: str = "OPENAI_API_KEY"
    ) -> None:
        self.settings = settings
        self.name = name
        self.section = section
        self.key_variable = key_variable
        self.usage: Counter[str] = Counter()

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        *,
        system: str = "",
        examples: Turns = (),
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Return the answer at temperature 0 to each prompt.

        Raises `StageFailed` when the server cannot be reached or refuses.
        """
        return list(self.generate_each(prompts, max_tokens, system=system, examples=examples, stop=stop))

    def generate_each(
        self,
        prompts: Iterable[str],
        max_tokens: int,
        *,
        system: str = "",
        examples: Turns = (),
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answers in order; requests stay in flight while they come. Raises as `generate` does."""
        wishes: dict[str, Any] = {"max_tokens": max_tokens} | ({"stop": list(stop)} if stop else {})
        return self._ask(
            prompts, system, examples, wishes, lambda answer: (answer["choices"][0]["message"]["content"] or "").strip()
        )

    def choose(
        self, prompts: Sequence[str], options: Sequence[str], *, system: str = "", examples: Turns = ()
    ) -> list[Choice]:
        """Return the probabilities of the options by the likelihood of the first token of each.

        Raises `StageFailed` also when the server gives no log-probabilities.
        """
        wishes = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return list(self._ask(prompts, system, examples, wishes, lambda answer: self._choice(answer, options)))

    def _choice(self, answer: Answer, options: Sequence[str]) -> Choice:
        logprobs = (answer["choices"][0].get("logprobs") or {}).get("content")
        if not logprobs or not logprobs[0].get("top_logprobs"):
            raise StageFailed(
                f"{self.settings.endpoint}: no log-probabilities come from {self.name} there, and choosing needs them\n"
                "  use a server that supports logprobs and top_logprobs (vLLM does), or leave "
                f"{self.section}.endpoint empty"
            )
        tops = [(top["token"], math.exp(log_probability(top["logprob"]))) for top in logprobs[0]["top_logprobs"]]
        return choice_of_first_tokens(tops, options)

    def _ask(
        self,
        prompts: Iterable[str],
        system: str,
        examples: Turns,
        wishes: dict[str, Any],
        read: Callable[[Answer], T],
    ) -> Iterator[T]:
        """Yield what `read` makes of the server's answer to each prompt, in order."""
        before: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        for asked, answered in examples:
            before += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        about = {"model": self.name, "temperature": 0} | wishes
        whole = json.dumps(about | {"messages": [*before, {"role": "user", "content": ""}]})
        end = '""}]}'  # what is alike in all requests is encoded once
        start = whole.removesuffix(end)
        bodies = (f"{start}{json.dumps(prompt)}{end[2:]}".encode() for prompt in prompts)
        return self._send("chat/completions", bodies, read)

    def embed(self, texts: Iterable[Sequence[str]]) -> Iterator[list[list[float]]]:
        """Yield the embeddings of each group of texts, in order; the server's model is one that embeds."""
        asked: deque[int] = deque()
        about = {"model": self.name, "encoding_format": "float"}

        def read(answer: Answer) -> list[list[float]]:
            numbered = {int(found["index"]): found["embedding"] for found in answer["data"]}
            if sorted(numbered) != list(range(number := asked.popleft())):
                raise ValueError(f"{len(answer['data'])} embeddings come of {number} texts")
            return [numbered[place] for place in range(number)]

        def bodies() -> Iterator[bytes]:
            for group in texts:
                asked.append(len(group))
                yield json.dumps(about | {"input": list(group)}).encode()

        return self._send("embeddings", bodies(), read)

    def _send(self, path: str, bodies: Iterable[bytes], read: Callable[[Answer], T]) -> Iterator[T]:
        """Yield what `read` makes of the answer to each request, in order; `max_concurrency` are in flight."""
        settings = self.settings
        key = os.environ.get(self.key_variable) or "none"
        server = Server(settings.endpoint, key, settings.timeout_seconds, ATTEMPTS, settings.max_concurrency)
        try:
            for answer in server.post_each(path, bodies, AHEAD * settings.max_concurrency):
                try:
                    self.usage.update(_usage(answer))
                    result = read(answer)
                except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                    raise StageFailed(
                        f"{settings.endpoint}: what comes from {self.name} there is not an answer of an"
                        f" OpenAI-compatible server: {str(answer)[:200]}\n  see that {self.section}.endpoint is its"
                        " address (…/v1)"
                    ) from error
                yield result
        except (Unanswered, Refused) as error:
            self._explain(error)

    def _explain(self, error: Unanswered | Refused) -> NoReturn:
        """Raise the server's failure with what to do."""
        where = self.settings.endpoint
        if isinstance(error, Unanswered) and error.late:
            reason = f"no answer within {self.settings.timeout_seconds:g} s, {ATTEMPTS} times"
            remedy = f"raise {self.section}.timeout_seconds or lower {self.section}.max_concurrency"
        elif isinstance(error, Unanswered):
            reason = f"the server cannot be reached: {error}"
            remedy = f"see that it runs and that {self.section}.endpoint is its address (it ends in /v1)"
        elif error.status in (401, 403):
            reason, remedy = "the server refuses the key", f"set {self.key_variable} to the key of this server"
        elif error.status == 404:
            reason = f"the server has no model {self.name}: {error}"
            remedy = f"name a model in {self.section}.model that the server lists under /v1/models"
        else:
            reason, remedy = str(error), "see the server's log"
        raise StageFailed(f"{where}: {reason}\n  {remedy}") from error


def log_probability(value: Any) -> float:
    """Return a log-probability as a server gives it (nats; -inf is one); raises `ValueError` for what is none."""
    number = float(value)
    if not number <= ROUNDING:  # also: no number at all
        raise ValueError(f"{number} is no log-probability")
    return min(number, 0.0)


def choice_of_first_tokens(tops: Sequence[tuple[str, float]], options: Sequence[str]) -> Choice:
    """Return a choice from the probabilities of likely first tokens.

    A token counts for the one option that begins with it, whatever its case and spaces. An option that none counts
    for gets what it has at most: the least of the listed probabilities, or what they leave of 1.
    """
    found = dict.fromkeys(options, 0.0)
    among = tuple(options)
    for token, probability in tops:
        if (meant := _meant(token, among)) is not None:
            found[meant] += probability
    mass = sum(found.values())
    floor = max(min(1 - sum(p for _, p in tops), min((p for _, p in tops), default=1)), 1e-9)
    filled = {option: probability or floor for option, probability in found.items()}
    total = sum(filled.values())
    return Choice({option: probability / total for option, probability in filled.items()}, min(mass, 1.0))


@lru_cache(maxsize=4096)
def _meant(token: str, options: tuple[str, ...]) -> str | None:
    """Return the one option that begins with a token; remembered, for the likely tokens stay the same."""
    text = token.strip().casefold()
    fitting = [option for option in options if text and option.casefold().startswith(text)]
    return fitting[0] if len(fitting) == 1 else None


def _usage(answer: Answer) -> dict[str, int]:
    used = answer.get("usage") or {}
    return {name: int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens") if name in used}
