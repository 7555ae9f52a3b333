"""Costs: what each arm of a study took, measured, and how its loss fell."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from telellm.report.gather import training_logs
from telellm.stage import Output

Steps = Mapping[str, Output]
TRAINED = ("pretrain", "instruct")
CURVE_POINTS = 200


def cost_of(trials: Iterable[Steps]) -> dict[str, Any]:
    """Return what the trials of an arm took.

    `gpu_hours` are hours of all GPUs that trained, `processor_hours` those of the CPU cores where there were none,
    `evaluation_hours` the time in which its models and base models were scored, `tokens` those it was trained on. What
    several arms share, such as one base model's scores, is in the cost of each of them.
    """
    cost = {"gpu_hours": 0.0, "processor_hours": 0.0, "evaluation_hours": 0.0, "tokens": 0, "trained_parameters": 0}
    for steps in trials:
        for label, output in steps.items():
            summary = output.summary()
            if label.startswith("evaluate-"):
                cost["evaluation_hours"] += output.manifest["seconds"] / 3600
            elif label in TRAINED and "tokens" in summary:
                on_gpu = summary["device"] != "CPU"
                number = summary["processes"] * (1 if on_gpu else summary.get("threads", 1))
                cost["gpu_hours" if on_gpu else "processor_hours"] += summary["seconds"] * number / 3600
                cost["tokens"] += summary["tokens"]
                cost["trained_parameters"] = max(cost["trained_parameters"], summary["trained_parameters"])
            elif label in TRAINED:  # weights were copied or added up, on a CPU
                cost["processor_hours"] += output.manifest["seconds"] / 3600
    return cost


def total_cost(trials: Iterable[Steps]) -> dict[str, Any]:
    """Return what all trials took together: what several of them share was done once, and is counted once."""
    seen: set[str] = set()
    apart: list[Steps] = []
    for steps in trials:
        apart.append({label: output for label, output in steps.items() if output.prefix not in seen})
        seen |= {output.prefix for output in steps.values()}
    return cost_of(apart)


def shared_with(arm: str, trials: Mapping[str, Sequence[Steps]]) -> dict[str, list[str]]:
    """Return for each training step of an arm the other arms that have the same output."""
    mine = {label: {steps[label].prefix for steps in trials[arm] if label in steps} for label in TRAINED}
    return {
        label: others
        for label, places in mine.items()
        if places
        and (
            others := [
                other
                for other, found in trials.items()
                if other != arm and any(label in steps and steps[label].prefix in places for steps in found)
            ]
        )
    }


def loss_curve(steps: Steps) -> list[dict[str, float]]:
    """Return how the loss of pretraining fell with the tokens that were read; at most `CURVE_POINTS` points."""
    log = training_logs(steps).get("pretrain", {}).get("log", [])
    stride = max(1, len(log) // CURVE_POINTS)
    kept = [*log[:-1:stride], log[-1]] if log else []
    return [{"tokens": line["tokens"], "loss": line["loss"]} for line in kept]
