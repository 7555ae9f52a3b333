"""A year of nights, with a clock that the test turns: documents come, change and go, and nights die anywhere."""

import gzip
import json
import math
import os
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from telellm import runs
from telellm.directory import DirectoryStore
from telellm.recipe import Recipe, parse
from telellm.registry import missing, production, versions
from telellm.report.gather import read_rows
from telellm.stage import Output, read_notes
from telellm.store import Store
from tests.tiny_nights import files_of, night

NIGHTS = 365
RECIPE = """
name: telecom
model: {name: owner/model}
sources:
  one: {category: web, path: raw}
evaluation: {bootstrap_samples: 100}
gate: {minimum_questions: 8}
retention: {versions: 3, refused_days: 5, runs_days: 4, unused_days: 3}
"""
KEPT_NIGHTS = 3 + 6 + 5 + 4 + 4
"""Versions, refused ones, runs, what is unused, and some that died: each holds at most what one night makes."""


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the process die at the n-th change of the store from now on, just before or just after it."""
    left = {"changes": math.inf}

    def wrap(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            left["changes"] -= 1
            if left["changes"] == 0.5:
                raise Killed
            result = change(*arguments)
            if left["changes"] == 0:
                raise Killed
            return result

        return changed

    for name in ("write", "swap", "upload", "remove", "delete"):
        monkeypatch.setattr(DirectoryStore, name, wrap(getattr(DirectoryStore, name)))

    def die_at(changes: float) -> None:
        left["changes"] = changes

    return die_at


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe is read once, and nothing waits for the disk: the year has some thousands of steps."""
    known: dict[tuple[str, ...], Recipe] = {}

    def parse_once(text: str, changes: Iterable[str] = (), **where: Any) -> Recipe:
        key = (text, *changes)
        if key not in known:
            known[key] = parse(text, changes=changes, **where)
        return known[key]

    monkeypatch.setattr(runs, "parse", parse_once)
    written: dict[int, tuple[Recipe, str]] = {}
    write = Recipe.to_yaml

    def write_once(recipe: Recipe) -> str:
        if id(recipe) not in written:
            written[id(recipe)] = (recipe, write(recipe))
        return written[id(recipe)][1]

    monkeypatch.setattr(Recipe, "to_yaml", write_once)
    monkeypatch.setattr("os.fsync", lambda number: None)


