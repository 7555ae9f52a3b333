"""What did not change is not parsed, cleaned or asked about again, and the output is that of a fresh build."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from telellm.corpus import ingest as room
from telellm.corpus.clean import clean
from telellm.corpus.decontaminate import decontaminate
from telellm.corpus.deduplicate import deduplicate
from telellm.corpus.ingest import ingest
from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import Recipe, parse
from telellm.records import Document, Rejected
from telellm.reuse import find_versions, forget_versions
from telellm.stage import Context, Output, stage
from telellm.store import Store
from tests import stages

RECIPE = """
name: reused
model: {name: owner/model}
sources:
  one: {category: web, path: raw}
corpus: {ingest: {shard_files: 1000}, clean: {minimum_words: 4}}
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve files, one of which is no text and one too short."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.txt").write_text(f"The cell number {number} is handed over to its neighbour.")
    (folder / "03.txt").write_bytes(b"\0\1\2")
    (folder / "05.txt").write_text("Too short.")
    return folder


@pytest.fixture
def recipe(raw: Path) -> Recipe:
    return parse(RECIPE, folder=raw.parent)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that a reader opened, as they are opened."""
    names: list[str] = []
    find = room.reader_for

    def noting(file: Path, *others: Any) -> Any:
        names.append(file.name)
        return find(file, *others)

    monkeypatch.setattr(room, "reader_for", noting)
    return names


ASKED: list[str] = []


@stage(sections=("seed",), produces=Document, per=Document, workers=1, reuses=True)
def ask(context: Context, settings: int, documents: Iterator[Document]) -> Iterator[Document | Rejected]:
    for document in documents:
        ASKED.append(document.id)
        context.counts["asked"] += 1
        yield Rejected(document, "seven") if "number 7" in document.content else document.with_fields(asked=True)


def build(recipe: Recipe, store: Store) -> tuple[Output, Output, Output]:
    ASKED.clear()
    read = stages.run(ingest, recipe, store)
    cleaned = stages.run(clean, recipe, store, documents=read.prefix)
    return read, cleaned, stages.run(ask, recipe, store, documents=cleaned.prefix)


def snapshot(recipe: Recipe, store: Store, made: Sequence[Output]) -> tuple[Output, Output]:
    different = stages.run(deduplicate, recipe, store, documents=made[-1].prefix)
    return different, stages.run(decontaminate, recipe, store, documents=different.prefix)


def are_equal(outputs: Sequence[Output], fresh: Sequence[Output]) -> None:
    """Compare outputs to the byte."""
    for ours, theirs in zip(outputs, fresh, strict=True):
        assert ours.content == theirs.content
        assert ours.manifest["drops"] == theirs.manifest["drops"]
        assert {n: e["sha256"] for n, e in ours.manifest["files"].items()} == {
            n: e["sha256"] for n, e in theirs.manifest["files"].items()
        }
        assert (ours.manifest["in"], ours.manifest["out"]) == (theirs.manifest["in"], theirs.manifest["out"])


def turn(raw: Path, change: str) -> list[str]:
    """Change the folder; returns the files that are new to a reader."""
    if change == "came":
        (raw / "04b.txt").write_text("A new cell is handed over to its neighbour.")
        return ["04b.txt"]
    if change == "changed":
        (raw / "07.txt").write_text("The cell number seven has changed since the last night.")
        return ["07.txt"]
    (raw / "02.txt").unlink()
    return []


@pytest.mark.parametrize("change", ["came", "changed", "went"])
def test_only_what_is_new_is_parsed_and_asked_and_the_output_is_that_of_a_fresh_build(
    raw: Path, recipe: Recipe, parsed: list[str], tmp_path: Path, change: str
) -> None:
    store = Store.open(str(tmp_path / "store"))
    build(recipe, store)
    assert len(parsed) == 12 and len(ASKED) == 10
    parsed.clear()
    new = turn(raw, change)
    outputs = build(recipe, store)
    assert parsed == new
    assert [f"web_{Path(name).stem}" for name in new] == ASKED
    parsed.clear()
    fresh = build(recipe, Store.open(str(tmp_path / "fresh")))
    assert len(parsed) >= 11
    are_equal(outputs, fresh)
    assert outputs[0].manifest["counts"]["reused"] == (11 if new != ["04b.txt"] else 12)


@pytest.mark.parametrize("seed", range(3))
def test_night_after_night_is_a_fresh_build_and_nothing_is_read_or_asked_about_twice(
    raw: Path, recipe: Recipe, parsed: list[str], tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents come, change and go; so do the files at which shards begin."""
    monkeypatch.setattr("telellm.shards.workspace", lambda: 1)  # what is parsed is noted in this process
    recipe = parse(recipe.to_yaml(), changes=["corpus.ingest.shard_files=3"])
    store, chance = Store.open(str(tmp_path / "store")), random.Random(seed)
    for night in range(8):
        names = sorted(path.name for path in raw.iterdir())
        gone = chance.sample(names, 4) if night else []
        changed = chance.sample(sorted(set(names) - set(gone)), 2) if night else []
        come = [f"{number:02}-{night}.txt" for number in chance.sample(range(20), 4)]
        for name in gone:
            (raw / name).unlink()
        for name in [*changed, *come]:
            copied = f"A cell that many pages tell of, number {chance.randrange(4)}, is handed over again tonight."
            own = f"In the night {night} the cell {name[:2]} is another one."
            (raw / name).write_text(chance.choice([own, own, copied]))
        parsed.clear()
        outputs = build(recipe, store)
        assert not night or sorted(parsed) == sorted([*changed, *come])
        assert not night or sorted(ASKED) == sorted(f"web_{Path(name).stem}" for name in [*changed, *come])
        apart = Store.open(str(tmp_path / f"fresh-{night}"))
        are_equal(
            [*outputs, *snapshot(recipe, store, outputs)],
            [*(fresh := build(recipe, apart)), *snapshot(recipe, apart, fresh)],
        )


