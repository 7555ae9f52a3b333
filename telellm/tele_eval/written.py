"""The paper's way: a capable model reads a piece of a document and writes questions, answers, kinds and evidence.

What it writes must have one form, without quoting or escapes, so that formulas survive: items of four labelled fields
(`Kind:`, `Question:`, `Answer:`, `Evidence:`), or the word NONE. Whatever has another form is counted, never guessed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from telellm.lm.prompts import load_prompt
from telellm.recipe import Draft
from telellm.records import Document, Question, Rejected
from telellm.tele_eval.pieces import Piece, choose_pieces
from telellm.tele_eval.rules import objection, overlap, strays

PROMPTS = Path(__file__).parent / "prompts"
LABELS = ("Kind", "Question", "Answer", "Evidence")
LABEL = re.compile(rf"^({'|'.join(LABELS)}):[ \t]*(.*)$")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
CHARACTERS_PER_TOKEN = 16
"""A longer text than this many characters a token is none that was asked for."""
KEPT_CHARACTERS = 2000
"""Of what is unparseable, so much is kept to read."""
FOREIGN_SHARE = 0.5
"""A question of whose words so many are foreign to its piece is about something else."""
LIKE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\u00a0": " ", "…": "."})


@dataclass(frozen=True)
class Item:
    """What the model wrote about a piece, parsed."""

    kind: str
    question: str
    answer: str
    evidence: str


class Pieces:
    """Asks a model for several questions about each chosen piece of a document."""

    stop: Sequence[str] = ()

    def __init__(self, settings: Draft, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.prompt = load_prompt(PROMPTS, settings.pieces_prompt)
        self.max_tokens = settings.max_answer_tokens

    def subjects(self, document: Document) -> list[Piece]:
        """Return the pieces that are asked about."""
        return choose_pieces(document, self.seed, self.settings.pieces_per_document, self.settings.piece_words)

    def fill(self, piece: Piece) -> str:
        """Return what the model is asked about a piece."""
        return self.prompt.fill(
            {
                "number": str(self.settings.questions_per_piece),
                "kinds": ", ".join(self.settings.kinds),
                "heading": piece.heading or "(no heading)",
                "text": piece.text,
            }
        )

    def read(self, document: str, piece: Piece, text: str) -> Iterator[Question | Rejected]:
        """Yield the questions in what the model wrote, and what it wrote that is not fit."""
        is_endless = len(text) > CHARACTERS_PER_TOKEN * self.max_tokens
        items, broken = ([], [text]) if is_endless else parse_items(text, self.settings.kinds)
        for rest in broken:
            written = {"id": document, "clause": piece.clause, "written": rest[:KEPT_CHARACTERS]}
            yield Rejected(written, "unparseable", f"{len(rest):,} characters")
        for number, item in enumerate(items):
            question = Question(item.question, item.answer, document, item.kind, item.evidence, "", piece.clause)
            if number >= self.settings.questions_per_piece:
                yield Rejected(question, "more questions than asked for")
                continue
            span = find_span(item.evidence, piece.text)
            reason = "evidence is not in the document" if span is None else self._objection(question, piece)
            yield Rejected(question, reason) if reason else replace(question, evidence=span or "")

    def _objection(self, question: Question, piece: Piece) -> str:
        settings = self.settings
        lengths = (settings.minimum_answer_words, settings.maximum_answer_words)
        reason = objection(question.statement, question.answer, lengths)
        source = f"{piece.heading}\n{piece.text}"
        if not reason and overlap(question.answer, source) < settings.minimum_overlap:
            return "answer is not in the document"
        if not reason and strays(question.statement, source, FOREIGN_SHARE):
            return "question is not about the document"
        return reason


def parse_items(text: str, kinds: Sequence[str]) -> tuple[list[Item], list[str]]:
    """Return the items in what a model wrote, and the parts that are none; NONE is neither.

    An item begins with a line `Kind:`; a field goes on to the next label, the evidence to an empty line.
    """
    if text.strip().rstrip(".") == "NONE":
        return [], []
    blocks: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.startswith("Kind:"):
            blocks.append([])
        blocks[-1].append(line)
    before, *found = ["\n".join(block) for block in blocks]
    parsed = [(block, _parse_item(block, kinds)) for block in found]
    broken = [block for block, item in parsed if item is None] or ([before] if not found else [])
    return [item for _, item in parsed if item is not None], broken


def _parse_item(block: str, kinds: Sequence[str]) -> Item | None:
    fields: list[tuple[str, list[str]]] = []
    for line in block.rstrip().split("\n"):
        label = LABEL.match(line)
        if label:
            fields.append((label[1], [label[2]]))
        elif fields[-1][0] == "Evidence" and not line.strip():
            break  # what follows is a remark
        else:
            fields[-1][1].append(line)
    if tuple(name for name, _ in fields) != LABELS:
        return None
    kind, question, answer, evidence = ("\n".join(lines).strip() for _, lines in fields)
    if kind not in kinds or not question or not answer or not evidence or CONTROL.search(block):
        return None
    return Item(kind, " ".join(question.split()), answer, evidence)


def find_span(evidence: str, text: str) -> str | None:
    """Return the part of a text that the evidence quotes, whatever its spaces, capitals and quotation marks."""
    wanted, _ = _plain(evidence.strip().strip("\"'“”"))
    found, places = _plain(text)
    at = found.find(wanted)
    if at < 0 or len(wanted.split()) < 3:
        return None
    return text[places[at] : places[at + len(wanted) - 1] + 1]


def _plain(text: str) -> tuple[str, list[int]]:
    """Return a text in small letters with single spaces, and where each of its characters stood."""
    letters, places = list[str](), list[int]()
    for at, letter in enumerate(text.translate(LIKE)):
        if letter.isspace():
            if letters and letters[-1] != " ":
                letters.append(" ")
                places.append(at)
        else:
            small = letter.lower()
            letters.extend(small)
            places.extend([at] * len(small))
    plain = "".join(letters)
    return plain.rstrip(), places
