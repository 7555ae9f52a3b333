"""Evaluate: score one model on what the recipe asks of every model, question by question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telellm.benchmark.general_tasks import general_digest, read_general_task
from telellm.benchmark.questions import benchmark_digest, read_choices
from telellm.evaluation.draw import draw
from telellm.evaluation.endpoint import measure_endpoint, open_endpoint, unreadable_letters
from telellm.evaluation.forgetting import add_up_general, describe_general
from telellm.evaluation.judge import PROMPT, add_verdicts, judge_of
from telellm.evaluation.literature import NOTHING, add_up_literature, read_unseen
from telellm.evaluation.local import Asked, Found, measure_local
from telellm.evaluation.multiple_choice import add_up_choices, describe_choices
from telellm.evaluation.open_book import generates, measure_open_book, open_book_identity
from telellm.evaluation.readers import LocalReader, Reader, ServedReader
from telellm.evaluation.reference import REFERENCE, read_reference
from telellm.evaluation.results import TELE_EVAL, Row, row, write_results
from telellm.evaluation.scores import Score, add_up, add_up_texts
from telellm.evaluation.semscore import add_semscores
from telellm.evaluation.texts import FIELD, GENERAL, read_general
from telellm.lm import language_model_digest
from telellm.lm.completions import CompletionModel, NotOffered
from telellm.lm.models import model_digest
from telellm.recipe import Evaluation, Model, Recipe, ReferenceModel
from telellm.records import Question
from telellm.stage import Context, Output, StageFailed, stage
from telellm.text_files import text_digests

ROLES = {"pretrain": "pretrained", "instruct": "instruct", REFERENCE: "reference"}
"""The stage that made a model → what it is in a report; a model that no stage made is the base."""


@dataclass(frozen=True)
class Subject:
    """The model that is scored."""

    name: str
    role: str
    model: Model | ReferenceModel
    chat: bool
    """Whether it answers through its chat template."""

    @property
    def place(self) -> tuple[str, str]:
        """What `telellm.lm` opens: name and revision."""
        if isinstance(self.model, ReferenceModel):
            return self.model.model, self.model.revision
        return self.model.name, self.model.revision

    @property
    def served(self) -> ReferenceModel | None:
        """The model, where it is behind an endpoint."""
        return self.model if isinstance(self.model, ReferenceModel) and self.model.endpoint else None


def _identity(recipe: Recipe) -> list[str]:
    settings, judge = recipe.evaluation, judge_of(recipe)
    digests = [model_digest(recipe.model.name, recipe.model.revision)]
    if "semscore" in settings.metrics:
        digests.append(model_digest(settings.embedder))
    if "llm_eval" in settings.metrics:
        digests.append(language_model_digest(judge, recipe.model))
    if "general" in settings.metrics:
        digests += text_digests(settings.general.text, FIELD)
    digests += [digest for task in settings.forgetting for digest in general_digest(task)]
    digests += open_book_identity(recipe.retrieval)
    return [*digests, *(digest for benchmark in settings.multiple_choice for digest in benchmark_digest(benchmark))]


@stage(sections=("evaluation", "lm", "model", "name"), identity=_identity)
def evaluate(
    context: Context,
    settings: Evaluation,
    questions: Output,
    model: Output | None = None,
    held_out: Output | None = None,
    index: Output | None = None,
) -> None:
    """Measure the chosen metrics of a model; without a model, of the recipe's base model.

    `model` is what a stage made, or a reference model (`put_reference`), which may be behind an endpoint.

    `held_out` is the training text of the run: what was left out of it is the literature that no model has seen.

    Writes `scores.json` (name, role, metrics, the metrics by split, and what helps to read those of multiple choice)
    and `questions.parquet` (what was measured on each question). Every model is asked the same questions in the same
    order. With an index of the snapshot, they are also asked with passages at hand (`open_book`).
    """
    subject = _subject(context.recipe, model)
    asked = _what_is_asked(settings, questions, held_out)
    found = Found([_row(question) for question in asked.questions])
    not_measured: dict[str, str] = {}
    client = open_endpoint(subject.name, subject.served) if subject.served else None
    if client:
        not_measured = measure_endpoint(client, asked, found, settings, context.progress, chat=subject.chat)
    else:
        measure_local(*subject.place, asked, found, settings, chat=subject.chat, progress=context.progress)
    answered = [row for row in found.rows if row["generated"] is not None]
    if answered and "semscore" in settings.metrics:
        _compare_meaning(context, settings, answered)
    if answered and "llm_eval" in settings.metrics:
        _ask_judge(context, asked.questions[: len(answered)], answered)
    if index is not None:
        not_measured |= _ask_with_passages(context, subject, client, asked.questions, found.rows, index)
    metrics = _metrics(found)
    if client and not metrics:
        reasons = "\n  ".join(dict.fromkeys(not_measured.values()))
        raise StageFailed(f"{client.section}: nothing that the recipe measures can be measured there\n  {reasons}")
    scores = {"name": subject.name, "role": subject.role, "metrics": metrics, "by_split": _by_split(found.rows)}
    scores["multiple_choice"] = {
        benchmark: describe_choices(chosen, settings.confidence)
        | _describe_file(asked, benchmark, found.not_measured[f"multiple_choice.{benchmark}"])
        | ({"unreadable": unreadable_letters(found, benchmark)} if subject.served else {})
        for benchmark, chosen in found.choices.items()
    }
    if isinstance(subject.model, ReferenceModel):
        scores |= {"model": subject.model.model, "endpoint": subject.model.endpoint, "not_measured": not_measured}
    if client:
        scores["usage"] = dict(client.usage)
        context.counts.update(client.usage)
    scores["forgetting"] = {
        task: about | ({"through": found.through[task]} if task in found.through else {})
        for task, about in describe_general(asked.tasks, metrics).items()
    }
    chosen = [one.row(benchmark) for benchmark, choices in found.choices.items() for one in choices]
    rows = [*found.rows, *chosen, *found.others]
    write_results(context.directory, rows, scores)
    context.counts["out"] = len(rows)
    context.summary |= {
        "headline": headline(metrics, len(found.rows)),
        "model": subject.name,
        "role": subject.role,
        "questions": len(found.rows),
        "answered": len(answered),
        "scores": {metric: score["value"] for metric, score in metrics.items()},
    }


def _subject(recipe: Recipe, model: Output | None) -> Subject:
    """Return the model that is scored: an output that holds one or names one, or the recipe's base model."""
    if model is None:
        return Subject(Path(recipe.model.name).name.removesuffix(".gguf"), "base", recipe.model, chat=False)
    role = ROLES[str(model.manifest["stage"])]
    if role == "reference":
        name, reference = read_reference(model)
        return Subject(name, role, reference, chat=reference.chat)
    made = Model(name=str(model.folder("model")), revision="main")
    return Subject(f"{recipe.name}-{role}", role, made, chat=role == "instruct")


