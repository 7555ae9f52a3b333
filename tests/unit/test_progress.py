"""Progress: a bar on a terminal, lines in a log, events in a pipe."""

import io
import json
import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm import progress
from telellm.progress import SEPARATOR, Console, Progress, duration, finished_line, read_event, running_line


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_log_gets_one_line_in_30_seconds_at_most(clock):
    stream = io.StringIO()
    stage = Progress("ingest", Console(stream).show)
    stage.start(1000, "files")
    for _ in range(1000):
        clock.now += 0.1
        stage.advance()
    stage.send(state="done", note="1,000 files")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and "\r" not in stream.getvalue()
    assert "300/1,000 files  10.0 files/s  eta 1:10" in lines[0]
    assert lines[-1].split() == ["ingest", "1:40", "1,000", "files"]


def test_a_terminal_gets_a_bar_that_is_redrawn_and_a_line_that_stays():
    code = (
        "import sys, time\nfrom telellm.progress import Progress\n"
        "stage = Progress('pretrain')\n"
        "for step in stage.track(range(8), 8, 'steps'): time.sleep(0.15); stage.note(f'loss {8 - step}')\n"
        "stage.send(state='done', note='8 steps')\n"
    )
    main, side = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=side, stdout=subprocess.DEVNULL, env=clean())
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait() == 0
    text = shown.decode()
    assert text.count("\r\x1b[2K") >= 8 and "█" in text and "loss 3" in text and "4/8 steps" in text
    assert text.count("\n") == 1 and text.rstrip().endswith("8 steps")


def clean(**changes):
    """The environment without the mark of a process that passes events on."""
    return {key: value for key, value in os.environ.items() if key != "TELELLM_EVENTS"} | changes


def test_events_pass_through_a_pipe_among_other_lines():
    code = (
        "from telellm.progress import Progress\n"
        "print('a library says something')\n"
        "stage = Progress('clean')\nstage.start(2, 'documents')\nstage.drops['too short'] += 1\n"
        "stage.note('ü\\ud800')\nprint('and again', end='')\n"
        "stage.send(state='failed', message='two\\nlines', code=2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean(TELELLM_EVENTS="1"))
    events = [read_event(line) for line in done.stdout.rstrip("\n").split("\n")]
    found = [event for event in events if event]
    assert [event["state"] for event in found] == ["running", "running", "failed"], done.stderr
    assert events[0] is None and len(events) == 4
    assert found[1]["drops"] == {"too short": 1} and found[1]["note"] == "ü\ud800"
    assert (found[2]["message"], found[2]["code"]) == ("two\nlines", 2)


@given(st.text())
def test_any_other_line_is_no_event(text):
    assert read_event(text) is None
    assert read_event(SEPARATOR + text) is None


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers())))
def test_any_event_comes_back(event):
    event["stage"] = "clean"
    assert read_event(f"noise{SEPARATOR}{json.dumps(event)}") == event


def test_a_running_line_shows_what_is_done_and_left():
    event = {"stage": "ingest", "state": "running", "done": 31, "total": 35, "unit": "files", "counting": 12.9}
    line = running_line(event | {"drops": {"encrypted": 1, "not a Word file": 3}})
    assert line == (
        "ingest          ████████··31/35 files".replace("··", "·· ")
        + "  2.4 files/s  eta 1.7 s  rejected 4 (not a Word file 3, encrypted 1)"
    )


def test_a_slow_rate_is_seconds_each_and_more_than_all_has_no_time_left():
    event = {"stage": "pretrain", "state": "running", "done": 2, "total": 12, "unit": "steps", "counting": 20}
    assert "10.0 s each  eta 1:40" in running_line(event)
    assert "eta 0.0 s" in running_line(event | {"done": 13})
    assert "\n" not in running_line(event | {"note": "two\nlines"})
    assert running_line({"stage": "x", "state": "running"}).strip() == "x"
    assert "5 steps" in running_line({"stage": "x", "done": 5, "unit": "steps", "total": None})


def test_a_skipped_stage_says_that_it_was_done_before():
    assert "done before" in finished_line({"stage": "clean", "state": "skipped", "note": "3 documents"})


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (1.24, "1.2 s"), (12.4, "0:12"), (599.6, "10:00"), (3601, "1:00:01")]
)
def test_a_duration_is_short(seconds, text):
    assert duration(seconds) == text


def test_a_failure_is_one_error_on_a_line_of_its_own():
    stream = io.StringIO()
    Console(stream).show({"stage": "clean", "state": "failed", "message": "clean, shard a: no"})
    assert stream.getvalue() == "error: clean, shard a: no\n"


def test_a_line_that_stays_is_said_once():
    stream = io.StringIO()
    Progress("pretrain", Console(stream).show).say("started the job x")
    assert stream.getvalue() == "pretrain        started the job x\n"


def test_the_progress_of_a_process_elsewhere_is_shown_as_the_stages_own():
    events = []
    stage = Progress("pretrain", events.append)
    stage.pass_through({"stage": "x", "state": "running", "done": 3, "total": 9, "unit": "steps", "note": "loss 2"})
    stage.note("waits")
    assert [event["stage"] for event in events] == ["pretrain", "pretrain"]
    assert (events[1]["done"], events[1]["total"], events[1]["note"]) == (3, 9, "waits")


def test_in_a_pods_log_a_persons_words_stand_before_the_event(monkeypatch, capsys):
    monkeypatch.setenv("TELELLM_EVENTS", "log")
    stage = Progress("pretrain")
    stage.start(4, "steps")
    for _ in range(4):
        stage.advance(note="loss 2.310")
    stage.send(state="failed", message="the loss is nan", code=1)
    lines = capsys.readouterr().out.split("\n")[:-1]
    assert len(lines) == 2, "no line a step"
    assert lines[0].startswith("pretrain        ·········· 0/4 steps") and lines[1].startswith("pretrain")
    assert read_event(lines[1])["message"] == "the loss is nan"


def test_a_process_whose_reader_is_gone_is_told_to_end(tmp_path):
    program = (
        "import signal, sys, time\nfrom telellm.progress import Progress\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').close(), sys.exit(143)))\n"
        "stage = Progress('x')\nwhile True:\n    stage.send()\n    time.sleep(0.01)\n"
    )
    mark = tmp_path / "cleaned-up"
    command = [sys.executable, "-c", program, str(mark)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"TELELLM_EVENTS": "1"})
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 143 and mark.exists()
