"""General tasks: what MMLU, HellaSwag, ARC and GSM8K ask, read from directories as their publishers lay them out.

Split, prompt, options and right answer are those of the tasks of the same names in lm-eval 0.4.13, so that scores can
be held against those of others; rows that ask nothing are counted by reason.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path, PurePosixPath
from random import Random

from telellm.benchmark.files import SUFFIXES, NotJson, find_chosen, read_rows
from telellm.benchmark.general_rows import GeneralQuestion, Row, arc, gsm8k, hellaswag, mmlu
from telellm.benchmark.questions import Dirty, reader_digest
from telellm.recipe import GeneralTask, RecipeError
from telellm.store import sha256_file

SPLITS = {
    **{name: name for name in ("train", "dev", "validation", "test")},
    **dict.fromkeys(("val", "valid"), "validation"),
}
"""How a file or folder names the split of a data set."""
BETWEEN = "\n\n"
"""What stands between examples."""
LONGEST_ANSWER = 256
"""Tokens of an answer that is written, at most: lm-eval's default."""


@dataclass(frozen=True)
class GeneralQuestions:
    """What a task asks: questions, each with examples before its prompt, and the rows that ask nothing by reason."""

    questions: list[GeneralQuestion]
    skipped: Counter[str]
    num_rows: int
    few_shot: int


@dataclass(frozen=True)
class Task:
    """How a task is read and asked."""

    config: str
    """The folder in which its publisher keeps it."""
    others: tuple[str, ...]
    """Folders beside it that hold other tasks."""
    asked: str
    """The split that is asked."""
    examples: str
    """The split from which examples are."""
    columns: tuple[str, ...]
    read: Callable[[str, Row], GeneralQuestion]
    few_shot: int = 0
    """Examples, where the recipe leaves them to the task."""
    first: bool = False
    """Whether the examples are the first of the split (of the question's subject), or drawn for each question."""
    by_length: bool = False
    """Whether log-likelihoods are divided by the options' lengths (characters): lm-eval's `acc_norm`, not `acc`."""


def read_general_task(settings: GeneralTask, seed: int) -> GeneralQuestions:
    """Return what a task asks; `seed` draws `max_questions` and examples.

    Raises `RecipeError` where files or columns are missing, or too few examples are there.
    """
    task, field = TASKS[settings.task], _field(settings)
    questions, skipped, num_rows = _read(settings, task.asked)
    if not questions:
        why = ", ".join(f"{reason} {number}" for reason, number in skipped.most_common()) or "they are empty"
        raise RecipeError(f"{field}: {settings.path}: the files of the split {task.asked} ask nothing ({why})")
    if settings.max_questions:
        questions = sorted(questions, key=lambda one: sha256(f"{seed}\n{one.id}".encode()).digest())
        questions = questions[: settings.max_questions]
    few_shot = num_examples(settings)
    pool = _read(settings, task.examples)[0] if few_shot else []
    return GeneralQuestions(_with_examples(questions, pool, few_shot, settings, seed), skipped, num_rows, few_shot)


def general_texts(settings: GeneralTask) -> Iterator[str]:
    """Yield each question that a task may ask, with its right answer; raises `RecipeError`."""
    for question in _read(settings, TASKS[settings.task].asked)[0]:
        yield f"{question.statement} {question.right}"


def general_digest(settings: GeneralTask) -> list[str]:
    """Return what changes when the files of a task, or the way in which they are read, do."""
    task = TASKS[settings.task]
    splits = (task.asked, task.examples) if num_examples(settings) else (task.asked,)
    files = [file for split in splits for file in _files(settings, split)[0]]
    here = Path(__file__)
    code = [sha256_file(path) for path in (here, here.with_name("general_rows.py"))]
    return [*reader_digest(), *code, *(f"{settings.task} {name} {sha256_file(path)}" for name, path in files)]


def num_examples(settings: GeneralTask) -> int:
    """Return how many examples stand before each question."""
    return TASKS[settings.task].few_shot if settings.few_shot is None else settings.few_shot


def _field(settings: GeneralTask) -> str:
    return f"evaluation.forgetting: {settings.task}"


def _files(settings: GeneralTask, split: str) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return names and paths of the files of a split, and the names of all files."""
    seen: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        seen.extend(names)
        return _of_split(names, split, TASKS[settings.task], PurePosixPath(settings.path).name)

    return find_chosen(settings.path, _field(settings), choose), seen


def _of_split(names: Sequence[str], split: str, task: Task, folder: str) -> list[str]:
    """Return the files of a split: those of the task's own folder where there is one, never those of another task."""
    found = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES and _split_of(name) == split]
    own = [name for name in found if task.config and _in(task.config, name, folder)]
    return own or [name for name in found if not any(_in(other, name, folder) for other in task.others)]


