"""The training program: one loop for pretraining and instruction tuning, one process a GPU (or a CPU), under torchrun.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m telellm.training.program JOB.json FOLDER

In a PyTorchJob the operator's `PET_*` environment takes the place of torchrun's arguments. Progress goes to standard
output as events, the result to `FOLDER/result` of the first process.
"""

import json
import math
import os
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from telellm.lm.models import model_directory
from telellm.recipe import Optimization, Recipe, parse
from telellm.stage import Output, end_with_parent
from telellm.store import Store, StoreUnavailable
from telellm.training.checkpoints import Checkpoints
from telellm.training.conversations import load_chat_tokenizer
from telellm.training.job import Job, Step, announce, complain, remark
from telellm.training.loss import DocumentLoss
from telellm.training.schedule import learning_rate, utilization
from telellm.training.sequences import Batch, batch, order
from telellm.training.sharding import attention, load_sharded, save_whole

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "gloo", "NCCL")
"""What a collective operation says when a process that takes part in it is gone."""


def main() -> None:
    """Do the job in the file that the first argument names, with the second as folder for what is on its way."""
    end_with_parent()
    job = Job.read(Path(sys.argv[1]))
    try:
        train(job, Path(sys.argv[2]))
    except Exception as error:  # whatever it is, the process that started this one has to show it
        complain(error, _is_interruption(error))
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_interruption(error: Exception) -> bool:
    """Say whether the program ends for a reason outside: another process is gone, or the store stays away."""
    if isinstance(error, StoreUnavailable):
        return error.passing
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOST)


def train(job: Job, work: Path) -> None:
    """Train a model on packed sequences, from the newest checkpoint if there is one, and write the result."""
    device = _device(timedelta(seconds=job.timeout_seconds))
    recipe, store = parse(job.recipe), Store.open(job.store)
    settings: Optimization = recipe.section(f"training.{job.stage}")
    work.mkdir(parents=True, exist_ok=True)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    _say(f"{dist.get_world_size()} processes met; the data and the model are read")
    directory = _base(job, recipe, store)
    rows = _rows(Output.find(store, job.data), work)
    loss = load_sharded(directory, settings, recipe.training.lora, mesh, device)
    optimizer = _optimizer(loss, settings)
    _say("the model is dealt out; the newest checkpoint is looked for")
    checkpoints = Checkpoints(store, job.checkpoints, work, settings.keep_checkpoints)
    resumed = checkpoints.resume(loss, optimizer) or {"step": 0, "seconds": 0.0, "tokens": 0}
    numbers = list(order(len(rows), settings.epochs, settings.seed))
    num_steps = math.ceil(len(numbers) / settings.batch_sequences)
    num_steps = min(num_steps, settings.max_steps or num_steps)
    num_parameters = sum(parameter.numel() for parameter in loss.parameters())
    began, num_tokens = time.monotonic() - resumed["seconds"], resumed["tokens"]
    log = work / "log.jsonl"
    log.touch()
    for step in range(resumed["step"], num_steps):
        step_began = time.monotonic()
        chosen = numbers[step * settings.batch_sequences : (step + 1) * settings.batch_sequences]
        rate = learning_rate(step, num_steps, settings)
        mean_loss, norm, tokens = _step(loss, optimizer, rows, chosen, step, rate, settings, device)
        num_tokens += tokens
        speed = tokens / (time.monotonic() - step_began)
        if dist.get_rank() == 0:
            line = {"step": step + 1, "loss": mean_loss, "lr": rate, "grad": norm, "tokens": num_tokens}
            with log.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            share = utilization(speed, num_parameters, _device_name(device), dist.get_world_size())
            announce(
                Step(step + 1, num_steps, resumed["step"], mean_loss, rate, norm, speed, _memory_gib(device), share)
            )
        if (step + 1) % settings.checkpoint_steps == 0 and step + 1 < num_steps:
            extra = {"seconds": time.monotonic() - began, "tokens": num_tokens}
            checkpoints.save(step + 1, loss, optimizer, extra)
    checkpoints.finish()
    tokenizer = load_chat_tokenizer(directory, needed=job.stage == "instruct")
    save_whole(loss, directory, settings, recipe.training.lora, tokenizer, work / "result")
    if dist.get_rank() == 0:
        log.rename(work / "result" / "log.jsonl")
        trained = sum(parameter.numel() for parameter in loss.parameters() if parameter.requires_grad)
        facts = {
            "steps": num_steps,
            "tokens": num_tokens,
            "seconds": round(time.monotonic() - began, 3),
            "processes": dist.get_world_size(),
            "threads": torch.get_num_threads(),
            "device": _device_name(device),
            "parameters": num_parameters,
            "trained_parameters": trained,
            "peak_memory_gib": round(_memory_gib(device), 2),
        }
        (work / "result" / "facts.json").write_text(json.dumps(facts))
    dist.barrier()


