"""Launch: start the training program under torchrun, show what it says, and take its result."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from telellm.recipe import Optimization
from telellm.stage import Context, StageFailed, end_with_parent, workspace
from telellm.training.job import Job, Step, read_event

LINES_KEPT = 30


def train(context: Context, stage: str, data: str, model: str = "") -> None:
    """Run the training program on packed sequences in the store; its model and log become the stage's output.

    `data` and `model` are places of finished outputs; an empty `model` is the recipe's. Checkpoints lie under
    `runs/<run>/checkpoints/<stage>-<key>`, so that the same work is taken up again where it was cut off. Raises
    `StageFailed` with the program's own words when it fails.
    """
    settings: Optimization = context.recipe.section(f"training.{stage}")
    checkpoints = context.scratch(stage)
    with tempfile.TemporaryDirectory(prefix=f"telellm-{stage}-") as folder:
        work = Path(folder)
        job = Job(stage, context.recipe.to_yaml(), context.store.uri, data, model, checkpoints, folder)
        _run(context, job.write(work / "job.json"), settings.processes or _num_gpus())
        facts = json.loads((work / "result" / "facts.json").read_text())
        for name in ("model", "adapter", "log.jsonl"):
            if (work / "result" / name).exists():
                shutil.move(work / "result" / name, context.directory / name)
    log = [json.loads(line) for line in (context.directory / "log.jsonl").read_text().splitlines()]
    context.counts["out"] = 1
    context.summary |= facts | _summary(log, facts)


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


def _run(context: Context, job: Path, num_processes: int) -> None:
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, workspace() // num_processes))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    process = subprocess.Popen(
        [*command, "-m", "telellm.training.program", str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | threads | {"TOKENIZERS_PARALLELISM": "false"},
        preexec_fn=end_with_parent,
    )
    assert process.stdout is not None
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    complaint = ""
    try:
        for line in process.stdout:
            event = read_event(line)
            if isinstance(event, Step):
                _show(context, event)
            elif event:
                complaint = complaint or event
            else:
                lines.append(line.rstrip())
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code:
        said = complaint or "\n".join(lines)
        raise StageFailed(f"{context.progress.stage}: the training program ended with code {code}: {said}")


def _show(context: Context, event: Step) -> None:
    progress = context.progress
    if event.step == event.resumed + 1:
        progress.start(event.num_steps, "steps")
        progress.advance(event.resumed)
    progress.advance(note=event.line())


def _num_gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())
