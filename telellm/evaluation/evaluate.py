"""Evaluate: score one model on Tele-Eval and on multiple choice, question by question."""

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from telellm.benchmark_questions import ChoiceQuestions, benchmark_digest, read_choices
from telellm.evaluation.draw import draw
from telellm.evaluation.multiple_choice import Choices, add_up_choices, ask_choices, describe_choices
from telellm.evaluation.scores import add_up
from telellm.lm import language_model_digest, open_language_model
from telellm.lm.models import load_model, load_tokenizer, model_digest
from telellm.recipe import Evaluation, LanguageModel, Model, Recipe
from telellm.records import Question
from telellm.stage import Context, Output, StageFailed, stage

ROLES = {"pretrain": "pretrained", "instruct": "instruct"}
"""The stage that made a model → what it is in a report; a model that no stage made is the base."""
COLUMNS = {
    "id": "large_string",
    "statement": "large_string",
    "answer": "large_string",
    "split": "large_string",
    "kind": "large_string",
    "nll": "float64",
    "tokens": "int64",
    "generated": "large_string",
    "semscore": "float64",
    "judge_probability": "float64",
    "judge_verdict": "large_string",
    "benchmark": "large_string",
}


def _identity(recipe: Recipe) -> list[str]:
    settings, judge = recipe.evaluation, _judge(recipe)
    digests = [model_digest(recipe.model.name, recipe.model.revision)]
    if "semscore" in settings.metrics:
        digests.append(model_digest(settings.embedder))
    if "llm_eval" in settings.metrics:
        digests.append(language_model_digest(judge, recipe.model))
    return [*digests, *(digest for benchmark in settings.multiple_choice for digest in benchmark_digest(benchmark))]


@stage(sections=("evaluation", "lm", "model", "name"), identity=_identity)
def evaluate(context: Context, settings: Evaluation, questions: Output, model: Output | None = None) -> None:
    """Measure the chosen metrics of a model; without a model, of the recipe's base model.

    Writes `scores.json` (name, role, metrics, the metrics by split, and what helps to read those of multiple choice)
    and `questions.parquet` (what was measured on each question). Every model is asked the same questions in the same
    order.
    """
    recipe = context.recipe
    role = ROLES[str(model.manifest["stage"])] if model else "base"
    base = recipe.model
    subject = Model(name=str(model.folder("model")), revision="main") if model else base
    asked = draw(questions.records(Question), settings.max_questions, settings.seed)
    if not asked:
        raise StageFailed("evaluate: there are no questions; look at the stage tele-eval")
    rows: list[dict[str, Any]] = [
        {name: getattr(question, name, None) for name in COLUMNS}  # what is not of the question is measured below
        for question in asked
    ]
    benchmarks = {benchmark.name: read_choices(benchmark, settings.seed) for benchmark in settings.multiple_choice}
    choices = _ask_model(context, settings, subject, asked, rows, benchmarks, chat=role == "instruct")
    answered = [row for row in rows if row["generated"] is not None]
    if answered and "semscore" in settings.metrics:
        _compare_meaning(context, settings, answered)
    if answered and "llm_eval" in settings.metrics:
        _ask_judge(context, asked[: len(answered)], answered)
    name = f"{recipe.name}-{role}" if model else Path(base.name).name.removesuffix(".gguf")
    metrics = add_up(rows) | add_up_choices(choices)
    scores = {"name": name, "role": role, "metrics": metrics, "by_split": _by_split(rows)}
    scores["multiple_choice"] = {
        benchmark: describe_choices(found, settings.confidence)
        | {"rows": benchmarks[benchmark].num_rows, "skipped": dict(benchmarks[benchmark].skipped.most_common())}
        for benchmark, found in choices.items()
    }
    chosen = [one.row(benchmark) for benchmark, found in choices.items() for one in found]
    _write(context, [*rows, *chosen], scores)
    context.counts["out"] = len(rows) + len(chosen)
    context.summary |= {
        "headline": headline(metrics, len(rows)),
        "model": name,
        "role": role,
        "questions": len(rows),
        "answered": len(answered),
        "scores": {metric: score["value"] for metric, score in metrics.items()},
    }


