"""The training stages as users run them: real processes under torchrun, on a tiny model."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from telellm.execution import execute
from telellm.recipe import Corpus, Recipe, parse
from telellm.records import Document
from telellm.stage import Context, Output, StageFailed, stage
from telellm.store import Store
from telellm.training.checkpoints import complete
from telellm.training.instruct import instruct
from telellm.training.job import Job
from telellm.training.pack import pack
from telellm.training.pretrain import pretrain
from tests.tiny_model import make_tiny_model

SENTENCES = [
    "The user equipment measures the reference signal of every neighbour cell.",
    "A scheduler gives resource blocks to the bearers of a carrier.",
    "The core network keeps the session while the radio link changes.",
]


@stage(sections=("corpus",), produces=Document)
def forty(context: Context, settings: Corpus) -> Iterator[Document]:
    for number in range(40):
        yield Document(f"web_{number}", "web", " ".join(SENTENCES[(number + n) % 3] for n in range(2 + number % 5)))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def recipe(model: Path, folder: Path, **training: Any) -> Recipe:
    common = {"learning_rate": 0.01, "batch_sequences": 4}
    sections = {
        "pack": {"sequence_length": 64},
        "pretrain": common | training.pop("pretrain", {}),
        "instruct": common | training.pop("instruct", {}),
        "lora": {"rank": 4, "alpha": 8},
    }
    return parse(f"""
name: t
model: {{name: {model}}}
sources: {{a: {{category: web, path: {folder}}}}}
training: {json.dumps(sections)}
""")


def packed(settled: Recipe, store: Store) -> str:
    documents = execute(forty, settled, store, "run-1", {})
    return execute(pack, settled, store, "run-1", {"documents": documents})


def log_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_model_is_pretrained_then_learns_to_answer(model: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Who schedules?"}, {"role": "assistant", "content": "The scheduler."}]
    unusable = [{"role": "user", "content": "Nobody answers."}]
    data = tmp_path / "talk.jsonl"
    data.write_text("".join(json.dumps({"messages": m}) + "\n" for m in [talk] * 12 + [unusable]))
    settled = recipe(
        model,
        tmp_path,
        pretrain={"max_steps": 10, "processes": 2},
        instruct={"data": str(data), "method": "lora", "epochs": 8, "sequence_length": 128},
    )
    store = Store.open(str(tmp_path / "store"))
    pretrained = execute(pretrain, settled, store, "run-1", {"packed": packed(settled, store)})
    first = Output.find(store, pretrained)
    summary = first.summary()
    assert (summary["steps"], summary["processes"]) == (10, 2)
    assert summary["last_loss"] < summary["first_loss"] - 1
    assert summary["headline"].startswith("loss 5.")
    assert [line["step"] for line in log_of(first.path("log.jsonl"))] == list(range(1, 11))

    tuned = Output.find(store, execute(instruct, settled, store, "run-1", {"model": pretrained}))
    assert tuned.manifest["drops"] == {"no answer within the length": 1}
    assert tuned.summary()["last_loss"] < tuned.summary()["first_loss"]
    assert "adapter/adapter_model.safetensors" in tuned.names()
    folder = tuned.folder("model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = AutoModelForCausalLM.from_pretrained(folder).generate(**prompt, max_new_tokens=8, do_sample=False)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_a_killed_run_goes_on_with_the_losses_of_one_that_was_not(model: Path, tmp_path: Path) -> None:
    settled = recipe(model, tmp_path, pretrain={"epochs": 3, "checkpoint_steps": 4})
    store = Store.open(str(tmp_path / "store"))
    data = packed(settled, store)

    def start(name: str, work: str, num_processes: int) -> "subprocess.Popen[bytes]":
        folder = tmp_path / work
        folder.mkdir()
        job = Job("pretrain", settled.to_yaml(), store.uri, data, "", f"runs/{name}/checkpoints")
        path = job.write(folder / "job.json")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        return subprocess.Popen(
            [*torchrun, str(num_processes), "-m", "telellm.training.program", str(path), str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "errors").open("w"),
        )

    killed = start("killed", "first", 2)
    while len(complete(store, "runs/killed/checkpoints")) < 2:
        assert killed.poll() is None, (tmp_path / "first/errors").read_text()
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "first/result").exists()
    reached = complete(store, "runs/killed/checkpoints")[-1]

    whole = start("whole", "whole", 1)
    assert whole.wait() == 0
    assert start("killed", "second", 2).wait() == 0
    expected = log_of(tmp_path / "whole/result/log.jsonl")
    found = log_of(tmp_path / "second/result/log.jsonl")
    assert 8 <= reached < len(expected)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-4)


def test_a_program_that_fails_says_why(model: Path, tmp_path: Path) -> None:
    settled = recipe(model, tmp_path)
    store = Store.open(str(tmp_path / "store"))
    data = packed(settled, store)
    broken = recipe(tmp_path / "broken", tmp_path)
    (tmp_path / "broken").mkdir()
    for path in model.iterdir():
        (tmp_path / "broken" / path.name).write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(
        StageFailed, match=r"pretrain: the training program ended with code 1: .*(?i:safetensor|header)"
    ):
        execute(pretrain, broken, store, "run-1", {"packed": data})
