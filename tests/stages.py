"""Run one stage on documents that a test makes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from telellm.execution import execute
from telellm.parquet import read_records
from telellm.progress import Progress
from telellm.recipe import Recipe
from telellm.records import Document, Question
from telellm.stage import Context, Output, Stage, stage
from telellm.store import Store


def given(records: Iterable[Document] | Iterable[Question], recipe: Recipe, store: Store) -> str:
    """Put documents or questions into the store; returns their place."""
    items = list(records)

    @stage(sections=("seed",), produces=type(items[0]), identity=lambda recipe: [asdict(item) for item in items])
    def given(context: Context, settings: int) -> Iterator[Any]:
        yield from items

    return run(given, recipe, store).prefix


def run(stage: Stage, recipe: Recipe, store: Store, **inputs: str) -> Output:
    """Run a stage without a word; returns its output."""
    progress = Progress(stage.name, lambda event: None)
    return Output.find(store, execute(stage, recipe, store, "test", inputs, progress=progress))


def rejects(output: Output) -> list[Mapping[str, str]]:
    """Return what a stage rejected: reason, detail, id, item."""
    import pyarrow.parquet as parquet

    return [row for name in output.names("rejects/") for row in parquet.read_table(output.path(name)).to_pylist()]


def documents(output: Output) -> list[Document]:
    """Return a stage's documents."""
    return [document for name in output.names("data/") for document in read_records(output.path(name), Document)]
