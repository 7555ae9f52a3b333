"""Pieces: a document cut at its headings, so that a model reads one clause or section at a time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from telellm.records import Document

HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*?)[ \t]*#*$")
FENCE = re.compile(r"^[ \t]*(```|~~~)")
NUMBERED = re.compile(
    r"^((?:\d{1,2}|[A-Z])(?:\.\d{1,3}){0,5}\.?|(?:Annex|Appendix)\s[A-Z]\.?)[ \t]{1,3}([A-Z][^.]{2,70})$"
)
"""A heading of plain text, as RFCs write them: at the line's beginning, with a number ("5.1  RTP Header")."""
LEFT_OUT = re.compile(
    r"(?:references?|bibliography|(?:table of )?contents|foreword|change history|acknowledge?ments?|index|funding"
    r"|authors?(?:'s?)? addresses|list of (?:acronyms|abbreviations|figures|tables|publications|symbols)|abbreviations"
    r"|acronyms|see also|external links|further reading|notes|intellectual property(?: rights)?"
    r"|full copyright statement|copyright notice|normative references|informative references|revision history)\b",
    re.IGNORECASE,
)
"""Titles of sections that state nothing to ask about."""
SHORTEST = 30
"""A shorter piece says too little (words)."""
LONGEST_CLAUSE = 160
"""A longer heading is cut (characters)."""


@dataclass(frozen=True)
class Piece:
    """A clause or section of a document, or a part of a long one."""

    title: str
    """What the document is called."""
    clause: str
    """The heading above the text, with its number; "" before the first one."""
    text: str

    @property
    def heading(self) -> str:
        """The document's title and the clause."""
        return " > ".join(filter(None, [self.title, self.clause]))


def choose_pieces(document: Document, seed: int, number: int, num_words: int) -> list[Piece]:
    """Return up to `number` pieces (0: all) of at most `num_words` words, drawn by the seed, in their order."""
    found = [piece for piece in pieces(document, num_words) if len(piece.text.split()) >= SHORTEST]
    if not number or len(found) <= number:
        return found
    lots = [sha256(f"{document.id} {seed}\n{piece.clause}\n{piece.text}".encode()).digest() for piece in found]
    drawn = sorted(sorted(range(len(found)), key=lambda at: (lots[at], at))[:number])
    return [found[at] for at in drawn]


def pieces(document: Document, num_words: int) -> Iterator[Piece]:
    """Yield a document's clauses and sections; a longer one than `num_words` is cut between paragraphs, if it has any.

    What only lists references, acronyms or changes is left out.
    """
    title = title_of(document)
    for clause, text in sections(document.content):
        if not is_left_out(clause):
            yield from (Piece(title, clause, part) for part in cut(text, num_words))


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the heading and the text of each section; headings are Markdown, or numbered lines where there are none."""
    lines = list(_lines(text))
    is_markdown = any(HEADING.match(line) for line, in_fence in lines if not in_fence)
    heading = _markdown_heading if is_markdown else _numbered_heading
    clause, held, before = "", list[str](), ""
    for line, in_fence in lines:
        found = "" if in_fence else heading(line, before)
        if found:
            yield clause, "\n".join(held).strip()
            clause, held = found[:LONGEST_CLAUSE], []
        else:
            held.append(line)
        before = line
    yield clause, "\n".join(held).strip()


def cut(text: str, num_words: int) -> Iterator[str]:
    """Yield a text in parts of at most `num_words` words: whole paragraphs, or else lines, or else words."""
    held, length = list[str](), 0
    for block in _blocks(text, num_words):
        words = len(block.split())
        if held and length + words > num_words:
            yield "\n\n".join(held)
            held, length = [], 0
        held.append(block)
        length += words
    if held:
        yield "\n\n".join(held)


def title_of(document: Document) -> str:
    """Return what a document is called: the one heading of the first level at its beginning, or its metadata say it."""
    try:
        title = document.fields.get("title")
    except (ValueError, AttributeError):
        title = None
    found = HEADING.match(document.content.partition("\n")[0])
    others = (line for line, in_fence in _lines(document.content) if not in_fence and line.startswith("# "))
    if found and found[1] == "#" and len(list(islice(others, 2))) == 1:
        title = found[2]
    return title.strip()[:LONGEST_CLAUSE] if isinstance(title, str) else ""


def is_left_out(clause: str) -> bool:
    """Say whether a section of that heading states nothing to ask about ("7 References")."""
    words = re.sub(r"^[\dA-Z]{1,2}(?:\.\d+)*\.?\s+", "", clause).strip(" :*")
    return bool(LEFT_OUT.fullmatch(words))


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it belongs to a block of code."""
    fenced = False
    for line in text.split("\n"):
        is_fence = bool(FENCE.match(line))
        yield line, fenced or is_fence
        fenced = fenced != is_fence


def _markdown_heading(line: str, before: str) -> str:
    found = HEADING.match(line)
    return found[2].strip("* ") if found else ""


def _numbered_heading(line: str, before: str) -> str:
    found = NUMBERED.match(line) if not before.strip() else None
    return f"{found[1]} {found[2].strip()}" if found and len(line) < 80 else ""


def _blocks(text: str, num_words: int) -> Iterator[str]:
    for paragraph in re.split(r"\n[ \t]*\n", text):
        if len(paragraph.split()) <= num_words:
            if paragraph.strip():
                yield paragraph.strip("\n")
            continue
        for line in paragraph.split("\n"):
            words = line.split()
            if len(words) <= num_words:
                if words:
                    yield line
            else:
                for start in range(0, len(words), num_words):
                    yield " ".join(words[start : start + num_words])
