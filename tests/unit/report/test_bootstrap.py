import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.report.bootstrap import Measured, compare


def mean_of(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Measured:
    return Measured(values, np.ones(len(values)))


def test_the_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.normal(0, 1, 400), generator.normal(0.3, 1, 400)
    found = compare(mean_of(first), mean_of(second), 4000, 0.95, seed=1)
    differences = second - first
    half = 1.96 * differences.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - half, abs=0.02)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.02)


def test_pairing_removes_what_all_models_find_hard() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 10, 60)
    found = compare(mean_of(hard), mean_of(hard - 0.1 + generator.normal(0, 0.05, 60)), 500, 0.95, seed=1)
    assert found.high is not None and found.high < 0
    assert found.share_below_zero == 1


def test_perplexity_is_resampled_as_a_ratio_of_sums() -> None:
    nll, tokens = np.array([10.0, 2.0, 30.0]), np.array([5.0, 4.0, 10.0])
    base = Measured(nll, tokens, exponential=True)
    assert base.value(np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])) == pytest.approx([math.exp(42 / 19), math.exp(0.5)])


def test_one_question_alone_has_no_interval() -> None:
    found = compare(mean_of(np.array([1.0])), mean_of(np.array([3.0])), 100, 0.95, seed=1)
    assert (found.value, found.low, found.high, found.n) == (2.0, None, None, 1)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=30), st.integers(0, 99))
def test_a_seed_gives_one_interval_and_it_is_in_order(pairs: list[tuple[float, float]], seed: int) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    found = compare(mean_of(first), mean_of(second), 100, 0.9, seed)
    assert found == compare(mean_of(first), mean_of(second), 100, 0.9, seed)
    assert found.low is not None and found.high is not None and found.low <= found.high
