"""Shards: run those that are not done, side by side, each in a folder of its own; one that died is run again alone."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from telellm.manifest import find_finished
from telellm.parquet import read_records, write_records
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError, parse
from telellm.reuse import Reuse, find_versions, last_versions, versions_of
from telellm.stage import (
    Context,
    Output,
    Rows,
    Shard,
    Stage,
    StageFailed,
    end_with_parent,
    load,
    peak_rss_mib,
    workspace,
)
from telellm.store import InvalidStore, Store, StoreUnavailable, TornOutput


@dataclass(frozen=True)
class _Task:
    """A shard that is to be run."""

    part: Shard
    key: str
    base: str
    earlier: Sequence[str]
    """Places of earlier versions of it, whose unchanged items are taken from there."""
    others: Mapping[str, str]
    """Places of the inputs that are not divided."""


def run_shards(
    stage: Stage,
    context: Context,
    parts: list[Shard],
    keys: Mapping[str, str],
    others: Mapping[str, str],
    only: tuple[int, int] | None,
) -> list[dict[str, Any]]:
    """Run the shards that are not done, in processes; returns every shard's manifest in order."""
    store = context.store
    names = [part.name for part in parts]
    if only:
        parts = parts[only[0] :: only[1]]
    found = finished_shards(stage, store, parts, keys)
    todo = [part for part in parts if found[part.name] is None]
    known = last_versions(store, stage.name, context.base) if todo and stage.reuses else {}
    earlier = versions_of(names, known, margin=1 if stage.shard_rows else 0)
    tasks = [_Task(part, keys[part.name], context.base, earlier[part.name], others) for part in todo]
    num_workers = min(stage.workers or workspace(), len(todo))
    if num_workers <= 1:
        for number, task in enumerate(tasks, len(parts) - len(todo) + 1):
            note = f"shard {number:,} of {len(parts):,}" if len(parts) > 1 else ""
            made = _run_shard(stage, context.recipe, store, context.run, task, context.progress, note)
            found[task.part.name] = made
    else:
        import pyarrow.parquet  # noqa: F401  # once here, for all workers

        text = context.recipe.to_yaml()
        context.progress.start(len(parts), "shards")
        context.progress.advance(len(parts) - len(todo))
        with ProcessPoolExecutor(num_workers, initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
            waiting: dict[Future[dict[str, Any]], Shard] = {}
            remaining = iter(tasks)
            try:
                while True:
                    for task in islice(remaining, 2 * num_workers - len(waiting)):
                        future = pool.submit(_in_worker, stage.reference, text, store.uri, context.run, task)
                        waiting[future] = task.part
                    if not waiting:
                        break
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        part = waiting.pop(future)
                        with named_failures(f"{stage.name}, shard {part.name}"):
                            found[part.name] = future.result()
                        context.progress.drops.update(found[part.name]["drops"])  # type: ignore[index]
                        context.progress.advance()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)  # shards that run now end and are kept
    return [manifest for part in parts if (manifest := found[part.name]) is not None]


def finished_shards(
    stage: Stage, store: Store, parts: list[Shard], keys: Mapping[str, str]
) -> dict[str, dict[str, Any] | None]:
    """Return each shard's manifest, or None where it is not done."""
    names = [part.name for part in parts]
    found = store.each(lambda name: find_finished(store, f"stages/{stage.name}/shards/{keys[name]}"), names)
    return dict(zip(names, found, strict=True))


def _run_shard(
    stage: Stage,
    recipe: Recipe,
    store: Store,
    run: str,
    task: _Task,
    progress: Progress,
    note: str = "",
) -> dict[str, Any]:
    """Run one shard; returns its manifest."""
    part, key = task.part, task.key

    def emit(event: dict[str, Any]) -> None:
        noted = ", ".join(filter(None, [note, str(event.get("note") or "")]))
        progress._emit(event | {"drops": dict(progress.drops + own.drops), "note": noted})

    with tempfile.TemporaryDirectory(prefix=f"telellm-{stage.name}-") as folder:
        own = Progress(progress.stage, emit)
        own._began = progress._began
        context = Context(recipe, store, run, Path(folder), own, key, base=task.base, shard=part.name)
        settings = recipe.section(stage.sections[0])
        with named_failures(f"{stage.name}, shard {part.name}"):
            assert stage.produces is not None
            items = _items(stage, store, part)
            others = {name: Output.find(store, place) for name, place in task.others.items()}
            name = part.name.removesuffix("-00000")
            if isinstance(part.content, Rows):
                context.counts["in"] = part.content.number
            reuse: Reuse | None = None
            if stage.reuses and isinstance(part.content, Rows | list):
                reuse = Reuse(items, find_versions(store, task.earlier, stage.produces))
                context.content = part.content
                if reuse.num_known:
                    context.counts["reused"] = reuse.num_known
                results: Any = iter(stage.body(context, settings, reuse.new(), **others) or ())
                made: Any = reuse.merge(results, one_each=stage.divide is None)
            else:
                made = stage.body(context, settings, items(), **others) or ()
            rows = write_records(made, stage.produces, context.directory, name, context.counts, own.drops)
            if reuse is not None:
                reuse.write(context.directory, name)
        progress.drops.update(own.drops)
        manifest = {
            "shard": part.name,
            "place": f"stages/{stage.name}/shards/{key}",
            "run": run,
            "in": context.counts.pop("in", 0),
            "out": context.counts.pop("out", 0),
            "counts": dict(context.counts),
            "drops": dict(own.drops),
            "summary": context.summary,
            "rows": rows,
        }
        return store.commit(str(manifest["place"]), context.directory, manifest)


def _items(stage: Stage, store: Store, part: Shard) -> Callable[[], Any]:
    """Return what reads a shard's content, from the beginning each time that it is called."""
    rows = part.content
    if not isinstance(rows, Rows):
        return lambda: rows
    kind, path = stage.per, store.fetch(rows.place, rows.sha256)
    assert kind is not None
    return lambda: read_records(path, kind, rows.start, rows.number)


@lru_cache(1)
def _read(recipe: str) -> Recipe:
    """Return a recipe that a worker gets with every shard: reading it takes longer than many a shard."""
    return parse(recipe)


def _in_worker(reference: str, recipe: str, store: str, run: str, task: _Task) -> dict[str, Any]:
    """Run one shard in a process of a pool."""
    stage = load(reference)
    progress = Progress(stage.name, lambda event: None)
    manifest = _run_shard(stage, _read(recipe), Store.open(store), run, task, progress)
    return manifest | {"peak_rss_mib": peak_rss_mib()}


@contextmanager
def named_failures(where: str) -> Iterator[None]:
    """Name the stage or shard in whatever goes wrong; what a person gave keeps its own words."""
    try:
        yield
    except (RecipeError, StageFailed, StoreUnavailable, TornOutput, InvalidStore):
        raise
    except BrokenProcessPool as error:
        raise StageFailed(
            f"{where}: a worker died without a word, most often for lack of memory; finished shards are kept: run again"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageFailed(
                f"{where}: the disk of {tempfile.gettempdir()} is full; make room or set TMPDIR, then run again: "
                "finished shards are kept"
            ) from error
        raise StageFailed(f"{where}: {type(error).__name__}: {error}") from error
