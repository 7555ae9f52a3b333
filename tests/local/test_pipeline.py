"""The whole path as a user runs it: real samples, a real model of 135 million parameters, a real S3 server."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from telellm.lm.models import model_digest, model_directory
from telellm.store import Store
from tests.conftest import BUCKET, S3Server

ROOT = Path(__file__).parents[2]
TELELLM = Path(sys.executable).with_name("telellm")
STAGES = [
    *("ingest", "clean", "screen", "deduplicate", "decontaminate", "draft", "distinct", "tele-eval", "hold-out"),
    *("index", "pack", "pretrain"),
    *("instruct", "evaluate-base", "evaluate-pretrained", "evaluate-instruct", "report"),
]
SMALL = [
    "corpus.screen.excerpt_words=120",
    "tele_eval.draft.passages_per_document=6",
    "training.pretrain.max_steps=6",
    "training.pretrain.batch_sequences=2",
    "training.pretrain.checkpoint_steps=100",
    "training.instruct.max_steps=1",
    "training.instruct.batch_sequences=2",
    "evaluation.max_generated=2",
    "evaluation.max_answer_tokens=12",
    "evaluation.rotations=1",
    "evaluation.general.max_characters=400",
    "retrieval.max_questions=2",
    "gate.minimum_questions=4",
    "gate.losses={semscore.mean: 2}",
]


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart recipe on a handful of its documents."""
    folder = tmp_path_factory.mktemp("recipe")
    sources = {
        "arxiv": ["urllc-harq-latency-budget", "otfs-delay-doppler-pilots", "two-state-protein-folding"],
        "standards": ["ts-90101-v1800.docx", "ts-90106-v1810.docx", "ts-90107-v1800.docx", "ts-90108-v1800.docx"],
    }
    for source, names in sources.items():
        (folder / source).mkdir()
        for name in names:
            copy = shutil.copytree if source == "arxiv" else shutil.copyfile
            copy(ROOT / "samples" / source / name, folder / source / name)
    recipe = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())
    recipe["sources"] = {name: recipe["sources"][name] | {"path": str(folder / name)} for name in sources}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe).replace("../samples", str(ROOT / "samples")))
    return path


def run(
    recipe: Path, store: str, *arguments: str, changes: list[str] | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    sets = [part for change in changes or [] for part in ("--set", change)]
    return subprocess.run(
        [TELELLM, "run", recipe, "--store", store, *arguments, *sets],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=ROOT,
        timeout=1800,
    )


def content(store: Store, recipe: str = "quickstart", step: str = "decontaminate") -> str:
    note = store.read_json(f"runs/{recipe}/stages/{step}.json")
    assert note is not None
    return str(note["manifest"]["content"])


def test_the_adapted_model_beats_its_base_and_a_second_run_does_nothing_again(
    small_recipe: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents to report on a bucket; training is real, and so is the interval of the paired bootstrap."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{BUCKET}/whole-path"
    first = run(small_recipe, uri, changes=SMALL)
    assert first.returncode == 0, first.stderr
    assert set(STAGES) <= set(re.findall(r"^([a-z-]+) +[\d.:]+ ?s? ", first.stderr, re.MULTILINE))
    assert "KFP" not in first.stdout + first.stderr and "Traceback" not in first.stderr

    page, report_path = first.stdout.splitlines()[-2:]
    assert page.endswith("report.html") and report_path.endswith("report.json")
    store = Store.open(uri)
    report = json.loads(store.read(report_path.removeprefix(f"{uri}/")))
    assert [model["role"] for model in report["models"]] == ["base", "pretrained", "instruct"]
    gain = next(
        comparison
        for comparison in report["comparisons"]
        if comparison["metric"] == "answer_perplexity.corpus"
        and (comparison["baseline"], comparison["candidate"]) == ("base", "pretrained")
    )
    assert gain["difference"] < 0 and gain["low"] < gain["high"] < 0
    assert b"<html" in store.read(page.removeprefix(f"{uri}/"))

    second = run(small_recipe, uri, changes=SMALL)
    assert second.returncode == 0, second.stderr
    assert set(re.findall(r"^([a-z-]+) +done before", second.stderr, re.MULTILINE)) == set(STAGES)

    night = run(small_recipe, uri, "--pipeline", "nightly", "--name", "night-1", changes=SMALL)
    assert night.returncode == 0 and "report.html" in night.stdout, night.stderr
    pointer = store.read_json("models/quickstart/production.json")
    assert pointer is not None and pointer["by"] == "nightly, run night-1"
    models = subprocess.run([TELELLM, "models", "show", "quickstart", "--store", uri], capture_output=True, text=True)
    assert models.stdout.startswith(f"quickstart {pointer['version']}: production\n"), models.stderr
    assert "lineage.json (whole)" in models.stdout and "NOT PASSED" not in models.stdout
    assert model_digest(pointer["model"]) and (model_directory(pointer["model"]) / "config.json").is_file()

    next_night = run(small_recipe, uri, "--pipeline", "nightly", "--name", "night-2", changes=SMALL)
    assert next_night.returncode == 0 and "nothing new since the run night-1" in next_night.stderr
    assert "pretrain" not in next_night.stderr


@pytest.mark.parametrize("moment", range(2))
def test_a_killed_run_goes_on_to_the_same_corpus(moment: int, tmp_path: Path, whole_corpus: Callable[[], str]) -> None:
    recipe, changes = ROOT / "recipes" / "quickstart.yaml", without_model()
    store = tmp_path / "store"
    process = subprocess.Popen(
        [TELELLM, "run", recipe, "--store", store, "--pipeline", "corpus", *changes],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=ROOT,
    )
    time.sleep(random.Random(moment).uniform(1.5, 7))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(
        [TELELLM, "run", recipe, "--store", store, "--pipeline", "corpus", *changes],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    assert content(Store.open(str(store))) == whole_corpus()


def without_model() -> list[str]:
    """Every category is trusted: the corpus is made without asking a model."""
    return ["--set", "corpus.screen.trusted=[arxiv, standard, wiki, web]"]


@pytest.fixture(scope="module")
def whole_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """The content of the samples' corpus, made without interruption, once."""
    recipe, store = ROOT / "recipes" / "quickstart.yaml", tmp_path_factory.mktemp("uninterrupted")
    known: list[str] = []

    def make() -> str:
        if not known:
            subprocess.run(
                [TELELLM, "run", recipe, "--store", store, "--pipeline", "corpus", *without_model()],
                check=True,
                capture_output=True,
                cwd=ROOT,
                timeout=300,
            )
            known.append(content(Store.open(str(store))))
        return known[0]

    return make
