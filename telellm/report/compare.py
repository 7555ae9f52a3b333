"""Compare: what the scores of base, pretrained and instruct model allow to say about them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from telellm.recipe import Evaluation
from telellm.report.bootstrap import Difference, Measured, compare

Row = Mapping[str, Any]
PAIRS = (
    *(("base", "pretrained"), ("base", "instruct"), ("pretrained", "instruct")),
    *(("production", "pretrained"), ("production", "instruct")),
)


PREDICTS = "predicts the reference answers {}"


@dataclass(frozen=True)
class Metric:
    """How a metric is called and shown."""

    title: str
    better: str
    """What is said of the model with the better value: it … than the other."""
    worse: str
    lower_is_better: bool
    digits: int
    subject: str
    """The model whose comparison with the base says most."""


METRICS = {
    "answer_perplexity.corpus": Metric(
        "answer perplexity", PREDICTS.format("better"), PREDICTS.format("worse"), True, 2, "pretrained"
    ),
    "answer_perplexity.question_mean": Metric(
        "answer perplexity, mean over questions",
        PREDICTS.format("better"),
        PREDICTS.format("worse"),
        True,
        2,
        "pretrained",
    ),
    "semscore.mean": Metric(
        "SemScore",
        "answers nearer to the reference in meaning",
        "answers farther from the reference in meaning",
        False,
        3,
        "instruct",
    ),
    "llm_eval.accuracy": Metric(
        "judged correct", "is judged correct more often", "is judged correct less often", False, 3, "instruct"
    ),
}


def about(metric: str) -> Metric:
    """Return how a metric is called and shown; `multiple_choice.<benchmark>.accuracy` is one for each benchmark."""
    if metric in METRICS:
        return METRICS[metric]
    name = _benchmark(metric)
    more, less = (f"chooses the right option of {name} {how} often" for how in ("more", "less"))
    return Metric(f"{name} accuracy", more, less, False, 3, "pretrained")


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of all metrics that may be measured on the rows."""
    benchmarks = dict.fromkeys(row["benchmark"] for row in rows if row.get("benchmark"))
    return [*METRICS, *(f"multiple_choice.{name}.accuracy" for name in benchmarks)]


def _benchmark(metric: str) -> str:
    return metric.removeprefix("multiple_choice.").rpartition(".")[0]


def compare_models(
    rows: Mapping[str, Sequence[Row]], settings: Evaluation, split: str | None = None
) -> list[dict[str, Any]]:
    """Compare every pair of roles in every metric over the questions that both answered (of one split, or all)."""
    found = [
        compare_pair((baseline, rows[baseline]), (candidate, rows[candidate]), metric, settings, split)
        for metric in metrics_of(row for found in rows.values() for row in found)
        for baseline, candidate in PAIRS
        if baseline in rows and candidate in rows
    ]
    return [comparison for comparison in found if comparison is not None]


def compare_pair(
    first: tuple[str, Sequence[Row]],
    second: tuple[str, Sequence[Row]],
    metric: str,
    settings: Evaluation,
    split: str | None = None,
) -> dict[str, Any] | None:
    """Compare two models, each a role and its rows, in a metric; None where no question was answered by both."""
    (baseline, before), (candidate, after) = first, second
    pairs = _paired(before, after, metric, split)
    if not pairs:
        return None
    difference = compare(
        measured([row for row, _ in pairs], metric),
        measured([row for _, row in pairs], metric),
        settings.bootstrap_samples,
        settings.confidence,
        settings.seed,
    )
    return (
        {"baseline": baseline, "candidate": candidate, "metric": metric, "split": split or "all"}
        | {"difference" if name == "value" else name: value for name, value in asdict(difference).items()}
        | {"confidence": settings.confidence, "better": is_better(metric, difference)}
        | {"verdict": verdict(metric, baseline, candidate, difference, settings.confidence)}
    )


def measured(rows: Sequence[Row], metric: str) -> Measured:
    """Return a metric of the rows, question by question."""
    ones = np.ones(len(rows))
    if metric.startswith("answer_perplexity"):
        nll, tokens = (np.array([row[name] for row in rows], dtype=float) for name in ("nll", "tokens"))
        if metric == "answer_perplexity.corpus":
            return Measured(nll, tokens, exponential=True)
        return Measured(np.exp(nll / tokens), ones)
    if metric == "semscore.mean":
        return Measured(np.array([row["semscore"] for row in rows], dtype=float), ones)
    if metric.startswith("multiple_choice."):
        return Measured(np.array([row["correct"] for row in rows], dtype=float), ones)
    return Measured(np.array([row["judge_verdict"] == "yes" for row in rows], dtype=float), ones)


def is_better(metric: str, difference: Difference) -> bool | None:
    """Say whether the candidate is better; None where the interval includes zero."""
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return None
    return (difference.high < 0) == about(metric).lower_is_better


def verdict(metric: str, baseline: str, candidate: str, difference: Difference, confidence: float) -> str:
    """Return one sentence that says what the interval allows and no more."""
    named = about(metric)
    better = is_better(metric, difference)
    figures = (
        f"{named.title} {shown_difference(metric, difference.value)}, {interval_text(metric, difference, confidence)}"
    )
    if better is None:
        return f"No difference between {candidate} and {baseline} model is shown ({figures})."
    return f"The {candidate} model {named.better if better else named.worse} than the {baseline} ({figures})."


def interval_text(metric: str, difference: Difference, confidence: float) -> str:
    """Return `95 % interval −9.00 … −5.20, n = 60`."""
    if difference.low is None or difference.high is None:
        return "one question alone"
    low, high = (shown_difference(metric, value) for value in (difference.low, difference.high))
    return f"{confidence * 100:g} % interval {low} … {high}, n = {difference.n:,}"


def shown(metric: str, value: float) -> str:
    """Return a metric's value as it is shown."""
    digits = METRICS[metric].digits if metric in METRICS else 3
    return f"{value:,.{digits if abs(value) < 1000 else 0}f}".replace("-", "−")


def shown_difference(metric: str, value: float) -> str:
    """Return a difference with its sign."""
    return ("+" if value > 0 else "") + shown(metric, value)


def _paired(first: Sequence[Row], second: Sequence[Row], metric: str, split: str | None) -> list[tuple[Row, Row]]:
    others = {(row["id"], row["statement"]): row for row in second if _has(row, metric)}
    return [
        (row, others[key])
        for row in first
        if _has(row, metric) and (split is None or row["split"] == split)
        if (key := (row["id"], row["statement"])) in others
    ]


def _has(row: Row, metric: str) -> bool:
    if metric.startswith("answer_perplexity"):
        return row["nll"] is not None
    if metric == "semscore.mean":
        return row["semscore"] is not None
    if metric.startswith("multiple_choice."):
        return row.get("benchmark") == _benchmark(metric)
    return row["judge_verdict"] in ("yes", "no")
