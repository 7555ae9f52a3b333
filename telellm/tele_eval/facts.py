"""Facts: rules pick a sentence that states a fact, which is the answer; the model only words the question.

What a model of 135 million parameters can do. The rules here hold question and fact together.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from telellm.lm.prompts import load_prompt
from telellm.recipe import Draft
from telellm.records import Document, Question, Rejected
from telellm.tele_eval.passages import Passage, beginning, choose_passages
from telellm.tele_eval.rules import NUMBER_WORDS, STOP_WORDS, content_words, objection, overlap, stem, strays

PROMPTS = Path(__file__).parent / "prompts"
FOREIGN_SHARE = 0.25
"""A question of whose words so many are foreign to the fact asks for something else."""
RELATIONS = frozenset(
    {"purpose", "difference", "advantage", "benefit", "role", "meaning", "effect", "importance", "maximum", "minimum"}
)
"""What a question may ask about only where the answer names it."""
COUNTED = re.compile(
    rf"(?<![\w.])(\d[\d.,]*|{'|'.join(sorted(NUMBER_WORDS))})[ -]?([^\W\d_][\w/-]*)(?:\s([^\W\d_][\w/-]*))?",
    re.IGNORECASE,
)
"""A number, its unit or noun, and the word after it ("22 systematic columns")."""
HOW_DOES = re.compile(r"^How\s(?:do|does|did|is|are|can)\b|^How\smany\s\d", re.IGNORECASE)
MANNER = re.compile(r"\b(?:by|using|through|via|with the help of)\b", re.IGNORECASE)
"""How something is done is told by means of one of these; "how many 20 km" asks nothing."""
HOW_MANY = re.compile(r"^How\smany\s(?:[\w-]+\s){0,2}?([\w/-]*(?:s|Hz))\b", re.IGNORECASE)
HOW_MANY_BEGINS = re.compile(r"^How\smany\b", re.IGNORECASE)
REASON_CLAUSE = re.compile(
    r"^(?:Since|Because|As)\s(?P<before>[^,]+),\s(?P<after_it>.+)$"
    r"|^(?:Due to|Owing to|In order to)\s(?P<ground>[^,]+),\s(?P<after_ground>.+)$"
    r"|^(?P<main>.+?),?\s(?:because|since|due to|owing to|in order to)\s(?P<reason>.+)$",
    re.IGNORECASE,
)
"""A sentence that gives a reason: what it explains, and the reason."""
WHAT_IS = re.compile(r"^What\s(?:is|are)\b", re.IGNORECASE)
"""What happens and when is no answer to what something is."""
NEGATION = re.compile(r"\b(?:not|no|never|cannot|without)\b|n't\b", re.IGNORECASE)
DOES = re.compile(r"^What\s(?:do|does|did)\b", re.IGNORECASE)


class Facts:
    """Asks a model for one question about each chosen fact of a document."""

    stop: Sequence[str] = ("\n",)

    def __init__(self, settings: Draft, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.prompt = load_prompt(PROMPTS, settings.facts_prompt)
        self.max_tokens = settings.max_question_tokens

    def subjects(self, document: Document) -> list[Passage]:
        """Return the facts that are asked about, each with what stands around it."""
        settings = self.settings
        lengths = (settings.minimum_answer_words, settings.maximum_answer_words)
        found = choose_passages(
            document.content,
            f"{document.id} {self.seed}",
            settings.passages_per_document,
            settings.passage_words,
            lengths,
        )
        return [passage for passage in found if passage.kind in settings.kinds]

    def fill(self, passage: Passage) -> str:
        """Return what the model is asked about a fact."""
        return self.prompt.fill({"passage": passage.text, "answer": passage.fact, "begin": beginning(passage)})

    def read(self, document: str, passage: Passage, text: str) -> Iterator[Question | Rejected]:
        """Yield the question in what the model wrote, if it is fit."""
        question = Question(
            parse_question(text), passage.fact, document, passage.kind, passage.text, "", passage.clause
        )
        lengths = (self.settings.minimum_answer_words, self.settings.maximum_answer_words)
        reason = "" if question.statement else "unparseable"
        reason = reason or objection(question.statement, question.answer, lengths)
        told = content_words(question.answer)
        if not reason and len(told - content_words(question.statement)) < max(2, 0.3 * len(told)):
            reason = "question gives its answer away"
        if not reason and misses(question.statement, passage):
            reason = "question is not about the answer"
        if not reason and overlap(question.answer, passage.text) < self.settings.minimum_overlap:
            reason = "answer is not in the document"
        yield Rejected(question, reason) if reason else question


def parse_question(answer: str) -> str:
    """Return the question in what a model wrote: its first sentence that ends in a question mark, or ""."""
    line = answer.strip().removeprefix("Question:").strip().strip('"*').strip()
    end = line.find("?")
    return line[: end + 1].strip() if end > 0 else ""


def misses(statement: str, passage: Passage) -> bool:
    """Say whether a question asks for something else than its fact states."""
    fact = passage.fact
    asked, told = content_words(statement), content_words(fact)
    wanted = _in_words(beginning(passage))
    if passage.kind == "definition" and _in_words(statement)[: len(wanted)] != wanted:
        return True
    if HOW_DOES.match(statement) and not MANNER.search(fact):
        return True
    if DOES.match(statement) and len(asked) < 3:
        return True
    if passage.kind == "procedure" and WHAT_IS.match(statement):
        return True
    if NEGATION.search(statement) and not NEGATION.search(fact):
        return True
    if not asked & RELATIONS <= told:
        return True
    return strays(statement, fact, FOREIGN_SHARE) or miscounts(statement, fact) or gives_reason(statement, fact)


def _in_words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]


def gives_reason(statement: str, fact: str) -> bool:
    """Say whether a question that begins with Why tells the reason itself, or asks for what the reason explains."""
    found = REASON_CLAUSE.match(fact) if statement.startswith("Why") else None
    if found is None:
        return False
    parts = found.groupdict()
    reason = content_words(parts["before"] or parts["ground"] or parts["reason"] or "")
    explained = content_words(parts["after_it"] or parts["after_ground"] or parts["main"] or "")
    asked = content_words(statement)
    only_reason, only_explained = reason - explained, explained - reason
    return 2 * len(asked & only_reason) >= max(len(only_reason), 1) or (
        bool(only_explained) and not asked & only_explained
    )


def miscounts(statement: str, answer: str) -> bool:
    """Say whether a question asks how many of what the answer does not count, or pairs a number with another unit."""
    counted = [(match[1].casefold(), stem(match[2].casefold())) for match in COUNTED.finditer(answer)]
    counted += [(match[1].casefold(), stem(match[3].casefold())) for match in COUNTED.finditer(answer) if match[3]]
    asked = HOW_MANY.match(statement)
    if not asked and HOW_MANY_BEGINS.match(statement):
        return True
    if asked:
        thing = stem(asked[1].casefold())
        if thing not in [unit for _, unit in counted] or thing in content_words(statement[asked.end() :]):
            return True
    paired = [(match[1].casefold(), match[2].casefold()) for match in COUNTED.finditer(statement)]
    return any((number, stem(unit)) not in counted for number, unit in paired if unit not in STOP_WORDS)
