"""Training: the steps and tokens of pretraining and of instruction tuning."""

import math
from dataclasses import dataclass
from pathlib import Path

from telellm.plan.earlier import Earlier
from telellm.plan.texts import BYTES_PER_TOKEN, Texts
from telellm.recipe import Instruct, Optimization, Recipe, RecipeError
from telellm.store import Store, StoreUnavailable

MESSAGE_SHARE = 0.85
"""Share of a line of JSON that is conversation."""


@dataclass(frozen=True)
class Training:
    """How long a model is trained."""

    name: str
    steps: int
    tokens: int
    sequence_length: int
    basis: str


def plan_pretrain(recipe: Recipe, texts: Texts) -> Training:
    """Return the steps of pretraining: epochs over the packed sequences, in batches."""
    settings = recipe.training.pretrain
    if settings.method == "none":
        return Training("pretrain", 0, 0, recipe.training.pack.sequence_length, "the base model stays as it is")
    steps, tokens = _count(settings, texts.sequences, texts.num_tokens)
    return Training("pretrain", steps, tokens, recipe.training.pack.sequence_length, texts.basis)


def plan_instruct(recipe: Recipe, earlier: Earlier | None, notes: list[str]) -> Training:
    """Return the steps of instruction tuning, from an earlier run or from the lengths of its conversations."""
    settings = recipe.training.instruct
    length = settings.sequence_length
    if settings.method in ("none", "chat-vector"):
        return Training("instruct", 0, 0, length, f"method {settings.method}: nothing is trained")
    if earlier and earlier.instruct is not None:
        known = earlier.instruct
        return Training("instruct", known["steps"], known["tokens"], length, f"counted by the run {earlier.run}")
    try:
        lines = [line for line in _read(settings).splitlines() if line.strip()]
    except StoreUnavailable as error:
        notes.append(f"training.instruct.data is not read: {error}")
        return Training("instruct", settings.max_steps, 0, length, "nothing but max_steps")
    sequences = total = held = 0
    for line in lines:  # whole conversations side by side, as `gather` does
        number = min(length, math.ceil(len(line) * MESSAGE_SHARE / BYTES_PER_TOKEN))
        total += number
        if held + number > length:
            sequences, held = sequences + 1, 0
        held += number
    sequences += held > 0
    steps, tokens = _count(settings, sequences, total)
    return Training("instruct", steps, tokens, length, f"bytes of {len(lines):,} conversations")


def _count(settings: Optimization, sequences: int, num_tokens: int) -> tuple[int, int]:
    """Return steps and tokens; tokens are exact for whole epochs, else those of sequences of mean length."""
    seen = math.ceil(sequences * settings.epochs)
    steps = math.ceil(seen / settings.batch_sequences)
    if settings.max_steps and settings.max_steps < steps:
        steps, seen = settings.max_steps, settings.max_steps * settings.batch_sequences
    return steps, round(num_tokens * seen / max(1, sequences))


def _read(settings: Instruct) -> bytes:
    """Return the file of conversations."""
    folder, _, name = settings.data.rpartition("/")
    if "://" not in settings.data:
        path = Path(settings.data)
        if not path.is_file():
            raise RecipeError(f'training.instruct.data: "{path}": there is no such file; name a JSON Lines file')
        return path.read_bytes()
    try:
        return Store.open(folder).read(name)
    except FileNotFoundError:
        raise RecipeError(f'training.instruct.data: "{settings.data}": there is no such file') from None
