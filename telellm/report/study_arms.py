"""Arms: what the scores of a study's arms allow to say about them, over questions and over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from telellm.recipe import Evaluation
from telellm.records import CATEGORIES
from telellm.report.bootstrap import CELLS_AT_ONCE, Array, Measured
from telellm.report.compare import FEWEST, measured
from telellm.report.metrics import Metric, Row, about, shown, shown_difference

TAIL_SAMPLES = 25
"""Resamples that should lie beyond each end of an interval: the narrower the tails, the more must be drawn."""
MAXIMUM_SAMPLES = 50_000
Rows = Sequence[Row]


@dataclass(frozen=True)
class Arm:
    """An arm of which at least one seed came to its end."""

    name: str
    models: Sequence[Rows]
    """What was measured of its model with each seed."""
    bases: Sequence[Rows]
    """What was measured of the base model from which each of them was made."""


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval; `low` and `high` are None for one question alone."""

    value: float
    low: float | None
    high: float | None
    confidence: float

    @property
    def includes_zero(self) -> bool:
        """Whether it allows no sign to be told; an interval of what is no number allows none."""
        return self.low is None or self.high is None or not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Measurement:
    """A metric of all arms, on the questions that every model answered."""

    metric: str
    n: int
    """What is drawn anew: questions, or documents of which texts, terms, equations or sentences are asked."""
    seeds: int
    """The most seeds of an arm: with one, the intervals are over questions alone."""
    comparisons: int
    """Intervals of differences to the reference that hold together with `confidence`."""
    confidence: float
    samples: int
    values: dict[str, Interval] = field(default_factory=dict)
    """Each arm's value, with an interval of its own."""
    from_base: dict[str, Interval] = field(default_factory=dict)
    """Each arm's value less that of its base model, with an interval of its own."""
    from_reference: dict[str, Interval] = field(default_factory=dict)
    """Each other arm's value less the reference's; these intervals are wide enough for all of them to hold at once."""

    def better(self, arm: str) -> bool | None:
        """Say whether an arm is better than the reference; None where zero is in the interval, or few are compared."""
        found = self.from_reference.get(arm)
        if self.n < FEWEST or found is None or found.includes_zero or found.high is None:
            return None
        return (found.high < 0) == named(self.metric).lower_is_better

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


ANSWER_BITS = "answer.bits_per_byte"
IN_BYTES = {
    "answer_perplexity.corpus": ANSWER_BITS,
    "answer_perplexity.question_mean": ANSWER_BITS,
    "general.perplexity": "general.bits_per_byte",
    "literature.perplexity": "literature.bits_per_byte",
    **{f"literature.perplexity.{name}": f"literature.bits_per_byte.{name}" for name in CATEGORIES},
}
"""Perplexities, and what takes their place where tokenizers differ: the same likelihood by byte of text."""
BITS = Metric(
    title="bits a byte of the reference answers",
    better="predicts the reference answers better",
    worse="predicts the reference answers worse",
    lower_is_better=True,
    digits=3,
    subject="pretrained",
    task="tele-eval",
    part=lambda row: None if row["nll"] is None else (row["nll"] / math.log(2), len(row["answer"].encode())),
)


def named(metric: str) -> Metric:
    """Return how a metric is called and made of rows."""
    return BITS if metric == ANSWER_BITS else about(metric)


