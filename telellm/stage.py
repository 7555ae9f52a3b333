"""What a stage is: a function from inputs in the store to one output in the store.

Everything that is the same for every stage is here, once: finding inputs by their manifests, skipping what is done,
shards and workers, writing Parquet and rejects, counts, timing, peak memory, progress, and the manifest last.
"""

import inspect
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from telellm import __version__
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError
from telellm.records import Document, Question, Record, Rejected, from_batch, rejected_row, schema, to_table
from telellm.store import Store, StoreUnavailable, sha256_file

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

MANIFEST_VERSION = 1
ROWS_IN_MEMORY = 256
FILE_BYTES = 256 * 2**20
"""A whole data set is written in files of about this size (bytes of text)."""
R = TypeVar("R", Document, Question)


class StageFailed(RuntimeError):
    """The work of a stage failed; the message names the stage, the shard, the reason and what to do."""


@dataclass(frozen=True)
class Shard:
    """A part of a stage's input that one worker handles alone and can redo alone."""

    name: str
    digest: str
    content: Any
    """What the stage's function gets: an `Output` file's key and digest, or what `divide` made."""


@dataclass(frozen=True)
class Output:
    """A finished output in the store, found by its manifest."""

    store: Store
    prefix: str
    manifest: Mapping[str, Any]

    @classmethod
    def find(cls, store: Store, prefix: str) -> "Output":
        """Return the finished output at a place; raises `RecipeError` where there is none."""
        manifest = store.manifest(prefix)
        if manifest is None:
            raise RecipeError(f"{store.uri}/{prefix}: no finished output is there; run the stage that makes it")
        return cls(store, prefix, manifest)

    @property
    def content(self) -> str:
        """The digest of what the output contains, whatever it was made from."""
        return str(self.manifest["content"])

    def names(self, folder: str = "") -> list[str]:
        """Return the names of its files, sorted."""
        return sorted(name for name in self.manifest["files"] if name.startswith(folder))

    def path(self, name: str) -> Path:
        """Return a local path of one of its files, checked against the manifest."""
        entry = self.manifest["files"][name]
        return self.store.fetch(entry.get("key", f"{self.prefix}/{name}"), entry["sha256"])

    def folder(self, name: str) -> Path:
        """Return a local folder that holds its files under `name/` (a model directory)."""
        names = self.names(f"{name}/")
        paths = [self.path(file) for file in names]
        if paths[0].as_posix().endswith(names[0]):
            return paths[0].parents[names[0].count("/") - name.count("/") - 1]
        target = Path(tempfile.mkdtemp(prefix="telellm-"))
        for file, path in zip(names, paths, strict=True):
            link = target / file.removeprefix(f"{name}/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        return target

    def records(self, kind: type[R]) -> Iterator[R]:
        """Stream its records."""
        for name in self.names("data/"):
            yield from _read_records(self.path(name), kind)

    @property
    def num_records(self) -> int:
        """The number of its records."""
        return int(self.manifest["out"])

    def summary(self) -> dict[str, Any]:
        """Return what the stage said about its output."""
        return dict(self.manifest.get("summary", {}))


@dataclass
class Context:
    """What a stage's function may use beside its inputs."""

    recipe: Recipe
    store: Store
    run: str
    directory: Path
    """An empty local folder: what the function writes there becomes the output's files."""
    progress: Progress
    key: str
    counts: Counter[str] = field(default_factory=Counter)
    """Counted over all shards and kept in the manifest."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Kept in the manifest as it is."""


Body = Callable[..., Iterable[Record | Rejected] | None]


@dataclass(frozen=True)
class Stage:
    """A stage's function and how it is run; made by the decorator `stage`."""

    name: str
    body: Body
    sections: tuple[str, ...]
    inputs: tuple[str, ...]
    optional: tuple[str, ...]
    produces: type[Document] | type[Question] | None
    per: type[Document] | type[Question] | None
    divide: Callable[[Context, Any], list[Shard]] | None
    workers: int | None
    place: Callable[[Recipe, str, Mapping[str, Output | None]], str] | None
    identity: Callable[[Recipe], Any] | None

    @property
    def sharded(self) -> bool:
        """Whether its input is divided."""
        return self.per is not None or self.divide is not None

    @property
    def reference(self) -> str:
        """Where its function is: `module:name`."""
        return f"{self.body.__module__}:{self.body.__name__}"


def stage(
    *,
    sections: tuple[str, ...],
    produces: type[Document] | type[Question] | None = None,
    per: type[Document] | type[Question] | None = None,
    divide: Callable[[Context, Any], list[Shard]] | None = None,
    workers: int | None = None,
    place: Callable[[Recipe, str, Mapping[str, Output | None]], str] | None = None,
    identity: Callable[[Recipe], Any] | None = None,
) -> Callable[[Body], Stage]:
    """Make a stage of a function `(context, settings, <inputs>)`, named after it.

    The first of `sections` becomes `settings`; all of them are part of the stage's digest. `per`: the first input is
    divided, the function gets one shard's records as an iterator. `divide`: it gets one shard's content. Otherwise it
    gets every input as an `Output`. Parameters that default to None are optional inputs. A function that yields
    records says in `produces` which; one that does not writes files to `context.directory`. `workers`: processes over
    the shards (default: one a core; 1 where a model is in memory). `place`: where the output lies, by default
    `stages/<stage>/<digest>`. `identity`: what else the output depends on (digests of files that the recipe names).
    """

    def make(body: Body) -> Stage:
        parameters = list(inspect.signature(body).parameters.values())[2:]
        if divide is not None:
            parameters = parameters[1:]
        return Stage(
            name=body.__name__.replace("_", "-"),
            body=body,
            sections=sections,
            inputs=tuple(p.name for p in parameters if p.default is p.empty),
            optional=tuple(p.name for p in parameters if p.default is not p.empty),
            produces=produces,
            per=per,
            divide=divide,
            workers=workers,
            place=place,
            identity=identity,
        )

    return make


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
) -> str:
    """Run a stage, or skip it when its output is there; returns where the output lies in the store.

    `inputs` are places of finished outputs ("" for an optional one that is not wanted). `shards` (i, n) runs only every
    n-th shard from i on, and leaves the rest and the manifest to a later call. `label` names the step within the run,
    where a stage runs more than once. Raises `RecipeError` (the user's input) or `StageFailed` (the work).
    """
    label = label or stage.name
    progress = progress or Progress(label)
    found = {name: Output.find(store, place) if place else None for name, place in inputs.items()}
    if missing := [name for name in stage.inputs if found.get(name) is None]:
        raise RecipeError(f"stage {stage.name}: input {missing[0]} is missing; it needs: {', '.join(stage.inputs)}")
    key = _digest(
        stage.name,
        code_version(stage),
        [recipe.section(section) for section in stage.sections],
        stage.identity(recipe) if stage.identity else None,
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"telellm-{stage.name}-") as folder:
        context = Context(recipe, store, run, Path(folder), progress, key)
        settings = recipe.section(stage.sections[0])
        with _failures(label):
            parts = _divide(stage, context, settings, found)
            key = _digest(key, *_input_digests(stage, found, parts))
            context.key = key
            prefix = stage.place(recipe, key, found) if stage.place else f"stages/{stage.name}/{key}"
            manifest = None if shards else _finished(store, prefix)
            skipped = manifest is not None
            if manifest is None:
                if parts is None:
                    rows, counts = _run_whole(stage, context, settings, found), None
                else:
                    rows, counts = {}, _run_shards(stage, context, parts, shards)
                    if shards:
                        return ""
                manifest = _manifest(stage, context, recipe, found, began, counts)
                if stage.produces is not None and not manifest["out"]:
                    raise StageFailed(_nothing_left(label, manifest))
                if counts is None:
                    manifest = _commit_whole(store, prefix, context.directory, manifest, rows)
                else:
                    store.write_json(f"{prefix}/manifest.json", manifest)
    store.write_json(f"runs/{run}/stages/{label}.json", {"output": prefix, "manifest": manifest})
    progress.drops = Counter(manifest["drops"])
    progress.send(state="skipped" if skipped else "done", note=finished_note(manifest))
    return prefix


