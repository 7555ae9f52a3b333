"""Open book: what a model answers when passages of the corpus stand in front of the question.

Three conditions: closed book (the question alone), open book (the passages that were found for it), gold passage (the
passage from which the question was written). Beside them, whether the question's document was found at all.
"""

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telellm.evaluation.answers import answer, prompt_of
from telellm.evaluation.judge import add_verdicts
from telellm.evaluation.likelihood import longest_input
from telellm.evaluation.perplexity import measure_answers
from telellm.evaluation.scores import Score, add_up, mean
from telellm.evaluation.semscore import add_semscores
from telellm.lm.models import load_model, load_tokenizer, model_digest
from telellm.recipe import Evaluation, Model, Retrieval
from telellm.records import Question
from telellm.retrieval.passages import Passage
from telellm.retrieval.prompt import before_question
from telellm.retrieval.search import PassageSearch
from telellm.stage import Context, Output, digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


@dataclass(frozen=True)
class Asked:
    """A question in one condition."""

    question: Question
    condition: str
    passages: Sequence[Passage]


def open_book_identity(settings: Retrieval) -> list[str]:
    """Return what the measures depend on beside the index; nothing where retrieval is off."""
    if not settings.enabled:
        return []
    return [digest_of(settings), *([model_digest(settings.embedder)] if settings.embedder else [])]


def measure_open_book(
    context: Context,
    model: Model,
    questions: Sequence[Question],
    closed: Sequence[Mapping[str, Any]],
    index: Output,
    *,
    chat: bool,
) -> None:
    """Write where each question's document was found, and what a model answers in each condition.

    `questions` are those that the model was asked without passages, `closed` what was measured of it then. Answer
    perplexity is always measured; answers in words, where section `evaluation` has them judged and `retrieval.generate`
    is on. Writes `RANKS` (a row a question), `ANSWERS` (a row a question and condition) and `SCORES`.
    """
    settings = context.recipe.retrieval
    search = PassageSearch(index, settings.embedder, settings.candidates)
    context.progress.note("looks for the documents of the questions")
    ranks = _ranks(search, questions)
    _write(context, RANKS, ranks, COLUMNS_OF_RANKS)
    first = list(questions[: settings.max_questions or None])
    rows = _measure(context, settings, search, model, first, closed, chat=chat)
    _write(context, ANSWERS, rows, COLUMNS)
    scores = {
        "recall": {split: recall([row for row in ranks if split in ("all", row["split"])]) for split in _splits(ranks)},
        "conditions": {name: add_up([row for row in rows if row["condition"] == name]) for name in CONDITIONS},
        "passages": settings.passages,
        "indexed": index.num_records,
    }
    (context.directory / SCORES).write_text(json.dumps(scores, indent=1), encoding="utf-8")


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
    settings: Retrieval,
    search: PassageSearch,
    model: Model,
    questions: Sequence[Question],
    closed: Sequence[Mapping[str, Any]],
    *,
    chat: bool,
) -> list[Row]:
    evaluation, progress = context.recipe.evaluation, context.progress
    found = search.search([question.statement for question in questions], settings.passages)
    passages = [[each.passage for each in one] for one in found]
    loaded, tokenizer = load_model(model.name, model.revision), load_tokenizer(model.name, model.revision)
    room = longest_input(loaded) - evaluation.max_answer_tokens
    asked = [_fit(one, tokenizer, room) for one in _in_conditions(questions, passages)]
    known = {(row["id"], row["statement"]): row for row in closed}
    rows = [_row(one) for one in asked]
    todo = []
    for one, row in zip(asked, rows, strict=True):
        before = known.get((one.question.id, one.question.statement), {}) if one.condition == CLOSED else {}
        row |= {name: before[name] for name in COLUMNS if before.get(name) is not None}
        if row["nll"] is None:
            todo.append((one, row))
    progress.start(len(todo), "questions with passages")
    likelihoods = measure_answers(
        loaded,
        tokenizer,
        [one.question for one, _ in todo],
        evaluation.batch_size,
        progress.advance,
        before=[before_question(one.passages) for one, _ in todo],
    )
    for (_, row), likelihood in zip(todo, likelihoods, strict=True):
        row |= {"nll": likelihood.nll, "tokens": likelihood.tokens}
    told: list[tuple[Asked, Row]] = []
    if settings.generate and {"semscore", "llm_eval"} & set(evaluation.metrics):
        answered = {(q.id, q.statement) for q in questions[: evaluation.max_generated or None]}
        told = [(one, row) for one, row in todo if (row["id"], row["statement"]) in answered]
        _answer(context, evaluation, loaded, tokenizer, told, chat=chat)
    del loaded
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


def _fit(asked: Asked, tokenizer: "PreTrainedTokenizerBase", room: int) -> Asked:
    """Leave out the last passages as long as a prompt is longer than the model reads."""
    while asked.passages:
        text = prompt_of(
            tokenizer, f"{asked.question.statement} {asked.question.answer}", False, before_question(asked.passages)
        )
        if len(tokenizer(text)["input_ids"]) <= room:
            return asked
        asked = replace(asked, passages=asked.passages[:-1])
    return asked


def _row(asked: Asked) -> Row:
    question = asked.question
    return dict.fromkeys(COLUMNS) | {
        "id": question.id,
        "statement": question.statement,
        "split": question.split,
        "condition": asked.condition,
    }


def _answer(
    context: Context,
    evaluation: Evaluation,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    told: Sequence[tuple[Asked, Row]],
    *,
    chat: bool,
) -> None:
    context.progress.start(len(told), "answers with passages")
    texts = answer(
        model,
        tokenizer,
        [one.question for one, _ in told],
        chat=chat,
        max_tokens=evaluation.max_answer_tokens,
        batch_size=evaluation.batch_size,
        advance=context.progress.advance,
        before=[before_question(one.passages) for one, _ in told],
    )
    for (_, row), text in zip(told, texts, strict=True):
        row["generated"] = text


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
