"""Passages: which sentences of a document are facts worth asking about, and what stands around them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from telellm.tele_eval.pieces import is_left_out, sections
from telellm.tele_eval.rules import content_words, leans

ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|cf|vs|al|approx|ca|Figs?|Eqs?|Sec|Nos?|Ref|Dr|Mr|Ms|St|[A-Z])\.$")
BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9$])")
FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)")
NOT_PROSE = re.compile(r"^\s*(?:#|\||```|\$\$|\\\[|\\begin|[-*•+]\s|\d+[.)]\s|>|\[)")
WRAPPED_WIDTH = 45
"""A line at least this long that ends in no full stop goes on in the next (characters)."""

AMOUNT = r"\d[\d.,]*\s?(?:%|per\s?cent|[a-zµ°Ω]*Hz|[kMGT]?bit|[A-Za-zµ]|°)"
VALUE = re.compile(
    r"\b(?:is|are|was|has|have|lasts?|takes?|uses?|carr(?:y|ies)|occup(?:y|ies)|costs?|needs?|reach(?:es)?|equals?|holds?"
    r"|amounts? to|contains?|of|gains?|gives?|allows?|supports?|limited to|expires? after|with|at|to|by)"
    rf"\s(?:about|around|at most|at least|only|up to|roughly|some|nearly|exactly|no more than|commonly)?\s?{AMOUNT}"
)
DEFINITION = re.compile(
    r"^(?!What\b|There\b|It\b|In\b|At\b|On\b|For\b|With\b|As\b|If\b|When\b|To\b)"
    r"(?P<subject>(?:(?:An?|The)\s)?[^\s,;:.]+(?:\s(?!which\b|that\b|when\b|is\b|are\b)[^\s,;:.]+){0,6})"
    r"\s(?P<verb>is|are)\s(?:called\s)?(?:an?|the)\s(?!reason|same|only|result|most|more|case|cause|problem|price|rule)"
)
REASON = re.compile(
    r"\bbecause\b|\b(?:in order to|due to|owing to)\b|,\ssince\b|^Since\s(?!\d|release|about|then|January|February"
    r"|March|April|May|June|July|August|September|October|November|December)[^,]+,",
    re.I,
)
"""A reason; not a time since when something is so."""
SUPERLATIVE = re.compile(
    r"^The\s(?:(?:most|least|only|main|first|last)\s[\w-]+|[\w-]+est)\s[\w-]+(?:\s[\w-]+)?$", re.IGNORECASE
)
"""The subject of a sentence that says of what only in the one before it ("The simplest form is …")."""
ACRONYM = re.compile(r"\b[A-Z][A-Z0-9-]+\b")
PROCEDURE = re.compile(
    r"\b(?:sends?|requests?|responds?|replies|starts?|stops?|restarts?|selects?|reports?|forwards?|releases?|measures?|decides?"
    r"|transmits?|establish(?:es)?|returns?|retransmits?|discards?|replaces?|acknowledges?|enters?|leaves?|applies|informs?|moves?|answers?|checks?)\b"
)
CONDITION = re.compile(
    r"^(?:When|If|After|Once|On|Upon|Before|Whenever)\b|\b(?:when|if|after|before|until|whenever|once)\b"
)
WORTH = {"definition": 5, "reason": 5, "procedure": 4, "value": 3, "other": 0}
"""How well questions can be asked about a kind of fact."""
LONG_FACT = 26
"""A longer fact states more than one thing (words)."""


@dataclass(frozen=True)
class Passage:
    """A piece of prose and the sentence in it that states a fact."""

    text: str
    fact: str
    kind: str
    clause: str = ""
    """The heading that it stands under."""


def choose_passages(text: str, key: str, number: int, num_words: int, lengths: tuple[int, int]) -> list[Passage]:
    """Return the passages of a document that state the clearest facts, in their order in the document.

    `key` decides between equals, `num_words` is a passage's length, `lengths` bounds a fact's (words). A paragraph
    gives one passage before any gives a second. Sections that only list references or acronyms give none.
    """
    ranked = []
    found_in = [
        (clause, paragraph)
        for clause, section in sections(text)
        if not is_left_out(clause)
        for paragraph in paragraphs(section)
    ]
    for at, (clause, paragraph) in enumerate(found_in):
        parts = sentences(paragraph)
        found = []
        for position, sentence in enumerate(parts):
            worth = _worth(sentence, lengths)
            if worth > 0:
                chance = sha256(f"{key}\n{sentence}".encode()).hexdigest()
                found.append((-worth, chance, position))
        for turn, (worth, chance, position) in enumerate(sorted(found)):
            around = _around(parts, position, num_words)
            passage = Passage(around, parts[position], kind_of(parts[position]), clause)
            ranked.append((turn, worth, chance, (at, position), passage))
    chosen = sorted(ranked, key=lambda item: item[:3])[:number]
    return [item[-1] for item in sorted(chosen, key=lambda item: item[3])]


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of prose: no headings, tables, lists, code or display formulas."""
    for block in re.split(
        r"\n\s*\n", re.sub(r"```.*?(?:```|\Z)|\$\$.*?\$\$|\\\[.*?\\\]", "\n\n", text, flags=re.DOTALL)
    ):
        parts: list[str] = []
        for line in block.split("\n"):
            if NOT_PROSE.match(line) or not line.strip():
                parts.append("")
            elif parts and parts[-1] and _goes_on(parts[-1], line.strip()):
                parts[-1] += f" {line.strip()}"
            else:
                parts.append(line.strip())
        yield from (part for part in parts if part.endswith((".", "!", "?")) and len(part.split()) >= 8)


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences; stops within formulas and abbreviations do not count."""
    hidden = [match.span() for match in FORMULA.finditer(paragraph)]
    found, start = [], 0
    for match in BOUNDARY.finditer(paragraph):
        inside = any(begin < match.start() < end for begin, end in hidden)
        if inside or ABBREVIATION.search(paragraph[: match.start()]):
            continue
        found.append(paragraph[start : match.end()].strip())
        start = match.end()
    return [sentence for sentence in [*found, paragraph[start:].strip()] if sentence]


def kind_of(sentence: str) -> str:
    """Return what a sentence states: definition, reason, procedure, value or other."""
    definition = DEFINITION.search(sentence)
    if definition:
        return "other" if SUPERLATIVE.match(definition["subject"]) else "definition"
    if REASON.search(sentence):
        return "reason"
    if PROCEDURE.search(sentence) and CONDITION.search(sentence):
        return "procedure"
    return "value" if VALUE.search(sentence) else "other"


def beginning(passage: Passage) -> str:
    """Return how the question about a passage's fact begins; for a definition, with what it defines."""
    definition = DEFINITION.search(passage.fact) if passage.kind == "definition" else None
    if definition:
        subject = re.sub(r"^(?:An?|The)\b", lambda match: match[0].lower(), definition["subject"])
        return f"What {definition['verb']} {subject}"
    return {"reason": "Why", "value": "How"}.get(passage.kind, "What")


