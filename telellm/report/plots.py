"""Plots: small SVG drawings whose colours follow the page (light, dark and print)."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from telellm.report.metrics import about, shown_difference

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH = 520
LABELS = 166
"""Room for the labels on the left of the interval plot, …"""
LETTER = 7
"""… or for each letter of the longest, where it needs more: a reference model has the name that a person gave it."""


def interval_plot(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, "Markup"]:
    """Return for each metric a drawing of its differences: a dot, its interval, and zero."""
    drawings = {}
    for metric in dict.fromkeys(entry["metric"] for entry in comparisons):
        drawings[metric] = _intervals(metric, [entry for entry in comparisons if entry["metric"] == metric])
    return drawings


def loss_plot(log: Sequence[Mapping[str, Any]]) -> "Markup":
    """Draw the training loss by step: every step thin, and a running mean over a tenth of the steps."""
    if not log:
        return svg(WIDTH, 40, [], "Training loss: the log is empty")
    steps = [float(line["step"]) for line in log]
    losses = [float(line["loss"]) for line in log]
    height, left, bottom, top, right = 240, 44, 34, 12, 14
    low, high, ticks = axis(min(losses), max(losses), 4)
    first, last = (steps[0], steps[-1]) if len(steps) > 1 else (steps[0] - 1, steps[0] + 1)

    def x(step: float) -> float:
        return left + (step - first) / (last - first) * (WIDTH - left - right)

    def y(loss: float) -> float:
        return top + (high - loss) / (high - low) * (height - top - bottom)

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{plain(tick)}</text>')
    for mark in sorted({round(first + (last - first) * share / 4) for share in range(5)}):
        parts.append(f'<text class="tick" x="{x(mark):.1f}" y="{height - 14}" text-anchor="middle">{mark:,}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - right}" y="{height - 1}" text-anchor="end">optimiser step</text>')
    smooth = running_mean(losses, max(1, len(losses) // 10))
    for name, values in (("raw", losses), ("smooth", smooth)):
        points = " ".join(
            f"{x(step):.1f},{y(value):.1f}" for step, value in _thinned(list(zip(steps, values, strict=True)))
        )
        parts.append(f'<polyline class="{name}" points="{points}"/>')
    if len(log) <= 100:
        for step, loss in zip(steps, losses, strict=True):
            title = f"<title>step {step:,.0f}: loss {loss:.3f}</title>"
            parts.append(f'<circle class="point" cx="{x(step):.1f}" cy="{y(loss):.1f}" r="2.6">{title}</circle>')
    parts.append(f'<circle class="end" cx="{x(steps[-1]):.1f}" cy="{y(smooth[-1]):.1f}" r="4"/>')
    return svg(WIDTH, height, parts, f"Training loss from {losses[0]:.3f} to {losses[-1]:.3f}")


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and those before it, `window` at most."""
    means = []
    for end in range(1, len(values) + 1):
        part = values[max(0, end - window) : end]
        means.append(sum(part) / len(part))
    return means


def _intervals(metric: str, found: Sequence[Mapping[str, Any]]) -> "Markup":
    row, top, bottom, right = 34, 6, 30, 96
    height = top + row * len(found) + bottom
    bounds = [
        value for entry in found for value in (entry["low"], entry["high"], entry["difference"]) if value is not None
    ]
    low, high, ticks = axis(min([0.0, *bounds]), max([0.0, *bounds]), 4)

    longest = max(len(f"{entry['candidate']} − {entry['baseline']}") for entry in found)
    labels = max(LABELS, round(longest * LETTER))

    def x(value: float) -> float:
        return labels + (value - low) / (high - low) * (WIDTH - labels - right)

    floor = height - bottom
    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{floor}"/>')
        label = plain(tick) if tick <= 0 else f"+{plain(tick)}"
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{floor + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{top}" y2="{floor}"/>')
    for number, entry in enumerate(found):
        y = top + row * (number + 0.5)
        state = {True: "better", False: "worse", None: "open"}[entry["better"]]
        label = f"{entry['candidate']} − {entry['baseline']}"
        parts.append(f'<text class="label" x="0" y="{y + 4:.1f}">{label}</text>')
        parts.append(f'<g class="{state}"><title>{entry["verdict"]}</title>')
        if entry["low"] is not None:
            ends = x(entry["low"]), x(entry["high"])
            parts.append(f'<line class="interval" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x(entry["difference"]):.1f}" cy="{y:.1f}" r="5"/>')
        value = shown_difference(metric, entry["difference"])
        parts.append(f'<text class="value" x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">{value}</text></g>')
    return svg(WIDTH, height, parts, f"Differences in {about(metric).title}")


def axis(low: float, high: float, number: int) -> tuple[float, float, list[float]]:
    """Return round bounds around a range and the round values between them."""
    span = (high - low) or abs(high) or 1.0
    raw = max(span / number, sys.float_info.min)  # of less, there is no logarithm
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        last += 1
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _thinned(points: list[tuple[float, float]], most: int = 800) -> list[tuple[float, float]]:
    """Return at most about `most` points, the last among them: more cannot be seen."""
    stride = max(1, len(points) // most)
    return points if stride == 1 else [*points[:-1:stride], points[-1]]


def plain(value: float) -> str:
    """Return a number as it stands on an axis."""
    return f"{value:,.6g}".replace("-", "−")


def svg(width: int, height: int, parts: Sequence[str], title: str) -> "Markup":
    """Return a drawing of its parts."""
    from markupsafe import Markup

    # every part is made above from numbers and fixed words
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{"".join(parts)}</svg>')