def finished_note(manifest: Mapping[str, Any]) -> str:
    """Return what a finished stage made, in a few words: `48 of 60 documents`, or the summary's headline."""
    if headline := manifest.get("summary", {}).get("headline"):
        return str(headline)
    what = {"Document": "documents", "Question": "questions"}.get(manifest["produces"] or "", "files")
    return f"{manifest['out']:,} {what}" + (f" of {manifest['in']:,}" if manifest["in"] else "")


def code_version(stage: Stage) -> str:
    """Return the digest of the code and prompts that a stage's output depends on: its room, models and records."""
    package = Path(__file__).parent
    room = package / stage.body.__module__.split(".")[1]
    paths = [package / "records.py", package / "stage.py"]
    for folder in (room, package / "lm"):
        paths += [path for path in folder.rglob("*") if path.suffix in (".py", ".md", ".txt", ".html")]
    state = sha256()
    for path in sorted(paths):
        state.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return state.hexdigest()[:12]


def load(reference: str) -> Stage:
    """Return the stage at `module:name`."""
    module, name = reference.split(":")
    found: Stage = getattr(import_module(module), name)
    return found


def workspace() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _digest(*values: Any) -> str:
    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)

    return sha256(json.dumps(values, default=plain, sort_keys=True).encode()).hexdigest()[:20]


