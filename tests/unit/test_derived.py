"""What is made of each file of an input is made once, kept with the output, and gone with it."""

from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from telellm.derived import derive
from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import Recipe, Retention, parse
from telellm.records import Document
from telellm.retention import sweep
from telellm.stage import Context, Output, Shard, digest_of, stage
from telellm.store import Store

RECIPE = "name: small\nmodel: {name: owner/model}\nsources:\n  one: {category: web, path: raw}\n"


@pytest.fixture
def recipe() -> Recipe:
    return parse(RECIPE)


def divide(context: Context, settings: int) -> list[Shard]:
    return [Shard(f"s{number}", digest_of(number), number) for number in (settings, settings + 1, settings + 2)]


@stage(sections=("seed",), produces=Document, divide=divide, workers=1)
def three(context: Context, settings: int, number: int) -> Any:
    yield Document.create("web", str(number), f"text {number}")


def measure(path: Path, target: Path, log: Path) -> None:
    with log.open("a") as stream:
        stream.write(f"{path}\n")
    target.write_bytes(path.read_bytes()[:4])


@stage(sections=("gate",))
def measured(context: Context, settings: Any, documents: Output) -> None:
    make = partial(measure, log=Path(documents.store.uri.removeprefix("file://")).parent / "log")
    found = list(derive(context, documents, "measured", make, context.base))
    assert [name for name, _ in found] == documents.names("data/")
    (context.directory / "all").write_bytes(b"".join(path.read_bytes() for _, path in found))


def night(recipe: Recipe, store: Store, seed: int) -> tuple[str, int]:
    """Return the place of what was measured, and how many files were measured for it."""
    log = Path(store.uri.removeprefix("file://")).parent / "log"
    log.write_text("")
    recipe = parse(recipe.to_yaml(), changes=[f"seed={seed}"])
    quiet = Progress("stage", lambda event: None)
    documents = execute(three, recipe, store, "run", {}, progress=quiet)
    place = execute(measured, recipe, store, "run", {"documents": documents}, progress=quiet)
    return place, len(log.read_text().splitlines())


@pytest.mark.parametrize("cores", [1, 2])
def test_a_file_that_is_as_it_was_is_not_read_again(
    recipe: Recipe, directory_store: Store, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr("telellm.derived.workspace", lambda: cores)
    first, number = night(recipe, directory_store, 1)
    assert number == 3 and Output.find(directory_store, first).path("all").read_bytes() == b"PAR1" * 3
    second, number = night(recipe, directory_store, 2)
    assert (second != first, number) == (True, 1)
    manifest = Output.find(directory_store, second).manifest
    directory_store.remove(f"{manifest['shards'][1]}/derived")
    directory_store.delete(second)
    assert night(recipe, directory_store, 2) == (second, 1)


def test_retention_keeps_it_as_long_as_the_output(recipe: Recipe, directory_store: Store) -> None:
    place, _ = night(recipe, directory_store, 1)
    settings, today = Retention(unused_days=1), date(2026, 11, 1)  # type: ignore[call-arg]
    kept = Output.find(directory_store, place).manifest["shards"]
    night(recipe, directory_store, 2)  # the run names this one now
    for days in range(3):
        sweep(directory_store, "small", settings, today + timedelta(days=days))
    there = [bool(directory_store.manifest(shard)) for shard in kept]
    assert there == [False, True, True]
