"""News: which documents of a night's training text are new, and a sample of the others against forgetting them."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from hashlib import sha256

from telellm.records import Document
from telellm.stage import Output


@dataclass(frozen=True)
class News:
    """What a night trains on."""

    chosen: frozenset[str]
    """Ids of documents."""
    num_new: int
    num_old: int
    """Of those that were drawn; where nothing is new, of all."""


def choose_news(documents: Output, learnt: Output, among: Set[str] | None, old_share: float, seed: int) -> News:
    """Return the documents that are not in `learnt`, word for word, and old ones until they are `old_share` of it all.

    Shares are of characters. Old documents are drawn by lot, others every time that `learnt` is another text. Where
    nothing is new, because documents only went, all are chosen: what is left is learnt again. `among`: the ids of the
    documents that may be chosen; None: all of them.
    """
    known = {_digest(document) for document in learnt.records(Document)}
    new: dict[str, int] = {}
    old: list[tuple[bytes, str, int]] = []
    for document in _among(documents, among):
        length = len(document.content)
        if _digest(document) in known:
            lot = sha256(f"{seed} {learnt.content} {document.id}".encode()).digest()
            old.append((lot, document.id, length))
        else:
            new[document.id] = length
    if not new:
        return News(frozenset(identity for _, identity, _ in old), 0, len(old))
    wanted = sum(new.values()) * old_share / (1 - old_share) if old_share < 1 else float("inf")
    drawn: list[str] = []
    for _, identity, length in sorted(old):
        if wanted <= 0:
            break
        drawn.append(identity)
        wanted -= length
    return News(frozenset([*new, *drawn]), len(new), len(drawn))


def _among(documents: Output, among: Set[str] | None) -> Iterator[Document]:
    return (document for document in documents.records(Document) if among is None or document.id in among)


def _digest(document: Document) -> bytes:
    return sha256(f"{document.id}\0{document.content}".encode()).digest()[:16]
