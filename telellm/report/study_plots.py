"""Study plots: gain against forgetting, differences to the reference arm, curves over what arms change, and losses."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from telellm.report import plots
from telellm.report.study_arms import Measurement, named, span_text

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 28, 46
LETTER, LINE = 7, 14
"""About how wide a letter of a label is, and how high its line."""
ROW = 30
COLOURS = 8
"""Classes `c0` … `c7` of the page's style; more arms begin again."""


class Frame:
    """A drawing with two axes; x grows to the right, y upwards."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str) -> None:
        self.low_x, self.high_x, x_ticks = plots.axis(min(xs), max(xs), 5)
        self.low_y, self.high_y, y_ticks = plots.axis(min(ys), max(ys), 4)
        self.parts: list[str] = []
        self.labels: list[tuple[float, float, float]] = []
        """Left and right end and height of the labels that are there."""
        for tick in y_ticks:
            y = self.y(tick)
            self._add(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self._text(LEFT - 8, y + 4, plots.plain(tick), "tick", "end")
        for tick in x_ticks:
            x = self.x(tick)
            self._add(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            self._text(x, HEIGHT - BOTTOM + 17, plots.plain(tick), "tick", "middle")
        self._text(WIDTH - RIGHT, HEIGHT - 6, x_title, "tick", "end")
        self._text(LEFT, TOP - 12, y_title, "tick", "start")

    def x(self, value: float) -> float:
        """Return where a value lies from left to right."""
        return LEFT + (value - self.low_x) / (self.high_x - self.low_x) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return where a value lies from top to bottom."""
        return TOP + (self.high_y - value) / (self.high_y - self.low_y) * (HEIGHT - TOP - BOTTOM)

    def zero(self) -> None:
        """Draw the lines of no change, where they are inside."""
        if self.low_x < 0 < self.high_x:
            self._line("zero", self.x(0), TOP, self.x(0), HEIGHT - BOTTOM)
        if self.low_y < 0 < self.high_y:
            self._line("zero", LEFT, self.y(0), WIDTH - RIGHT, self.y(0))

    def point(self, x: float, y: float, style: str, title: str, label: str = "") -> None:
        """Draw a dot, and its label beside it, or above or below that where another one is."""
        across, down = self.x(x), self.y(y)
        self._add(
            f'<circle class="dot {style}" cx="{across:.1f}" cy="{down:.1f}" r="5"><title>{title}</title></circle>'
        )
        if label:
            at_end, long = across > WIDTH * 0.75, LETTER * len(label)
            left = across - 9 - long if at_end else across + 9
            height = next(height for height in self._heights(down - 7) if self._is_free(left, left + long, height))
            self.labels.append((left, left + long, height))
            self._text(across + (-9 if at_end else 9), height, label, "label", "end" if at_end else "start")

    def bar(self, first: tuple[float, float], second: tuple[float, float], style: str) -> None:
        """Draw an interval."""
        self._line(f"interval {style}", self.x(first[0]), self.y(first[1]), self.x(second[0]), self.y(second[1]))

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw a line through points."""
        text = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self._add(f'<polyline class="path {style}" points="{text}"/>')

    def drawn(self, title: str) -> "Markup":
        """Return the drawing."""
        return plots.svg(WIDTH, HEIGHT, self.parts, title)

    def _heights(self, first: float) -> Iterator[float]:
        yield first
        for number in count(1):
            yield from (first + number * LINE, first - number * LINE)

    def _is_free(self, left: float, right: float, height: float) -> bool:
        return all(right < begin or left > end or abs(height - at) >= LINE for begin, end, at in self.labels)

    def _add(self, part: str) -> None:
        self.parts.append(part)

    def _line(self, style: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self._add(f'<line class="{style}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>')

    def _text(self, x: float, y: float, text: str, style: str, anchor: str) -> None:
        self._add(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>')


def gain_against_forgetting(gain: Measurement, forgetting: Measurement) -> "Markup | None":
    """Draw each arm by what it gained over its base model (upwards) and what it forgot (to the right)."""
    up, right = (-1 if named(each.metric).lower_is_better else 1 for each in (gain, forgetting))
    arms = [name for name in gain.from_base if name in forgetting.from_base]
    if not arms:
        return None
    places = {name: (_turned(forgetting.from_base[name], -right), _turned(gain.from_base[name], up)) for name in arms}
    frame = Frame(
        [0.0, *(value for x, _ in places.values() for value in x)],
        [0.0, *(value for _, y in places.values() for value in y)],
        f"forgotten: loss in {named(forgetting.metric).title} against the base model",
        f"gain in {named(gain.metric).title} against the base model",
    )
    frame.zero()
    for number, (name, ((x, low_x, high_x), (y, low_y, high_y))) in enumerate(places.items()):
        style = f"c{number % COLOURS}"
        frame.bar((low_x, y), (high_x, y), style)
        frame.bar((x, low_y), (x, high_y), style)
        texts = (span_text(each.metric, each.from_base[name]) for each in (gain, forgetting))
        frame.point(x, y, style, f"{name}: {'; '.join(texts)}", name)
    return frame.drawn("Gain against forgetting")


def differences(found: Measurement) -> "Markup | None":
    """Draw the differences to the reference arm: a dot, its interval, and zero."""
    if not found.from_reference:
        return None
    label, value_width, bottom = 190, 78, 30
    height = 6 + ROW * len(found.from_reference) + bottom
    ends = [end for each in found.from_reference.values() for end in (each.value, each.low, each.high)]
    low, high, ticks = plots.axis(
        min([0.0, *(end for end in ends if end is not None)]), max([0.0, *(end for end in ends if end is not None)]), 4
    )

    def x(value: float) -> float:
        return label + (value - low) / (high - low) * (WIDTH - label - value_width)

    floor, parts = height - bottom, []
    for tick in [*ticks, 0.0]:
        style = "grid" if tick else "zero"
        parts.append(f'<line class="{style}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="6" y2="{floor}"/>')
    for tick in ticks:
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{floor + 18}" text-anchor="middle">{plots.plain(tick)}</text>'
        )
    for number, (name, each) in enumerate(found.from_reference.items()):
        y = 6 + ROW * (number + 0.5)
        state = {True: "better", False: "worse", None: "open"}[found.better(name)]
        parts.append(f'<text class="label" x="0" y="{y + 4:.1f}">{name}</text><g class="{state}">')
        if each.low is not None and each.high is not None:
            parts.append(f'<line class="interval" x1="{x(each.low):.1f}" x2="{x(each.high):.1f}" y1="{y}" y2="{y}"/>')
        text = span_text(found.metric, each)
        parts.append(f'<circle class="dot" cx="{x(each.value):.1f}" cy="{y}" r="5"><title>{text}</title></circle>')
        shown = text.partition(" ")[0]
        parts.append(f'<text class="value" x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">{shown}</text></g>')
    return plots.svg(WIDTH, height, parts, f"Differences in {named(found.metric).title}")


def curve(found: Measurement, drawn: Mapping[str, Any]) -> "Markup":
    """Draw a metric over the values that arms give to a field; arms that differ in that field alone are joined."""
    points = [point for line in drawn["lines"] for point in line["points"]]
    ends = [found.values[point["arm"]] for point in points]
    ys = [end for each in ends for end in (each.value, each.low, each.high) if end is not None]
    frame = Frame([point["x"] for point in points], ys, drawn["field"], named(found.metric).title)
    for number, line in enumerate(drawn["lines"]):
        style = f"c{number % COLOURS}"
        frame.path([(point["x"], found.values[point["arm"]].value) for point in line["points"]], style)
        for point in line["points"]:
            each = found.values[point["arm"]]
            if each.low is not None and each.high is not None:
                frame.bar((point["x"], each.low), (point["x"], each.high), style)
            last = point is line["points"][-1]
            title = f"{point['arm']}: {span_text(found.metric, each, signed=False)}"
            frame.point(point["x"], each.value, style, title, point["arm"] if last else "")
    return frame.drawn(f"{named(found.metric).title} over {drawn['field']}")


def losses(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> "Markup | None":
    """Draw the training loss of each arm over the tokens that it read."""
    shown = {name: log for name, log in curves.items() if len(log) > 1}
    if not shown:
        return None
    lines = [[(line["tokens"], line["loss"]) for line in log] for log in shown.values()]
    frame = Frame(
        [x for line in lines for x, _ in line], [y for line in lines for _, y in line], "tokens read", "training loss"
    )
    for number, (name, line) in enumerate(zip(shown, lines, strict=True)):
        smooth = plots.running_mean([y for _, y in line], max(1, len(line) // 10))
        style = f"c{number % COLOURS}"
        frame.path([(x, y) for (x, _), y in zip(line, smooth, strict=True)], style)
        frame.point(line[-1][0], smooth[-1], style, f"{name}: {smooth[-1]:.3f}", name)
    return frame.drawn("Training loss")


def _turned(found: Any, sign: int) -> tuple[float, float, float]:
    """Return value, low and high end, so that more means more gained or more forgotten."""
    ends = [sign * (found.value if end is None else end) for end in (found.low, found.high)]
    return sign * found.value, min(ends), max(ends)
