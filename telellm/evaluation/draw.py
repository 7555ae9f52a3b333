"""Draw: which questions are asked, the same ones of every model."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import chain, zip_longest
from typing import TypeVar

from telellm.records import Question

T = TypeVar("T")


def draw(questions: Iterable[Question], number: int, seed: int) -> list[Question]:
    """Return `number` questions (0: all), evenly over the splits and within each over the documents.

    The order is the draw's: the first k of n drawn questions are those that a draw of k gives.
    """
    splits: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        splits[question.split].append(question)
    ordered = list(_in_turn([_over_documents(splits[name], seed) for name in sorted(splits)]))
    return ordered[:number] if number else ordered


def _over_documents(questions: list[Question], seed: int) -> list[Question]:
    documents: dict[str, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda question: _lot(seed, question.id, question.statement)):
        documents[question.id].append(question)
    return list(_in_turn([documents[name] for name in sorted(documents, key=lambda name: _lot(seed, name))]))


def _in_turn(groups: list[list[T]]) -> Iterator[T]:
    """Yield the first of each group, then the second of each, and so on."""
    missing = object()
    return (item for item in chain.from_iterable(zip_longest(*groups, fillvalue=missing)) if item is not missing)  # type: ignore[misc]


def _lot(seed: int, *words: str) -> str:
    return sha256("\n".join([str(seed), *words]).encode()).hexdigest()