def _worth(sentence: str, lengths: tuple[int, int]) -> int:
    """Return how clear a fact a sentence states; 0 for none."""
    words = sentence.split()
    if not lengths[0] <= len(words) <= lengths[1] or not sentence.endswith(".") or leans(sentence):
        return 0
    if not sentence[0].isupper() or len(content_words(sentence)) < 5 or len(FORMULA.findall(sentence)) > 1:
        return 0
    if "\\" in sentence or sentence.count("(") != sentence.count(")"):
        return 0
    worth = WORTH[kind_of(sentence)]
    if not worth:
        return 0
    several = sum(mark in sentence for mark in ";:") + (sentence.count(",") > 2) + (len(words) > LONG_FACT)
    return max(2 * worth + bool(ACRONYM.search(sentence)) - 2 * several, 1)


def _around(parts: list[str], position: int, num_words: int) -> str:
    """Return a sentence with those before and after it, up to a number of words."""
    first = last = position
    length = len(parts[position].split())
    while True:
        before = len(parts[first - 1].split()) if first else None
        after = len(parts[last + 1].split()) if last + 1 < len(parts) else None
        if before is not None and length + before <= num_words:
            first, length = first - 1, length + before
        elif after is not None and length + after <= num_words:
            last, length = last + 1, length + after
        else:
            return " ".join(parts[first : last + 1])


def _goes_on(line: str, following: str) -> bool:
    if line.endswith((".", "!", "?", ":", ";")) and len(line) < WRAPPED_WIDTH:
        return False
    return following[0].islower() or (WRAPPED_WIDTH <= len(line) < 90 and not line.endswith((":", ";")))