def _split_of(name: str) -> str | None:
    """Return the split that a file names (`test-00000-of-00001.parquet`, `hellaswag_val.jsonl`), or its folder."""
    path = PurePosixPath(name)
    words = [*re.split(r"[-_.]", path.stem.lower()), *reversed([part.lower() for part in path.parts[:-1]])]
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _in(config: str, name: str, folder: str) -> bool:
    path = PurePosixPath(name)
    return config in (folder, *path.parts[:-1]) or path.stem.startswith(f"{config}-")


def _read(settings: GeneralTask, split: str) -> tuple[list[GeneralQuestion], Counter[str], int]:
    """Return the questions of a split, each once, why other rows are none, and the number of rows."""
    task, field = TASKS[settings.task], _field(settings)
    questions: dict[str, GeneralQuestion] = {}
    skipped, num_rows = Counter[str](), 0
    files, seen = _files(settings, split)
    if not files:
        raise RecipeError(
            f"{field}: {settings.path}: no file of the split {split} is there; one is called "
            f"{f'{task.config}/' if task.config else ''}{split}-00000-of-00001.parquet, {split}.jsonl or alike\n"
            f"  files there: {', '.join(seen[:12])}{' …' if len(seen) > 12 else ''}"
        )
    for name, path in files:
        is_first = True
        for row in read_rows(path, field):
            num_rows += 1
            try:
                if isinstance(row, NotJson) or not isinstance(row, Mapping):
                    raise Dirty("not an object")
                missing = [column for column in task.columns if column not in row]
                if missing and is_first:
                    there = [str(key)[:40] for key in islice(row, 12)]
                    raise RecipeError(
                        f"{field}: {settings.path}: {name} has no column {', '.join(missing)}; a row of "
                        f"{settings.task} has {', '.join(task.columns)}\n  columns there: {', '.join(there)}"
                    )
                is_first = False
                if missing:
                    raise Dirty("a column is missing")
                question = task.read(settings.task, row)
                if question.id in questions:
                    raise Dirty("asked before")
                questions[question.id] = question
            except Dirty as reason:
                skipped[str(reason)] += 1
    return list(questions.values()), skipped, num_rows


def _with_examples(
    questions: Sequence[GeneralQuestion],
    pool: Sequence[GeneralQuestion],
    number: int,
    settings: GeneralTask,
    seed: int,
) -> list[GeneralQuestion]:
    """Return the questions with the description of the task and examples before their prompts."""
    task = TASKS[settings.task]
    by_subject: dict[str, list[GeneralQuestion]] = defaultdict(list)
    for example in pool:
        by_subject[example.subject].append(example)
    found = []
    for question in questions:
        others = by_subject[question.subject]
        if any(example.id == question.id for example in others):
            others = [example for example in others if example.id != question.id]
        if len(others) < number:
            raise RecipeError(
                f"{_field(settings)}: few_shot: {number}: of {question.subject or 'its questions'} the split "
                f"{task.examples} of {settings.path} has only {len(others)}; ask for fewer"
            )
        lot = Random(f"{seed}\n{question.id}")
        chosen = others[:number] if task.first else lot.sample(others, number)
        before = "".join(f"{example.prompt}{example.solution}{BETWEEN}" for example in chosen)
        found.append(replace(question, prompt=f"{_description(question)}{before}{question.prompt}"))
    return found


def _description(question: GeneralQuestion) -> str:
    if not question.subject:
        return ""
    about = question.subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {about}.{BETWEEN}"


ARC = ("question", "choices", "answerKey")
TASKS: Mapping[str, Task] = {
    "mmlu": Task("all", (), "test", "dev", ("question", "choices", "answer", "subject"), mmlu, first=True),
    "hellaswag": Task(
        "",
        (),
        "validation",
        "train",
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        hellaswag,
        by_length=True,
    ),
    "arc_easy": Task("ARC-Easy", ("ARC-Challenge",), "test", "train", ARC, arc, by_length=True),
    "arc_challenge": Task("ARC-Challenge", ("ARC-Easy",), "test", "train", ARC, arc, by_length=True),
    "gsm8k": Task("main", ("socratic",), "test", "train", ("question", "answer"), gsm8k, few_shot=5),
}
"""Name in recipes and in lm-eval → the task."""
