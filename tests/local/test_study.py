"""The shipped small study as a user runs it, on three documents with tiny models; one of its arms cannot train."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from telellm.records import Document
from telellm.stage import Output, read_notes
from telellm.store import Store
from tests.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[2]
TELELLM = Path(sys.executable).with_name("telellm")
STANDARDS = ("ts-90101-v1800.docx", "ts-90106-v1810.docx", "ts-90108-v1800.docx")
LITERATURE = {"literature.perplexity": 2, "literature.terms.edit_distance": 2}
"""Metric → the documents that are drawn: two are held out, and terms of both are completed."""
ANSWERS = ("The gNB hands the user equipment over.", "A scheduler allocates resource blocks.", "The cell is barred.")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """small.yaml with tiny models, three documents, and questions that are there already."""
    for name in ("first", "second"):
        make_tiny_model(tmp_path / name)
    (tmp_path / "standards").mkdir()
    for name in STANDARDS:
        shutil.copyfile(ROOT / "samples" / "standards" / name, tmp_path / "standards" / name)
    settled: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "studies" / "small.yaml").read_text())
    settled |= {"model": {"name": str(tmp_path / "first")}, "tele_eval": {"path": "questions.jsonl"}}
    settled["sources"] = {"standards": settled["sources"]["standards"] | {"path": "standards"}}
    settled["corpus"]["screen"] = {"trusted": ["standard"]}
    settled["training"]["pack"] = {"sequence_length": 64}
    settled["training"]["pretrain"] |= {"max_steps": 2, "learning_rate": 0.001}
    settled["evaluation"] |= {
        "metrics": ["answer_perplexity", "literature"],
        "literature": {"max_characters": 600, "max_terms": 4, "max_equations": 0, "max_sentences": 4},
    }
    settled["study"] |= {"reference": "smollm2-full-tenth", "forgetting": "", "metrics": list(LITERATURE)}
    del settled["study"]["factors"]["share"]["fifth"]
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settled, sort_keys=False))
    return path


def run(recipe: Path, store: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [TELELLM, "run", recipe, "--store", store, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=recipe.parent, timeout=500)


def test_a_study_names_the_arm_that_failed_and_compares_the_others(recipe: Path, tmp_path: Path) -> None:
    identities = write_questions(recipe, tmp_path)
    arms = [
        'study.arms.second=["model.name=./second"]',
        'study.arms.broken=["training.pretrain.method=lora", "training.lora.targets=[no_such_layer]"]',
    ]
    sets = [part for arm in arms for part in ("--set", arm)]
    done = run(recipe, tmp_path / "store", "--pipeline", "study", *sets)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "1 of 4 trials did not come to their end:\n  broken-17: failed at pretrain: " in done.stderr
    page, facts_path = done.stdout.splitlines()[-2:]
    assert page.endswith("runs/small/report/study.html") and "<html" in Path(page).read_text()
    facts = json.loads(Path(facts_path).read_text())
    measured = facts["metrics"]["answer_perplexity.corpus"]
    assert measured["n"] == 3 * len(identities)
    assert set(measured["from_reference"]) == {"second", "smollm2-lora-tenth"}
    for metric, number in LITERATURE.items():
        of_second = facts["metrics"][metric]["from_reference"]["second"]
        assert facts["metrics"][metric]["n"] == number and of_second["low"] <= of_second["value"] <= of_second["high"]
    (broken,) = [arm for arm in facts["arms"] if arm["name"] == "broken"]
    assert "no_such_layer" in broken["trials"][0]["reason"] and not broken["seeds"]
    cost = {arm["name"]: arm["cost"] for arm in facts["arms"]}
    assert cost["smollm2-full-tenth"]["tokens"] > 0 and cost["smollm2-full-tenth"]["processor_hours"] > 0

    again = run(recipe, tmp_path / "store", "--pipeline", "study", "--set", arms[0])
    assert again.returncode == 0, again.stderr
    assert not re.search(r"^\S+-17 (pack|pretrain|evaluate)", again.stderr, re.MULTILINE), "nothing is done again"
    report = subprocess.run(
        [TELELLM, "report", "small", "--store", tmp_path / "store"], capture_output=True, text=True, check=True
    )
    assert report.stdout.splitlines()[-1] == facts_path


def write_questions(recipe: Path, folder: Path) -> list[str]:
    """Make the corpus, and write questions about each of its documents."""
    (folder / "questions.jsonl").write_text("")
    made = run(recipe, folder / "store", "--pipeline", "corpus")
    assert made.returncode == 0, made.stderr
    store = Store.open(str(folder / "store"))
    note = read_notes(store, "small")["decontaminate"]
    identities = [document.id for document in Output.find(store, note["output"]).records(Document)]
    rows = [
        {"Statement": f"What does {identity} say about part {number} of handover?", "Answer": answer, "id": identity}
        | {"split": "train" if identity == identities[0] else "held-out"}
        for identity in identities
        for number, answer in enumerate(ANSWERS)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return identities
