"""Texts: how well a model predicts whole texts, such as general ones that it must not forget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest
from typing import TYPE_CHECKING

from telellm.evaluation.likelihood import Continued, log_likelihoods, longest_input
from telellm.evaluation.perplexity import Likelihood
from telellm.evaluation.results import Row, row
from telellm.recipe import General, RecipeError
from telellm.text_files import read_texts, text_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FIELD = "evaluation.general.text"
GENERAL = "general"
LONGEST_WINDOW = 2048
"""Tokens that a model reads at once, where it can read more: a text of many thousands would fill the memory."""
SHOWN = 160
"""Characters of a text's beginning that stand in its row."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text whose perplexity is measured."""

    id: str
    category: str
    content: str
    split: str


def read_general(settings: General, seed: int) -> list[Text]:
    """Return the general texts that are read, `max_documents` of them drawn by lot, in the lot's order.

    Memory holds those alone. Raises `RecipeError` where there is no text.
    """
    store, names = text_files(settings.text, FIELD)

    def all_texts() -> Iterator[Text]:
        for name in names:
            for number, content in enumerate(read_texts(store, name)):
                if content.strip():
                    identity = f"{name}#{number}" if name.endswith(".parquet") else name
                    yield Text(identity, GENERAL, cut(content, settings.max_characters), GENERAL)

    def lot(text: Text) -> bytes:
        return sha256(f"{seed}\n{text.id}".encode()).digest()

    found = nsmallest(settings.max_documents, all_texts(), key=lot) if settings.max_documents else []
    found = found or sorted(all_texts(), key=lot)
    if not found:
        raise RecipeError(f"{FIELD}: {settings.text}: its files hold no text")
    return found


def cut(content: str, characters: int) -> str:
    """Return a text's beginning, to the end of a word."""
    content = content.strip()
    if len(content) <= characters:
        return content
    head, blank, _ = content[: characters + 1].rpartition(" ")
    return head.strip() if blank else content[:characters]


def measure_texts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[Text],
    batch_size: int,
    advance: Callable[[int], None],
) -> list[Likelihood]:
    """Return for each text how likely the model finds it, after the token with which its texts begin.

    That is the tokenizer's BOS, or else its end token, which stands between documents in training. A text longer than
    the model can read is read in windows, each without those before it. As in lm-eval's rolling log-likelihood, but
    that a window has no context from the one before.
    """
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    most = max(2, min(longest_input(model), LONGEST_WINDOW)) - 1
    encoded: list[list[int]] = [
        tokenizer(text.content, add_special_tokens=False, verbose=False)["input_ids"] for text in texts
    ]
    groups = [[_after(begin, tokens[at : at + most]) for at in range(0, len(tokens), most)] for tokens in encoded]
    groups = [[window for window in group if window.endings[0]] for group in groups]
    found = log_likelihoods(model, int(tokenizer.pad_token_id or 0), groups, batch_size, advance)
    return [
        Likelihood(-sum(score for (score,) in scores), sum(len(window.endings[0]) for window in group))
        for scores, group in zip(found, groups, strict=True)
    ]


def _after(begin: int | None, tokens: list[int]) -> Continued:
    return Continued(tokens[:1], [tokens[1:]]) if begin is None else Continued([begin], [tokens])


def text_rows(task: str, texts: Sequence[Text], found: Sequence[Likelihood]) -> list[Row]:
    """Return the texts as rows of the results; those of which nothing was read are left out."""
    return [
        row(
            task,
            id=text.id,
            statement=text.content[:SHOWN],
            split=text.split,
            category=text.category,
            nll=likelihood.nll,
            tokens=likelihood.tokens,
            bytes=len(text.content.encode()),
        )
        for text, likelihood in zip(texts, found, strict=True)
        if likelihood.tokens
    ]
