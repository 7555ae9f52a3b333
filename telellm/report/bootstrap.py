"""Bootstrap: how sure a difference between two models is, when both were asked the same questions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CELLS_AT_ONCE = 4_000_000
"""Resamples × questions that are in memory at once."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one model, question by question: a ratio of two sums, or the exponential of one."""

    numerators: Array
    denominators: Array
    exponential: bool = False

    def value(self, counts: Array) -> Array:
        """Return the metric for each row of `counts`: how often each question was drawn (resamples × questions)."""
        ratio = (counts @ self.numerators) / (counts @ self.denominators)
        return np.exp(ratio) if self.exponential else ratio


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus baseline, with its percentile interval; `low` and `high` are None for one question alone."""

    value: float
    low: float | None
    high: float | None
    share_below_zero: float | None
    """Share of the resamples in which the candidate's metric is lower."""
    n: int


def compare(baseline: Measured, candidate: Measured, samples: int, confidence: float, seed: int) -> Difference:
    """Draw the questions with replacement, the same ones for both models, and compare each time.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), Chapter 13 (percentile interval);
    paired over test items as in Koehn, Statistical Significance Tests for Machine Translation (2004).
    """
    number = len(baseline.numerators)
    once = np.ones((1, number))
    value = float((candidate.value(once) - baseline.value(once))[0])
    if number < 2:
        return Difference(value, None, None, None, number)
    generator = np.random.default_rng(seed)
    shares = np.full(number, 1 / number)
    at_once = max(1, CELLS_AT_ONCE // number)
    differences = []
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        counts = generator.multinomial(number, shares, size=size).astype(float)
        differences.append(candidate.value(counts) - baseline.value(counts))
    drawn = np.concatenate(differences)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(value, float(low), float(high), float((drawn < 0).mean()), number)
