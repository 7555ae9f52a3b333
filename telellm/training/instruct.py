"""Instruct: a pretrained model learns to answer, from conversations."""

import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telellm.recipe import Instruct as InstructSettings
from telellm.recipe import Recipe, RecipeError
from telellm.stage import Context, Output, stage
from telellm.training.launch import train
from telellm.training.texts import read_conversations

if TYPE_CHECKING:
    from telellm.training.sequences import Packed


def _data_digest(recipe: Recipe) -> Any:
    data, _ = read_conversations(recipe.training.instruct.data)
    return sha256(data).hexdigest()


@stage(sections=("training.instruct", "training.lora"), identity=_data_digest)
def instruct(context: Context, settings: InstructSettings, model: Output) -> None:
    """Tune a model on conversations in its chat template; only what the assistant says is learnt.

    Whole conversations are packed side by side, attention stays inside each. Conversations that cannot be used are
    counted by reason. Writes what `pretrain` writes; the tokenizer is saved with the template. Raises `RecipeError`
    when no conversation is left.
    """
    # the launcher has neither, and needs this stage's digest only
    import numpy as np

    from telellm.training.conversations import encode, gather, load_chat_tokenizer
    from telellm.training.sequences import write_sequences

    _, conversations = read_conversations(settings.data)
    tokenizer = load_chat_tokenizer(model.folder("model"))
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
    train(context, "instruct", place, model.prefix)
