"""Texts: how many documents and tokens a corpus has, from an earlier run or from the sizes of its files."""

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from telellm.plan.earlier import Earlier
from telellm.recipe import Recipe, RecipeError, Source
from telellm.store import Store, StoreUnavailable

BYTES_PER_TOKEN = 4.0
"""Of English technical text: 4.0 to 4.4 measured over arXiv, 3GPP and Wikipedia with a vocabulary of 49,152 tokens; 2.9
over Markdown with much code."""
COMPRESSION = 2.6
"""Bytes of text in a byte of Parquet (zstd), measured over the same."""
TEXT_SHARES = {
    (".xml.bz2",): 1.7,
    (".xml.gz",): 1.4,
    (".xml",): 0.5,
    (".tar.gz", ".tgz", ".tar", ".gz"): 0.1,
    (".tex",): 0.7,
    (".docx", ".docm", ".doc", ".zip"): 0.2,
    (".wet.gz",): 2.0,
    (".wet",): 0.9,
    (".warc.gz",): 0.05,
    (".warc", ".html", ".htm"): 0.03,
    (".md", ".markdown", ".rst", ".txt"): 0.95,
}
"""Bytes of text that come out of a byte of a file, by how its name ends: measured over some files of each kind, but
`.gz`, `.tar` (with figures) and `.wet`, which are guesses. A source may be three times away from it, one of web pages
ten times."""
DOCUMENT_BYTES = {"arxiv": 60_000, "standard": 120_000, "wiki": 10_000, "web": 4_000}
"""Text of a document, by category."""


@dataclass(frozen=True)
class Texts:
    """The training text of a corpus."""

    by_category: dict[str, int]
    """Tokens, replay left out."""
    replay: int
    """Tokens of general text that is mixed in."""
    sequences: int
    documents: int
    questions: int
    """Questions of Tele-Eval, where an earlier run made them; else 0."""
    exact: bool
    """Whether tokens and sequences are counted, and not estimated."""
    basis: str

    @property
    def num_tokens(self) -> int:
        """Tokens of all packed sequences."""
        return sum(self.by_category.values()) + self.replay


def find_texts(recipe: Recipe, earlier: Earlier | None, tokens: int, notes: list[str]) -> Texts:
    """Return the size of a corpus; adds to `notes` what is not known of it.

    Raises `RecipeError` where a source of this machine is missing, or where there is nothing to go by.
    """
    if tokens:
        documents = round(tokens * BYTES_PER_TOKEN / DOCUMENT_BYTES["standard"])
        return _pack({"given": tokens}, recipe, documents, 0, "--tokens")
    if earlier and earlier.packed is not None:
        basis, packed = f"counted by the run {earlier.run}", earlier.packed
        found = _pack(dict(packed["tokens"]), recipe, earlier.documents, earlier.questions, basis)
        if earlier.same_packing:
            counted = {"replay": packed["replay_tokens"], "sequences": packed["num_sequences"]}
            return replace(found, by_category=dict(packed["tokens"]), exact=True, **counted)
        return replace(found, exact=recipe.training.pack.share == 1)
    if earlier and earlier.run:
        counted_tokens = round(earlier.compressed_bytes * COMPRESSION / BYTES_PER_TOKEN)
        basis = f"size of the training text of the run {earlier.run}, within a fifth for English"
        return _pack({"all": counted_tokens}, recipe, earlier.documents, earlier.questions, basis)
    by_category, documents = _from_sources(recipe, notes)
    if not by_category:
        reasons = "".join(f"\n  {note}" for note in notes if note.startswith("sources."))
        raise RecipeError(
            "plan: no source could be looked at, so the size of the corpus is not known; name it (--tokens 2.5e9), or "
            f"a store with an earlier run (--store){reasons}"
        )
    left = 1 - recipe.tele_eval.held_out_share
    kept = {name: round(number * left) for name, number in by_category.items()}
    return _pack(kept, recipe, documents, 0, "sizes of the sources' files, within a factor of three, web pages of ten")


def _pack(by_category: dict[str, int], recipe: Recipe, documents: int, questions: int, basis: str) -> Texts:
    """Return what is trained on, with its replay, in sequences filled to the last token, as the stage `pack` does."""
    pack = recipe.training.pack
    chosen = {
        name: round(number * pack.share)
        for name, number in by_category.items()
        if not pack.categories or name in (*pack.categories, "all", "given")
    }
    share = min(pack.replay_share, 0.99) if pack.replay else 0
    tokens = sum(chosen.values())
    replay = round(tokens * share / (1 - share))
    sequences = math.ceil((tokens + replay) / pack.sequence_length)
    return Texts(chosen, replay, sequences, documents, questions, False, basis)


def _from_sources(recipe: Recipe, notes: list[str]) -> tuple[dict[str, int], int]:
    """Return tokens by category and the number of documents, from the sizes of files."""
    tokens: Counter[str] = Counter()
    documents = 0.0
    for name, source in recipe.sources.items():
        try:
            found = list(_sizes(name, source))
        except (StoreUnavailable, ImportError) as error:
            notes.append(f"sources.{name} is left out: {error}")
            continue
        text, unknown = 0.0, 0
        for file, size in found:
            share = _text_share(file, source.category)
            unknown += share == 0
            text += share * size
        if unknown:
            notes.append(f"sources.{name}: {unknown:,} of {len(found):,} files are of no format that has text")
        tokens[source.category] += round(text / BYTES_PER_TOKEN)
        documents += text / DOCUMENT_BYTES[source.category]
    trusted = recipe.corpus.screen.trusted
    if screened := [category for category in tokens if category not in trusted and category in ("wiki", "web")]:
        notes.append(f"what screening leaves of {' and '.join(screened)} is not known: all of it is counted")
    return dict(tokens), max(1, round(documents)) if tokens else 0


def _text_share(name: str, category: str) -> float:
    lower = name.lower()
    for endings, share in TEXT_SHARES.items():
        if lower.endswith(endings):
            return share
    is_bare = category == "arxiv" and "." not in lower.rpartition("/")[2].lstrip("0123456789.v")
    return TEXT_SHARES[(".tar.gz", ".tgz", ".tar", ".gz")] if is_bare else 0


def _sizes(name: str, source: Source) -> Iterator[tuple[str, int]]:
    """Yield the files of a source with their sizes (bytes); raises `RecipeError` where it is missing or empty."""
    path = Path(unquote(urlsplit(source.path).path) if source.path.startswith("file://") else source.path)
    if "://" in source.path and not source.path.startswith("file://"):
        yield from Store.open(source.path).sizes("")
        return
    if not path.exists():
        raise RecipeError(f"sources.{name}.path: {path} does not exist; name a folder, a file or s3://bucket/prefix")
    if path.is_file():
        yield path.name, path.stat().st_size
        return
    for folder, folders, files in os.walk(path):
        folders[:] = [each for each in folders if not each.startswith((".", "__MACOSX"))]
        for file in files:
            if not file.startswith((".", "~$")):
                yield file, (Path(folder) / file).stat().st_size