def _say(text: str) -> None:
    if dist.get_rank() == 0:
        remark(text)


def _step(
    loss: DocumentLoss,
    optimizer: torch.optim.Optimizer,
    rows: Any,
    chosen: list[int],
    step: int,
    rate: float,
    settings: Optimization,
    device: torch.device,
) -> tuple[float, float, int]:
    """Take one optimiser step on the chosen sequences; returns mean loss (nats), gradient norm and tokens.

    The loss is the mean over all tokens of the step, on whatever process: how sequences are divided changes nothing.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    # seeded anew, so that a resumed run draws the same dropout
    torch.manual_seed(settings.seed + step * world + rank)
    batches = _batches(rows, chosen, settings, device)
    counts = torch.tensor([sum(b.num_targets for b in batches), sum(b.num_tokens for b in batches)], device=device)
    dist.all_reduce(counts)
    num_targets, num_tokens = (int(count) for count in counts)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for part in batches:
        summed = loss(part.tokens.to(device), part.positions.to(device), part.targets.to(device))
        # sharding averages gradients over the processes: the factor makes it a sum
        (summed * (world / max(1, num_targets))).backward()
        total += summed.detach().double()
    dist.all_reduce(total)
    mean = float(total) / max(1, num_targets)
    if not math.isfinite(mean):
        raise ValueError(
            f"the loss is {mean} at step {step + 1}: lower the learning rate ({settings.learning_rate:g}), "
            "lengthen the warm-up, or look at the training text"
        )
    norm = torch.nn.utils.clip_grad_norm_([p for p in loss.parameters() if p.requires_grad], settings.gradient_norm)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return mean, float(norm), num_tokens


def _batches(rows: Any, chosen: list[int], settings: Optimization, device: torch.device) -> list[Batch]:
    """Return this process's share of a step's sequences; every process gets the same number of batches."""
    size = settings.micro_batch_sequences
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = chosen[rank::world]
    num_batches = math.ceil(math.ceil(len(chosen) / world) / size)
    flat = attention(device) == "flash_attention_2"
    return [batch([rows[number] for number in mine[i * size : (i + 1) * size]], flat) for i in range(num_batches)]


def _optimizer(loss: DocumentLoss, settings: Optimization) -> torch.optim.Optimizer:
    """Return AdamW, which decays matrices but neither biases nor norms."""
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        fused=True,
    )


def _device(timeout: timedelta) -> torch.device:
    """Join the other processes; returns this one's GPU, or the CPU."""
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.device_count() > local:
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout, device_id=device)
        return device
    dist.init_process_group("gloo", timeout=timeout)
    return torch.device("cpu")


def _base(job: Job, recipe: Recipe, store: Store) -> Path:
    if job.model:
        return Output.find(store, job.model).folder("model")
    return model_directory(recipe.model.name, recipe.model.revision)


def _rows(packed: Output, work: Path) -> Any:
    """Return the packed sequences as a data set that is mapped from disk, not read into memory."""
    import datasets

    datasets.disable_progress_bars()
    paths = [str(packed.path(name)) for name in packed.names("data/")]
    return datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(work / "rows"))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
