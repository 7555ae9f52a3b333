"""Job: what the training program is given, and what it says while it works."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telellm.progress import SEPARATOR


@dataclass(frozen=True)
class Job:
    """A file of JSON; nothing in it depends on the machine: every node of a training gets the same."""

    stage: str
    """`pretrain` or `instruct`: the section of the recipe that counts."""
    recipe: str
    """The resolved recipe (YAML)."""
    store: str
    """URI of the store in which data, model and checkpoints lie."""
    data: str
    """Place of the packed sequences."""
    model: str
    """Place of the output with the `model/` that is trained; empty: the recipe's base model."""
    checkpoints: str
    """Place under which checkpoints are kept."""
    timeout_seconds: float = 1800
    """Processes wait so long for one another: longer than the first needs to read and deal out a large model."""

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read a job file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> Path:
        """Write a job file."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")
        return path


@dataclass(frozen=True)
class Step:
    """What one optimiser step was like."""

    step: int
    num_steps: int
    resumed: int
    """The step from which this process went on."""
    loss: float
    """Mean over the step's tokens (nats)."""
    lr: float
    grad: float
    """Norm of the gradient before it is clipped."""
    tokens_per_second: float
    memory_gib: float
    utilization: float | None
    """Share of the GPUs' peak, where that is known."""

    def line(self) -> str:
        """Return `loss 2.31  lr 1.8e-05  grad 0.84  143 tok/s  1.9 GiB`."""
        parts = [
            f"loss {self.loss:.3f}",
            f"lr {self.lr:.1e}",
            f"grad {self.grad:.2f}",
            f"{self.tokens_per_second:,.0f} tok/s",
            f"{self.memory_gib:.1f} GiB",
        ]
        return "  ".join(parts + ([f"MFU {self.utilization:.0%}"] if self.utilization is not None else []))


def announce(step: Step) -> None:
    """Write a step for the process that started this one, as a line of JSON behind a separator."""
    _write({"step": asdict(step)})


def remark(text: str) -> None:
    """Write what the program does before its first step."""
    _write({"remark": text})


def complain(error: Exception, interrupted: bool) -> None:
    """Write why the program ends; `interrupted`: by something outside, so that it may be started again."""
    text = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    _write({"error": text, "interrupted": interrupted})


@dataclass(frozen=True)
class Complaint:
    """Why the program ended."""

    text: str
    interrupted: bool


def read_event(line: str) -> Step | Complaint | str | None:
    """Return the step, the complaint or the remark in a line of the program, or None for any other line."""
    _, separator, text = line.partition(SEPARATOR)
    if not separator:
        return None
    try:
        event: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    if "step" in event:
        return Step(**event["step"])
    if "remark" in event:
        return str(event["remark"])
    return Complaint(str(event.get("error")), bool(event.get("interrupted")))


def _write(event: dict[str, Any]) -> None:
    # one call a line: lines of several processes must not mix
    os.write(sys.stdout.fileno(), f"{SEPARATOR}{json.dumps(event)}\n".encode())
