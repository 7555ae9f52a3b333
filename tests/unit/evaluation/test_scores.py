import math
from typing import Any

import numpy as np
import pytest

from telellm.evaluation.scores import add_up, corpus_perplexity, mean


def row(
    nll: float | None = None, tokens: int | None = None, semscore: float | None = None, verdict: str | None = None
) -> dict[str, Any]:
    return {"nll": nll, "tokens": tokens, "semscore": semscore, "judge_verdict": verdict}


def test_the_two_means_of_perplexity_weigh_differently() -> None:
    found = add_up([row(nll=10 * math.log(2), tokens=10), row(nll=2 * math.log(8), tokens=2)])
    assert found["answer_perplexity.corpus"]["value"] == pytest.approx(2 ** (10 / 12) * 8 ** (2 / 12))
    assert found["answer_perplexity.question_mean"]["value"] == pytest.approx(5)
    assert found["answer_perplexity.question_mean"]["stderr"] == pytest.approx(3)


def test_the_standard_error_of_corpus_perplexity_agrees_with_resampling() -> None:
    generator = np.random.default_rng(5)
    tokens = generator.integers(5, 40, 300).astype(float)
    nll = tokens * generator.normal(2.5, 0.5, 300)
    counts = generator.multinomial(300, np.full(300, 1 / 300), size=4000)
    resampled = np.exp((counts @ nll) / (counts @ tokens))
    assert corpus_perplexity(nll, tokens)["stderr"] == pytest.approx(resampled.std(), rel=0.1)


def test_unparseable_verdicts_are_counted_and_not_guessed() -> None:
    found = add_up([row(verdict=word) for word in ("yes", "no", "no", "unparseable")])
    assert found["llm_eval.accuracy"]["value"] == pytest.approx(1 / 3)
    assert found["llm_eval.accuracy"]["n"] == 3
    assert found["llm_eval.unparseable"]["value"] == 0.25
    assert "llm_eval.accuracy" not in add_up([row(verdict="unparseable")])


def test_what_was_not_measured_has_no_score() -> None:
    assert set(add_up([row(), row(semscore=0.5)])) == {"semscore.mean"}
    assert add_up([]) == {}


def test_one_question_has_no_standard_error() -> None:
    assert mean(np.array([0.5])) == {"value": 0.5, "stderr": None, "n": 1}
    assert corpus_perplexity(np.array([2.0]), np.array([2.0]))["stderr"] is None
