import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

from telellm.recipe import parse
from telellm.store import Store
from telellm.training import checkpoints
from telellm.training.job import Job
from telellm.training.program import train
from telellm.training.sequences import fill, write_sequences
from tests.conftest import free_ports


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun tells its only process."""
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (names | {"MASTER_PORT": str(free_ports(1)[0])}).items():
        monkeypatch.setenv(name, value)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def job(model: Path, folder: Path, name: str, lora: str = "{}", **pretrain: Any) -> tuple[Job, Path]:
    """Train the tiny model on random documents, and a folder for it; two jobs of one name share their checkpoints."""
    settings = {"learning_rate": 0.01, "batch_sequences": 4, "epochs": 1.5, "checkpoint_steps": 3} | pretrain
    recipe = parse(f"""
name: t
model: {{name: {model}}}
sources: {{a: {{category: web, path: {folder}}}}}
training: {{pretrain: {json.dumps(settings)}, lora: {lora}}}
""")
    store = Store.open(str(folder / "store"))
    if store.manifest("packed/x") is None:
        generator = np.random.default_rng(0)
        documents = (generator.integers(1, 40, generator.integers(5, 90)).astype(np.int32) for _ in range(24))
        write_sequences(fill(documents, 64), folder / "new" / "data")
        store.commit("packed/x", folder / "new", {"out": 1})
    work = folder / f"{name}-{len(list(folder.iterdir()))}"
    work.mkdir()
    return Job("pretrain", recipe.to_yaml(), store.uri, "packed/x", "", f"runs/{name}/checkpoints"), work


def trained(work: tuple[Job, Path]) -> list[dict[str, float]]:
    train(*work)
    dist.destroy_process_group()
    return [json.loads(line) for line in (work[1] / "result/log.jsonl").read_text().splitlines()]


def losses(log: list[dict[str, float]]) -> list[float]:
    return [line["loss"] for line in log]


def test_how_a_step_is_divided_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    log = trained(job(tiny_model, tmp_path, "one"))
    assert log[-1]["loss"] < log[0]["loss"] - 0.5
    assert [line["step"] for line in log] == list(range(1, len(log) + 1))
    by_three = trained(job(tiny_model, tmp_path, "three", micro_batch_sequences=3))
    again = trained(job(tiny_model, tmp_path, "again", activation_checkpointing=True))
    assert losses(by_three) == pytest.approx(losses(log), abs=1e-4)
    assert [line["tokens"] for line in by_three] == [line["tokens"] for line in log]
    assert losses(again) == pytest.approx(losses(log), abs=1e-6)


def test_a_resumed_run_goes_on_exactly(tiny_model: Path, tmp_path: Path) -> None:
    dropout = "{rank: 4, alpha: 8, dropout: 0.2}"
    first = job(tiny_model, tmp_path, "one", lora=dropout, method="lora")
    log = trained(first)
    store = Store.open(first[0].store)
    assert checkpoints.complete(store, first[0].checkpoints) == [3, 6]
    store.delete(f"{first[0].checkpoints}/step-00000006")
    second = job(tiny_model, tmp_path, "one", lora=dropout, method="lora")
    assert trained(second) == log
    same = [(work / "result/model/model.safetensors").read_bytes() for _, work in (first, second)]
    assert same[0] == same[1]


def test_a_checkpoint_without_a_manifest_is_not_there(tiny_model: Path, tmp_path: Path) -> None:
    first, work = job(tiny_model, tmp_path, "one")
    log = trained((first, work))
    store = Store.open(first.store)
    (tmp_path / f"store/{first.checkpoints}/step-00000006/manifest.json").unlink()
    (tmp_path / f"store/{first.checkpoints}/step-00000006/__0_0.distcp").write_bytes(b"torn")
    assert checkpoints.complete(store, first.checkpoints) == [3]
    assert trained(job(tiny_model, tmp_path, "one")) == log
    assert checkpoints.complete(store, first.checkpoints) == [3, 6]


def test_low_rank_updates_are_merged_and_kept_apart_as_well(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    done = job(tiny_model, tmp_path, "one", lora="{rank: 4, alpha: 8}", method="lora")
    log = trained(done)
    assert log[-1]["loss"] < log[0]["loss"]
    result = done[1] / "result"
    tokens = AutoTokenizer.from_pretrained(result / "model")("The gNB hands over", return_tensors="pt")
    merged = AutoModelForCausalLM.from_pretrained(result / "model")(**tokens).logits
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = base(**tokens).logits
    adapted = PeftModel.from_pretrained(base, result / "adapter").eval()(**tokens).logits
    assert (merged - adapted).abs().max() < 1e-4
    assert (merged - before).abs().max() > 1e-3
    facts = json.loads((result / "facts.json").read_text())
    assert 0 < facts["trained_parameters"] < 0.3 * facts["parameters"]


def test_the_saved_model_is_the_trained_one(tiny_model: Path, tmp_path: Path) -> None:
    done = job(tiny_model, tmp_path, "one", learning_rate=1e-9, weight_decay=0)
    trained(done)
    kept = AutoModelForCausalLM.from_pretrained(done[1] / "result/model").state_dict()
    for name, weight in AutoModelForCausalLM.from_pretrained(tiny_model).state_dict().items():
        assert (kept[name] - weight).abs().max() < 1e-6
    assert (done[1] / "result/model/tokenizer.json").exists()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_weights_that_the_model_shares_are_trained_as_one(tiny_model: Path, tmp_path: Path, method: str) -> None:
    done = job(tiny_model, tmp_path, "one", method=method)
    trained(done)
    facts = json.loads((done[1] / "result/facts.json").read_text())
    whole = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    updates = facts["trained_parameters"] if method == "lora" else 0
    assert facts["parameters"] - updates == sum(weight.numel() for weight in whole.parameters())


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.norm.weight.data[:] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"the loss is nan at step 1: lower the learning rate \(0.01\)"):
        train(*job(tmp_path / "broken", tmp_path, "one"))
