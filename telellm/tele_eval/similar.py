"""Similar: which questions ask the same as an earlier one, by their words or by their embeddings.

Both are exact: every pair that reaches the similarity is found. Memory is some 300 bytes a question by words, and two
bytes a dimension by embeddings.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from telellm.tele_eval.rules import content_words, stem

if TYPE_CHECKING:
    import numpy

    Numbers = numpy.ndarray[Any, numpy.dtype[Any]]

NAME = re.compile(r"[^\W_]*(?:\d|[A-Z][^\W_]*[A-Z])[\w./-]*")
"""What names one thing among its likes: with a digit or two capitals ("T310", "AMF", "5G")."""
ROUNDING = 1e-6
BLOCK, PAST = 256, 8_192
"""Questions that are compared at once, and earlier ones that they are compared with at once."""


class Questions:
    """The words of many questions, as numbers: what is needed to compare them, without their text."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.words, self.names = array("I"), array("I")
        self.word_ends, self.name_ends = array("Q"), array("Q")
        self.frequencies = array("I")

    def __len__(self) -> int:
        return len(self.word_ends)

    def add(self, statement: str) -> None:
        """Add a question."""
        for word in sorted(content_words(statement)):
            number = self._number(word)
            self.frequencies[number] += 1
            self.words.append(number)
        self.names.extend(sorted({self._number(name) for name in names(statement)}))
        self.word_ends.append(len(self.words))
        self.name_ends.append(len(self.names))

    def words_of(self, question: int) -> "array[int]":
        """Return the numbers of a question's words."""
        return self.words[self.word_ends[question - 1] if question else 0 : self.word_ends[question]]

    def differ(self, one: int, other: int) -> bool:
        """Say whether each of two questions names something that the other does not: they ask about two things."""
        first, second = self._names_of(one), self._names_of(other)
        return bool(first - second) and bool(second - first)

    def _names_of(self, question: int) -> set[int]:
        return set(self.names[self.name_ends[question - 1] if question else 0 : self.name_ends[question]])

    def _number(self, word: str) -> int:
        number = self.numbers.setdefault(word, len(self.numbers))
        if number == len(self.frequencies):
            self.frequencies.append(0)
        return number


def names(statement: str) -> set[str]:
    """Return what a question names by identifiers, in small letters ("AMF" as "amfs")."""
    return {stem(found.strip("./-").lower()) for found in NAME.findall(statement)}


def same_by_words(questions: Questions, order: Iterable[int], similarity: float) -> dict[int, int]:
    """Return question → the earlier one, in that order, that it repeats: the cosine of TF-IDF reaches the similarity.

    Two such questions share one of the rarest words of both: those without which a vector is shorter than the
    similarity. Only these are looked up. Source: prefix filtering, Bayardo et al., Scaling Up All Pairs Similarity
    Search (2007).
    """
    import numpy

    if not len(questions):
        return {}
    least = similarity - ROUNDING
    words = numpy.array(questions.words, dtype=numpy.int64)
    ends = numpy.array(questions.word_ends, dtype=numpy.int64)
    starts = numpy.concatenate([[0], ends[:-1]]).astype(numpy.int64)
    rarity = numpy.log1p(len(questions) / numpy.maximum(numpy.array(questions.frequencies, dtype=numpy.int64), 1))
    asked = numpy.zeros(len(rarity))
    """The weights of the question that is compared, by word; the rest is 0."""
    lengths = numpy.sqrt(numpy.array([(rarity[words[a:b]] ** 2).sum() for a, b in zip(starts, ends, strict=True)]))
    index: dict[int, array[int]] = defaultdict(lambda: array("Q"))
    repeated: dict[int, int] = {}
    for question in order:
        own = words[starts[question] : ends[question]]
        weights = rarity[own] / (lengths[question] or 1.0)
        first = numpy.lexsort((own, -weights))
        before = numpy.concatenate([[0], numpy.cumsum(weights[first] ** 2)[:-1]]) if len(own) else numpy.zeros(0)
        rare = own[first[1 - before >= max(least, 0) ** 2]].tolist()
        found = [numpy.frombuffer(index[word], dtype=numpy.uint64) for word in rare if word in index]
        candidates = (
            numpy.unique(numpy.concatenate(found)).astype(numpy.int64) if found else numpy.zeros(0, numpy.int64)
        )
        del found  # a view of a list keeps it from growing
        nearest = -1
        if len(candidates):
            asked[own] = weights
            sizes = ends[candidates] - starts[candidates]
            firsts = numpy.concatenate([[0], numpy.cumsum(sizes)[:-1]])
            theirs = words[numpy.repeat(starts[candidates] - firsts, sizes) + numpy.arange(sizes.sum())]
            cosines = numpy.add.reduceat(asked[theirs] * rarity[theirs], firsts) / lengths[candidates]
            asked[own] = 0
            near = candidates[numpy.lexsort((candidates, -numpy.round(cosines, 6)))[: int((cosines >= least).sum())]]
            nearest = next((int(kept) for kept in near if not questions.differ(question, int(kept))), -1)
        if nearest >= 0:
            repeated[question] = nearest
        else:
            for word in rare:
                index[word].append(question)
    return repeated


def same_by_meaning(
    questions: Questions, vectors: "Numbers", order: Sequence[int], similarity: float
) -> dict[int, int]:
    """Return the same as `same_by_words`, by the cosine of unit vectors (a row a question, half precision)."""
    import numpy

    least = similarity - 1e-3  # half precision
    kept = array("I")
    repeated: dict[int, int] = {}
    for start in range(0, len(order), BLOCK):
        block = list(order[start : start + BLOCK])
        rows = vectors[block].astype(numpy.float32)
        near: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for first in range(0, len(kept), PAST):
            past = numpy.frombuffer(kept, dtype=numpy.uint32)[first : first + PAST].copy()
            cosines = rows @ vectors[past].astype(numpy.float32).T
            for at, before in zip(*numpy.nonzero(cosines >= least), strict=True):
                near[int(at)].append((-float(cosines[at, before]), int(past[before])))
        within = rows @ rows.T
        for at, question in enumerate(block):
            near[at] += [
                (-float(within[at, other]), block[other])
                for other in range(at)
                if within[at, other] >= least and block[other] not in repeated
            ]
            same = next((other for _, other in sorted(near[at]) if not questions.differ(question, other)), None)
            if same is None:
                kept.append(question)
            else:
                repeated[question] = same
    return repeated
