"""Execution: run a stage, or skip it when its output is there.

Everything that is the same for every stage is here, once: the digest that names its output, its work as a whole or in
shards (`shards.py`), and the manifest last (`manifest.py`).
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from telellm import __version__
from telellm.manifest import describe, find_finished, finished_note, nothing_left
from telellm.parquet import write_records
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError, Settings
from telellm.recipe.fields import ASIDE
from telellm.reuse import remember_versions
from telellm.shards import finished_shards, named_failures, run_shards
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
)
from telellm.store import MANIFEST, Store, TornOutput, sha256_file


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
        with named_failures(label):
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
            manifest = None if shards else find_finished(store, prefix)
            if manifest is not None and manifest["digest"] != key:
                manifest = None  # a place without a key holds an older output
            skipped = manifest is not None
            if manifest is None and shards:
                assert parts is not None
                done = run_shards(stage, context, parts, shard_keys, places, shards)
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
        done = run_shards(stage, context, parts, shard_keys, places, None)
        return _unite(stage, context, found, done, prefix, began)
    rows, kept = _run_whole(stage, context, settings, found)
    manifest = describe(stage, context, context.recipe, found, began, None)
    if stage.produces is not None and not manifest["out"]:
        raise StageFailed(nothing_left(context.progress.stage, manifest))
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
        manifest = find_finished(store, prefix)
        if manifest is None or manifest["digest"] != context.key:
            raise StageFailed(f"{context.progress.stage}: the job ended well, but {store.uri}/{prefix} has no output")
        return manifest
    done = finished_shards(stage, store, parts, shard_keys)
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
    manifest = describe(stage, context, context.recipe, found, began, done)
    if stage.reuses:
        remember_versions(store, stage.name, context.base, {part["shard"]: part["place"] for part in done})
    if stage.produces is not None and not manifest["out"]:
        raise StageFailed(nothing_left(context.progress.stage, manifest))
    if stage.place is not None:
        manifest["files"] = _gather(store, manifest["files"], prefix)
    store.write_json(f"{prefix}/{MANIFEST}", manifest)
    return manifest


def _gather(store: Store, files: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Put the shards' files into one folder too: an output with a place of its own is whole there."""
    store.delete(prefix)  # what an earlier try left
    try:
        store.each(lambda name: store.copy(files[name]["key"], f"{prefix}/{name}"), files)
    except FileNotFoundError as error:
        raise TornOutput(
            f"{store.uri}/{error.args[0]} is in a manifest but not in the store; run the stage that makes it again"
        ) from None
    return {name: {key: value for key, value in entry.items() if key != "key"} for name, entry in files.items()}


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
