"""Checkpoints that somebody changed in the store: nothing in them is run, whatever their digests say."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_saver import save

from telellm.store import TornOutput
from telellm.training.checkpoint_reading import _TableOfContents, read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def state() -> dict[str, Any]:
    weights = {"a": torch.ones(3, 2), "b": torch.arange(4, dtype=torch.bfloat16)}
    return {"weights": weights, "moments": {"lr": 0.5, "betas": (0.9, 0.95), "fused": True, "none": None}}


def save_to(folder: Path, state: dict[str, Any]) -> Path:
    save(state, storage_writer=FileSystemWriter(folder), no_dist=True)
    return folder


def load_from(folder: Path, state: dict[str, Any]) -> None:
    read_checkpoint(state, folder, alone=True)


def test_what_torch_wrote_is_read(state: dict[str, Any], tmp_path: Path) -> None:
    folder = save_to(tmp_path / "one", state)
    other: dict[str, Any] = {
        "weights": {name: torch.zeros_like(value) for name, value in state["weights"].items()},
        "moments": {"lr": 0.0, "betas": (0.0, 0.0), "fused": False, "none": None},
    }
    load_from(folder, other)
    assert other["moments"] == state["moments"]
    assert all(torch.equal(other["weights"][name], value) for name, value in state["weights"].items())


@pytest.mark.parametrize("where", ["whole", "inside", "moved"])
def test_a_table_of_contents_that_names_code_is_refused(where: str, state: dict[str, Any], tmp_path: Path) -> None:
    folder, trap = save_to(tmp_path / "one", state), tmp_path / "trap"
    table: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    if where == "inside":
        table.planner_data["x"] = Evil(trap)
    elif where == "moved":
        for entry in table.storage_data.values():
            entry.relative_path = "../../other"
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(trap) if where == "whole" else table))
    with pytest.raises(TornOutput, match="its table of contents: it names"):
        load_from(folder, state)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"cos\nsystem\n(S'true'\ntR.", pickle.dumps({}), b"\xff"])
def test_a_table_of_contents_that_is_none_is_refused(content: bytes, state: dict[str, Any], tmp_path: Path) -> None:
    folder = save_to(tmp_path / "one", state)
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(TornOutput, match="its table of contents"):
        load_from(folder, state)


def test_a_value_that_names_code_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    state["moments"]["lr"] = Evil(trap)
    folder = save_to(tmp_path / "one", state)
    state["moments"]["lr"] = 0.5
    with pytest.raises(TornOutput, match="it cannot be read: Weights only load failed"):
        load_from(folder, state)
    assert not trap.exists()


def test_a_tensors_file_that_is_cut_off_is_a_torn_output(state: dict[str, Any], tmp_path: Path) -> None:
    folder = save_to(tmp_path / "one", state)
    file = folder / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TornOutput, match="it cannot be read"):
        load_from(folder, state)


def test_a_member_of_the_enumeration_is_read_as_python_3_11_2_writes_it_and_nothing_else_is_got() -> None:
    table = b"cbuiltins\ngetattr\n(ctorch.distributed.checkpoint.metadata\n%s\nS'%s'\ntR."
    read = _TableOfContents
    member = read(io.BytesIO(table % (b"_MEM_FORMAT_ENCODING", b"TORCH_PRESERVE_FORMAT"))).load()
    assert member.name == "TORCH_PRESERVE_FORMAT"
    for owner, name in ((b"_MEM_FORMAT_ENCODING", b"__class__"), (b"Metadata", b"__init__")):
        with pytest.raises((pickle.UnpicklingError, KeyError)):
            read(io.BytesIO(table % (owner, name))).load()
