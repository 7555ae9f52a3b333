"""Metrics: how each is called and shown, and what a row of `questions.parquet` adds to it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from telellm.records import CATEGORIES

Row = Mapping[str, Any]
Part = Callable[[Row], tuple[float, float] | None]
"""A row → what it adds above and below the line; None where the metric was not measured on it."""


@dataclass(frozen=True)
class Metric:
    """How a metric is called, shown and made of the rows of its task: a ratio of two sums, or its exponential."""

    title: str
    better: str
    """What is said of the model with the better value: it … than the other."""
    worse: str
    lower_is_better: bool
    digits: int
    subject: str
    """The model whose comparison with the base says most."""
    task: str
    part: Part
    exponential: bool = False
    """It is the exponential of the ratio: a perplexity, over tokens, which only models of one tokenizer share."""
    by_document: bool = False
    """Several rows are of one document, and alike: documents are drawn anew, with all of their rows."""


def _column(name: str) -> Part:
    return lambda row: None if row[name] is None else (float(row[name]), 1.0)


def _of_tokens(row: Row) -> tuple[float, float] | None:
    return None if row["nll"] is None else (row["nll"], row["tokens"])


def _of_question(row: Row) -> tuple[float, float] | None:
    if row["nll"] is None:
        return None
    rate = row["nll"] / row["tokens"]
    return math.exp(rate) if rate < LARGEST_EXPONENT else math.inf, 1.0


def _of_bytes(row: Row) -> tuple[float, float] | None:
    return None if row["nll"] is None else (row["nll"] / math.log(2), row["bytes"])


def _verdict(row: Row) -> tuple[float, float] | None:
    return (float(row["judge_verdict"] == "yes"), 1.0) if row["judge_verdict"] in ("yes", "no") else None


def _of(category: str, part: Part) -> Part:
    return lambda row: part(row) if row["category"] == category else None


LARGEST_EXPONENT = 700
UNSEEN = "documents that it never read"
SEVERAL = ("literature.terms", "literature.equations", "literature.next_sentence")
"""Tasks that ask several things of one document."""


def _lower(title: str, predicts: str, digits: int, task: str, part: Part, exponential: bool = False) -> Metric:
    """Return a metric of which less is better: how well something is predicted."""
    better, worse = (f"predicts {predicts} {how}" for how in ("better", "worse"))
    return Metric(title, better, worse, True, digits, "pretrained", task, part, exponential)


def _higher(title: str, does: str, subject: str, task: str, part: Part) -> Metric:
    """Return a metric of which more is better: how often a model does something."""
    return Metric(title, f"{does} more often", f"{does} less often", False, 3, subject, task, part)


METRICS = {
    "answer_perplexity.corpus": _lower(
        "answer perplexity", "the reference answers", 2, "tele-eval", _of_tokens, exponential=True
    ),
    "answer_perplexity.question_mean": _lower(
        "answer perplexity, mean over questions", "the reference answers", 2, "tele-eval", _of_question
    ),
    "semscore.mean": Metric(
        "SemScore",
        "answers nearer to the reference in meaning",
        "answers farther from the reference in meaning",
        lower_is_better=False,
        digits=3,
        subject="instruct",
        task="tele-eval",
        part=_column("semscore"),
    ),
    "llm_eval.accuracy": _higher("judged correct", "is judged correct", "instruct", "tele-eval", _verdict),
}
"""Those of Tele-Eval."""
OTHERS = {
    "general.perplexity": _lower("general perplexity", "general text", 2, "general", _of_tokens, exponential=True),
    "general.bits_per_byte": _lower("general text, bits a byte", "general text", 3, "general", _of_bytes),
    "literature.perplexity": _lower("literature perplexity", UNSEEN, 2, "literature", _of_tokens, exponential=True),
    **{
        f"literature.perplexity.{category}": _lower(
            f"literature perplexity, {category}",
            f"{UNSEEN} ({category})",
            2,
            "literature",
            _of(category, _of_tokens),
            exponential=True,
        )
        for category in CATEGORIES
    },
    "literature.bits_per_byte": _lower("literature, bits a byte", UNSEEN, 3, "literature", _of_bytes),
    **{
        f"literature.bits_per_byte.{category}": _lower(
            f"literature, bits a byte, {category}", f"{UNSEEN} ({category})", 3, "literature", _of(category, _of_bytes)
        )
        for category in CATEGORIES
    },
    "literature.terms.exact": _higher(
        "terms completed", f"completes terms in {UNSEEN} exactly", "pretrained", "literature.terms", _column("correct")
    ),
    "literature.terms.edit_distance": _lower(
        "edit distance of terms", f"terms in {UNSEEN}", 3, "literature.terms", _column("edit_distance")
    ),
    "literature.equations.exact": _higher(
        "equations completed",
        f"completes equations in {UNSEEN} exactly",
        "pretrained",
        "literature.equations",
        _column("correct"),
    ),
    "literature.equations.edit_distance": _lower(
        "edit distance of equations", f"equations in {UNSEEN}", 3, "literature.equations", _column("edit_distance")
    ),
    "literature.next_sentence.accuracy": _higher(
        "next sentence",
        f"finds the next sentence in {UNSEEN}",
        "pretrained",
        "literature.next_sentence",
        _column("correct"),
    ),
}
"""Those of tasks that have no benchmark's name."""
OTHERS |= {name: replace(named, by_document=True) for name, named in OTHERS.items() if named.task in SEVERAL}


NAMED = ("multiple_choice.", "forgetting.")
"""Tasks with a name of their own: each has an accuracy."""


def about(metric: str) -> Metric:
    """Return what is known of a metric; each benchmark and task has its own, `multiple_choice.<name>.accuracy`."""
    if metric in METRICS or metric in OTHERS:
        return METRICS.get(metric) or OTHERS[metric]
    task = metric.rpartition(".")[0]
    kind, _, name = task.partition(".")
    if kind == "forgetting":
        title, does = f"general ability, {name}", f"answers questions of {name} rightly"
        return _higher(title, does, "pretrained", task, _column("correct"))
    return _higher(f"{name} accuracy", f"chooses the right option of {name}", "pretrained", task, _column("correct"))


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of all metrics that may be measured on the rows."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    chosen = [f"{task}.accuracy" for task in tasks if task.startswith(NAMED)]
    return [*METRICS, *chosen, *(metric for metric, about in OTHERS.items() if about.task in tasks)]


def shown(metric: str, value: float) -> str:
    """Return a metric's value as it is shown."""
    return f"{value:,.{about(metric).digits if abs(value) < 1000 else 0}f}".replace("-", "−")


def shown_difference(metric: str, value: float) -> str:
    """Return a difference with its sign."""
    return ("+" if value > 0 else "") + shown(metric, value)
