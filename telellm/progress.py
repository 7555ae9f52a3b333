"""Progress: how far a stage is, as a bar on a terminal and a line every 30 s in a log.

A stage in a process of its own (`TELELLM_EVENTS=1`, set by `telellm run`) passes events on as lines of JSON behind a
record separator; whoever started it shows them. In a pod (`TELELLM_EVENTS=log`) they are fewer, and a person's words
stand before the separator.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
Event = dict[str, Any]
SEPARATOR = "\x1e"
LOG_INTERVAL_SECONDS = 30.0
BAR_INTERVAL_SECONDS = 0.2
POD_INTERVAL_SECONDS = 2.0


class Progress:
    """What one stage has done; every change may become an event."""

    def __init__(self, stage: str, emit: Callable[[Event], None] | None = None) -> None:
        self.stage = stage
        self.drops: Counter[str] = Counter()
        self._emit = emit or default_emit()
        self._state: Event = {"stage": stage, "state": "running"}
        self._interval = POD_INTERVAL_SECONDS if os.environ.get("TELELLM_EVENTS") == "log" else BAR_INTERVAL_SECONDS
        self._began = self._counted = time.monotonic()
        self._sent = 0.0

    def start(self, total: int | None, unit: str) -> None:
        """Begin to count `total` things called `unit`; the rate counts from now."""
        self._counted = time.monotonic()
        self._state |= {"done": 0, "total": total, "unit": unit, "note": ""}
        self.send()

    def advance(self, number: int = 1, note: str = "") -> None:
        """Say that `number` more are done; `note` is shown beside them."""
        self._state["done"] = self._state.get("done", 0) + number
        if note:
            self._state["note"] = note
        if time.monotonic() - self._sent >= self._interval:
            self.send()

    def show(self, done: int, total: int, unit: str) -> None:
        """Say how much is done, where somebody else counts."""
        changed = self._state.get("done") != done
        self._state |= {"done": done, "total": total, "unit": unit}
        if changed:
            self.send()

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self.send(state="said", message=text)

    def pass_through(self, event: Event) -> None:
        """Show the progress of a process elsewhere that does this stage's work."""
        self._state |= {key: event[key] for key in ("done", "total", "unit", "note") if key in event}
        self._emit(event | {"stage": self.stage})

    def note(self, text: str) -> None:
        """Show what is going on beside the count."""
        self._state["note"] = text
        self.send()

    def track(self, items: Iterable[T], total: int | None, unit: str) -> Iterator[T]:
        """Yield items and count them."""
        self.start(total, unit)
        for item in items:
            yield item
            self.advance()

    def send(self, **changes: Any) -> None:
        """Emit the state as it is now, with changes."""
        now = time.monotonic()
        self._sent = now
        self._emit(
            self._state
            | {"seconds": now - self._began, "counting": now - self._counted, "drops": dict(self.drops)}
            | changes
        )


def default_emit() -> Callable[[Event], None]:
    """Return how this process shows events: passed on as JSON, or drawn on its own standard error."""
    if os.environ.get("TELELLM_EVENTS") in ("1", "log"):
        return pass_on
    return Console(sys.stderr).show


def pass_on(event: Event) -> None:
    """Write an event to standard output for the process that started this one."""
    words = f"{_words(event)} " if os.environ.get("TELELLM_EVENTS") == "log" else ""
    try:
        sys.stdout.write(f"{words}{SEPARATOR}{json.dumps(event)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever started this stage is gone: no stage outlives its run, and none ends without cleaning up
        os.kill(os.getpid(), signal.SIGTERM)


def _words(event: Event) -> str:
    if event["state"] in ("failed", "said"):
        return f"{event['stage']:<14}  {event['message']}".replace("\n", " ")
    return finished_line(event) if event["state"] in ("done", "skipped") else running_line(event)


def read_event(line: str) -> Event | None:
    """Return the event in a line that `pass_on` wrote, or None for any other line."""
    start = line.find(SEPARATOR)
    if start < 0:
        return None
    try:
        event = json.loads(line[start + 1 :])
    except ValueError:
        return None
    return event if isinstance(event, dict) and "stage" in event else None


class Console:
    """Draws events: a bar that is redrawn on a terminal, lines in a log."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self._drawn = False
        self._logged = time.monotonic()

    def show(self, event: Event) -> None:
        """Draw one event."""
        if event["state"] in ("done", "skipped"):
            self.line(finished_line(event))
        elif event["state"] == "failed":
            self.line(f"error: {event['message']}")
        elif event["state"] == "said":
            self.line(f"{event['stage']:<14}  {event['message']}")
        elif self.is_terminal:
            self._draw(running_line(event))
        elif time.monotonic() - self._logged >= LOG_INTERVAL_SECONDS and (event.get("unit") or event.get("note")):
            self._logged = time.monotonic()
            self.line(running_line(event))

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self.stream.write(("\r\x1b[2K" if self._drawn else "") + text + "\n")
        self._drawn = False
        self.stream.flush()

    def _draw(self, text: str) -> None:
        import shutil

        width = shutil.get_terminal_size().columns
        self.stream.write("\r\x1b[2K" + text[: width - 1])
        self._drawn = True
        self.stream.flush()


def running_line(event: Event) -> str:
    """Return one line: done/total, rate, figures, drops, time left."""
    done, total, unit = event.get("done", 0), event.get("total"), event.get("unit", "")
    parts = [f"{event['stage']:<14}"]
    if unit:
        parts.append(f"{_bar(done, total)}{done:,}{f'/{total:,}' if total else ''} {unit}")
        rate = done / event["counting"] if event.get("counting", 0) > 0.5 else 0
        if rate:
            parts.append(f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if rate and total:
            parts.append(f"eta {duration(max(0, total - done) / rate)}")
    parts += [part for part in (event.get("note"), drops_text(event.get("drops", {}))) if part]
    return " ".join("  ".join(parts).splitlines())


def finished_line(event: Event) -> str:
    """Return the line of a stage that is done or was done before."""
    time_text = "done before" if event["state"] == "skipped" else duration(event.get("seconds", 0))
    parts = [f"{event['stage']:<14}", f"{time_text:>11}", event.get("note", ""), drops_text(event.get("drops", {}))]
    return "  ".join(part for part in parts if part)


def drops_text(drops: Mapping[str, int]) -> str:
    """Return `rejected 3 (too short 2, no text 1)`."""
    if not drops:
        return ""
    ordered = sorted(drops.items(), key=lambda item: (-item[1], item[0]))
    return f"rejected {sum(drops.values()):,} ({', '.join(f'{reason} {number:,}' for reason, number in ordered)})"


def duration(seconds: float) -> str:
    """Return seconds as `m:ss` or `h:mm:ss`; under ten as `1.2 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(done: int, total: int | None) -> str:
    if not total:
        return ""
    full = min(10, 10 * done // total)
    return f"{'█' * full}{'·' * (10 - full)} "
