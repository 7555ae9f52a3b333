"""Benchmark questions: what the rows of a benchmark file ask, read leniently to scan and strictly to score.

Decontamination takes every question that it can find in a file, with its correct option; scoring takes only the rows
that are a question with several options of which one is right, and counts the others by reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from telellm.benchmark.files import QUESTION_FIELDS, NotJson, find_files, read_rows
from telellm.recipe import Benchmark, RecipeError
from telellm.records import whole
from telellm.store import sha256_file

LABEL = re.compile(r"\(?(\d{1,2}|[A-Za-z])[.):](?!\d)\s*")
"""What may stand before an option: "3." or "(B)", but not the beginning of "2.4 GHz"."""
NAMED = re.compile(r"\(?(?:option[ _]?)?(\d{1,2}|[A-Za-z])\b[.):]?(.*)", re.DOTALL | re.IGNORECASE)
"""How an answer names an option: "3", "B", "option 3: its text"."""
OPTION_FIELD = re.compile(r"option[ _]?(\d{1,2})")
LONGEST_TEXT = 2**16
"""A longer question is none that a model can be asked (characters)."""
NAMES_OTHERS = re.compile(
    r"\b(?:all|none|both|neither|any|either)\b.{0,12}\b(?:above|below|these|options?|of them|the others?)\b"
    r"|\boptions?\s*\(?(?:\d|[A-E]\b)|(?-i:\b[A-E]\s*(?:and|&|or)\s*[A-E]\b)",
    re.IGNORECASE,
)
"""An option that speaks of the others by their places ("all of the above", "options 1 and 2")."""


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with options of which one is right."""

    id: str
    """The benchmark's name and the row's digest."""
    statement: str
    options: tuple[str, ...]
    answer: int
    """Number of the right option, from 0."""
    fixed: bool
    """Whether an option speaks of the others' places, so that their order may not change."""


@dataclass(frozen=True)
class ChoiceQuestions:
    """What a benchmark holds: the questions, and the rows that are none by reason."""

    questions: list[ChoiceQuestion]
    skipped: Counter[str]
    num_rows: int


class Dirty(ValueError):
    """A row is no multiple choice question; the message is the reason, one of few."""


def read_choices(benchmark: Benchmark, seed: int) -> ChoiceQuestions:
    """Read a benchmark's files; `seed` draws `max_questions` of them.

    Raises `RecipeError` where the files cannot be read or hold no question.
    """
    field = f"evaluation.multiple_choice: {benchmark.name}"
    files = find_files(benchmark.path, field)
    rows = (row for path in files for row in read_rows(path, field, benchmark.password_variable))
    found = to_choices(rows, benchmark.format, benchmark.name)
    if not found.questions:
        why = ", ".join(f"{reason} {number}" for reason, number in found.skipped.most_common())
        raise RecipeError(
            f'{field}: {benchmark.path} holds no multiple choice question of the format "{benchmark.format}"'
            f" ({why or 'it is empty'})\n  known formats: {', '.join(FORMATS)}"
        )
    if not benchmark.max_questions:
        return found
    drawn = sorted(found.questions, key=lambda question: sha256(f"{seed}\n{question.id}".encode()).digest())
    return ChoiceQuestions(drawn[: benchmark.max_questions], found.skipped, found.num_rows)


def to_choices(rows: Iterator[Any], form: str, name: str) -> ChoiceQuestions:
    """Return the questions among the rows, and the number of the others by reason; nothing is raised."""
    questions: dict[str, ChoiceQuestion] = {}
    skipped: Counter[str] = Counter()
    num_rows = 0
    for row in rows:
        num_rows += 1
        try:
            if isinstance(row, NotJson):
                raise Dirty("not JSON")
            statement, options, answer = FORMATS[form](row)
            question = _question(name, statement, options, answer)
            if question.id in questions:
                raise Dirty("asked before")
        except Dirty as reason:
            skipped[str(reason)] += 1
        else:
            questions[question.id] = question
    return ChoiceQuestions(list(questions.values()), skipped, num_rows)