def headline(metrics: Mapping[str, Mapping[str, Any]], number: int) -> str:
    """Return the scores in a few words."""
    words = {
        "answer_perplexity.corpus": "perplexity {:.1f}",
        "semscore.mean": "SemScore {:.2f}",
        "llm_eval.accuracy": "judged correct {:.0%}",
    }
    parts = [text.format(metrics[name]["value"]) for name, text in words.items() if name in metrics]
    for name, score in metrics.items():
        if name.startswith("multiple_choice.") and name.endswith(".accuracy"):
            parts.append(f"{name.split('.')[1]} {score['value']:.0%}")
    return ", ".join([f"{number:,} questions", *parts])


def _judge(recipe: Recipe) -> LanguageModel:
    return recipe.evaluation.judge or recipe.lm


def _ask_model(
    context: Context,
    settings: Evaluation,
    subject: Model,
    asked: Sequence[Question],
    rows: Sequence[dict[str, Any]],
    benchmarks: Mapping[str, ChoiceQuestions],
    *,
    chat: bool,
) -> dict[str, list[Choices]]:
    """Add likelihoods and answers to the rows; return what is chosen. The model is in memory only here."""
    from telellm.evaluation.answers import answer
    from telellm.evaluation.perplexity import measure_answers

    progress = context.progress
    loaded = load_model(subject.name, subject.revision)
    tokenizer = load_tokenizer(subject.name, subject.revision)
    if "answer_perplexity" in settings.metrics:
        progress.start(len(asked), "questions")
        found = measure_answers(loaded, tokenizer, asked, settings.batch_size, progress.advance)
        for row, likelihood in zip(rows, found, strict=True):
            row |= {"nll": likelihood.nll, "tokens": likelihood.tokens}
    choices: dict[str, list[Choices]] = {}
    for name, benchmark in benchmarks.items():
        progress.start(len(benchmark.questions), f"questions of {name}")
        choices[name] = ask_choices(
            loaded, tokenizer, benchmark.questions, settings.rotations, settings.batch_size, progress.advance
        )
        if num_long := len(benchmark.questions) - len(choices[name]):
            benchmark.skipped["too long for the model"] += num_long
    if {"semscore", "llm_eval"} & set(settings.metrics):
        first = asked[: settings.max_generated or None]
        progress.start(len(first), "answers")
        texts = answer(
            loaded,
            tokenizer,
            first,
            chat=chat,
            max_tokens=settings.max_answer_tokens,
            batch_size=settings.batch_size,
            advance=progress.advance,
        )
        for row, text in zip(rows, texts, strict=False):
            row["generated"] = text
    del loaded
    gc.collect()
    return choices


def _compare_meaning(context: Context, settings: Evaluation, answered: Sequence[dict[str, Any]]) -> None:
    from telellm.evaluation.semscore import score

    context.progress.note("SemScore")
    cosines = score([row["generated"] for row in answered], [row["answer"] for row in answered], settings.embedder)
    for row, cosine in zip(answered, cosines, strict=True):
        row["semscore"] = cosine


def _ask_judge(context: Context, asked: Sequence[Question], answered: Sequence[dict[str, Any]]) -> None:
    from telellm.evaluation.judge import PROMPT, judge

    context.progress.note("the judge reads")
    model = open_language_model(_judge(context.recipe), context.recipe.model)
    verdicts = judge(model, asked, [row["generated"] for row in answered])
    for row, verdict in zip(answered, verdicts, strict=True):
        row |= {"judge_probability": verdict.probability, "judge_verdict": verdict.word}
    context.summary["judge"] = {"model": _judge(context.recipe).model or context.recipe.model.name, "prompt": PROMPT}
    context.counts["unparseable verdicts"] = sum(verdict.probability is None for verdict in verdicts)


def _by_split(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    splits = sorted({row["split"] for row in rows}, reverse=True)
    return {split: add_up([row for row in rows if row["split"] == split]) for split in splits}


def _write(context: Context, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    number, text = pyarrow.float64(), pyarrow.large_string()
    kinds = {name: pyarrow.type_for_alias(kind) for name, kind in COLUMNS.items()}
    kinds |= {"options": pyarrow.list_(text), "orders": pyarrow.list_(pyarrow.list_(pyarrow.int64()))}
    kinds |= {"log_likelihoods": pyarrow.list_(pyarrow.list_(number)), "correct": number}
    schema = pyarrow.schema(kinds | {"correct_by_order": pyarrow.list_(number)})
    table = pyarrow.Table.from_pylist(list(rows), schema=schema)
    parquet.write_table(table, context.directory / "questions.parquet", compression="zstd")
    scored = json.dumps(scores, indent=1, ensure_ascii=False)
    (context.directory / "scores.json").write_text(scored, encoding="utf-8")
