import pytest

from telellm.recipe import Pretrain
from telellm.training.schedule import learning_rate, utilization


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine_to_its_share() -> None:
    settings = Pretrain(learning_rate=1e-3, warmup_share=0.1, final_learning_rate_share=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-4 * (step + 1) for step in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx((1e-3 + 1e-4) / 2)
    assert rates[-1] == pytest.approx(1e-4)


def test_one_step_has_a_rate() -> None:
    assert learning_rate(0, 1, Pretrain(warmup_share=0.03)) == pytest.approx(2e-5)
    assert learning_rate(0, 1, Pretrain(warmup_share=0)) == pytest.approx(2e-6)


def test_utilization_is_known_for_known_gpus_alone() -> None:
    assert utilization(10_000, 8_000_000_000, "NVIDIA H100 80GB HBM3", 1) == pytest.approx(0.485, abs=1e-3)
    assert utilization(1000, 1_100_000_000, "NVIDIA A100-SXM4-80GB", 2) == pytest.approx(0.0106, abs=1e-3)
    assert utilization(100, 135_000_000, "CPU", 1) is None
