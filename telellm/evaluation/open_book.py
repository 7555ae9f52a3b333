"""Open book: what a model answers when passages of the corpus stand in front of the question.

Three conditions: closed book (the question alone), open book (the passages that were found for it), gold passage (the
passage from which the question was written). Beside them, whether the question's document was found at all.
"""

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from telellm.evaluation.judge import add_verdicts
from telellm.evaluation.readers import Asked, Reader
from telellm.evaluation.scores import Score, add_up, mean
from telellm.evaluation.semscore import add_semscores
from telellm.lm.models import model_digest
from telellm.recipe import Evaluation, Recipe, Retrieval
from telellm.records import Question
from telellm.retrieval.passages import Passage
from telellm.retrieval.search import PassageSearch
from telellm.stage import Context, Output, digest_of

CLOSED, OPEN, GOLD = CONDITIONS = ("closed book", "open book", "gold passage")
DEPTH = 10
"""Documents among which a question's own is sought."""
RANKS, ANSWERS, SCORES = "retrieval/ranks.parquet", "retrieval/answers.parquet", "retrieval/scores.json"
RECALL_AT = (1, 5, DEPTH)
COLUMNS = {
    "id": "large_string",
    "statement": "large_string",
    "split": "large_string",
    "condition": "large_string",
    "nll": "float64",
    "tokens": "int64",
    "generated": "large_string",
    "semscore": "float64",
    "judge_probability": "float64",
    "judge_verdict": "large_string",
}
COLUMNS_OF_RANKS = {"id": "large_string", "statement": "large_string", "split": "large_string", "rank": "int64"}
Row = dict[str, Any]


def open_book_identity(settings: Retrieval) -> list[str]:
    """Return what the measures depend on beside the index; nothing where retrieval is off."""
    if not settings.enabled:
        return []
    return [digest_of(settings), *([model_digest(settings.embedder)] if settings.embedder else [])]


def measure_open_book(
    context: Context,
    open_reader: Callable[[], Reader],
    questions: Sequence[Question],
    closed: Sequence[Mapping[str, Any]],
    index: Output,
) -> None:
    """Write where each question's document was found, and what a model answers in each condition.

    `open_reader` opens the model, which is let go before its answers are judged. `questions` are those that it was
    asked without passages, `closed` what was measured of it then. Answer perplexity is measured where it can be;
    answers in words, where `generates` says so. Writes `RANKS` (a row a question), `ANSWERS` (a row a question and
    condition) and `SCORES`.
    """
    settings = context.recipe.retrieval
    search = PassageSearch(index, settings.embedder, settings.candidates)
    context.progress.note("looks for the documents of the questions")
    ranks = _ranks(search, questions)
    _write(context, RANKS, ranks, COLUMNS_OF_RANKS)
    first = list(questions[: settings.max_questions or None])
    rows = _measure(context, search, open_reader, first, closed)
    _write(context, ANSWERS, rows, COLUMNS)
    scores = {
        "recall": {split: recall([row for row in ranks if split in ("all", row["split"])]) for split in _splits(ranks)},
        "conditions": {name: add_up([row for row in rows if row["condition"] == name]) for name in CONDITIONS},
        "passages": settings.passages,
        "indexed": index.num_records,
    }
    (context.directory / SCORES).write_text(json.dumps(scores, indent=1), encoding="utf-8")


def generates(recipe: Recipe) -> bool:
    """Say whether models also answer in words with passages."""
    return recipe.retrieval.generate and bool({"semscore", "llm_eval"} & set(recipe.evaluation.metrics))


def recall(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Return recall@k: the share of questions whose document is among the first k that are found."""
    hits = np.array([row["rank"] or DEPTH + 1 for row in ranks])
    return {str(k): mean((hits <= k).astype(float)) for k in RECALL_AT}


def _splits(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["all", *sorted({str(row["split"]) for row in ranks}, reverse=True)]


def _ranks(search: PassageSearch, questions: Sequence[Question]) -> list[Row]:
    """Return the rank of each question's document among the first `DEPTH` that are found, from 1; None: not there."""
    found = search.rank_documents([question.statement for question in questions], DEPTH)
    return [
        {"id": question.id, "statement": question.statement, "split": question.split}
        | {"rank": documents.index(question.id) + 1 if question.id in documents else None}
        for question, documents in zip(questions, found, strict=True)
    ]


def _measure(
    context: Context,
    search: PassageSearch,
    open_reader: Callable[[], Reader],
    questions: Sequence[Question],
    closed: Sequence[Mapping[str, Any]],
) -> list[Row]:
    settings, evaluation, progress = context.recipe.retrieval, context.recipe.evaluation, context.progress
    found = search.search([question.statement for question in questions], settings.passages)
    passages = [[each.passage for each in one] for one in found]
    reader = open_reader()
    asked = [reader.fit(one) for one in _in_conditions(questions, passages)]
    known = {(row["id"], row["statement"]): row for row in closed}
    rows = [_row(one) for one in asked]
    for one, row in zip(asked, rows, strict=True):
        before = known.get((one.question.id, one.question.statement), {}) if one.condition == CLOSED else {}
        row |= {name: before[name] for name in COLUMNS if before.get(name) is not None}
    todo = [(one, row) for one, row in zip(asked, rows, strict=True) if row["nll"] is None]
    if reader.reads:
        progress.start(len(todo), "questions with passages")
        likelihoods = reader.likelihoods([one for one, _ in todo])
        for (_, row), likelihood in zip(todo, likelihoods, strict=True):
            row |= {"nll": likelihood.nll, "tokens": likelihood.tokens}
    told: list[tuple[Asked, Row]] = []
    if generates(context.recipe):
        answered = {(q.id, q.statement) for q in questions[: evaluation.max_generated or None]}
        told = [
            (one, row) for one, row in todo if (row["id"], row["statement"]) in answered and row["generated"] is None
        ]
        progress.start(len(told), "answers with passages")
        for (_, row), text in zip(told, reader.answers([one for one, _ in told]), strict=True):
            row["generated"] = text
    del reader
    gc.collect()
    _judge(context, evaluation, told)
    return rows


def _in_conditions(questions: Sequence[Question], passages: Sequence[Sequence[Passage]]) -> Iterator[Asked]:
    """Yield each question in each condition; where it has no evidence, there is no gold passage."""
    for question, found in zip(questions, passages, strict=True):
        yield Asked(question, CLOSED, ())
        yield Asked(question, OPEN, found)
        if question.evidence:
            yield Asked(question, GOLD, [Passage(question.id, "", "", "", question.evidence)])


def _row(asked: Asked) -> Row:
    question = asked.question
    return dict.fromkeys(COLUMNS) | {
        "id": question.id,
        "statement": question.statement,
        "split": question.split,
        "condition": asked.condition,
    }


def _judge(context: Context, evaluation: Evaluation, told: Sequence[tuple[Asked, Row]]) -> None:
    """Add SemScore and the judge's verdicts, where they are measured."""
    rows, questions = [row for _, row in told], [one.question for one, _ in told]
    if rows and "semscore" in evaluation.metrics:
        add_semscores(rows, [question.answer for question in questions], evaluation.embedder)
    if rows and "llm_eval" in evaluation.metrics:
        add_verdicts(rows, questions, context.recipe)


def _write(context: Context, name: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    schema = pyarrow.schema({column: pyarrow.type_for_alias(kind) for column, kind in columns.items()})
    target = context.directory / name
    target.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), target, compression="zstd")
