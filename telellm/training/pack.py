"""Pack: documents become sequences of tokens of one length, mixed with a share of general text."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from telellm.benchmark.tested import read_tested, tested_digest
from telellm.lm.models import load_tokenizer, model_digest
from telellm.overlap import Index, split
from telellm.recipe import Pack as PackSettings
from telellm.recipe import Recipe, RecipeError
from telellm.records import Document
from telellm.stage import Context, Output, stage
from telellm.text_files import read_texts, text_digests, text_files
from telellm.training.news import choose_news
from telellm.training.sequences import Tokens, fill, write_sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
REPLAY = "replay"
FIELD = "training.pack.replay"
TEXTS_AT_ONCE = 64


class Shelf:
    """Tokenised documents on disk, to be taken out in any order; memory holds a few numbers for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ends = array("q", [0])
        self.tokens_by_category: Counter[str] = Counter()

    def add(self, texts: Iterable[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase", limit: int = 0) -> None:
        """Tokenise (category, text) pairs, each with the end token after it; stop after `limit` tokens (0: never)."""
        end, begin = tokenizer.eos_token_id, self.ends[-1]
        with self.path.open("ab") as stream:
            for group in _groups(texts, TEXTS_AT_ONCE):
                encoded = tokenizer([text for _, text in group], return_attention_mask=False, verbose=False)
                for (category, _), numbers in zip(group, encoded["input_ids"], strict=True):
                    tokens = np.asarray(numbers if numbers[-1:] == [end] else [*numbers, end], np.int32)
                    tokens.tofile(stream)
                    self.ends.append(self.ends[-1] + len(tokens))
                    self.tokens_by_category[category] += len(tokens)
                if limit and self.ends[-1] - begin >= limit:
                    return

    def __len__(self) -> int:
        return len(self.ends) - 1

    def take(self, wanted: Iterable[tuple[int, int]]) -> Iterator[Tokens]:
        """Yield the beginnings of documents, given as (number, tokens)."""
        tokens = np.memmap(self.path, np.int32, "r")
        for number, length in wanted:
            begin = self.ends[number]
            yield np.array(tokens[begin : begin + length])

    def length(self, number: int) -> int:
        """Return the number of tokens of a document."""
        return self.ends[number + 1] - self.ends[number]


def _identity(recipe: Recipe) -> list[Any]:
    replay = recipe.training.pack.replay
    scanned = [tested_digest(recipe), recipe.corpus.decontaminate.ngram_words] if replay else []
    sampled = [recipe.nightly.old_share] if recipe.nightly.train_on == "new" else []
    return [model_digest(recipe.model.name, recipe.model.revision), text_digests(replay, FIELD), scanned, *sampled]


@stage(
    sections=("training.pack", "model", "seed"),
    place=lambda recipe, key, inputs: f"packed/{key}",
    identity=_identity,
)
def pack(context: Context, settings: PackSettings, documents: Output, learnt: Output | None = None) -> None:
    """Tokenise the chosen documents, shuffle them, and pack them to `sequence_length` with their boundaries kept.

    Writes `data/part-….parquet` with `tokens` and `lengths` (of the pieces of documents inside a sequence). Every
    document ends with the tokenizer's end token; a long one continues in the next sequence. Replay documents are
    repeated or cut until they are `replay_share` of all tokens; passages that share a run of words with what the model
    is tested on are taken out of them, as they were out of the corpus. Of documents that are in `learnt` only a sample
    is taken (`news.py`). Source: Tele-LLMs (arXiv 2409.05314), continual pretraining. Raises
    `RecipeError` when the tokenizer has no end token or the replay folder no text.
    """
    recipe = context.recipe
    tokenizer = load_tokenizer(recipe.model.name, recipe.model.revision)
    if tokenizer.eos_token_id is None:
        raise RecipeError(
            f"model: {recipe.model.name}: its tokenizer has no end token, so documents cannot be told apart"
        )
    shelf = Shelf(context.directory / "tokens.bin")
    chosen = choose(documents, settings, recipe.seed)
    if learnt is not None:
        news = choose_news(documents, learnt, chosen, recipe.nightly.old_share, recipe.seed)
        chosen = set(news.chosen)
        context.summary |= {"new_documents": news.num_new, "old_documents": news.num_old}
    texts = ((one.category, one.content) for one in documents.records(Document) if chosen is None or one.id in chosen)
    number = documents.num_records if chosen is None else len(chosen)
    shelf.add(context.progress.track(texts, number, "documents"), tokenizer)
    num_documents, num_tokens = len(shelf), shelf.ends[-1]
    wanted = [(number, shelf.length(number)) for number in range(num_documents)]
    if settings.replay and settings.replay_share:
        wanted += _replay(shelf, context, num_tokens, tokenizer)
    num_replay = sum(length for _, length in wanted[num_documents:])
    shuffled = np.random.default_rng(recipe.seed).permutation(len(wanted))
    pieces = shelf.take(wanted[number] for number in shuffled)
    num_sequences = write_sequences(fill(pieces, settings.sequence_length), context.directory / "data")
    shelf.path.unlink()
    total = num_tokens + num_replay
    by_category = {name: number for name, number in sorted(shelf.tokens_by_category.items()) if name != REPLAY}
    context.counts["out"] = num_sequences
    context.summary |= {
        "num_documents": num_documents,
        "num_tokens": total,
        "num_sequences": num_sequences,
        "sequence_length": settings.sequence_length,
        "tokens": by_category,
        "replay_tokens": num_replay,
        "headline": f"{total:,} tokens in {num_sequences:,} sequences"
        + (f", {num_replay / total:.1%} replay" if num_replay else ""),
    }


def choose(documents: Output, settings: PackSettings, seed: int) -> set[str] | None:
    """Return the ids of the documents that are trained on, or None for all of them.

    Those of a category stand in an order that their ids and the seed alone decide; as many of them are taken from its
    beginning as make up `share` of the category's characters. So a smaller share is part of every larger one, and the
    mixture of categories stays what it is. Raises `RecipeError` when there are none.
    """
    if settings.share == 1 and not settings.categories:
        return None
    lots: dict[str, list[tuple[bytes, str, int]]] = defaultdict(list)
    for document in documents.records(Document):
        if not settings.categories or document.category in settings.categories:
            lot = sha256(f"{seed} {document.id}".encode()).digest()
            lots[document.category].append((lot, document.id, len(document.content)))
    if not lots:
        raise RecipeError(f"training.pack.categories: no document is of {', '.join(settings.categories)}")
    chosen: set[str] = set()
    for ordered in map(sorted, lots.values()):
        wanted, taken = settings.share * sum(length for _, _, length in ordered), 0
        for _, identity, length in ordered:
            if taken and taken + length / 2 > wanted:  # the nearer of the two ends
                break
            chosen.add(identity)
            taken += length
    return chosen


def _replay(
    shelf: Shelf, context: Context, num_tokens: int, tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[int, int]]:
    """Put replay text on the shelf and return which of it makes up its share: (number, tokens) of documents."""
    recipe = context.recipe
    settings = recipe.training.pack
    if settings.replay_share >= 1:
        raise RecipeError("training.pack.replay_share: 1 leaves no place for the corpus; choose less than 1")
    needed = round(num_tokens * settings.replay_share / (1 - settings.replay_share))
    store, names = text_files(settings.replay, FIELD)
    generator = np.random.default_rng([recipe.seed, 1])
    files = [names[number] for number in generator.permutation(len(names))]
    first = len(shelf)
    texts = (text for name in files for text in read_texts(store, name))
    shelf.add(((REPLAY, text) for text in _untested(texts, context)), tokenizer, limit=needed)
    if len(shelf) == first:
        raise RecipeError(f"training.pack.replay: {settings.replay}: its files hold no text")
    chosen: list[tuple[int, int]] = []
    while needed:
        for number in generator.permutation(np.arange(first, len(shelf))):
            length = min(needed, shelf.length(int(number)))
            if length:
                chosen.append((int(number), length))
            needed -= length
    return chosen


def _untested(texts: Iterable[str], context: Context) -> Iterator[str]:
    """Yield texts without the passages that a model is tested on."""
    index = Index.build(read_tested(context.recipe), context.recipe.corpus.decontaminate.ngram_words)
    for text in texts:
        kept, removed = split(text, index)
        context.counts["replay passages taken out"] += len(removed)
        if kept:
            yield kept


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
