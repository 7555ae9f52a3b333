"""Compare: what the scores of a run's models, and of those beside them, allow to say about them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from telellm.recipe import Evaluation
from telellm.report.bootstrap import Difference, Measured, compare
from telellm.report.metrics import Row, about, metrics_of, shown_difference

PAIRS = (
    *(("base", "pretrained"), ("base", "instruct"), ("pretrained", "instruct")),
    *(("production", "pretrained"), ("production", "instruct")),
)
FEWEST = 10
"""Of fewer questions nothing is said: where all of n go the same way, no draw of the bootstrap does otherwise, and of
two models that are alike that is so once in 2^(n-1) times: every fourth time of three questions."""
OWN = ("base", "pretrained", "instruct", "production")
"""The models of a run; others are reference models, by their names in the recipe."""


def compare_models(
    rows: Mapping[str, Sequence[Row]], settings: Evaluation, split: str | None = None
) -> list[dict[str, Any]]:
    """Compare the models in every metric over the questions that both answered (of one split, or all).

    Every pair of roles, and each reference model with the instruct model: without one, with the pretrained model.
    """
    adapted = next((role for role in ("instruct", "pretrained") if role in rows), "")
    pairs = [*PAIRS, *((name, adapted) for name in rows if name not in OWN)]
    found = [
        compare_pair((baseline, rows[baseline]), (candidate, rows[candidate]), metric, settings, split)
        for metric in metrics_of(row for found in rows.values() for row in found)
        for baseline, candidate in pairs
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
    """Compare two models, each a role and its rows, in a metric; None where it cannot be.

    That is where no question was answered by both, or where their tokenizers differ and it is a perplexity.
    """
    (baseline, before), (candidate, after) = first, second
    pairs = _paired(before, after, metric, split)
    if not pairs or (about(metric).exponential and _tokenizers_differ(pairs)):
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
    """Return a metric of the rows, question by question, or document by document where its rows are several of one.

    Source of the latter: Davison and Hinkley, Bootstrap Methods and their Application (1997), Section 3.8 (clusters).
    """
    named = about(metric)
    parts: dict[Any, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        if (part := named.part(row)) is not None:
            unit = row["id"] if named.by_document else number
            above, below = parts.get(unit, (0.0, 0.0))
            parts[unit] = (above + part[0], below + part[1])
    numerators, denominators = np.array(list(parts.values()), dtype=float).reshape(-1, 2).T
    return Measured(numerators, denominators, named.exponential)


def is_better(metric: str, difference: Difference) -> bool | None:
    """Say whether the candidate is better; None where the interval includes zero, or rests on too few questions."""
    if (
        difference.n < FEWEST
        or difference.low is None
        or difference.high is None
        or difference.low <= 0 <= difference.high
    ):
        return None
    return (difference.high < 0) == about(metric).lower_is_better


def verdict(metric: str, baseline: str, candidate: str, difference: Difference, confidence: float) -> str:
    """Return one sentence that says what the interval allows and no more."""
    named = about(metric)
    better = is_better(metric, difference)
    figures = (
        f"{named.title} {shown_difference(metric, difference.value)}, {interval_text(metric, difference, confidence)}"
    )
    if difference.n < FEWEST:
        return f"Too few are compared to tell {candidate} and {baseline} model apart ({figures})."
    if better is None:
        return f"No difference between {candidate} and {baseline} model is shown ({figures})."
    return f"The {candidate} model {named.better if better else named.worse} than the {baseline} ({figures})."


def interval_text(metric: str, difference: Difference, confidence: float) -> str:
    """Return `95 % interval −9.00 … −5.20, n = 60`."""
    if difference.low is None or difference.high is None:
        return "one question alone"
    low, high = (shown_difference(metric, value) for value in (difference.low, difference.high))
    return f"{confidence * 100:g} % interval {low} … {high}, n = {difference.n:,}"


def _paired(first: Sequence[Row], second: Sequence[Row], metric: str, split: str | None) -> list[tuple[Row, Row]]:
    others = {(row["id"], row["statement"]): row for row in second if _has(row, metric)}
    return [
        (row, others[key])
        for row in first
        if _has(row, metric) and (split is None or row["split"] == split)
        if (key := (row["id"], row["statement"])) in others
    ]


def _has(row: Row, metric: str) -> bool:
    named = about(metric)
    return row["task"] == named.task and named.part(row) is not None


def _tokenizers_differ(pairs: Sequence[tuple[Row, Row]]) -> bool:
    """Say whether two models count different tokens in the same text, so that their perplexities say nothing."""
    return any(before["tokens"] != after["tokens"] for before, after in pairs)