def read_texts(path: Path, field: str, password_variable: str = "") -> Iterator[str]:
    """Yield the test texts of a benchmark file: each question with its correct option, where it says which.

    A row is an object (`question`, `options`/`choices`, `answer`) or a list `[question, options, answer]`; one
    without options is a question too, and a broken line is taken as it is. Raises `RecipeError`.
    """
    num_questions, broken = 0, ""
    for row in read_rows(path, field, password_variable):
        if isinstance(row, NotJson):
            broken = broken or f" (line {row.line} is not JSON)"
            yield row.text
            continue
        question, options, answer = _parts(row)
        if question:
            num_questions += 1
            yield f"{question} {_correct(options, answer) or ''}".strip()
    if not num_questions:
        raise RecipeError(
            f"{field}: {path} holds no questions{broken}\n"
            '  write objects with "question", "options" and "answer", or lists [question, options, answer]'
        )


def benchmark_digest(benchmark: Benchmark) -> list[str]:
    """Return what changes when a benchmark's files, or the way in which they are read, do."""
    files = find_files(benchmark.path, f"evaluation.multiple_choice: {benchmark.name}")
    return [*reader_digest(), *(sha256_file(path) for path in files)]


def reader_digest() -> list[str]:
    """Return the digests of the code that reads benchmarks."""
    return [sha256_file(Path(__file__).with_name(f"{name}.py")) for name in ("files", "questions")]


def _question(name: str, statement: Any, options: list[Any], answer: int | None) -> ChoiceQuestion:
    if not isinstance(statement, str) or not statement.strip():
        raise Dirty("no question")
    if len(options) < 2:
        raise Dirty("no options")
    if len(options) > len(ascii_uppercase):
        raise Dirty("too many options")
    if not all(isinstance(option, str | int | float) and not isinstance(option, bool) for option in options):
        raise Dirty("option is not text")
    texts = [whole(text).strip() for text in _without_labels(options)]
    if not all(texts):
        raise Dirty("empty option")
    if len({" ".join(text.casefold().split()) for text in texts}) < len(texts):
        raise Dirty("two options are alike")
    if answer is None:
        raise Dirty("no such answer")
    if len(statement) + sum(map(len, texts)) > LONGEST_TEXT:
        raise Dirty("too long")
    statement = whole(statement).strip()
    digest = sha256("\0".join([statement, *texts]).encode()).hexdigest()[:16]
    fixed = any(NAMES_OTHERS.search(text) for text in texts)
    return ChoiceQuestion(f"{name}_{digest}", statement, tuple(texts), answer, fixed)


Asked = tuple[Any, list[Any], int | None]
"""Question, options and number of the right one (None: the row names none)."""


def _teleqna(row: Any) -> Asked:
    """`{"question": …, "option 1": …, "answer": "option 2: …"}`."""
    if not isinstance(row, dict):
        raise Dirty("not an object")
    numbered = _numbered(row)
    options = list(numbered.values())
    question, _, answer = _parts(row)
    named = re.match(r"\s*option[ _]?(\d{1,2})\s*(?::\s*(.*))?$", str(answer), re.DOTALL | re.IGNORECASE)
    if not named or int(named[1]) not in numbered:
        return question, options, None
    said = (named[2] or "").strip()
    if said != str(numbered[int(named[1])]).strip() and said in [str(option).strip() for option in options]:
        raise Dirty("the answer names one option and says another")
    return question, options, list(numbered).index(int(named[1]))


def _oranbench(row: Any) -> Asked:
    """`["question", ["1. …", "2. …"], "2"]`, one a line."""
    if not isinstance(row, list) or not row:
        raise Dirty("not a list")
    question, options, answer = row[0], row[1] if len(row) > 1 else None, row[-1]
    if not isinstance(options, list):
        raise Dirty("no options")
    return question, options, _place(options, str(answer) if isinstance(answer, int) else answer, from_one=True)


def _srsranbench(row: Any) -> Asked:
    """Rows as in ORAN-Bench, or as in Open-Telco."""
    return _oranbench(row) if isinstance(row, list) else _open_telco(row)


def _open_telco(row: Any) -> Asked:
    """`{"question": …, "choices": […], "answer": 1}`, counted from 0."""
    if not isinstance(row, dict):
        raise Dirty("not an object")
    question, options, answer = _parts(row)
    if isinstance(answer, str) and answer.strip().isdecimal():
        answer = int(answer) if len(answer) < 4 else None
    return question, options, _place(options, answer, from_one=False)


