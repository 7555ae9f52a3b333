"""Completions: plain text that a server goes on with, and how likely it finds a given one (`/v1/completions`).

Chat is all that some OpenAI-compatible servers have; others complete text, and some of these (vLLM) tell the
log-probabilities of the text that they were given as well. What a server has is found by asking it once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

from telellm.lm.client import cut_before
from telellm.lm.endpoint import EndpointModel, log_probability
from telellm.lm.http import Refused, Unanswered
from telellm.stage import StageFailed

PATH = "completions"
NOT_OFFERED = (400, 404, 405, 413, 415, 422, 501)
"""How a server refuses what it does not do; other refusals (a key, too many requests) are failures."""
NO_COMPLETIONS = "the server completes no plain text (/v1/completions)"
NO_LIKELIHOODS = "the server gives no log-likelihoods of a given text (echo and logprobs of /v1/completions)"
PROBE = "The cell is handed over to its neighbour."
SHOWN = 160
"""Characters of a server's own words that are shown."""
Likelihood = tuple[float, int]
"""Negative log-likelihood (nats) and the number of tokens that it sums over."""


class NotOffered(StageFailed):
    """The server answers, but does not do what it is asked; `reason` is for a report."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class CompletionModel(EndpointModel):
    """A language model behind an endpoint that is also asked to go on with plain text, without a chat template."""

    @cached_property
    def no_completions(self) -> str:
        """Why it completes no plain text; "" where it does."""
        try:
            list(self.complete_each([PROBE], 1))
        except NotOffered as refused:
            return f"{NO_COMPLETIONS}; it says: {refused.reason}"
        return ""

    @cached_property
    def no_likelihoods(self) -> str:
        """Why it tells no log-likelihoods of a given text; "" where it does."""
        try:
            list(self.log_likelihoods([("", [PROBE])]))
        except NotOffered as refused:
            return (
                NO_LIKELIHOODS if refused.reason == NO_LIKELIHOODS else f"{NO_LIKELIHOODS}; it says: {refused.reason}"
            )
        return ""

    def complete_each(self, prompts: Iterable[str], max_tokens: int, *, stop: Sequence[str] = ()) -> Iterator[str]:
        """Yield how the model goes on with each text at temperature 0, cut before the first of `stop`, in order.

        Raises `NotOffered` where the server does no such thing, `StageFailed` where it fails.
        """
        wishes: dict[str, Any] = {"max_tokens": max_tokens} | ({"stop": list(stop)} if stop else {})
        bodies = (self._body(prompt, wishes) for prompt in prompts)
        return self._send(PATH, bodies, lambda answer: cut_before(str(answer["choices"][0]["text"]), stop))

    def log_likelihoods(self, texts: Iterable[tuple[str, Sequence[str]]]) -> Iterator[list[Likelihood]]:
        """Yield for each text how likely the model finds each of its endings, in order.

        Tokens are told apart by their number, as the server counts them: those of text and ending together, less those
        of the text alone. The first token of all has no likelihood, and is not counted. Raises as `complete_each` does.
        """
        asked = list(texts)
        alone, read = {"max_tokens": 1}, {"max_tokens": 1, "echo": True, "logprobs": 1}
        bodies = (
            self._body(text + ending, read if ending else alone)
            for text, endings in asked
            for ending in (*([""] if text else []), *endings)
        )
        answers = self._send(PATH, bodies, _read_echo)
        for text, endings in asked:
            begin = next(answers)[0] if text else 0
            yield [_add_up(begin, *next(answers)) for _ in endings]

    def _body(self, prompt: str, wishes: Mapping[str, Any]) -> bytes:
        return json.dumps({"model": self.name, "prompt": prompt, "temperature": 0, **wishes}).encode()

    def _explain(self, error: Unanswered | Refused) -> NoReturn:
        try:
            super()._explain(error)
        except StageFailed as failed:
            if isinstance(error, Refused) and error.status in NOT_OFFERED:
                raise NotOffered(str(failed), " ".join(str(error).split())[:SHOWN] or str(error.status)) from error
            raise


def _read_echo(answer: Mapping[str, Any]) -> tuple[int, list[float | None]]:
    """Return the number of tokens of the text that was given, and the log-probabilities that came."""
    found = (answer["choices"][0].get("logprobs") or {}).get("token_logprobs") or []
    number = int(answer["usage"]["prompt_tokens"])
    if number < 1:
        raise ValueError(f"{number} tokens of a text")
    return number, [None if score is None else log_probability(score) for score in found]


def _add_up(begin: int, end: int, logprobs: Sequence[float | None]) -> Likelihood:
    """Return the likelihood of the tokens from `begin` on, one at least; after `end` come those that were written."""
    if len(logprobs) < end:  # it ignores that the text should be echoed
        raise NotOffered(NO_LIKELIHOODS, NO_LIKELIHOODS)
    scores = [score for score in logprobs[min(begin, end - 1) : end] if score is not None]
    return -sum(scores), len(scores)
