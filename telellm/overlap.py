"""Overlap: runs of words that a text shares with others, such as training text with what a model is tested on.

Source: 8-gram overlap, as in GPT-2 (Radford et al. 2019, Section 4).
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Hashes = numpy.ndarray[Any, numpy.dtype[numpy.uint64]]

WORD = re.compile(r"[^\W_]+")
BLANK_LINE = re.compile(r"\n[ ]*+\n")
LONGEST_PASSAGE = 2_000
"""Characters; in a longer one (a table, a page without blank lines) every line is a passage."""
MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that no word's place in a run is lost (the golden ratio's bits)."""


@dataclass(frozen=True)
class Index:
    """The runs of words in test texts: 64-bit hashes, the same on every machine, and where each comes from."""

    length: int
    """Words in a run."""
    vocabulary: dict[str, int]
    """Hashes of the words of test texts alone, so that memory does not grow with the corpus."""
    hashes: "Hashes"
    """Sorted, each once."""
    origins: "Hashes"
    """For each hash, the number of its source."""
    sources: list[str]

    @classmethod
    def build(cls, texts: Iterable[tuple[str, str]], length: int) -> "Index":
        """Return the index of (source, text) pairs; of two sources with the same run, the first."""
        import numpy
        from xxhash import xxh3_64_intdigest

        vocabulary: dict[str, int] = {}
        sources: dict[str, int] = {}
        runs, origins = [numpy.zeros(0, numpy.uint64)], [numpy.zeros(0, numpy.uint64)]
        for source, text in texts:
            words = words_of(text)
            for word in words:
                if word not in vocabulary:
                    vocabulary[word] = xxh3_64_intdigest(word.encode()) | 1  # never 0, which is the unknown word
            runs.append(hash_runs(words, vocabulary, length)[1])
            origins.append(numpy.full(len(runs[-1]), sources.setdefault(source, len(sources)), numpy.uint64))
        hashes, first = numpy.unique(numpy.concatenate(runs), return_index=True)
        return cls(length, vocabulary, hashes, numpy.concatenate(origins)[first], list(sources))

    def find(self, words: list[str]) -> list[tuple[int, str]]:
        """Return the numbers of the words at which a run begins that is known, each with its source."""
        import numpy

        starts, runs = hash_runs(words, self.vocabulary, self.length)
        if not len(runs) or not len(self.hashes):
            return []
        places = numpy.searchsorted(self.hashes, runs)
        places[places == len(self.hashes)] = 0
        hits = numpy.flatnonzero(self.hashes[places] == runs)
        return [(int(starts[hit]), self.sources[int(self.origins[places[hit]])]) for hit in hits]


def hash_runs(words: list[str], vocabulary: Mapping[str, int], length: int) -> tuple[Any, "Hashes"]:
    """Return where each run of `length` known words begins, and its hash: a polynomial of their hashes, mod 2^64."""
    import numpy

    hashes = numpy.fromiter((vocabulary.get(word, 0) for word in words), dtype=numpy.uint64, count=len(words))
    num_known = numpy.cumsum(numpy.concatenate([[0], hashes != 0]))
    starts = numpy.flatnonzero(num_known[length:] - num_known[:-length] == length)
    runs = numpy.zeros(len(starts), dtype=numpy.uint64)
    for offset in range(length):
        runs = runs * numpy.uint64(MULTIPLIER) + hashes[starts + offset]
    return starts, runs


def normalize(word: str) -> str:
    """Return a word without case, and in one of the ways to write it (ligatures, full width)."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def words_of(text: str) -> list[str]:
    """Return a text's words, normalized."""
    return WORD.findall(text.lower()) if text.isascii() else [normalize(word) for word in WORD.findall(text)]


def split(text: str, index: Index) -> tuple[str, list[tuple[str, str]]]:
    """Return the text without the passages that hold a run in the index, and those with what they matched.

    A run may cross passages: then all that it touches go.
    """
    hits = index.find(words_of(text))
    if not hits:
        return text, []
    words = [match.span() for match in WORD.finditer(text)]
    bounds = _passage_bounds(text)
    matched: dict[int, str] = {}
    for number, source in hits:
        first = bisect_right(bounds, words[number][0]) - 1
        last = bisect_left(bounds, words[number + index.length - 1][1])
        for passage in range(first, last):
            matched.setdefault(passage, source)
    passages = [text[start:end] for start, end in pairwise(bounds)]
    kept = "".join(passage for number, passage in enumerate(passages) if number not in matched).strip()
    return kept, [(passages[number].strip(), source) for number, source in sorted(matched.items())]


def _passage_bounds(text: str) -> list[int]:
    """Return where passages begin, and the text's end: at blank lines, in long passages at every line."""
    blocks = [0, *(match.end() for match in BLANK_LINE.finditer(text)), len(text)]
    bounds = set(blocks)
    for start, end in pairwise(blocks):
        if end - start > LONGEST_PASSAGE:
            bounds.update(start + match.end() for match in re.finditer("\n", text[start:end]))
    return sorted(bounds)
