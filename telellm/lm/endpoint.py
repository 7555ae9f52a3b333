"""A language model at an OpenAI-compatible endpoint (vLLM in the cluster)."""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, TypeVar

import openai
from openai.types.chat import ChatCompletion

from telellm.lm.client import Choice, Turns
from telellm.recipe import LanguageModel
from telellm.stage import StageFailed

T = TypeVar("T")
ATTEMPTS = 6
"""Times that one answer is asked for; between them the client waits longer and longer, or as long as it is told."""
TOP_LOGPROBS = 20
"""The most likely first tokens that are asked for: what servers give at most by default."""


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
        return self._ask(prompts, system, examples, wishes, lambda answer: self._choice(answer, options))

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
        prompts: Sequence[str],
        system: str,
        examples: Turns,
        wishes: dict[str, Any],
        read: Callable[[ChatCompletion], T],
    ) -> list[T]:
        """Return what `read` makes of the server's answer to each prompt."""
        before: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        for asked, answered in examples:
            before += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]

        async def ask_all() -> list[T]:
            room = asyncio.Semaphore(self.settings.max_concurrency)
            async with openai.AsyncOpenAI(
                base_url=self.settings.endpoint,
                api_key=os.environ.get("OPENAI_API_KEY") or "none",
                timeout=self.settings.timeout_seconds,
                max_retries=ATTEMPTS - 1,
            ) as client:

                async def ask(prompt: str) -> T:
                    messages: Any = [*before, {"role": "user", "content": prompt}]
                    async with room:
                        answer = await client.chat.completions.create(
                            model=self.name, messages=messages, temperature=0, **wishes
                        )
                    if answer.usage:
                        self.usage["prompt_tokens"] += answer.usage.prompt_tokens
                        self.usage["completion_tokens"] += answer.usage.completion_tokens
                    return read(answer)

                return await _all_or_first_error([ask(prompt) for prompt in prompts])

        try:
            return asyncio.run(ask_all())
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


async def _all_or_first_error(requests: Sequence[Awaitable[T]]) -> list[T]:
    """Return every result in order; the first error ends the others."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
