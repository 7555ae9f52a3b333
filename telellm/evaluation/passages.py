"""Passages: what the literature tasks ask about documents that training never saw.

Masked terms and the right sides of equations, each with the text before it, and sentences with others in their place.
All are drawn by lot, the same ones for every model.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest
from random import Random
from typing import TypeVar

from telellm.records import Document

T = TypeVar("T")
ACRONYM = re.compile(r"(?<![\w\\$-])(?=[\w-]*[A-Z][\w-]*[A-Z])[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*(?![\w-])")
"""Such as HARQ, gNB, LTE-A: two capitals at least."""
DEFINED = re.compile(rf"((?:[A-Za-z][\w-]*[ ]){{2,8}})\(({ACRONYM.pattern})s?\)")
"""What may be the long form of the acronym in brackets after it."""
MATHEMATICS = re.compile(r"(?<!\\)(?:\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>(?:[^$\n]|\n(?![ ]*\n))+)\$)")
"""Every formula, however short: a dollar sign that is passed over would make the text between two formulas one."""
SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]][.!?])[ ](?=[A-Z])")
NOT_PROSE = re.compile(r"^\s*(?:#|\||[-*+] |\d+[.)] |```|Table |Figure )|[ ]\|[ ]")
LEAST_BEFORE = 80
"""Characters that stand before what is asked for; with fewer, anything may follow."""
SIDE = (3, 120)
"""Characters of an equation's right side."""
SENTENCE = (40, 400)
"""Characters of a sentence that is asked for."""
MOST_A_DOCUMENT = 50
NEAREST = 8
"""Of how many sentences of like length the others are drawn."""


@dataclass(frozen=True, slots=True)
class Blank:
    """A text that stops where something is to be completed."""

    id: str
    category: str
    before: str
    answer: str


@dataclass(frozen=True, slots=True)
class Next:
    """A text, and sentences of which one follows it in its document; the others are from other documents."""

    id: str
    category: str
    before: str
    options: tuple[str, ...]
    answer: int


def terms(document: Document, characters: int, random: Random) -> list[Blank]:
    """Return places in a document's prose where a term of its own stands: acronyms and what they are short for.

    A term occurs twice in the document at least, and is asked for where it does not begin a sentence.
    """
    found: list[Blank] = []
    known = _terms_of(document.content)
    if not known:
        return found
    words = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w\\$-])(?:{words})(?![\w-])")
    for start, prose in _prose(document.content):
        for match in pattern.finditer(prose):
            ahead = prose[: match.start()]
            inside_formula = ahead.count("$") % 2
            if len(ahead) >= LEAST_BEFORE and re.search(r"[\w,)$][ ]$", ahead) and not inside_formula:
                before = _before(document.content, start + match.start(), characters)
                found.append(Blank(document.id, document.category, before, match[0]))
    return _once_each(found, random)


def equations(document: Document, characters: int, random: Random) -> list[Blank]:
    """Return the equations of a document, up to the equals sign; what follows it is to be completed."""
    found = []
    for match in MATHEMATICS.finditer(document.content):
        kind = "display" if match["display"] else "inline"
        left, sign, right = match[kind].partition("=")
        right = right.strip().rstrip(".,;").strip()
        plain = not re.search(r"[<>:\\]$", left.strip()) and not re.search(r"\\begin|\\\\|&|\\label", match[kind])
        if sign and left.strip() and plain and SIDE[0] <= len(right) <= SIDE[1]:
            place = match.start(kind) + len(left) + 1
            if place >= LEAST_BEFORE:
                before = _before(document.content, place, characters)
                found.append(Blank(document.id, document.category, before, right))
    return _once_each(found, random)


