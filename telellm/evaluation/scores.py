"""Scores: the figures of a model from what was measured on each question, with standard errors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LN_2 = math.log(2)
Row = Mapping[str, Any]
"""A question of `questions.parquet`: what was not measured on it is None."""
Score = dict[str, float | int | None]
"""`value`, `stderr` (None for one question alone) and `n`, the number of questions."""


def add_up(rows: Sequence[Row]) -> dict[str, Score]:
    """Return each metric for which there are measurements."""
    metrics: dict[str, Score] = {}
    if measured := [row for row in rows if row["nll"] is not None]:
        nll = np.array([row["nll"] for row in measured])
        tokens = np.array([row["tokens"] for row in measured], dtype=float)
        metrics["answer_perplexity.corpus"] = corpus_perplexity(nll, tokens)
        metrics["answer_perplexity.question_mean"] = mean(np.exp(nll / tokens))
    if values := [row["semscore"] for row in rows if row["semscore"] is not None]:
        metrics["semscore.mean"] = mean(np.array(values))
    verdicts = [row["judge_verdict"] for row in rows if row["judge_verdict"] is not None]
    if parsed := [verdict == "yes" for verdict in verdicts if verdict != "unparseable"]:
        metrics["llm_eval.accuracy"] = mean(np.array(parsed, dtype=float))
    if verdicts:
        metrics["llm_eval.unparseable"] = mean(
            np.array([verdict == "unparseable" for verdict in verdicts], dtype=float)
        )
    return metrics


def add_up_texts(name: str, rows: Sequence[Row]) -> dict[str, Score]:
    """Return the perplexity of whole texts and their bits a byte, which do not depend on the tokenizer."""
    measured = [row for row in rows if row["nll"] is not None]
    if not measured:
        return {}
    nll, tokens, size = (np.array([row[c] for row in measured], dtype=float) for c in ("nll", "tokens", "bytes"))
    return {f"{name}.perplexity": corpus_perplexity(nll, tokens), f"{name}.bits_per_byte": ratio(nll / LN_2, size)}


def corpus_perplexity(nll: NDArray[np.float64], tokens: NDArray[np.float64]) -> Score:
    """Return exp of the mean negative log-likelihood over all tokens; the delta method carries its standard error."""
    rate = ratio(nll, tokens)
    value, error = math.exp(rate["value"] or 0), rate["stderr"]
    return {"value": value, "stderr": None if error is None else value * error, "n": len(nll)}


def ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> Score:
    """Return a ratio of sums over questions and its standard error (Cochran, Sampling Techniques, Section 2.11)."""
    number = len(numerators)
    value = float(numerators.sum() / denominators.sum())
    if number < 2:
        return {"value": value, "stderr": None, "n": number}
    rests = numerators - value * denominators
    variance = number / (number - 1) * float(rests @ rests) / denominators.sum() ** 2
    return {"value": value, "stderr": math.sqrt(variance), "n": number}


def mean(values: NDArray[np.float64]) -> Score:
    """Return the mean over questions and its standard error."""
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"value": float(values.mean()), "stderr": error, "n": len(values)}
