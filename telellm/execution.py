"""Execution: run a stage, or skip it when its output is there.

Everything that is the same for every stage is here, once: the digest that names its output, shards and workers, the
manifest last, and what is said when it fails.
"""

import errno
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from telellm import __version__
from telellm.parquet import read_records, write_records
from telellm.progress import Progress, drops_text
from telellm.recipe import Recipe, RecipeError, Settings, parse
from telellm.recipe.fields import ASIDE
from telellm.reuse import Reuse, find_versions, last_versions, remember_versions, versions_of
from telellm.stage import (
    MANIFEST_VERSION,
    Context,
    Output,
    Rows,
    Shard,
    Stage,
    StageFailed,
    code_version,
    digest_of,
    end_with_parent,
    load,
    peak_rss_mib,
    workspace,
)
from telellm.store import MANIFEST, InvalidStore, Store, StoreUnavailable, TornOutput, sha256_file


def execute(
    stage: Stage,
    recipe: Recipe,
    store: Store,
    run: str,
    inputs: Mapping[str, str],
    *,
    shards: tuple[int, int] | None = None,
    label: str = "",
    progress: Progress | None = None,
    elsewhere: Callable[[str, int], None] | None = None,
    expected_key: str = "",
) -> str:
    """Run a stage, or skip it when its output is there; returns where the output lies in the store.

    `inputs` are places of finished outputs ("" for an optional one that is not wanted). `shards` (i, n) runs only every
    n-th shard from i on, and leaves the rest and the manifest to a later call. `label` names the step within the run,
    where a stage runs more than once. `elsewhere` gets the work's key and its number of shards (0: it has none), has
    the work done by others, and returns when the store has it. `expected_key` is the key that whoever started this
    process computed. Raises `RecipeError` (the user's input) or `StageFailed` (the work).
    """
    label = label or stage.name
    progress = progress or Progress(label)
    found = {name: Output.find(store, place) if place else None for name, place in inputs.items()}
    if missing := [name for name in stage.inputs if found.get(name) is None]:
        raise RecipeError(f"stage {stage.name}: input {missing[0]} is missing; it needs: {', '.join(stage.inputs)}")
    key = digest_of(
        MANIFEST_VERSION,
        stage.name,
        code_version(stage),
        [_portable(recipe.section(section)) for section in stage.sections],
        stage.identity(recipe) if stage.identity else None,
    )
    with tempfile.TemporaryDirectory(prefix=f"telellm-{stage.name}-") as folder:
        context = Context(recipe, store, run, Path(folder), progress, key)
        settings = recipe.section(stage.sections[0])
        with _failures(label):
            parts = _divide(stage, context, settings, found)
            if shards and not stage.sharded:
                raise RecipeError(f"stage {stage.name} has no shards: it needs its whole input; leave out --shards")
            others = {name: output for name, output in found.items() if output and name not in stage.inputs[:1]}
            places = {name: output.prefix for name, output in others.items()}
            contents = [(name, output.content) for name, output in sorted(others.items())]
            context.base = digest_of(key, contents) if stage.per is not None and contents else key
            shard_keys = {part.name: digest_of(context.base, part.name, part.digest) for part in parts or []}
            key = context.key = digest_of(key, *_input_digests(stage, found, parts))
            prefix = stage.place(recipe, key, found) if stage.place else f"stages/{stage.name}/{key}"
            prefix = prefix.replace("<run>", run)
            if expected_key and expected_key != key:
                raise RecipeError(
                    f"stage {stage.name}: telellm {__version__} (code {code_version(stage)}) makes {key} here, but "
                    f"{expected_key} was asked for: the image's telellm is not the one that started this job; set "
                    "cluster.registry and cluster.tag to images of its version"
                )
            manifest = None if shards else _finished(store, prefix)
            if manifest is not None and manifest["digest"] != key:
                manifest = None  # a place without a key holds an older output
            skipped = manifest is not None
            if manifest is None and shards:
                assert parts is not None
                done = _run_shards(stage, context, parts, shard_keys, places, shards)
                progress.send(state="done", note=f"shards {shards[0]}/{shards[1]}: {len(done)} of {len(parts)}")
                return ""
            if manifest is None and elsewhere is not None:
                began = time.monotonic()
                elsewhere(key, len(parts or []))
                manifest = _collect(stage, context, found, parts, shard_keys, prefix, began)
            if manifest is None:
                manifest = _make(stage, context, settings, found, parts, shard_keys, places, prefix)
                store.delete(context.scratch(stage.name))
    store.write_json(f"runs/{run}/stages/{label}.json", {"output": prefix, "manifest": manifest})
    progress.drops = Counter(manifest["drops"])
    progress.send(state="skipped" if skipped else "done", note=finished_note(manifest))
    return prefix


