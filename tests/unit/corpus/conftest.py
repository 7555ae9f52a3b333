"""The samples, read once for the tests of the corpus."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from telellm.corpus.clean import clean
from telellm.corpus.ingest import ingest
from telellm.recipe import Recipe, parse
from telellm.stage import Output
from telellm.store import Store
from tests.stages import run

SAMPLES = Path(__file__).parents[3] / "samples"
RECIPE = """
name: samples
model: {name: owner/model}
sources:
  arxiv: {category: arxiv, path: arxiv}
  standards: {category: standard, path: standards}
  wikipedia: {category: wiki, path: wikipedia}
  web: {category: web, path: web}
corpus:
  ingest: {shard_files: 1000}
  decontaminate: {benchmarks: [benchmark.jsonl]}
"""


@dataclass(frozen=True)
class Samples:
    """The samples as documents, and what is known of each."""

    recipe: Recipe
    store: Store
    ingested: Output
    cleaned: Output
    truth: dict[str, dict[str, Any]]
    contaminated: list[str]


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """The samples, ingested and cleaned."""
    recipe = parse(RECIPE, folder=SAMPLES)
    store = Store.open(str(tmp_path_factory.mktemp("samples")))
    truth: dict[str, dict[str, Any]] = {}
    for name in ("arxiv", "standards", "wikipedia", "web"):
        truth |= json.loads((SAMPLES / "truth" / f"{name}.json").read_text())
    contaminated = json.loads((SAMPLES / "truth" / "contaminated.json").read_text())
    ingested = run(ingest, recipe, store)
    cleaned = run(clean, recipe, store, documents=ingested.prefix)
    return Samples(recipe, store, ingested, cleaned, truth, contaminated)