def test_a_manifest_tells_what_its_run_asked_from_what_was_there(raw: Path, recipe: Recipe, store: Store) -> None:
    def night(run: str) -> tuple[Any, Any]:
        quiet = Progress("-", lambda event: None)
        place = ""
        for step in (ingest, clean, ask):
            place = execute(step, settings, store, run, {"documents": place} if place else {}, progress=quiet)
        manifest = store.manifest(place)
        assert manifest is not None
        return manifest["counts"]["asked"], manifest["this_run"]

    settings = parse(recipe.to_yaml(), changes=["corpus.ingest.shard_files=4"])
    number, made = night("monday")
    assert number == 10 and made["counts"]["asked"] == 10 and made["shards"] >= 2
    num_shards = made["shards"]
    (raw / "11.txt").write_text("The cell number eleven has changed since the last night.")
    number, made = night("tuesday")
    assert made["counts"]["asked"] == 1 and made["counts"]["reused"] >= 1 and number > 1
    assert made["shards"] == 1 < num_shards


def test_other_settings_reuse_nothing(raw: Path, recipe: Recipe, parsed: list[str], store: Store) -> None:
    build(recipe, store)
    parsed.clear()
    turn(raw, "came")
    other = parse(recipe.to_yaml(), changes=["sources.one.licence=CC0", "corpus.clean.minimum_words=1"])
    read, cleaned, _ = build(other, store)
    assert len(parsed) == 13 and "reused" not in read.manifest["counts"] | cleaned.manifest["counts"]


@pytest.mark.parametrize("lost", ["all of it", "a file"])
def test_an_earlier_version_that_is_not_whole_is_done_without(
    raw: Path, recipe: Recipe, parsed: list[str], directory_store: Store, lost: str
) -> None:
    read, *_ = build(recipe, directory_store)
    for place in read.manifest["shards"]:
        for key in list(directory_store.list(place)):
            if lost == "all of it" or "/data/" in key:
                directory_store.remove(key)
    parsed.clear()
    turn(raw, "came")
    build(recipe, directory_store)
    assert len(parsed) == 13


def test_what_names_shards_that_are_gone_is_removed(raw: Path, recipe: Recipe, store: Store) -> None:
    _, cleaned, _ = build(recipe, store)
    forget_versions(store)
    assert len(list(store.list("reuse"))) == 3
    for place in cleaned.manifest["shards"]:
        store.delete(place)
    forget_versions(store)
    assert [key.split("/")[1] for key in store.list("reuse")] == ["ask", "ingest"]


@pytest.mark.parametrize("trail", ["{", "[1]", '[["a", -1, 0]]', '[["a", "1", 0]]', '[["a"]]', "[" * 100_000])
def test_an_earlier_version_whose_trail_is_damaged_is_not_used(
    directory_store: Store, tmp_path: Path, trail: str
) -> None:
    (tmp_path / "trail").mkdir()
    (tmp_path / "trail" / "a.json").write_text(trail)
    directory_store.commit("stages/clean/shards/1", tmp_path, {})
    assert find_versions(directory_store, ["stages/clean/shards/1"], Document) is None
