from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GemmaConfig, LlamaConfig, PhiConfig

from telellm.training.loss import DocumentLoss
from telellm.training.sequences import batch

SMALL = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}
FIRST, SECOND = [5, 9, 7, 3, 11, 2], [8, 6, 4, 12, 100]
ROW = {"tokens": FIRST + SECOND, "lengths": [len(FIRST), len(SECOND)]}


def model_of(config: Any) -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config).eval()


FAMILIES = [
    LlamaConfig(**SMALL),
    PhiConfig(**SMALL),
    GemmaConfig(**SMALL, head_dim=8),
    Gemma2Config(**SMALL, head_dim=8, sliding_window=4),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_a_packed_document_is_scored_as_if_it_were_alone(config: Any) -> None:
    model = model_of(config)
    packed = batch([ROW])
    with torch.no_grad():
        together = model(input_ids=packed.tokens, position_ids=packed.positions, use_cache=False).logits
        alone = model(input_ids=torch.tensor([SECOND]), use_cache=False).logits
        other = packed.tokens.clone()
        other[0, : len(FIRST)] = 77
        changed = model(input_ids=other, position_ids=packed.positions, use_cache=False).logits
        mixed = model(input_ids=packed.tokens, use_cache=False).logits
    torch.testing.assert_close(together[:, len(FIRST) :], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(together[:, len(FIRST) :], changed[:, len(FIRST) :], atol=1e-4, rtol=0)
    assert (mixed[:, len(FIRST) :] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_the_loss_in_chunks_is_the_models_own_loss(config: Any) -> None:
    model = model_of(config)
    loss = DocumentLoss(model, chunk_tokens=3)
    rows = batch([ROW, {"tokens": SECOND, "lengths": [5]}])
    total = loss(rows.tokens, rows.positions, rows.targets)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected = torch.zeros(())
    for document in (FIRST, SECOND, SECOND):
        tokens = torch.tensor([document])
        expected = expected + model(input_ids=tokens, labels=tokens, use_cache=False).loss * (len(document) - 1)
    expected.backward()
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-3)


def test_scores_of_a_whole_sequence_are_never_held() -> None:
    model = model_of(LlamaConfig(**SMALL))
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel() // 200))
    rows = batch([{"tokens": list(range(40)), "lengths": [40]}])
    DocumentLoss(model, chunk_tokens=8)(rows.tokens, rows.positions, rows.targets)
    assert max(sizes) == 8
    assert sum(sizes) == 39


def test_nothing_to_learn_costs_nothing_but_reaches_every_parameter() -> None:
    model = model_of(LlamaConfig(**SMALL))
    rows = batch([])
    loss = DocumentLoss(model)(rows.tokens, rows.positions, rows.targets)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