def continuations(
    documents: Sequence[Document], characters: int, num_options: int, number: int, random: Random
) -> list[Next]:
    """Return `number` places in the documents' prose with the sentence that follows, among `num_options`.

    The others are of about the same length and, where there are enough, from documents of the same category.
    """
    pools: dict[str, list[tuple[str, str]]] = defaultdict(list)
    places: list[list[tuple[Document, str, str]]] = []
    for document in documents:
        own = [(document, before, sentence) for before, sentence in _sentences(document.content, characters)]
        random.shuffle(own)
        places.append(own[:MOST_A_DOCUMENT])
        pools[document.category] += [(document.id, sentence) for _, _, sentence in places[-1]]
    everything = [entry for pool in pools.values() for entry in pool]
    found = []
    for document, before, right in spread(places, number):
        for pool in (pools[document.category], everything):
            others = {text for name, text in pool if name != document.id and text != right}
            if len(others) >= num_options - 1:
                nearest = sorted(others, key=lambda text: (abs(len(text) - len(right)), text))
                options = [right, *random.sample(nearest[: max(NEAREST, num_options - 1)], num_options - 1)]
                random.shuffle(options)
                found.append(Next(document.id, document.category, before, tuple(options), options.index(right)))
                break
    return found


def spread(groups: Sequence[Sequence[T]], number: int) -> list[T]:
    """Return `number` items, the first of each group, then the second of each, and so on."""
    missing = object()
    in_turn = (item for item in chain.from_iterable(zip_longest(*groups, fillvalue=missing)) if item is not missing)
    return [item for item, _ in zip(in_turn, range(number), strict=False)]  # type: ignore[misc]


def draw_documents(documents: Iterator[Document], number: int, lot: Callable[[str], str]) -> list[Document]:
    """Return `number` documents (0: all), evenly over the categories; memory holds `number` of each at most."""
    kept: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        group = kept[document.category]
        group.append(document)
        if number and len(group) > 2 * number:
            kept[document.category] = sorted(group, key=lambda one: lot(one.id))[:number]
    groups = [sorted(kept[name], key=lambda one: lot(one.id)) for name in sorted(kept)]
    return spread(groups, number or sum(map(len, groups)))


def _terms_of(content: str) -> set[str]:
    counts = Counter(match[0] for match in ACRONYM.finditer(content))
    for match in DEFINED.finditer(content):
        if meant := long_form(match[2], match[1].rstrip()):
            counts[meant] = content.count(meant)
    return {term for term, number in counts.items() if number > 1}


def long_form(acronym: str, before: str) -> str:
    """Return the words at the end of a text that an acronym is short for; empty where there are none.

    Its letters are sought from the last to the first, which must begin a word.
    Source: Schwartz and Hearst, A Simple Algorithm for Identifying Abbreviation Definitions (2003).
    """
    place = len(before)
    for number, letter in reversed(list(enumerate(filter(str.isalnum, acronym.lower())))):
        place -= 1
        while place >= 0 and (
            before[place].lower() != letter or (not number and place and before[place - 1].isalnum())
        ):
            place -= 1
        if place < 0:
            return ""
    found = before[place:]
    return found if " " in found and acronym not in found else ""


def _prose(content: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs that are prose, each with the place where it begins."""
    bounds = [0, *(match.end() for match in re.finditer(r"\n+", content)), len(content)]
    for start, end in pairwise(bounds):
        if not NOT_PROSE.search(content[start:end]):
            yield start, content[start:end].rstrip()


def _sentences(content: str, characters: int) -> Iterator[tuple[str, str]]:
    """Yield the sentences that follow another in a paragraph, each with the text before it."""
    for start, prose in _prose(content):
        bounds = [match.end() for match in SENTENCE_END.finditer(prose)]
        for begin, end in pairwise([*bounds, len(prose)]):
            sentence = prose[begin:end].strip()
            if begin >= LEAST_BEFORE and SENTENCE[0] <= len(sentence) <= SENTENCE[1]:
                yield _before(content, start + begin, characters), sentence


def _before(content: str, place: int, characters: int) -> str:
    """Return the text before a place, from the beginning of a word on."""
    start = max(0, place - characters)
    text = content[start:place]
    if start and not content[start - 1].isspace():
        text = text.partition(" ")[2]
    return text.strip()


def _once_each(found: list[Blank], random: Random) -> list[Blank]:
    """Return the places in a drawn order, of each answer one; no more than a document's share."""
    random.shuffle(found)
    return list({blank.answer: blank for blank in found}.values())[:MOST_A_DOCUMENT]
