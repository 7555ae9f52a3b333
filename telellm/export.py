"""Export: a corpus or a set of questions as JSON Lines, with the field names of the Tele-LLMs data sets."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from telellm.recipe import RecipeError
from telellm.records import Document, Question
from telellm.stage import Output, read_notes
from telellm.store import Store, replacing

STEPS = {"corpus": "decontaminate", "questions": "tele-eval"}
"""What can be exported → the step of a run that makes it."""
PAPER = {"statement": "Statement", "answer": "Answer", "id": "id"}
"""A question's fields → their names in the paper's data set."""


def export(store: Store, what: str, run: str, target: Path, *, all_fields: bool = False) -> int:
    """Write the corpus or the questions of a run to a file; returns the number of rows.

    `all_fields`: also those of a question that the paper's data set does not have. The file is there when it is whole.
    Raises `RecipeError` when the run has none.
    """
    output = find_output(store, what, run)
    number = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows(output, what, all_fields=all_fields):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
    return number


def find_output(store: Store, what: str, run: str) -> Output:
    """Return the output of a run's step, or the output at a place of the store (`corpora/NAME/DIGEST`)."""
    step = STEPS[what]
    if "/" in run:
        return Output.find(store, run.removeprefix(f"{store.uri}/").strip("/"))
    notes = read_notes(store, run)
    if step not in notes:
        known = sorted({key.split("/")[1] for key in store.list("runs")})
        raise RecipeError(
            f"{store.uri}: the run {run} has no {what} yet" + (f"\n  known runs: {', '.join(known)}" if known else "")
        )
    return Output.find(store, notes[step]["output"])


def rows(output: Output, what: str, *, all_fields: bool) -> Iterator[dict[str, str]]:
    """Yield an output's records as rows."""
    if what == "corpus":
        yield from map(asdict, output.records(Document))
        return
    for question in output.records(Question):
        row = asdict(question)
        own = {name: value for name, value in row.items() if name not in PAPER} if all_fields else {}
        yield {PAPER[name]: row[name] for name in PAPER} | own
