"""Checkpoints: the whole state of a training run in the store, written while training goes on, complete or not there.

Only checkpoints of this very run and stage, whose digests its own manifest names, are loaded, and no code in them is
run (`checkpoint_reading.py`).
"""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_saver import async_save

from telellm.store import MANIFEST, Store, TornOutput, sha256_file
from telellm.training.checkpoint_reading import read_checkpoint

OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
"""Frozen weights are those of the base model: a checkpoint needs only what is trained."""


def complete(store: Store, prefix: str) -> list[int]:
    """Return the steps of the finished checkpoints at a place in the store, oldest first."""
    names = [key.removeprefix(f"{prefix}/") for key in store.list(prefix)]
    return sorted(_step(name) for name in names if name.startswith("step-") and name.endswith(f"/{MANIFEST}"))


class Checkpoints:
    """The checkpoints of one run's stage: `step-00000100/` with every process's file, and a manifest written last."""

    def __init__(self, store: Store, prefix: str, work: Path, keep: int) -> None:
        self.store, self.prefix, self.work, self.keep = store, prefix, work, keep
        # collectives of the writing thread must not meet those of training
        self.group: Any = dist.new_group(backend="gloo")
        self.pool = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def save(self, step: int, loss: torch.nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]) -> None:
        """Copy the state to main memory and write it in the background; waits for the one before."""
        self.finish()
        weights, moments = get_state_dict(loss, optimizer, options=OPTIONS)
        folder = self.work / f"step-{step:08}"
        log = (self.work / "log.jsonl").read_bytes() if dist.get_rank() == 0 else b""
        saving = async_save({"weights": weights, "moments": moments}, checkpoint_id=folder, process_group=self.group)
        assert isinstance(saving, Future)
        self.writing = self.pool.submit(self._commit, step, folder, saving, log, extra)

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is in the store; raises what went wrong with it."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def resume(self, loss: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Load the newest complete checkpoint; returns its manifest, or None where there is none."""
        steps: list[Any] = [complete(self.store, self.prefix)[-1:] if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(steps, src=0, group=self.group)
        if not steps[0]:
            return None
        place = f"{self.prefix}/step-{steps[0][0]:08}"
        manifest = self.store.manifest(place)
        assert manifest is not None
        folder = self.work / f"resume-{dist.get_rank()}"
        folder.mkdir()
        for name, entry in manifest["files"].items():
            (folder / name).symlink_to(self.store.fetch(f"{place}/{name}", entry["sha256"]).resolve())
        weights, moments = get_state_dict(loss, optimizer, options=OPTIONS)
        state: dict[str, Any] = {"weights": weights, "moments": moments}
        try:
            read_checkpoint(state, folder, self.group)
        except TornOutput as error:
            raise TornOutput(
                f"the checkpoint {self.store.uri}/{place}: {error}\n  delete that folder, and training starts from the "
                "checkpoint before it"
            ) from error
        set_state_dict(
            loss, optimizer, model_state_dict=state["weights"], optim_state_dict=state["moments"], options=OPTIONS
        )
        if dist.get_rank() == 0:
            shutil.copyfile(folder / "log.jsonl", self.work / "log.jsonl")
        shutil.rmtree(folder)
        return manifest

    def _commit(self, step: int, folder: Path, saving: "Future[Any]", log: bytes, extra: dict[str, Any]) -> None:
        """Upload this process's files; the first process then writes the manifest and removes old checkpoints."""
        saving.result()
        rank = dist.get_rank()
        place = f"{self.prefix}/{folder.name}"
        mine = list(folder.glob(f"__{rank}_*"))
        if rank == 0:
            (folder / "log.jsonl").write_bytes(log)
            mine += [folder / ".metadata", folder / "log.jsonl"]
        entries = {}
        for path in mine:
            self.store.upload(f"{place}/{path.name}", path)
            entries[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            path.unlink()
        gathered: list[Any] | None = [None] * dist.get_world_size() if rank == 0 else None
        dist.gather_object(entries, gathered, dst=0, group=self.group)
        if gathered is not None:
            files = {name: entry for part in gathered for name, entry in part.items()}
            self.store.write_json(f"{place}/{MANIFEST}", {"step": step, "files": files} | extra)
            self._remove_old(step)

    def _remove_old(self, newest: int) -> None:
        kept = complete(self.store, self.prefix)[-self.keep :]
        found = {_step(key.removeprefix(f"{self.prefix}/")) for key in self.store.list(self.prefix) if "/step-" in key}
        for step in sorted(found - set(kept)):
            if step < newest:
                self.store.delete(f"{self.prefix}/step-{step:08}")


def _step(name: str) -> int:
    return int(name.split("/")[0].removeprefix("step-"))