def _make(
    stage: Stage,
    context: Context,
    settings: Any,
    found: Mapping[str, Output | None],
    parts: list[Shard] | None,
    shard_keys: Mapping[str, str],
    places: Mapping[str, str],
    prefix: str,
) -> dict[str, Any]:
    """Do a stage's work and commit its output at `prefix`; returns the manifest."""
    began = time.monotonic()
    if parts is not None:
        done = _run_shards(stage, context, parts, shard_keys, places, None)
        return _unite(stage, context, found, done, prefix, began)
    rows, kept = _run_whole(stage, context, settings, found)
    manifest = _manifest(stage, context, context.recipe, found, began, None)
    if stage.produces is not None and not manifest["out"]:
        raise StageFailed(_nothing_left(context.progress.stage, manifest))
    return _commit_whole(context.store, prefix, context.directory, manifest, rows, kept)


def _collect(
    stage: Stage,
    context: Context,
    found: Mapping[str, Output | None],
    parts: list[Shard] | None,
    shard_keys: Mapping[str, str],
    prefix: str,
    began: float,
) -> dict[str, Any]:
    """Return the manifest of work that others did: that of the whole output, or one made of its shards' manifests."""
    store = context.store
    if parts is None:
        manifest = _finished(store, prefix)
        if manifest is None or manifest["digest"] != context.key:
            raise StageFailed(f"{context.progress.stage}: the job ended well, but {store.uri}/{prefix} has no output")
        return manifest
    done = _finished_shards(stage, store, parts, shard_keys)
    if missing := [name for name, manifest in done.items() if manifest is None]:
        raise StageFailed(
            f"{context.progress.stage}: the job ended well, but {len(missing)} of {len(parts)} shards are not in the "
            f"store ({', '.join(missing[:5])}); run again: the finished ones are kept"
        )
    return _unite(stage, context, found, [manifest for manifest in done.values() if manifest], prefix, began)


def _unite(
    stage: Stage,
    context: Context,
    found: Mapping[str, Output | None],
    done: list[dict[str, Any]],
    prefix: str,
    began: float,
) -> dict[str, Any]:
    """Commit the output that finished shards make up; returns its manifest."""
    store = context.store
    manifest = _manifest(stage, context, context.recipe, found, began, done)
    if stage.reuses:
        remember_versions(store, stage.name, context.base, {part["shard"]: part["place"] for part in done})
    if stage.produces is not None and not manifest["out"]:
        raise StageFailed(_nothing_left(context.progress.stage, manifest))
    if stage.place is not None:
        manifest["files"] = _gather(store, manifest["files"], prefix)
    store.write_json(f"{prefix}/{MANIFEST}", manifest)
    return manifest


def _gather(store: Store, files: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Put the shards' files into one folder too: an output with a place of its own is whole there."""
    store.delete(prefix)  # what an earlier try left
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.copy(files[name]["key"], f"{prefix}/{name}"), files))
    except FileNotFoundError as error:
        raise TornOutput(
            f"{store.uri}/{error.args[0]} is in a manifest but not in the store; run the stage that makes it again"
        ) from None
    return {name: {key: value for key, value in entry.items() if key != "key"} for name, entry in files.items()}


