"""Everything that is measured of a model, as a user runs it: from documents to what the report says of each figure."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.general_data import write_general_data
from tests.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[2]
TELELLM = Path(sys.executable).with_name("telellm")
STANDARDS = {name: f"standard_{name}" for name in ("ts-90101-v1800", "ts-90106-v1810", "ts-90108-v1800")}
"""File → the id of its document."""
HELD_OUT = ("ts-90106-v1810", "ts-90108-v1800")
LOSSES = {"forgetting.mmlu.accuracy": 0.9, "forgetting.arc_challenge.accuracy": 0.0}
"""What the gate bounds: a loss that is not there, and one that may be."""
TASKS = {"mmlu": 8, "hellaswag": 3, "arc_challenge": 2, "gsm8k": 2}
"""Task of general ability → questions in the directory that the test writes."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Three documents, two tiny models, questions that are there already, and four tasks of general ability."""
    make_tiny_model(make_tiny_model(tmp_path / "base").with_name("vendor"))
    _disturb(tmp_path / "vendor")
    write_general_data(tmp_path / "general")
    (tmp_path / "standards").mkdir()
    for name in STANDARDS:
        shutil.copyfile(ROOT / "samples" / "standards" / f"{name}.docx", tmp_path / "standards" / f"{name}.docx")
    questions = [
        {"Statement": f"What is part {number} of {name}?", "Answer": f"It is {number} resource blocks.", "id": identity}
        | {"split": "held-out" if name in HELD_OUT else "train"}
        for name, identity in STANDARDS.items()
        for number in range(4)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    folders = {"arc_challenge": "ai2_arc"}
    settings: dict[str, Any] = {
        "name": "measured",
        "model": {"name": "./base"},
        "sources": {"standards": {"category": "standard", "path": "standards"}},
        "corpus": {"screen": {"trusted": ["standard"]}},
        "tele_eval": {"path": "questions.jsonl"},
        "training": {
            "pack": {"sequence_length": 64},
            "pretrain": {"max_steps": 3, "batch_sequences": 4, "micro_batch_sequences": 4, "learning_rate": 0.001},
            "instruct": {"method": "none"},
        },
        "evaluation": {
            "metrics": ["answer_perplexity", "general", "literature"],
            "general": {"max_documents": 3, "max_characters": 300},
            "literature": {"max_characters": 600, "max_terms": 4, "max_equations": 4, "max_sentences": 0},
            "forgetting": [
                {"task": task, "path": f"./general/{folders.get(task, task)}", "few_shot": 0} for task in TASKS
            ],
            "reference_models": {"vendor": "./vendor"},
        },
        "gate": {
            "candidate": "pretrained",
            "minimum_questions": 8,
            "losses": LOSSES,
        },
    }
    path = tmp_path / "measured.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_a_night_measures_forgetting_literature_and_a_reference_and_its_gate_bounds_the_loss(
    recipe: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [TELELLM, "run", recipe, "--pipeline", "nightly", "--name", "night", "--store", tmp_path / "store"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # tiny matrices are slower on several threads
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    page_path, facts_path = done.stdout.splitlines()[-2:]
    facts, page = json.loads(Path(facts_path).read_text()), Path(page_path).read_text()
    models = {model["label"]: model for model in facts["models"]}
    assert list(models) == ["base", "pretrained", "instruct", "vendor"] and models["vendor"]["role"] == "reference"
    numbers = {
        "answer_perplexity.corpus": 12,
        **{f"forgetting.{task}.accuracy": number for task, number in TASKS.items()},
        "general.perplexity": 3,
        **dict.fromkeys(("literature.perplexity", "literature.perplexity.standard", "literature.bits_per_byte"), 2),
        **dict.fromkeys(("literature.terms.exact", "literature.equations.edit_distance"), 4),
    }
    for model in models.values():
        found = {name: model["metrics"][name] for name in numbers}
        assert {name: score["n"] for name, score in found.items()} == numbers
        assert all(math.isfinite(score["value"]) and score["stderr"] is not None for score in found.values())
        assert all(0 < found[name]["stderr"] < found[name]["value"] for name in numbers if "perplexity" in name)
        assert {task: about["asked"] for task, about in model["forgetting"].items()} == TASKS
    for pair in (("base", "pretrained"), ("base", "instruct"), ("vendor", "instruct")):
        compared = {one["metric"]: one for one in facts["comparisons"] if (one["baseline"], one["candidate"]) == pair}
        for name, number in numbers.items():
            drawn = 2 if name.startswith("literature") else number  # documents, with all that is asked of each
            assert compared[name]["n"] == drawn and compared[name]["low"] <= compared[name]["high"], (pair, name)
        first = compared["answer_perplexity.corpus"]
        assert first["better"] and first["high"] < 0, (
            "a few steps of training are told from the base and from the vendor"
        )

    value = {role: {name: score["value"] for name, score in models[role]["metrics"].items()} for role in models}
    losses = {one["metric"]: one for one in facts["gate"]["criteria"] if one["name"] == "loss"}
    for metric, limit in LOSSES.items():
        lost, one = value["base"][metric] - value["pretrained"][metric], losses[metric]
        assert (one["value"], one["passed"]) == (pytest.approx(lost), lost <= limit) and one["against"] == "base"
        assert one["low"] <= one["value"] <= one["high"] and one["n"] == numbers[metric] and one["said"] in page
    assert facts["gate"]["promoted"] == all(one["passed"] for one in facts["gate"]["criteria"])
    assert facts["corpus"]["documents"] == 3 and facts["corpus"]["tokens"] > 0
    assert all(f"<b>{task}</b>" in page for task in TASKS) and "reference: " in page
    assert "literature perplexity, standard" in page and "equations completed" in page


def _disturb(folder: Path) -> None:
    """Make another model of one of the same shape and tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.02 * torch.randn_like(weights)
    model.save_pretrained(folder)
