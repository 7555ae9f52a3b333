import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from telellm.execution import execute
from telellm.recipe import Recipe, RecipeError, parse
from telellm.stage import Output
from telellm.store import Store
from telellm.training.instruct import instruct
from telellm.training.pretrain import pretrain


def changed(model: Path, target: Path, by: float, dtype: torch.dtype = torch.float32, rows: int = 0) -> Path:
    """A copy of a model whose every weight is another by a little; with more rows in its embedding."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(round(by * 1000))
    for parameter in loaded.parameters():
        parameter.data += by * torch.randn(parameter.shape, generator=generator)
    if rows:
        loaded.resize_token_embeddings(loaded.config.vocab_size + rows)
    loaded.to(dtype).save_pretrained(target, max_shard_size="200KB")  # several files, as large models have
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(target)
    return target


def recipe(base: Path, folder: Path, **settings: Any) -> Recipe:
    return parse(f"""
name: t
model: {{name: {base}}}
sources: {{a: {{category: web, path: {folder}}}}}
training: {{pretrain: {{method: none}}, instruct: {json.dumps({"method": "chat-vector"} | settings)}}}
""")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def made(settled: Recipe, folder: Path, model: str = "") -> Path:
    store = Store.open(str(folder / "store"))
    place = execute(instruct, settled, store, "r", {"model": model})
    return Output.find(store, place).folder("model")


def given(folder: Path, model: Path) -> str:
    """Put a model into the store as pretraining would; returns its place."""
    store = Store.open(str(folder / "store"))
    (folder / "given").mkdir()
    model.rename(folder / "given" / "model")
    store.commit("given", folder / "given", {"stage": "pretrain", "content": "x", "out": 1})
    return "given"


def test_what_the_vendor_taught_is_added_to_every_weight(tiny_model: Path, tmp_path: Path) -> None:
    vendor = changed(tiny_model, tmp_path / "vendor", 0.02)
    tokenizer = AutoTokenizer.from_pretrained(vendor)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(vendor)
    pretrained = weights(changed(tiny_model, tmp_path / "pretrained", 0.01))
    place = given(tmp_path, tmp_path / "pretrained")
    folder = made(recipe(tiny_model, tmp_path, vendor=str(vendor), vector_scale=0.5), tmp_path, place)
    base, theirs, found = weights(tiny_model), weights(vendor), weights(folder)
    assert set(found) == set(pretrained)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, pretrained[name] + 0.5 * (theirs[name] - base[name]))
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    assert AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template


def test_without_pretraining_the_whole_vector_makes_the_vendors_model(tiny_model: Path, tmp_path: Path) -> None:
    vendor = changed(tiny_model, tmp_path / "vendor", 0.02)
    found, theirs = weights(made(recipe(tiny_model, tmp_path, vendor=str(vendor)), tmp_path)), weights(vendor)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, theirs[name])


def test_the_sum_keeps_the_pretrained_models_number_format_and_the_vendors_new_tokens(
    tiny_model: Path, tmp_path: Path
) -> None:
    vendor = changed(tiny_model, tmp_path / "vendor", 0.02, rows=3)
    changed(tiny_model, tmp_path / "pretrained", 0.01, dtype=torch.bfloat16)
    place = given(tmp_path, tmp_path / "pretrained")
    folder = made(recipe(tiny_model, tmp_path, vendor=str(vendor)), tmp_path, place)
    found = weights(folder)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    theirs = weights(vendor)["model.embed_tokens.weight"]
    assert torch.equal(found["model.embed_tokens.weight"][-3:], theirs[-3:].bfloat16())
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == len(theirs)


def test_models_of_different_kinds_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_model)
    for name, change in {"wider": {"intermediate_size": 96}, "shallower": {"num_hidden_layers": 1}}.items():
        config = LlamaConfig.from_pretrained(tiny_model, **change)
        LlamaForCausalLM(config).save_pretrained(tmp_path / name)
        with pytest.raises(RecipeError, match=r"training\.instruct\.vendor: .*base model"):
            made(recipe(tiny_model, tmp_path, vendor=str(tmp_path / name)), tmp_path)
    with pytest.raises(RecipeError, match="method chat-vector needs `vendor`"):
        recipe(tiny_model, tmp_path)


def test_the_method_none_keeps_the_model_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    settled, store = recipe(tiny_model, tmp_path, method="none"), Store.open(str(tmp_path / "store"))
    (tmp_path / "new").mkdir()
    store.commit("packed/x", tmp_path / "new", {"content": "x", "out": 0})
    place = execute(pretrain, settled, store, "r", {"packed": "packed/x", "model": ""})
    folder = Output.find(store, place).folder("model")
    instructed = made(settled, tmp_path, place)
    for kept in (folder, instructed):
        found = weights(kept)
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights(tiny_model).items())
    assert not (folder.parent / "log.jsonl").exists()
