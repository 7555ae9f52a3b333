"""What every language model answers, wherever it runs, and how one is opened."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from telellm.recipe import LanguageModel, Model

Turns = Sequence[tuple[str, str]]
"""Earlier turns of the conversation, the same for every prompt: what was asked and how it was answered."""


@dataclass(frozen=True)
class Choice:
    """A model's choice between options."""

    probabilities: Mapping[str, float]
    """Each option's probability; they sum to 1."""
    mass: float
    """The probability that the model says one of the options at all (0 to 1)."""

    def __getitem__(self, option: str) -> float:
        return self.probabilities[option]

    @property
    def best(self) -> str:
        """The most probable option; the first of equals."""
        return max(self.probabilities, key=lambda option: self.probabilities[option])


class LanguageModelClient(Protocol):
    """A language model that answers through its chat template, greedily: same prompts, same answers."""

    usage: Counter[str]
    """`prompt_tokens` and `completion_tokens` so far."""

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        *,
        system: str = "",
        examples: Turns = (),
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Return the model's answer to each prompt, cut before the first of `stop`, stripped."""
        ...

    def generate_each(
        self,
        prompts: Iterable[str],
        max_tokens: int,
        *,
        system: str = "",
        examples: Turns = (),
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answers one by one, in order, while later prompts are asked; few of either are in memory."""
        ...

    def choose(
        self, prompts: Sequence[str], options: Sequence[str], *, system: str = "", examples: Turns = ()
    ) -> list[Choice]:
        """Return, for each prompt, how probable each option is as the answer."""
        ...


def cut_before(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first of `stop` that is in it, stripped."""
    return text[: min([text.find(mark) for mark in stop if mark in text], default=None)].strip()


@lru_cache(maxsize=1)
def open_language_model(settings: LanguageModel, recipe_model: Model) -> LanguageModelClient:
    """Return the model that section `lm` names, or the base model; it is loaded once a process.

    Raises `RecipeError` when there is no such model.
    """
    name, revision = _asked(settings, recipe_model)
    if settings.endpoint:
        from telellm.lm.endpoint import EndpointModel

        return EndpointModel(settings, name)
    from telellm.lm.local import LocalModel

    return LocalModel(settings, name, revision)


def language_model_digest(settings: LanguageModel, recipe_model: Model) -> str:
    """Return what identifies the asked model: the digest of its files, or its name and revision."""
    from telellm.lm.models import model_digest

    name, revision = _asked(settings, recipe_model)
    return f"{name}@{revision}" if settings.endpoint else model_digest(name, revision)


def _asked(settings: LanguageModel, recipe_model: Model) -> tuple[str, str]:
    if settings.model:
        return settings.model, settings.revision
    return recipe_model.name, recipe_model.revision
