"""Conversations: chat messages become tokens, of which the model learns those that the assistant writes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from telellm.recipe import RecipeError
from telellm.training.sequences import Packed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + END + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of a tokenizer without one; END is `<|im_end|>` where the tokenizer knows it, else its end token."""
Messages = list[dict[str, str]]


def load_chat_tokenizer(directory: Path, needed: bool = True) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model directory; where it is `needed` and missing, with a ChatML template."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    if needed and not tokenizer.chat_template:
        if tokenizer.eos_token is None:
            raise RecipeError("model: its tokenizer has neither a chat template nor an end token to make one with")
        end = "'<|im_end|>'" if "<|im_end|>" in tokenizer.get_vocab() else "eos_token"
        tokenizer.chat_template = CHATML.replace("END", end)
    return tokenizer


def encode(messages: Messages, tokenizer: "PreTrainedTokenizerBase", length: int) -> Packed | str:
    """Return one conversation as tokens, cut to `length`, or why it cannot be used.

    The assistant's tokens are those between the conversation up to its turn and the conversation with it, both as the
    template writes them; a template that rewrites earlier turns is not used on such a conversation.
    """
    from jinja2 import TemplateError

    def write(count: int, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=prompt))

    try:
        text = write(len(messages), False)
        spans = [
            (write(number, True), write(number + 1, False))
            for number, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
    except (TemplateError, ValueError):
        return "not what the chat template takes"
    if not all(text.startswith(before) and text.startswith(after) for before, after in spans):
        return "rewritten by the chat template"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = np.asarray(encoded["input_ids"][:length], np.int32)
    begins = np.asarray([begin for begin, _ in encoded["offset_mapping"]][:length])
    learnt = np.zeros(len(tokens), bool)
    for before, after in spans:
        learnt |= (begins >= len(before)) & (begins < len(after))
    if not learnt[1:].any():
        return "no answer within the length"
    return Packed(tokens, [len(tokens)], learnt)


def gather(conversations: Iterable[Packed], length: int) -> Iterator[Packed]:
    """Pack whole conversations into sequences of at most `length` tokens, in order; none is divided."""
    held: list[Packed] = []
    for conversation in conversations:
        if sum(len(part.tokens) for part in held) + len(conversation.tokens) > length:
            yield _joined(held)
            held = []
        held.append(conversation)
    if held:
        yield _joined(held)


def _joined(parts: list[Packed]) -> Packed:
    learnt = np.concatenate([np.ones(len(p.tokens), bool) if p.learnt is None else p.learnt for p in parts])
    return Packed(np.concatenate([p.tokens for p in parts]), [n for p in parts for n in p.lengths], learnt)