class World:
    """A folder of documents that changes from night to night."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance, self.number = folder, chance, 0
        folder.mkdir()
        for _ in range(10):
            self.add()

    def add(self) -> None:
        (self.folder / f"{self.number:04}.txt").write_text(f"Document {self.number} says {self.chance.random()}.")
        self.number += 1

    def turn(self) -> None:
        """Every other night something is new; the folder does not grow for ever."""
        files = sorted(self.folder.iterdir())
        for change in self.chance.choices(("nothing", "come", "change", "go"), (50, 22, 18, 10), k=1):
            if change == "come" and len(files) < 14:
                self.add()
            if change == "change":
                self.chance.choice(files).write_text(f"It now says {self.chance.random()}.")
            if change == "go" and len(files) > 9:
                self.chance.choice(files).unlink()


def test_a_year_of_nights(tmp_path: Path, mortal: Callable[[float], None], quick: None) -> None:
    chance = random.Random(20_261_101)
    world, store = World(tmp_path / "raw", chance), Store.open(str(tmp_path / "store"))
    recipe = parse(RECIPE, folder=tmp_path, changes=["sources.one.path=" + str(tmp_path / "raw")])
    text, now = recipe.to_yaml(), datetime(2026, 11, 1, 2, tzinfo=UTC)
    outcomes: list[str] = []
    sizes: list[int] = [0]
    raw: dict[str, dict[str, str]] = {}
    for number in range(NIGHTS):
        world.turn()
        before = production(store, "telecom")
        if number == 200:  # from here on, models learn from production
            text = parse(text, changes=["nightly.train_from=production"]).to_yaml()
        if number == 280:  # and read only what production does not know yet, and some of what it does
            text = parse(text, changes=["nightly.train_on=new", "nightly.old_share=0.4"]).to_yaml()
        mortal(chance.choice((0, 0.5)) + chance.randint(1, 160) if chance.random() < 0.3 else math.inf)
        try:
            outcome = night(text, store.uri, now)
        except Killed:
            outcome = "died"
        mortal(math.inf)
        if outcome != "died" and chance.random() < 0.1:
            assert night(text, store.uri, now + timedelta(hours=1)) == "nothing new"
        check_production(store, before, outcome)
        for version in versions(store, "telecom"):
            raw.setdefault(version["version"], files_of(recipe))
        if number % 15 == 14:
            check_lineage(store, raw)
        outcomes.append(outcome)
        sizes.append(size_of(tmp_path / "store") if number % 2 else sizes[-1])
        now += timedelta(days=1)

    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    assert set(counts) == {"died", "nothing new", "promoted", "refused"}, counts
    assert min(counts.values()) >= 5, counts
    one_night = max(after - earlier for earlier, after in pairwise(sizes)) / 2
    assert max(sizes) <= KEPT_NIGHTS * one_night
    assert fmean(sizes[NIGHTS // 2 :]) <= 1.5 * fmean(sizes[30 : NIGHTS // 2])
    folders = [*(tmp_path / "store" / "stages").iterdir(), *(tmp_path / "store").glob("*/telecom")]
    for folder in [*folders, tmp_path / "store" / "packed", tmp_path / "store" / "runs"]:
        made_a_night = 4 if folder.name == "evaluate" else 1
        assert len(list(folder.iterdir())) <= made_a_night * KEPT_NIGHTS, folder
    assert not list((tmp_path / "store").rglob("checkpoints/pretrain-*/*")) or outcomes[-1] == "died"


def size_of(folder: Path) -> int:
    """The bytes of all files."""
    return sum((Path(where) / name).stat().st_size for where, _, names in os.walk(folder) for name in names)


def check_production(store: Store, before: Any, outcome: str) -> None:
    """What is in production is whole after every night, and only a better model on the same questions replaces it."""
    after = production(store, "telecom")
    if after is None:
        assert before is None
        return
    manifest = store.manifest(f"models/telecom/{after.version}")
    assert manifest is not None and not list(missing(store, manifest))
    if before is None or after.version == before.version:
        assert outcome != "promoted" or before is None
        return
    assert outcome in ("promoted", "died") and after.moves[:-1] == before.moves
    assert manifest["gate"]["promoted"] and manifest["gate"]["production"] == before.version
    notes = read_notes(store, manifest["run"])
    rates = {
        role: sum(row["nll"] for row in read_rows(Output(store, note["output"], note["manifest"])))
        for role in ("instruct", "production")
        for note in [notes[f"evaluate-{role}"]]
    }
    assert rates["instruct"] < rates["production"]


def check_lineage(store: Store, raw: dict[str, dict[str, str]]) -> None:
    """Every version leads to its recipe, snapshot and questions, to its stages and to the raw files of its night."""
    for manifest in versions(store, "telecom"):
        assert not list(missing(store, manifest))
        place = f"models/telecom/{manifest['version']}"
        assert parse(store.read(f"{place}/recipe.yaml").decode()).name == "telecom"
        lineage = json.loads(store.read(f"{place}/lineage.json"))
        stages = lineage["stages"]
        assert {"ingest", "decontaminate", "tele-eval", "hold-out", "pack", "pretrain", "instruct"} <= set(stages)
        assert stages["instruct"]["content"] == manifest["content"]
        followed = "instruct", "pretrain", "pack", "hold-out", "decontaminate", "ingest"
        for child, parent in pairwise(followed):
            assert stages[parent]["content"] in {entry["content"] for entry in stages[child]["inputs"].values()}
        lines = gzip.decompress(store.read(f"{place}/raw-files.jsonl.gz")).splitlines()
        found = {row["file"]: row["digest"] for row in map(json.loads, lines)}
        assert found == raw[manifest["version"]]
