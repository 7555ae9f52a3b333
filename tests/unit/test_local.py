"""What a run on this machine shows of its steps."""

import io
import json

from telellm.local import EventReader
from telellm.progress import SEPARATOR, Console


def event(stage: str, state: str, **more: object) -> str:
    told = {"stage": stage, "state": state, "seconds": 1.0, "counting": 1.0, "drops": {}, "note": "fine"} | more
    return f"{SEPARATOR}{json.dumps(told)}\n"


def shown(*events: str) -> list[str]:
    stream = io.StringIO()
    reader = EventReader(Console(stream), io.StringIO())
    for text in events:
        reader.write(text)
    reader.end()
    return stream.getvalue().splitlines()


FAILED = event("draft", "failed", message="draft: nothing is left", code=1)


def test_a_failure_is_the_last_that_is_seen_even_where_another_step_ends_after_it() -> None:
    assert shown(FAILED) == ["error: draft: nothing is left"]
    lines = shown(FAILED, event("index", "done"))
    assert lines[0] == lines[-1] == "error: draft: nothing is left" and len(lines) == 3
    assert len(shown(event("index", "done"))) == 1
