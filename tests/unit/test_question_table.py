"""What Tele-Eval is made of, and what was left out, as tables that Kubeflow shows."""

from pathlib import Path

from telellm.question_table import write_question_table
from telellm.recipe import parse
from telellm.records import Question
from telellm.store import Store
from tests.stages import given

RECIPE = "name: n\nmodel: {name: a/b}\nsources: {w: {category: web, path: raw}}\n"


def test_kinds_and_sources_are_counted_and_each_reason_is_a_row(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.write("runs/night/recipe.yaml", RECIPE.encode())
    questions = [
        Question("Why?", "So.", "web_1", kind="reason", split="held-out"),
        Question("How?", "Thus.", "web_2", kind="reason"),
        Question("When?", "Then.", "arxiv_1", kind="reason"),
        Question("What?", "That.", "web_2"),
    ]
    place = given(questions, parse(RECIPE), store)
    for label, ended, drops, kept in (
        ("ingest", 1, {}, 9),
        ("tele-eval", 4, {"no|answer": 1}, 4),
        ("draft", 2, {"too short": 2, "a figure": 7}, 8),
        ("distinct", 3, {"asked before": 1200}, 5),
    ):
        manifest = {"in": 0, "out": kept, "drops": drops, "finished_at": f"2026-11-25T0{ended}:00:00Z"}
        store.write_json(f"runs/night/stages/{label}.json", {"output": "x", "manifest": manifest})
    page = tmp_path / "made" / "page.md"
    write_question_table(f"{store.uri}/runs/night", place, str(page))
    assert page.read_text().splitlines() == [
        "## night: Tele-Eval",
        "",
        "| kind | web | arxiv | all | of them held out |",
        "|---|---:|---:|---:|---:|",
        "| reason | 2 | 1 | 3 | 1 |",
        "| other | 1 | 0 | 1 | 0 |",
        "| **all** | 3 | 1 | 4 | 1 |",
        "",
        "| step | kept or left out | questions |",
        "|---|---|---:|",
        "| draft | **kept** | 8 |",
        "| draft | a figure | 7 |",
        "| draft | too short | 2 |",
        "| distinct | **kept** | 5 |",
        "| distinct | asked before | 1,200 |",
        "| tele-eval | **kept** | 4 |",
        "| tele-eval | no\\|answer | 1 |",
    ]
