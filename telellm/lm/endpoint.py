"""A language model at an OpenAI-compatible endpoint (vLLM in the cluster)."""

import asyncio
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn, TypeVar

import openai
from openai.types.chat import ChatCompletion

from telellm.lm.client import Choice, Turns
from telellm.recipe import LanguageModel
from telellm.stage import StageFailed

P = TypeVar("P")
T = TypeVar("T")
ATTEMPTS = 6
"""Times that one answer is asked for; between them the client waits longer and longer, or as long as it is told."""
TOP_LOGPROBS = 20
"""The most likely first tokens that are asked for: what servers give at most by default."""
AHEAD = 4
"""Prompts that are taken ahead of the first one without an answer, for each request in flight."""


class EndpointModel:
    """Sends `max_concurrency` requests at a time; the key comes from the environment (OPENAI_API_KEY)."""

    def __init__(self, settings: LanguageModel, name: str) -> None:
        self.settings = settings
        self.name = name
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
            prompts, system, examples, wishes, lambda answer: (answer.choices[0].message.content or "").strip()
        )

    def choose(
        self, prompts: Sequence[str], options: Sequence[str], *, system: str = "", examples: Turns = ()
    ) -> list[Choice]:
        """Return the probabilities of the options by the likelihood of the first token of each.

        Raises `StageFailed` also when the server gives no log-probabilities.
        """
        wishes = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return list(self._ask(prompts, system, examples, wishes, lambda answer: self._choice(answer, options)))

    def _choice(self, answer: ChatCompletion, options: Sequence[str]) -> Choice:
        logprobs = answer.choices[0].logprobs
        if logprobs is None or not logprobs.content or not logprobs.content[0].top_logprobs:
            raise StageFailed(
                f"{self.settings.endpoint}: no log-probabilities come from {self.name} there, and choosing needs them\n"
                "  use a server that supports logprobs and top_logprobs (vLLM does), or leave lm.endpoint empty"
            )
        tops = [(top.token, math.exp(top.logprob)) for top in logprobs.content[0].top_logprobs]
        return choice_of_first_tokens(tops, options)

    def _ask(
        self,
        prompts: Iterable[str],
        system: str,
        examples: Turns,
        wishes: dict[str, Any],
        read: Callable[[ChatCompletion], T],
    ) -> Iterator[T]:
        """Yield what `read` makes of the server's answer to each prompt, in order."""
        before: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        for asked, answered in examples:
            before += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]

        async def ask(client: openai.AsyncOpenAI, prompt: str) -> T:
            messages: Any = [*before, {"role": "user", "content": prompt}]
            answer = await client.chat.completions.create(model=self.name, messages=messages, temperature=0, **wishes)
            if answer.usage:
                self.usage["prompt_tokens"] += answer.usage.prompt_tokens
                self.usage["completion_tokens"] += answer.usage.completion_tokens
            return read(answer)

        return self._send(ask, prompts)

    def embed(self, texts: Iterable[Sequence[str]]) -> Iterator[list[list[float]]]:
        """Yield the embeddings of each group of texts, in order; the server's model is one that embeds."""

        async def ask(client: openai.AsyncOpenAI, group: Sequence[str]) -> list[list[float]]:
            answer = await client.embeddings.create(model=self.name, input=list(group), encoding_format="float")
            if answer.usage:
                self.usage["prompt_tokens"] += answer.usage.prompt_tokens
            return [found.embedding for found in sorted(answer.data, key=lambda found: found.index)]

        return self._send(ask, texts)

    def _send(self, ask: Callable[[openai.AsyncOpenAI, P], Coroutine[Any, Any, T]], items: Iterable[P]) -> Iterator[T]:
        """Yield the server's answer about each item, in order, with `max_concurrency` requests in flight."""
        try:
            with asyncio.Runner() as runner:
                client = openai.AsyncOpenAI(
                    base_url=self.settings.endpoint,
                    api_key=os.environ.get("OPENAI_API_KEY") or "none",
                    timeout=self.settings.timeout_seconds,
                    max_retries=ATTEMPTS - 1,
                )
                room = asyncio.Semaphore(self.settings.max_concurrency)

                async def in_room(item: P) -> T:
                    async with room:
                        return await ask(client, item)

                try:
                    yield from _in_order(runner, map(in_room, items), AHEAD * self.settings.max_concurrency)
                finally:
                    runner.run(client.close())
        except openai.OpenAIError as error:
            self._explain(error)

    def _explain(self, error: openai.OpenAIError) -> NoReturn:
        """Raise the server's failure with what to do."""
        where = self.settings.endpoint
        if isinstance(error, openai.APITimeoutError):
            reason = f"no answer within {self.settings.timeout_seconds:g} s, {ATTEMPTS} times"
            remedy = "raise lm.timeout_seconds or lower lm.max_concurrency"
        elif isinstance(error, openai.APIConnectionError):
            reason = f"the server cannot be reached: {error.__cause__ or error}"
            remedy = "see that it runs and that lm.endpoint is its address (it ends in /v1)"
        elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            reason, remedy = "the server refuses the key", "set OPENAI_API_KEY to the key of this server"
        elif isinstance(error, openai.NotFoundError):
            reason = f"the server has no model {self.name}: {error.message}"
            remedy = "name a model in lm.model that the server lists under /v1/models"
        else:
            reason, remedy = str(error), "see the server's log"
        raise StageFailed(f"{where}: {reason}\n  {remedy}") from error


def choice_of_first_tokens(tops: Sequence[tuple[str, float]], options: Sequence[str]) -> Choice:
    """Return a choice from the probabilities of likely first tokens.

    A token counts for the one option that begins with it, whatever its case and spaces. An option that none counts
    for gets what it has at most: the least of the listed probabilities, or what they leave of 1.
    """
    found = dict.fromkeys(options, 0.0)
    for token, probability in tops:
        text = token.strip().casefold()
        fitting = [option for option in options if text and option.casefold().startswith(text)]
        if len(fitting) == 1:
            found[fitting[0]] += probability
    mass = sum(found.values())
    floor = max(min(1 - sum(p for _, p in tops), min((p for _, p in tops), default=1)), 1e-9)
    filled = {option: probability or floor for option, probability in found.items()}
    total = sum(filled.values())
    return Choice({option: probability / total for option, probability in filled.items()}, min(mass, 1.0))


def _in_order(runner: asyncio.Runner, requests: Iterable[Coroutine[Any, Any, T]], num_ahead: int) -> Iterator[T]:
    """Yield the results of requests in order, with up to `num_ahead` begun; the first error ends the others."""
    waiting: deque[asyncio.Task[T]] = deque()
    failed: list[asyncio.Task[T]] = []

    def note(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is not None:
            failed.append(task)
            waiting[0].cancel()  # it is what is waited for

    async def first() -> T:
        await asyncio.wait([waiting[0]])
        return failed[0].result() if failed else waiting[0].result()

    remaining, loop = iter(requests), runner.get_loop()
    try:
        while True:
            for request in islice(remaining, num_ahead - len(waiting)):
                waiting.append(loop.create_task(request))
                waiting[-1].add_done_callback(note)
            if not waiting:
                return
            yield runner.run(first())
            waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
