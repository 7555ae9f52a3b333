"""The training stages as users run them: real processes under torchrun, on a tiny model."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import Corpus, Recipe, parse
from telellm.records import Document
from telellm.runs import start_run
from telellm.stage import Context, Output, StageFailed, stage
from telellm.store import Store
from telellm.training.checkpoints import complete
from telellm.training.instruct import instruct
from telellm.training.job import Job
from telellm.training.pack import pack
from telellm.training.pretrain import pretrain
from telellm.training.torchrun import Node, Superseded, joined, run_program
from tests.conftest import free_ports
from tests.tiny_model import make_tiny_model

SLOWLY = {"epochs": 3, "checkpoint_steps": 5, "learning_rate": 0.001}
"""Long enough to be killed, and so slow to learn that rounding does not add up."""
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
    common: dict[str, Any] = {"learning_rate": 0.01, "batch_sequences": 4}
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


def start_node(rank: int, port: int, address: str, folder: Path) -> "subprocess.Popen[str]":
    """Start what a pod of a PyTorchJob runs, with the operator's environment for two nodes."""
    operator = {
        "PET_NNODES": "2",
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_PORT": str(port),
        "PET_MASTER_ADDR": "a-name-that-nobody-knows",
        "TELELLM_CACHE": str(folder / f"cache-{rank}"),
        "TELELLM_EVENTS": "log",
    }
    run, _, key = address.rpartition(" ")
    inputs = ["--input", f"packed={(folder / 'packed').read_text()}"]
    telellm = Path(sys.executable).with_name("telellm")
    return subprocess.Popen(
        [telellm, "stage", "pretrain", "--run", run, "--key", key, *inputs],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | operator,
    )


@pytest.fixture
def address(model: Path, tmp_path: Path) -> str:
    """A run whose data is packed: its address in the store and the key of its pretraining."""
    settled = recipe(model, tmp_path, pretrain=SLOWLY)
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "packed").write_text(packed(settled, store))
    run = start_run(settled.to_yaml(), store.uri, "two-nodes")
    known: list[str] = []

    def elsewhere(key: str, num_shards: int) -> None:
        known.append(key)
        raise StageFailed("only the key is wanted")

    with pytest.raises(StageFailed, match="only the key"):
        inputs = {"packed": (tmp_path / "packed").read_text()}
        execute(pretrain, settled, store, "two-nodes", inputs, elsewhere=elsewhere)
    return f"{run} {known[0]}"


def finished_log(tmp_path: Path) -> list[dict[str, float]]:
    store = Store.open(str(tmp_path / "store"))
    note = store.read_json("runs/two-nodes/stages/pretrain.json")
    assert note is not None
    return log_of(Output.find(store, note["output"]).path("log.jsonl"))


def test_two_nodes_train_what_one_process_trains(model: Path, address: str, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    nodes = [start_node(rank, port, address, tmp_path) for rank in (1, 0)]
    said = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "tok/s" in said[1] and "tok/s" not in said[0]
    two = finished_log(tmp_path)
    settled = recipe(model, tmp_path, pretrain=SLOWLY)
    alone = Store.open(str(tmp_path / "alone"))
    place = execute(pretrain, settled, alone, "alone", {"packed": packed(settled, alone)})
    one = log_of(Output.find(alone, place).path("log.jsonl"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-4)


def test_when_the_first_node_is_killed_the_other_asks_to_be_started_again(address: str, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    nodes = {rank: start_node(rank, port, address, tmp_path) for rank in (0, 1)}
    store = Store.open(str(tmp_path / "store"))
    place = f"runs/two-nodes/checkpoints/pretrain-{address.split()[-1]}"
    while not complete(store, place):
        assert all(node.poll() is None for node in nodes.values())
        time.sleep(0.02)
    nodes[0].kill()
    assert nodes[1].wait(timeout=60) == 138
    nodes[0].wait()
    reached = complete(store, place)[-1]
    again = [start_node(rank, port, address, tmp_path) for rank in (0, 1)]
    assert [node.wait(timeout=120) for node in again] == [0, 0]
    assert reached >= 5
    assert [line["step"] for line in finished_log(tmp_path)] == list(range(1, len(finished_log(tmp_path)) + 1))


def test_a_node_that_joined_one_that_was_lost_is_called_away(address: str, tmp_path: Path) -> None:
    key, silent = address.split()[-1], Progress("pretrain", lambda event: None)
    job = Job("pretrain", "", str(tmp_path / "store"), "", "", f"runs/two-nodes/checkpoints/pretrain-{key}")
    calls = iter([False, False, True])
    with socket.create_server(("127.0.0.1", 0)) as lost:  # it takes connections, and never answers
        arguments = joined(Node(1, 2, "1", lost.getsockname()[1]), "127.0.0.1")
        with pytest.raises(Superseded):
            run_program(job, tmp_path, silent, arguments, superseded=lambda: next(calls))
    assert next(calls, "asked no more") == "asked no more"


def test_a_node_with_another_key_than_its_job_has_ends_for_good(address: str, tmp_path: Path) -> None:
    node = start_node(0, free_ports(1)[0], address[:-4] + "none", tmp_path)
    said = node.communicate(timeout=60)[0]
    assert node.returncode == 2 and "the image's telellm is not the one that started this job" in said
