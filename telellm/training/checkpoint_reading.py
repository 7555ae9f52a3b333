"""Checkpoint reading: torch's distributed checkpoints, without running what a pickle in them asks for.

Torch keeps a checkpoint's table of contents (`.metadata`) as a pickle and reads it, and every value that is no tensor,
by a reader that runs any code named there. Here the table may name the classes that it consists of and nothing else,
and values are read by torch's reader of plain values (`weights_only`), as torch itself reads tensors.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as parts
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from telellm.entries import stays_below
from telellm.store import TornOutput


def _member(owner: Any, name: Any) -> Any:
    """Return a member of the one enumeration; Python 3.11's first releases write it as `getattr`."""
    if owner is not parts._MEM_FORMAT_ENCODING or not isinstance(name, str):
        raise pickle.UnpicklingError("it names builtins.getattr")
    return parts._MEM_FORMAT_ENCODING[name]


CLASSES: dict[tuple[str, str], Any] = {
    ("builtins", "getattr"): _member,
    **{
        (parts.__name__, name): getattr(parts, name)
        for name in (
            *("Metadata", "MetadataIndex", "StorageMeta", "BytesStorageMetadata", "ChunkStorageMetadata"),
            *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
        )
    },
    (_StorageInfo.__module__, "_StorageInfo"): _StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    **{(module, name): Path for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath")},
}


def read_checkpoint(state: dict[str, Any], folder: Path, group: Any = None, *, alone: bool = False) -> None:
    """Fill a state from a checkpoint in a local folder; `alone`: in this process, without others.

    Raises `TornOutput` where a process cannot read what is there.
    """
    try:
        load(state, storage_reader=Reader(folder), planner=Planner(), process_group=group, no_dist=alone)
    except CheckpointException as error:  # no `Exception`: who started the process would not hear of it
        failure = next(iter(error.failures.values()))[0]
        said = " ".join(str(failure).split())[:300] or type(failure).__name__
        raise TornOutput(f"it cannot be read: {said}") from error


class _TableOfContents(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CLASSES:
            return CLASSES[module, name]
        found = getattr(torch, name, None) if module == "torch" and "." not in name else None
        if isinstance(found, torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}"[:200])


class Reader(FileSystemReader):
    """Reads a checkpoint's folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> parts.Metadata:
        """Return the table of contents."""
        path = self._get_metadata_path(kwargs.get("rank"))
        try:
            with Path(path).open("rb") as stream:
                found = _TableOfContents(stream).load()
            if not isinstance(found, parts.Metadata):
                raise pickle.UnpicklingError("it is no table of contents")
            places = [entry.relative_path for entry in (found.storage_data or {}).values()]
            if not all(isinstance(place, str) and stays_below(place) for place in places):
                raise pickle.UnpicklingError("it names a file outside of its folder")
        except Exception as error:  # a pickle of others fails in many ways
            raise ValueError(f"its table of contents: {error}") from None
        found.storage_meta = found.storage_meta or parts.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class Planner(DefaultLoadPlanner):
    """Reads what is no tensor as plain values."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value into the state."""
        name = read_item.dest_index.fqn
        set_element(self.original_state_dict, self.mappings[name], torch.load(value, weights_only=True))