def finished_note(manifest: Mapping[str, Any]) -> str:
    """Return what a finished stage made: `48 of 60 documents`, `45 questions of 59 documents`, or its own headline."""
    if headline := manifest.get("summary", {}).get("headline"):
        return str(headline)
    made = {"Document": "documents", "Question": "questions"}.get(manifest["produces"] or "", "files")
    read = "documents" if manifest["inputs"] else "files"
    if not manifest["in"]:
        return f"{manifest['out']:,} {made}"
    if made == read:
        return f"{manifest['out']:,} of {manifest['in']:,} {made}"
    return f"{manifest['out']:,} {made} of {manifest['in']:,} {read}"


def _portable(value: Any) -> Any:
    """Return a section's values with the names of files in place of where they lie, without those that are `ASIDE`.

    What is in the files counts, by `identity` and the digests of shards; so a corpus has one digest on every machine.
    """
    if isinstance(value, Settings):
        return {
            name: _portable(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if field.json_schema_extra != ASIDE
        }
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    is_place = isinstance(value, str) and value.startswith(("/", "s3://", "file://", "package:"))
    return PurePosixPath(value).name if is_place else value


def _input_digests(stage: Stage, found: Mapping[str, Output | None], parts: list[Shard] | None) -> list[Any]:
    others = [(name, output.content) for name, output in sorted(found.items()) if output]
    return [others, [(part.name, part.digest) for part in parts or []]]


def _divide(stage: Stage, context: Context, settings: Any, found: Mapping[str, Output | None]) -> list[Shard] | None:
    divided = stage.divide(context, settings) if stage.divide is not None else None
    if divided is not None:
        return sorted(divided, key=lambda part: part.name)
    if stage.per is None:
        return None
    source = found[stage.inputs[0]]
    assert source is not None
    parts = []
    for name in source.names("data/"):
        entry = source.manifest["files"][name]
        place, num_rows = entry.get("key", f"{source.prefix}/{name}"), source.manifest["rows"].get(name, 0)
        if stage.shard_rows is None or num_rows <= stage.shard_rows:
            parts.append(Shard(Path(name).stem, entry["sha256"], Rows(place, entry["sha256"], 0, num_rows)))
            continue
        for start in range(0, num_rows, stage.shard_rows):
            rows = Rows(place, entry["sha256"], start, min(stage.shard_rows, num_rows - start))
            parts.append(Shard(f"{Path(name).stem}-{start:09}", f"{rows.sha256} {start} {rows.number}", rows))
    return parts


def _finished(store: Store, prefix: str) -> dict[str, Any] | None:
    """Return the manifest of an output whose files are all there: one that was deleted in part is made again."""
    manifest = store.manifest(prefix)
    if manifest is None:
        return None
    keys = [entry.get("key", f"{prefix}/{name}") for name, entry in manifest["files"].items()]
    if len(keys) <= 4:  # a shard: many of them are looked at side by side
        return manifest if all(map(store.exists, keys)) else None
    with ThreadPoolExecutor(8) as pool:
        return manifest if all(pool.map(store.exists, keys)) else None


def _run_whole(
    stage: Stage, context: Context, settings: Any, found: Mapping[str, Output | None]
) -> tuple[dict[str, int], dict[str, Any]]:
    """Run a stage's function on its whole input; returns rows a file, and files of the input that are the output's."""
    result: Any = stage.body(context, settings, **found)
    first = found.get(stage.inputs[0]) if stage.inputs else None
    context.counts["in"] += first.num_records if first is not None and "out" in first.manifest else 0
    if result is None:
        return {}, {}
    assert stage.produces is not None, f"{stage.name} yields records but does not say which"
    rows: dict[str, int] = {}
    kept: dict[str, Any] = {}
    for name, records in result if stage.by_file else [("part", result)]:
        if records is not None:
            to = Path(name).stem.removesuffix("-00000")
            drops = context.progress.drops
            rows |= write_records(records, stage.produces, context.directory, to, context.counts, drops)
        else:
            assert first is not None
            entry = first.manifest["files"][name]
            kept[name] = {"key": f"{first.prefix}/{name}"} | entry
            rows[name] = first.manifest["rows"][name]
            context.counts["out"] += rows[name]
    return rows, kept


def _commit_whole(
    store: Store, prefix: str, folder: Path, manifest: dict[str, Any], rows: dict[str, int], kept: dict[str, Any]
) -> dict[str, Any]:
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    data = {name: path for name, path in names.items() if name.startswith("data/")} or names
    digests = {name: sha256_file(path) for name, path in data.items()}
    digests |= {name: entry["sha256"] for name, entry in kept.items()}
    manifest["content"] = digest_of(sorted(digests.items()))
    manifest["rows"] = rows
    return store.commit(prefix, folder, manifest, kept)


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


def _run_shards(
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
    found = _finished_shards(stage, store, parts, keys)
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
                        with _failures(f"{stage.name}, shard {part.name}"):
                            found[part.name] = future.result()
                        context.progress.drops.update(found[part.name]["drops"])  # type: ignore[index]
                        context.progress.advance()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)  # shards that run now end and are kept
    return [manifest for part in parts if (manifest := found[part.name]) is not None]


def _finished_shards(
    stage: Stage, store: Store, parts: list[Shard], keys: Mapping[str, str]
) -> dict[str, dict[str, Any] | None]:
    """Return each shard's manifest, or None where it is not done."""
    with ThreadPoolExecutor(8) as pool:
        places = (f"stages/{stage.name}/shards/{keys[part.name]}" for part in parts)
        manifests = pool.map(lambda place: _finished(store, place), places)
        return dict(zip((part.name for part in parts), manifests, strict=True))


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
        with _failures(f"{stage.name}, shard {part.name}"):
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


def _manifest(
    stage: Stage,
    context: Context,
    recipe: Recipe,
    found: Mapping[str, Output | None],
    began: float,
    parts: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    counts, drops = context.counts, Counter(context.progress.drops)
    files: dict[str, Any] = {}
    rows: dict[str, int] = {}
    peak = peak_rss_mib()
    if parts is not None:
        counts, drops = Counter(context.counts), Counter()
        for part in parts:
            counts.update({"in": part["in"], "out": part["out"]} | part["counts"])
            drops.update(part["drops"])
            _add_summary(context.summary, part.get("summary", {}))
            peak = max(peak, part.get("peak_rss_mib", 0))
            for name, entry in part["files"].items():
                files[name] = entry | {"key": f"{part['place']}/{name}"}
            rows |= part["rows"]
    manifest: dict[str, Any] = {
        "schema": MANIFEST_VERSION,
        "stage": stage.name,
        "code": code_version(stage),
        "version": __version__,
        "digest": context.key,
        "produces": stage.produces.__name__ if stage.produces else None,
        "sections": {section: digest_of(recipe.section(section)) for section in stage.sections},
        "inputs": {name: {"place": o.prefix, "content": o.content} for name, o in found.items() if o},
        "in": counts.pop("in", 0),
        "out": counts.pop("out", 0),
        "counts": dict(counts),
        "drops": dict(drops),
        "summary": context.summary,
        "seconds": round(time.monotonic() - began, 3),
        "peak_rss_mib": peak,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if context.kept:
        manifest["shards"] = context.kept
    if parts is not None:
        manifest |= {"files": files, "rows": rows, "shards": [part["place"] for part in parts]}
        data = sorted((name, entry["sha256"]) for name, entry in files.items() if name.startswith("data/"))
        manifest["content"] = digest_of(data)
    return manifest


def _add_summary(summary: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add what a shard said: what is counted by name is added up, all else is the same in every shard."""
    for name, value in part.items():
        is_counted = isinstance(value, Mapping) and all(isinstance(number, int) for number in value.values())
        summary[name] = dict(Counter(summary.get(name, {})) + Counter(value)) if is_counted else value


def _nothing_left(label: str, manifest: Mapping[str, Any]) -> str:
    drops = drops_text(manifest["drops"]) or "nothing was rejected: its input was empty"
    return f"{label}: nothing is left of {manifest['in']:,}: {drops}; look at the sources and settings of this stage"


@contextmanager
def _failures(where: str) -> Iterator[None]:
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
