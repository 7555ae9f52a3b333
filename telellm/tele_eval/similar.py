"""Similar: which questions ask the same as an earlier one, by their words or by their embeddings.

Both are exact: every pair that reaches the similarity is found. Memory is some 100 bytes a question by words, and two
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

    Of a question that is kept, only the rarest words are looked up: those without which its vector's length is below
    the similarity. Source: prefix filtering, Bayardo et al., Scaling Up All Pairs Similarity Search (2007).
    """
    import numpy

    least = similarity - ROUNDING
    frequencies = numpy.array(questions.frequencies, dtype=numpy.uint32)
    index: dict[int, array[int]] = defaultdict(lambda: array("I"))
    repeated: dict[int, int] = {}

    def weigh(question: int) -> dict[int, float]:
        words = questions.words_of(question)
        weights = numpy.log1p(len(questions) / frequencies[words])
        length = float(numpy.sqrt((weights**2).sum())) or 1.0
        return dict(zip(words, (weights / length).tolist(), strict=True))

    for question in order:
        weights = weigh(question)
        candidates = {kept for word in weights for kept in index.get(word, ())}
        best, nearest = least, -1
        for kept in sorted(candidates):
            other = weigh(kept)
            cosine = sum(weight * other.get(word, 0.0) for word, weight in weights.items())
            if cosine >= best and not questions.differ(question, kept):
                best, nearest = cosine + ROUNDING, kept
        if nearest >= 0:
            repeated[question] = nearest
            continue
        rest = 1.0
        for word, weight in sorted(weights.items(), key=lambda pair: (-pair[1], pair[0])):
            if rest < max(least, 0) ** 2:
                break
            index[word].append(question)
            rest -= weight**2
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
