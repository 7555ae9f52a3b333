"""Likelihoods of endings, whatever is computed once, beside what, and in what batches."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM

from telellm.evaluation.likelihood import Continued, log_likelihoods
from telellm.lm.models import load_model
from tests.tiny_model import make_tiny_model

TOKENS = st.lists(st.integers(1, 40), min_size=1, max_size=12)
INTRO = list(range(100, 120))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return load_model(str(make_tiny_model(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture(scope="module")
def windowed() -> Any:
    """Its layers see sixteen tokens back, whatever a mask says."""
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=300, num_key_value_heads=2, sliding_window=16, **shape)  # type: ignore[arg-type]
    return MistralForCausalLM(config).eval()


def one_by_one(model: Any, groups: list[list[Continued]]) -> list[list[list[float]]]:
    def score(text: list[int], ending: list[int]) -> float:
        with torch.inference_mode():
            scores = model(input_ids=torch.tensor([text + ending])).logits[0].float().log_softmax(-1)
        return sum(float(scores[len(text) - 1 + at, token]) for at, token in enumerate(ending))

    return [[[score(one.text, ending) for ending in one.endings] for one in group] for group in groups]


def flat(found: list[list[list[float]]]) -> list[float]:
    return [score for group in found for text in group for score in text]


CONTINUED = st.builds(Continued, TOKENS, st.lists(TOKENS, min_size=1, max_size=3))
GROUPS = st.lists(st.lists(CONTINUED, min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(GROUPS, st.booleans(), st.booleans(), st.sampled_from([1, 3, 100]))
def test_likelihoods_are_those_of_a_loop(
    model: Any, groups: list[list[Continued]], intro: bool, alike: bool, batch_size: int
) -> None:
    for number, group in enumerate(groups):
        before = (INTRO if intro else []) + (list(range(60 + number, 80 + 2 * number)) if alike else [])
        groups[number] = [Continued(before + one.text, one.endings) for one in group]
    done: list[int] = []
    found = log_likelihoods(model, 0, groups, batch_size, done.append)
    assert flat(found) == pytest.approx(flat(one_by_one(model, groups)), abs=1e-4)
    assert sum(done) == len(groups)


def test_layers_with_a_window_get_rows_of_their_own(windowed: Any) -> None:
    groups = [
        [Continued(INTRO + [60 + number] * 10 + [7] * (order + 1), [[5], [6], [6, 9]]) for order in range(3)]
        for number in range(4)
    ]
    found = log_likelihoods(windowed, 0, groups, 64, lambda number: None)
    assert flat(found) == pytest.approx(flat(one_by_one(windowed, groups)), abs=1e-4)


def test_what_is_shared_is_fed_once_and_letters_share_a_row(model: Any) -> None:
    fed: list[tuple[int, ...]] = []

    def note(module: Any, inputs: Any, named: Any) -> None:
        fed.append(tuple(named["input_ids"].shape))

    groups = [[Continued([*INTRO, *range(40 + number, 55 + number), order], [[1], [2], [3]]) for order in range(4)]
              for number in range(2)]  # fmt: skip
    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        log_likelihoods(model, 0, groups, 64, lambda number: None)
    finally:
        handle.remove()
    assert fed[-2:] == [(1, 20), (1, 2 * 15 + 8)]


def test_nothing_asked_is_nothing_found(model: Any) -> None:
    assert log_likelihoods(model, 0, [], 64, lambda number: None) == []


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_a_model_that_cannot_read_a_tree_reads_rows(model: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[Continued([*INTRO, number], [[1], [2, 3]])] for number in range(5)]
    expected = one_by_one(model, groups)
    monkeypatch.setattr(model.config, "_attn_implementation", name)
    assert flat(log_likelihoods(model, 0, groups, 8, lambda number: None)) == pytest.approx(flat(expected), abs=1e-4)
    forward, rows = type(model).forward, []

    def blind(self: Any, **named: Any) -> Any:
        """One that minds only which tokens are there, as one with a state would."""
        rows.append(len(named["input_ids"]))
        return forward(self, **(named | {"attention_mask": None}))

    monkeypatch.setattr(type(model), "forward", blind)
    found = log_likelihoods(model, 0, groups, 8, lambda number: None)
    assert rows[-1] == 2 * len(groups) and flat(found) == pytest.approx(flat(expected), abs=1e-4)
