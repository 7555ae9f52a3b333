"""General rows: what a row of MMLU, HellaSwag, ARC or GSM8K asks, in the words in which lm-eval asks it.

Prompts, options and right answers are those of the tasks of these names in lm-eval 0.4.13 (EleutherAI).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from string import ascii_uppercase
from typing import Any

from telellm.benchmark.questions import LONGEST_TEXT, Dirty
from telellm.records import whole

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GeneralQuestion:
    """A question of general ability."""

    id: str
    """The task's name and the row's digest."""
    statement: str
    """What is asked, for a person to read."""
    prompt: str
    """What a model reads of it."""
    options: tuple[str, ...]
    """Empty: the answer is written, not chosen."""
    endings: tuple[str, ...]
    """What a model may go on with, one for each option."""
    answer: int
    """Number of the right option, from 0."""
    solution: str
    """How an example goes on after its prompt."""
    subject: str = ""

    @property
    def right(self) -> str:
        """The right option, or the answer as it is written."""
        return self.options[self.answer] if self.options else self.solution.strip()


def mmlu(task: str, row: Row) -> GeneralQuestion:
    """`question`, `choices` (four), `answer` (number of the right one), `subject`."""
    question, options = _text(row["question"], "no question").strip(), _texts(row["choices"])
    if len(options) != 4:
        raise Dirty("not four options")
    answer = _number(row["answer"], options)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))
    endings = tuple(f" {letter}" for letter in ascii_uppercase[:4])
    subject = _text(row["subject"], "no subject")
    return _question(task, question, f"{question}\n{lines}\nAnswer:", options, endings, answer, subject)


def hellaswag(task: str, row: Row) -> GeneralQuestion:
    """`activity_label`, `ctx_a`, `ctx_b`, `endings`, `label` (number of the right one; empty in the test split)."""
    beginning, going_on = (_text(row[name], "no text", empty=True) for name in ("ctx_a", "ctx_b"))
    activity = _text(row["activity_label"], "no activity", empty=True)
    prompt = _plain(f"{activity}: {beginning} {going_on.capitalize()}")
    options = tuple(map(_plain, _texts(row["endings"])))
    return _question(task, prompt, prompt, options, None, _number(row["label"], options))


def _plain(text: str) -> str:
    """Return a text without the marks that WikiHow's articles have in HellaSwag."""
    lines = text.strip().replace(" [title]", ". ").split("\n")
    return "\n".join(map(_without_brackets, lines)).replace("  ", " ")


def _without_brackets(line: str) -> str:
    # after the last "]" nothing is one of these marks; to look there from every "[" would take the square of the length
    head, bracket, tail = line.rpartition("]")
    return re.sub(r"\[.*?\]", "", head + bracket) + tail


def arc(task: str, row: Row) -> GeneralQuestion:
    """`question`, `choices` (`text` and `label`, each a list), `answerKey` (one of the labels)."""
    question = _text(row["question"], "no question")
    choices = row["choices"]
    if not isinstance(choices, Mapping) or not isinstance(choices.get("label"), list):
        raise Dirty("no options")
    options, labels = _texts(choices.get("text")), choices["label"]
    if row["answerKey"] not in labels[: len(options)]:
        raise Dirty("no such answer")
    answer = labels.index(row["answerKey"])
    return _question(task, question, f"Question: {question}\nAnswer:", options, None, answer)


def gsm8k(task: str, row: Row) -> GeneralQuestion:
    """`question`, `answer` (its last line is `#### ` and a number)."""
    question, answer = _text(row["question"], "no question"), _text(row["answer"], "no answer")
    if "#### " not in answer:
        raise Dirty("no such answer")
    digest = sha256(f"{question}\0{answer}".encode()).hexdigest()[:16]
    return GeneralQuestion(
        f"{task}_{digest}", question, f"Question: {question}\nAnswer:", (), (), 0, solution=f" {answer}"
    )


def _question(
    task: str,
    statement: str,
    prompt: str,
    options: tuple[str, ...],
    endings: tuple[str, ...] | None,
    answer: int,
    subject: str = "",
) -> GeneralQuestion:
    if len(options) < 2 or not all(options):
        raise Dirty("no options" if len(options) < 2 else "empty option")
    if len(options) > len(ascii_uppercase):
        raise Dirty("too many options")
    endings = endings or tuple(f" {option}" for option in options)
    digest = sha256("\0".join([subject, prompt, *options]).encode()).hexdigest()[:16]
    return GeneralQuestion(
        f"{task}_{digest}", statement, prompt, options, endings, answer, solution=endings[answer], subject=subject
    )


def _text(value: Any, reason: str, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value.strip() or empty):
        raise Dirty(reason)
    if len(value) > LONGEST_TEXT:
        raise Dirty("too long")
    return whole(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Dirty("no options")
    if sum(map(len, value)) > LONGEST_TEXT:
        raise Dirty("too long")
    return tuple(map(whole, value))


def _number(value: Any, options: Sequence[str]) -> int:
    """Return the number of the right option, which some write as text."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 4:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(options):
        raise Dirty("no such answer")
    return value
