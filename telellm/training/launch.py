"""Launch: start the training program under torchrun, and take its result."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from telellm.lm.models import model_directory
from telellm.recipe import Optimization
from telellm.stage import Context, Output
from telellm.training.job import Job
from telellm.training.nodes import call
from telellm.training.torchrun import find_node, joined, run_program, standalone


def train(context: Context, stage: str, data: str, model: str = "") -> None:
    """Run the training program on packed sequences in the store; its model and log become the stage's output.

    `data` and `model` are places of finished outputs; an empty `model` is the recipe's. Checkpoints lie under
    `runs/<run>/checkpoints/<stage>-<key>`, so that the same work is taken up again where it was cut off. In a pod of a
    PyTorchJob the other pods are told of the job, and train with this one. Raises `StageFailed` with the program's own
    words when it fails, `Interrupted` when something outside ended it.
    """
    settings: Optimization = context.recipe.section(f"training.{stage}")
    scratch, timeout = context.scratch(stage), context.recipe.cluster.training.collective_timeout_seconds
    job = Job(stage, context.recipe.to_yaml(), context.store.uri, data, model, scratch, timeout)
    with tempfile.TemporaryDirectory(prefix=f"telellm-{stage}-") as folder:
        work = Path(folder)
        node = find_node()
        if node is None:
            run_program(job, work, context.progress, standalone(settings.processes or _num_gpus()))
        else:
            call(context.store, job, node)
            run_program(job, work, context.progress, joined(node, node.address))
        facts = json.loads((work / "result" / "facts.json").read_text())
        for name in ("model", "adapter", "log.jsonl"):
            if (work / "result" / name).exists():
                shutil.move(work / "result" / name, context.directory / name)
    log = [json.loads(line) for line in (context.directory / "log.jsonl").read_text().splitlines()]
    context.counts["out"] = 1
    context.summary |= facts | _summary(log, facts)


def keep(context: Context, model: Output | None) -> None:
    """Write a model as it is, by default the recipe's, where a recipe trains nothing."""
    shutil.copytree(starting_point(context, model), context.directory / "model", copy_function=shutil.copyfile)
    context.counts["out"] = 1
    context.summary["headline"] = "nothing is trained: the model stays as it is"


def starting_point(context: Context, model: Output | None) -> Path:
    """Return a local folder with the model from which a stage starts, by default the recipe's."""
    base = context.recipe.model
    return model.folder("model") if model else model_directory(base.name, base.revision)


def _summary(log: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    last = log[-max(1, len(log) // 10) :]
    first_loss, last_loss = log[0]["loss"], sum(line["loss"] for line in last) / len(last)
    speed = facts["tokens"] / facts["seconds"]
    return {
        "first_loss": round(first_loss, 5),
        "last_loss": round(last_loss, 5),
        "tokens_per_second": round(speed, 1),
        "headline": f"loss {first_loss:.3f} → {last_loss:.3f} in {facts['steps']:,} steps, "
        f"{facts['tokens']:,} tokens, {speed:,.0f} tok/s",
    }


def _num_gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())