def _input_digests(stage: Stage, found: Mapping[str, Output | None], parts: list[Shard] | None) -> list[Any]:
    others = [(name, output.content if output else None) for name, output in sorted(found.items())]
    return [others, [(part.name, part.digest) for part in parts or []]]


def _divide(stage: Stage, context: Context, settings: Any, found: Mapping[str, Output | None]) -> list[Shard] | None:
    if stage.divide is not None:
        return sorted(stage.divide(context, settings), key=lambda part: part.name)
    if stage.per is None:
        return None
    source = found[stage.inputs[0]]
    assert source is not None
    parts = []
    for name in source.names("data/"):
        entry = source.manifest["files"][name]
        place = entry.get("key", f"{source.prefix}/{name}")
        rows = source.manifest["rows"].get(name, 0)
        parts.append(Shard(Path(name).stem, entry["sha256"], (place, entry["sha256"], rows)))
    return parts


def _finished(store: Store, prefix: str) -> dict[str, Any] | None:
    """Return the manifest of an output whose files are all there: one that was deleted in part is made again."""
    manifest = store.manifest(prefix)
    if manifest is None:
        return None
    keys = [entry.get("key", f"{prefix}/{name}") for name, entry in manifest["files"].items()]
    with ThreadPoolExecutor(8) as pool:
        return manifest if all(pool.map(store.exists, keys)) else None


def _run_whole(stage: Stage, context: Context, settings: Any, found: Mapping[str, Output | None]) -> dict[str, int]:
    result = stage.body(context, settings, **found)
    first = found.get(stage.inputs[0]) if stage.inputs else None
    context.counts["in"] += first.num_records if first is not None and "out" in first.manifest else 0
    if result is None:
        return {}
    assert stage.produces is not None, f"{stage.name} yields records but does not say which"
    return write_records(result, stage.produces, context, "part")


def _commit_whole(
    store: Store, prefix: str, folder: Path, manifest: dict[str, Any], rows: dict[str, int]
) -> dict[str, Any]:
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    data = {name: path for name, path in names.items() if name.startswith("data/")} or names
    manifest["content"] = _digest(sorted((name, sha256_file(path)) for name, path in data.items()))
    manifest["rows"] = rows
    return store.commit(prefix, folder, manifest)


def write_records(
    items: Iterable[Record | Rejected], kind: type[Document] | type[Question], context: Context, name: str
) -> dict[str, int]:
    """Stream records to `data/<name>-….parquet` and rejects to `rejects/<name>.parquet`; returns rows a file.

    Counts `out` and the drops. Memory is bounded by `ROWS_IN_MEMORY` records.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    rejects_schema = pyarrow.schema([(column, pyarrow.large_string()) for column in ("reason", "detail", "id", "item")])
    rows: dict[str, int] = {}
    kept: list[Record] = []
    thrown: list[dict[str, str]] = []
    writers: dict[str, pyarrow.parquet.ParquetWriter] = {}
    written_bytes = 0

    def write(file: str, table: "pyarrow.Table") -> None:
        path = context.directory / file
        if file not in writers:
            path.parent.mkdir(parents=True, exist_ok=True)
            writers[file] = parquet.ParquetWriter(path, table.schema, compression="zstd")
        writers[file].write_table(table)
        rows[file] = rows.get(file, 0) + len(table)

    def flush() -> None:
        nonlocal written_bytes
        if kept:
            table = to_table(kept, kind)
            write(f"data/{name}-{written_bytes // FILE_BYTES:05}.parquet", table)
            written_bytes += table.nbytes
            kept.clear()
        if thrown:
            write(f"rejects/{name}.parquet", pyarrow.Table.from_pylist(thrown, schema=rejects_schema))
            thrown.clear()

    try:
        for item in items:
            if isinstance(item, Rejected):
                context.progress.drops[item.reason] += 1
                thrown.append(rejected_row(item))
            else:
                context.counts["out"] += 1
                kept.append(item)
            if len(kept) + len(thrown) >= ROWS_IN_MEMORY:
                flush()
        flush()
    finally:
        for writer in writers.values():
            writer.close()
    return rows


def _run_shards(
    stage: Stage, context: Context, parts: list[Shard], only: tuple[int, int] | None
) -> list[dict[str, Any]]:
    """Run the shards that are not done, in processes; returns every shard's manifest in order."""
    if only:
        parts = parts[only[0] :: only[1]]
    store, keys = context.store, {part.name: _digest(context.key, part.name, part.digest) for part in parts}
    found = {part.name: _finished(store, f"stages/{stage.name}/shards/{keys[part.name]}") for part in parts}
    todo = [part for part in parts if found[part.name] is None]
    num_workers = min(stage.workers or workspace(), len(todo))
    if num_workers <= 1:
        for part in todo:
            found[part.name] = _run_shard(
                stage, context.recipe, store, context.run, part, keys[part.name], context.progress
            )
    else:
        context.progress.start(len(parts), "shards")
        context.progress.advance(len(parts) - len(todo))
        with ProcessPoolExecutor(num_workers, initializer=_die_with_parent) as pool:
            waiting: dict[Future[dict[str, Any]], Shard] = {}
            remaining = iter(todo)
            try:
                while True:
                    for part in islice(remaining, 2 * num_workers - len(waiting)):
                        arguments = (
                            stage.reference,
                            context.recipe.to_yaml(),
                            store.uri,
                            context.run,
                            part,
                            keys[part.name],
                        )
                        waiting[pool.submit(_in_worker, *arguments)] = part
                    if not waiting:
                        break
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        part = waiting.pop(future)
                        with _failures(f"{stage.name}, shard {part.name}"):
                            found[part.name] = future.result()
                        context.progress.drops.update(found[part.name]["drops"])  # type: ignore[index]
                        context.progress.advance()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    return [manifest for part in parts if (manifest := found[part.name]) is not None]


