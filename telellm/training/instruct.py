"""Instruct: a pretrained model learns to answer, from conversations or by its vendor's chat vector."""

import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telellm.lm.models import model_digest
from telellm.recipe import Instruct as InstructSettings
from telellm.recipe import Recipe, RecipeError
from telellm.stage import Context, Output, stage
from telellm.training.launch import keep, starting_point, train
from telellm.training.texts import read_conversations

if TYPE_CHECKING:
    from telellm.training.sequences import Packed


def _identity(recipe: Recipe) -> Any:
    settings = recipe.training.instruct
    base = model_digest(recipe.model.name, recipe.model.revision)
    if settings.method == "none":
        return base
    if settings.method == "chat-vector":
        return [base, model_digest(settings.vendor, settings.vendor_revision)]
    data, _ = read_conversations(settings.data)
    return [base, sha256(data).hexdigest()]


@stage(sections=("training.instruct", "training.lora", "model"), identity=_identity)
def instruct(context: Context, settings: InstructSettings, model: Output | None = None) -> None:
    """Tune a model, by default the recipe's base model, on conversations in its chat template.

    Only what the assistant says is learnt. Whole conversations are packed side by side, attention stays inside each.
    Conversations that cannot be used are counted by reason. Writes what `pretrain` writes; the tokenizer is saved with
    the template. With the method `chat-vector` nothing is trained: see `chat_vector.py`. Raises `RecipeError` when no
    conversation is left.
    """
    if settings.method == "none":
        keep(context, model)
        return
    if settings.method == "chat-vector":
        from telellm.training.chat_vector import add_chat_vector

        add_chat_vector(context, settings, starting_point(context, model))
        return
    # the launcher has neither, and needs this stage's digest only
    import numpy as np

    from telellm.training.conversations import encode, gather, load_chat_tokenizer
    from telellm.training.sequences import write_sequences

    _, conversations = read_conversations(settings.data)
    tokenizer = load_chat_tokenizer(starting_point(context, model))
    context.counts["conversations"] = len(conversations)

    def encoded() -> Iterator["Packed"]:
        for number in np.random.default_rng(settings.seed).permutation(len(conversations)):
            result = encode(conversations[number], tokenizer, settings.sequence_length)
            if isinstance(result, str):
                context.progress.drops[result] += 1
            else:
                yield result

    place = f"{context.scratch('instruct')}/conversations"
    with tempfile.TemporaryDirectory(prefix="telellm-conversations-") as folder:
        sequences = gather(encoded(), settings.sequence_length)
        if not write_sequences(sequences, Path(folder) / "data"):
            raise RecipeError(f"training.instruct.data: {settings.data}: no conversation in it can be learnt from")
        context.store.commit(place, Path(folder), {"stage": "instruct"})
    train(context, "instruct", place, model.prefix if model else "")