def _generic(row: Any) -> Asked:
    """Any of these: a whole number counts from 0, a text names an option by its label, number from 1, or words."""
    if not isinstance(row, dict | list):
        raise Dirty("not an object or a list")
    question, options, answer = _parts(row)
    return question, options, _place(options, answer, from_one=False)


FORMATS: dict[str, Callable[[Any], Asked]] = {
    "teleqna": _teleqna,
    "oranbench": _oranbench,
    "srsranbench": _srsranbench,
    "open-telco": _open_telco,
    "generic": _generic,
}


def _parts(row: Any) -> tuple[str, list[Any], Any]:
    """Return question, options and answer of a row, however they are called."""
    if isinstance(row, list) and row:
        question = row[0] if isinstance(row[0], str) else ""
        return question, row[1] if len(row) > 1 and isinstance(row[1], list) else [], row[-1]
    if not isinstance(row, dict):
        return "", [], None
    lowered = {str(key).lower(): value for key, value in row.items()}
    texts = (lowered.get(key) for key in QUESTION_FIELDS)
    question = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    options = lowered.get("options") or lowered.get("choices") or []
    if isinstance(options, dict):
        options = options.get("text", list(options.values()))
    if not isinstance(options, list) or not options:
        options = list(_numbered(row).values())
    return question, options, lowered.get("answer")


def _numbered(row: dict[Any, Any]) -> dict[int, Any]:
    """Return the options of a row with a field for each, by their numbers."""
    found = {int(match[1]): row[key] for key in row if (match := OPTION_FIELD.fullmatch(str(key).lower()))}
    return {number: found[number] for number in sorted(found) if found[number] is not None}


def _correct(options: list[Any], answer: Any) -> str | None:
    """Return the correct option's text without its label, or the answer itself where there are no options."""
    if not options:
        return str(answer) if answer is not None else None
    if (place := _place(options, answer, from_one=False)) is not None:
        return _without_labels(options)[place]
    named = NAMED.fullmatch(str(answer).strip())
    return (named[2].strip() or None) if named else None


def _place(options: list[Any], answer: Any, *, from_one: bool) -> int | None:
    """Return the number of the option that an answer names, from 0; `from_one`: what its whole numbers count from."""
    if isinstance(answer, bool):
        return None
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, int):
        place = answer - from_one
        return place if 0 <= place < len(options) else None
    if not isinstance(answer, str):
        return None
    texts = [str(option).strip() for option in options]
    if answer.strip() in texts:
        return texts.index(answer.strip())
    bare = _without_labels(options)
    if answer.strip() in bare:
        return bare.index(answer.strip())
    named = NAMED.fullmatch(answer.strip())
    if not named or (named[2].strip() and named[2].strip() not in bare):
        return None
    labels = [found[1].upper() if (found := LABEL.match(text)) else "" for text in texts]
    if named[1].upper() in labels:
        return labels.index(named[1].upper())
    place = int(named[1]) - 1 if named[1].isdecimal() else ascii_uppercase.find(named[1].upper())
    return place if 0 <= place < len(options) else None


def _without_labels(options: list[Any]) -> list[str]:
    """Return the options' texts; labels go where every option has its own."""
    texts = [str(option).strip() for option in options]
    labels = [found[1] if (found := LABEL.match(text)) else "" for text in texts]
    if "" in labels or len(set(labels)) < len(labels):
        return texts
    return [LABEL.sub("", text, count=1).strip() for text in texts]


def all_files(benchmarks: list[str], choices: list[Benchmark], field: str) -> list[tuple[Path, str]]:
    """Return all files of a recipe's benchmarks, each once, with the variable of its password."""
    found: dict[str, tuple[Path, str]] = {}
    named = [(name, field, "") for name in benchmarks]
    named += [(b.path, f"evaluation.multiple_choice: {b.name}", b.password_variable) for b in choices]
    for name, where, variable in reversed(named):  # who names a password comes before who does not
        for path in find_files(name, where):
            found.setdefault(sha256_file(path), (path, variable))
    return list(reversed(found.values()))