def _run_shard(
    stage: Stage, recipe: Recipe, store: Store, run: str, part: Shard, key: str, progress: Progress
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix=f"telellm-{stage.name}-") as folder:
        own = Progress(
            progress.stage, lambda event: progress._emit(event | {"drops": dict(progress.drops + own.drops)})
        )
        own._began = progress._began
        context = Context(recipe, store, run, Path(folder), own, key)
        settings = recipe.section(stage.sections[0])
        if stage.per is None:
            items = stage.body(context, settings, part.content)
        else:
            place, digest, num_rows = part.content
            context.counts["in"] = num_rows
            items = stage.body(context, settings, _read_records(store.fetch(place, digest), stage.per))
        assert stage.produces is not None and items is not None
        with _failures(f"{stage.name}, shard {part.name}"):
            rows = write_records(items, stage.produces, context, part.name.removesuffix("-00000"))
        progress.drops.update(own.drops)
        manifest = {
            "shard": part.name,
            "place": f"stages/{stage.name}/shards/{key}",
            "in": context.counts.pop("in", 0),
            "out": context.counts.pop("out", 0),
            "counts": dict(context.counts),
            "drops": dict(own.drops),
            "rows": rows,
        }
        return store.commit(str(manifest["place"]), context.directory, manifest)


def _in_worker(reference: str, recipe: str, store: str, run: str, part: Shard, key: str) -> dict[str, Any]:
    """Run one shard in a process of a pool."""
    from telellm.recipe import parse

    stage = load(reference)
    progress = Progress(stage.name, lambda event: None)
    manifest = _run_shard(stage, parse(recipe), Store.open(store), run, part, key, progress)
    return manifest | {"peak_rss_mib": peak_rss_mib()}


def _die_with_parent() -> None:
    """A worker whose parent was killed ends too, and leaves no process behind."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


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
        "sections": {section: _digest(recipe.section(section)) for section in stage.sections},
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
    if parts is not None:
        manifest |= {"files": files, "rows": rows}
        data = sorted((name, entry["sha256"]) for name, entry in files.items() if name.startswith("data/"))
        manifest["content"] = _digest(data)
    return manifest


def peak_rss_mib() -> int:
    """Return the largest resident size of this process or one of its children (MiB)."""
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(usage) // (2**20 if sys.platform == "darwin" else 2**10)


def _read_records(path: Path, kind: type[R]) -> Iterator[R]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_IN_MEMORY):
            yield from from_batch(batch, kind)


def _nothing_left(label: str, manifest: Mapping[str, Any]) -> str:
    from telellm.progress import drops_text

    drops = drops_text(manifest["drops"]) or "nothing was rejected: its input was empty"
    return f"{label}: nothing is left of {manifest['in']:,}: {drops}; look at the sources and settings of this stage"


@contextmanager
def _failures(where: str) -> Iterator[None]:
    """Name the stage or shard in whatever goes wrong; what a person gave keeps its own words."""
    try:
        yield
    except (RecipeError, StageFailed, StoreUnavailable):
        raise
    except BrokenProcessPool as error:
        raise StageFailed(
            f"{where}: a worker died without a word, most often for lack of memory; finished shards are kept: run again"
        ) from error
    except Exception as error:
        raise StageFailed(f"{where}: {type(error).__name__}: {error}") from error


def free_space(folder: Path) -> int:
    """Return the free space of a folder's disk (bytes)."""
    return shutil.disk_usage(folder).free


def schema_of(output: Output) -> "pyarrow.Schema":
    """Return the Arrow schema of an output's records."""
    return schema({"Document": Document, "Question": Question}[output.manifest["produces"]])