def headline(metrics: Mapping[str, Mapping[str, Any]], number: int) -> str:
    """Return the scores in a few words."""
    words = {
        "answer_perplexity.corpus": "perplexity {:.1f}",
        "semscore.mean": "SemScore {:.2f}",
        "llm_eval.accuracy": "judged correct {:.0%}",
        "general.perplexity": "general perplexity {:.1f}",
        "literature.perplexity": "literature perplexity {:.1f}",
    }
    parts = [text.format(metrics[name]["value"]) for name, text in words.items() if name in metrics]
    for name, score in metrics.items():
        if name.startswith(("multiple_choice.", "forgetting.")) and name.endswith(".accuracy"):
            parts.append(f"{name.split('.')[1]} {score['value']:.0%}")
    return ", ".join([f"{number:,} questions", *parts])


def _what_is_asked(settings: Evaluation, questions: Output, held_out: Output | None) -> Asked:
    asked = draw(questions.records(Question), settings.max_questions, settings.seed)
    if not asked:
        raise StageFailed("evaluate: there are no questions; look at the stage tele-eval")
    reads_unseen = "literature" in settings.metrics
    reads_general = "general" in settings.metrics and settings.general.text
    return Asked(
        questions=asked,
        benchmarks={benchmark.name: read_choices(benchmark, settings.seed) for benchmark in settings.multiple_choice},
        general=read_general(settings.general, settings.seed) if reads_general else (),
        tasks={task.task: read_general_task(task, settings.seed) for task in settings.forgetting},
        unseen=read_unseen(held_out, settings.literature, settings.seed) if reads_unseen and held_out else NOTHING,
    )


def _ask_with_passages(
    context: Context,
    subject: Subject,
    client: CompletionModel | None,
    questions: Sequence[Question],
    closed: Sequence[Row],
    index: Output,
) -> Mapping[str, str]:
    """Measure the model with passages at hand; returns what cannot be measured of it, with the reason."""
    settings = context.recipe.evaluation

    def open_reader() -> Reader:
        if client:
            return ServedReader(client, settings, context.progress, chat=subject.chat)
        return LocalReader(*subject.place, settings, context.progress, chat=subject.chat)

    reason = client.no_likelihoods if client else ""
    if reason and not generates(context.recipe):
        return {"retrieval": reason}
    try:
        measure_open_book(context, open_reader, questions, closed, index)
    except NotOffered as refused:  # passages make a prompt longer than the server takes
        return {"retrieval": refused.reason}
    return {"retrieval.answer_perplexity": reason} if reason else {}


def _row(question: Question) -> Row:
    """Return a question as a row in which nothing is measured yet."""
    fields = ("id", "statement", "answer", "split", "kind", "clause")
    return row(TELE_EVAL, **{name: getattr(question, name) for name in fields})


def _metrics(found: Found) -> dict[str, Score]:
    general = [row for row in found.others if row["task"] == GENERAL]
    others = add_up_texts(GENERAL, general) | add_up_literature(found.others) | add_up_general(found.others)
    return add_up(found.rows) | add_up_choices(found.choices) | others


def _describe_file(asked: Asked, benchmark: str, num_long: int) -> dict[str, Any]:
    """Return how many rows a benchmark's file has, and those that were not asked, by reason."""
    file = asked.benchmarks[benchmark]
    skipped = dict(file.skipped.most_common())
    return {"rows": file.num_rows, "skipped": skipped | ({"too long for the model": num_long} if num_long else {})}


def _compare_meaning(context: Context, settings: Evaluation, answered: Sequence[Row]) -> None:
    context.progress.note("SemScore")
    add_semscores(answered, [row["answer"] for row in answered], settings.embedder)


def _ask_judge(context: Context, asked: Sequence[Question], answered: Sequence[Row]) -> None:
    recipe = context.recipe
    context.progress.note("the judge reads")
    add_verdicts(answered, asked, recipe)
    context.summary["judge"] = {"model": judge_of(recipe).model or recipe.model.name, "prompt": PROMPT}
    context.counts["unparseable verdicts"] = sum(row["judge_probability"] is None for row in answered)


def _by_split(rows: Sequence[Row]) -> dict[str, Any]:
    splits = sorted({row["split"] for row in rows}, reverse=True)
    return {split: add_up([row for row in rows if row["split"] == split]) for split in splits}
