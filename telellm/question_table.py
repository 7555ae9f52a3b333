"""Question table: Tele-Eval by kind and source, and what was left out, as Markdown for Kubeflow's UI."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from telellm.records import Question
from telellm.runs import open_run
from telellm.stage import Output, read_notes

STEPS = ("draft", "distinct", "tele-eval")
"""The steps that make Tele-Eval, in their order."""


def write_question_table(run: str, place: str, page: str) -> None:
    """Write the tables of a run's Tele-Eval, by the run's address and the set's place, to a local file."""
    store, name, _ = open_run(run)
    notes = read_notes(store, name)
    manifests = {step: notes[step]["manifest"] for step in STEPS if step in notes}
    lines = [f"## {name}: Tele-Eval", "", *_kinds(Output.find(store, place)), "", *_reasons(manifests)]
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _kinds(output: Output) -> Iterator[str]:
    """Yield a row a kind of question, with a column a source of its document; the set is streamed."""
    found, held_out = Counter[tuple[str, str]](), Counter[str]()
    for question in output.records(Question):
        kind = question.kind or "other"
        found[kind, question.id.partition("_")[0]] += 1
        held_out[kind] += question.split == "held-out"
    by_kind, by_source = Counter[str](), Counter[str]()
    for (kind, source), number in found.items():
        by_kind[kind] += number
        by_source[source] += number
    sources = _ordered(by_source)
    yield _row("kind", *sources, "all", "of them held out")
    yield _rule(len(sources) + 3)
    for kind in _ordered(by_kind):
        numbers = [found[kind, source] for source in sources]
        yield _row(kind, *numbers, by_kind[kind], held_out[kind])
    yield _row("**all**", *(by_source[source] for source in sources), by_kind.total(), held_out.total())


def _reasons(manifests: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a row a reason for which a step left questions out, and a row for what it kept."""
    yield _row("step", "kept or left out", "questions")
    yield "|---|---|---:|"
    for step, manifest in manifests.items():
        yield _row(step, "**kept**", manifest["out"])
        for reason in _ordered(Counter(manifest["drops"])):
            yield _row(step, reason, manifest["drops"][reason])


def _ordered(numbers: Counter[str]) -> list[str]:
    return sorted(numbers, key=lambda name: (-numbers[name], name))


def _row(*cells: str | int) -> str:
    texts = [f"{cell:,}" if isinstance(cell, int) else cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(texts)} |"


def _rule(columns: int) -> str:
    return "|---|" + "---:|" * (columns - 1)
