"""Passages: the pieces of a document that are found, each below one heading."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from telellm.records import Document

HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
FENCE = re.compile(r"^\s*(?:```|~~~)")
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document."""

    document: str
    """Id of the document."""
    title: str
    clause: str
    """The headings above it, such as `5.3 Random access › 5.3.1 General`; "" before the first one."""
    url: str
    text: str

    @property
    def source(self) -> str:
        """Title and clause, as a reader cites them."""
        return ", ".join(part for part in (self.title, self.clause) if part) or self.document


def divide(document: Document, num_words: int) -> Iterator[Passage]:
    """Yield the passages of a document, in its order: whole paragraphs, at most `num_words` words.

    A longer paragraph is cut between sentences, lines or, where it has none, words.
    """
    fields = document.fields
    title = str(fields.get("title") or fields.get("file_name") or document.id)
    url = str(fields.get("source_url") or "")
    for clause, section in _sections(document.content, title):
        pieces = (piece for paragraph in section for piece in _cut(paragraph, num_words))
        for text in _joined(pieces, num_words, "\n\n"):
            yield Passage(document.id, title, clause, url, text)


def _sections(content: str, title: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the headings above each run of paragraphs, and the paragraphs."""
    above: list[tuple[int, str]] = []
    paragraphs: list[str] = []
    lines: list[str] = []
    in_code = False
    for line in content.split("\n"):
        in_code ^= bool(FENCE.match(line))
        heading = None if in_code else HEADING.match(line)
        if (not line.strip() and not in_code) or heading:
            if lines:
                paragraphs.append("\n".join(lines))
            lines = []
            if heading:
                if paragraphs:
                    yield _clause(above, title), paragraphs
                paragraphs = []
                depth = len(heading[1])
                above = [(other, text) for other, text in above if other < depth] + [(depth, heading[2])]
        else:
            lines.append(line)
    if lines:
        paragraphs.append("\n".join(lines))
    if paragraphs:
        yield _clause(above, title), paragraphs


def _clause(above: list[tuple[int, str]], title: str) -> str:
    """Return the headings without the one that is the document's title."""
    return " › ".join(text for depth, text in above if not (depth == 1 and title in text))


def _cut(paragraph: str, num_words: int) -> Iterator[str]:
    """Yield a paragraph, or its parts where it is too long."""
    if len(paragraph.split()) <= num_words:
        yield paragraph
        return
    separator = "\n" if "\n" in paragraph else " "
    parts = paragraph.split("\n") if "\n" in paragraph else SENTENCE_END.split(paragraph)
    if len(parts) == 1:
        words = paragraph.split()
        yield from (" ".join(words[start : start + num_words]) for start in range(0, len(words), num_words))
        return
    yield from _joined((piece for part in parts for piece in _cut(part, num_words)), num_words, separator)


def _joined(pieces: Iterable[str], num_words: int, separator: str) -> Iterator[str]:
    """Yield texts of as many whole pieces as fit."""
    held: list[str] = []
    length = 0
    for piece in pieces:
        words = len(piece.split())
        if held and length + words > num_words:
            yield separator.join(held)
            held, length = [], 0
        held.append(piece)
        length += words
    if held:
        yield separator.join(held)