def measure(
    arms: Sequence[Arm],
    reference: str,
    metric: str,
    settings: Evaluation,
    *,
    num_metrics: int = 1,
    split: str | None = None,
    category: str | None = None,
) -> Measurement | None:
    """Measure a metric of every arm, and its differences to the reference arm and to its base model.

    Questions are drawn with replacement, the same ones for all models; of an arm with several seeds, seeds are drawn as
    well. An interval is that of percentiles. Those of the differences to the reference are corrected for their number,
    `num_metrics` times the arms that are compared (Bonferroni: each has the confidence 1 − (1 − c) / number). Where
    models have different tokenizers, a perplexity is replaced by bits a byte. None where no question has the metric.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), Chapter 13; Dunn, Multiple Comparisons Among
    Means (1961).
    """
    models = [rows for arm in arms for rows in (*arm.models, *arm.bases)]
    aligned = _align(models, metric, split, category)
    if metric in IN_BYTES and aligned and _tokenizers_differ(aligned):
        metric = IN_BYTES[metric]
        aligned = _align(models, metric, split, category)
    if not aligned or not aligned[0]:
        return None
    numbers = [_measured(rows, metric) for rows in aligned]
    n, confidence = len(numbers[0].numerators), settings.confidence
    others = [arm.name for arm in arms if arm.name != reference]
    comparisons = max(1, len(others) * num_metrics)
    strict = 1 - (1 - confidence) / comparisons
    samples = min(MAXIMUM_SAMPLES, max(settings.bootstrap_samples, math.ceil(2 * TAIL_SAMPLES / (1 - strict))))
    drawn = _draw(numbers, samples, settings.seed)
    values, bases = _by_arm(arms, drawn, settings.seed)

    def interval(row: Array, level: float) -> Interval:
        if n < 2:
            return Interval(float(row[0]), None, None, level)
        low, high = np.quantile(row[1:], [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(row[0]), float(low), float(high), level)

    known = reference in values
    return Measurement(
        metric=metric,
        n=n,
        seeds=max(len(arm.models) for arm in arms),
        comparisons=comparisons,
        confidence=confidence,
        samples=samples,
        values={name: interval(row, confidence) for name, row in values.items()},
        from_base={name: interval(row - bases[name], confidence) for name, row in values.items()},
        from_reference={name: interval(values[name] - values[reference], strict) for name in others if known},
    )


def num_shared(arms: Sequence[Arm], metric: str, split: str | None = None) -> int:
    """Return the number of questions on which a metric was measured of every model."""
    aligned = _align([rows for arm in arms for rows in (*arm.models, *arm.bases)], metric, split, None)
    return len(aligned[0]) if aligned else 0


def sentence(arm: str, reference: str, found: Measurement, seeds: Mapping[str, int]) -> str:
    """Return one sentence that says what the intervals allow of an arm, and no more.

    `seeds` holds the number of seeds with which each arm came to its end.
    """
    metric = named(found.metric)
    count = f"n = {found.n:,}, {seeds[arm]} seed{'s' * (seeds[arm] != 1)}"
    if arm == reference or reference not in found.values:
        value = found.values[arm]
        said = f"{arm} is the reference arm" if arm == reference else f"{arm} has no reference to be compared with"
        figures = f"{metric.title} {shown(found.metric, value.value)} ({_span(found.metric, value, signed=False)})"
        return f"{said}: {figures}, {count}."
    difference = found.from_reference[arm]
    figures = f"difference {_signed(found.metric, difference.value)} ({_span(found.metric, difference)}), {count}"
    if found.n < FEWEST:
        return f"{arm} cannot be told from {reference} by so few ({figures})."
    better = found.better(arm)
    if better is None:
        return f"{arm} is not distinguishable from {reference} in {metric.title}: {figures}."
    return f"{arm} {metric.better if better else metric.worse} than {reference}: {figures}."


def clause(arm: str, reference: str, found: Measurement) -> str:
    """Return what the intervals of another metric allow of an arm, to follow its sentence."""
    metric = named(found.metric)
    if arm == reference or reference not in found.values:
        return f"{metric.title} {span_text(found.metric, found.values[arm], signed=False)}, n = {found.n:,}"
    verdict = {True: "better", False: "worse", None: "not distinguishable"}[found.better(arm)]
    return f"in {metric.title} {verdict}: {span_text(found.metric, found.from_reference[arm])}, n = {found.n:,}"


def span_text(metric: str, found: Interval, signed: bool = True) -> str:
    """Return a value with its interval, as in `−0.30 (95 % −1.10 … +0.50)`."""
    value = _signed(metric, found.value) if signed else shown(metric, found.value)
    return f"{value} ({_span(metric, found, signed)})"


def _span(metric: str, found: Interval, signed: bool = True) -> str:
    if found.low is None or found.high is None:
        return "no interval"
    low, high = ((_signed if signed else shown)(metric, end) for end in (found.low, found.high))
    return f"{found.confidence * 100:.4g} % {low} … {high}"


def _signed(metric: str, value: float) -> str:
    return shown_difference(metric, value)


def _align(models: Sequence[Rows], metric: str, split: str | None, category: str | None) -> list[list[Row]]:
    """Return the rows of each model that have the metric, for the questions that all models have, in one order."""
    about_it = named(metric)

    def counts(row: Row) -> bool:
        if row["task"] != about_it.task or about_it.part(row) is None:
            return False
        of_split = split is None or about_it.task != "tele-eval" or row["split"] == split
        return of_split and (category is None or row["id"].partition("_")[0] == category)

    by_key = [{(row["id"], row["statement"]): row for row in rows if counts(row)} for rows in models]
    shared = [key for key in next(iter(by_key), {}) if all(key in found for found in by_key)]
    return [[found[key] for key in shared] for found in by_key]


def _tokenizers_differ(aligned: Sequence[Rows]) -> bool:
    return any(
        row["tokens"] != first["tokens"] for rows in aligned for row, first in zip(rows, aligned[0], strict=True)
    )


def _measured(rows: Rows, metric: str) -> Measured:
    if metric != ANSWER_BITS:
        return measured(rows, metric)
    above, below = np.array([BITS.part(row) for row in rows], dtype=float).T
    return Measured(above, below)


def _draw(models: Sequence[Measured], samples: int, seed: int) -> Array:
    """Return the metric of each model on all questions, and on each resample of them: (models, 1 + samples)."""
    number = len(models[0].numerators)
    generator = np.random.default_rng(seed)
    shares = np.full(number, 1 / number)
    columns = [np.array([model.value(np.ones((1, number))) for model in models])]
    at_once = max(1, CELLS_AT_ONCE // number)
    for start in range(0, samples if number > 1 else 0, at_once):
        counts = generator.multinomial(number, shares, size=min(at_once, samples - start)).astype(float)
        columns.append(np.array([model.value(counts) for model in models]))
    return np.concatenate(columns, axis=1)


def _by_arm(arms: Sequence[Arm], drawn: Array, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the mean over seeds of each arm and of its base: on all questions, then on each resample, seeds anew."""
    values: dict[str, Array] = {}
    bases: dict[str, Array] = {}
    begin = 0
    for number, arm in enumerate(arms):
        size = len(arm.models)
        of_models, of_bases = drawn[begin : begin + size], drawn[begin + size : begin + 2 * size]
        begin += 2 * size
        samples = drawn.shape[1] - 1
        chosen = np.random.default_rng([seed, number]).integers(size, size=(size, samples))
        columns = np.arange(1, samples + 1)
        for target, of in ((values, of_models), (bases, of_bases)):
            target[arm.name] = np.concatenate([of[:, :1].mean(axis=0), of[chosen, columns].mean(axis=0)])
    return values, bases
