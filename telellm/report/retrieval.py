"""Retrieval: what the report says of models that have passages of the corpus at hand."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from telellm.recipe import Evaluation
from telellm.report.bootstrap import compare
from telellm.report.compare import is_better, measured
from telellm.report.metrics import Row, about
from telellm.stage import Output

SCORES, ANSWERS = "retrieval/scores.json", "retrieval/answers.parquet"
CLOSED, OPEN, GOLD = ("closed book", "open book", "gold passage")
PAIRS = ((CLOSED, OPEN), (CLOSED, GOLD), (OPEN, GOLD))
METRICS = {metric: about(metric).title for metric in ("answer_perplexity.corpus", "semscore.mean", "llm_eval.accuracy")}
"""Metric → its title."""


def describe_retrieval(outputs: Mapping[str, Output], settings: Evaluation) -> dict[str, Any] | None:
    """Return recall, each model's scores in each condition, and the paired differences; None where nobody asked.

    Recall is that of the search alone and the same for every model: the first one's stands for all.
    """
    scored = {role: output for role, output in outputs.items() if SCORES in output.manifest["files"]}
    if not scored:
        return None
    found = {role: json.loads(output.path(SCORES).read_text(encoding="utf-8")) for role, output in scored.items()}
    first = next(iter(found.values()))
    return {
        "recall": first["recall"],
        "passages": first["passages"],
        "indexed": first["indexed"],
        "models": [{"role": role, "conditions": scores["conditions"]} for role, scores in found.items()],
        "differences": [
            difference for role, output in scored.items() for difference in _differences(role, _read(output), settings)
        ],
    }


def _read(output: Output) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = parquet.read_table(output.path(ANSWERS)).to_pylist()
    return rows


def _differences(role: str, rows: Sequence[Row], settings: Evaluation) -> list[dict[str, Any]]:
    """Return, for a model, how its scores differ between two conditions over the questions that it has in both."""
    by_condition = {
        condition: {(row["id"], row["statement"]): row for row in rows if row["condition"] == condition}
        for condition in (CLOSED, OPEN, GOLD)
    }
    found = []
    for metric, title in METRICS.items():
        for baseline, candidate in PAIRS:
            before, after = by_condition[baseline], by_condition[candidate]
            part = about(metric).part
            keys = [key for key in before if key in after and part(before[key]) and part(after[key])]
            if not keys:
                continue
            difference = compare(
                measured([before[key] for key in keys], metric),
                measured([after[key] for key in keys], metric),
                settings.bootstrap_samples,
                settings.confidence,
                settings.seed,
            )
            found.append(
                {"role": role, "metric": metric, "title": title, "baseline": baseline, "candidate": candidate}
                | {"difference": difference.value, "low": difference.low, "high": difference.high}
                | {"n": difference.n, "confidence": settings.confidence}
                | {"better": is_better(metric, difference)}
            )
    return found
