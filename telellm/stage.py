"""What a stage is: a function from inputs in the store to one output in the store.

The function does the work of its field; `execution.py` runs it.
"""

import ctypes
import inspect
import json
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from telellm.entries import stays_below, trouble_with
from telellm.parquet import read_records
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError
from telellm.records import Document, Question, Record, Rejected
from telellm.reuse import EndOfItem
from telellm.store import Store, TornOutput

MANIFEST_VERSION = 1
R = TypeVar("R", Document, Question)


class StageFailed(RuntimeError):
    """The work of a stage failed; the message names the stage, the shard, the reason and what to do."""


class Interrupted(StageFailed):
    """Something outside ended the work, such as a process that took part in it and is gone; it can be started again."""


@dataclass(frozen=True)
class Shard:
    """A part of a stage's input that one worker handles alone and can redo alone."""

    name: str
    digest: str
    content: Any
    """What the stage's function gets: the records of `Rows`, or what `divide` made."""


@dataclass(frozen=True)
class Rows:
    """Records of an input that make up a shard: `number` of those in a file, from the `start`-th on."""

    place: str
    sha256: str
    start: int
    number: int


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
        if not names:
            raise RecipeError(f"{self.store.uri}/{self.prefix}: this output has no folder {name}/; name another input")
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
            yield from read_records(self.path(name), kind)

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
    base: str = ""
    """Digest of the stage's code and settings, whatever its inputs are."""
    shard: str = ""
    """The name of the shard."""
    kept: list[str] = field(default_factory=list)
    """Places in the store that the output was made of, beside its inputs; retention keeps them with it."""
    content: Any = None
    """All that the shard consists of, also what is reused."""

    def scratch(self, stage: str) -> str:
        """Return the place in the store for what a stage needs to go on after a crash; deleted when it is done."""
        return f"runs/{self.run}/checkpoints/{stage}-{self.key}"


Results = Iterable[Record | Rejected | EndOfItem]
Body = Callable[..., Results | Iterable[tuple[str, Iterable[Record | Rejected] | None]] | None]


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
    divide: Callable[[Context, Any], list[Shard] | None] | None
    shard_rows: int | None
    workers: int | None
    place: Callable[[Recipe, str, Mapping[str, Output | None]], str] | None
    identity: Callable[[Recipe], Any] | None
    reuses: bool
    by_file: bool

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
    divide: Callable[[Context, Any], list[Shard] | None] | None = None,
    shard_rows: int | None = None,
    workers: int | None = None,
    place: Callable[[Recipe, str, Mapping[str, Output | None]], str] | None = None,
    identity: Callable[[Recipe], Any] | None = None,
    reuses: bool = False,
    by_file: bool = False,
) -> Callable[[Body], Stage]:
    """Make a stage of a function `(context, settings, <inputs>)`, named after it.

    The first of `sections` becomes `settings`; all of them are part of the stage's digest. `per`: the first input is
    divided, the function gets one shard's records as an iterator, and the other inputs whole; a shard is a file of the
    input, or at most `shard_rows` records of one, where they are dear to make. `divide`: it gets one shard's content;
    with `per` as well, only where `divide` does not return None. Otherwise it gets every input as an `Output`.
    Parameters that default to None are optional inputs. A function that yields records says in `produces` which; one
    that does not writes files to `context.directory`. `workers`: processes over the shards (default: one a core; 1
    where a model is in memory). `place`: where the output lies, by default `stages/<stage>/<digest>`. `identity`: what
    else the output depends on (digests of files that the recipe names). `reuses`: of a shard that changed, only new
    items go through the function (`reuse.py`); it gives one result a record or, where there is a `divide`, `EndOfItem`
    after what came of each item.
    `by_file`: the function gets its input whole, and yields for each of its files `(name, records)`, or `(name, None)`
    where the output refers to that file, because nothing of it changes.
    """

    def make(body: Body) -> Stage:
        parameters = list(inspect.signature(body).parameters.values())[2:]
        if divide is not None and per is None:
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
            shard_rows=shard_rows,
            workers=workers,
            place=place,
            identity=identity,
            reuses=reuses,
            by_file=by_file,
        )

    return make


def known_runs(store: Store) -> list[str]:
    """Return the names of the runs in a store, sorted."""
    return sorted({key.split("/")[1] for key in store.list("runs") if key.endswith("/recipe.yaml")})


def read_notes(store: Store, run: str) -> dict[str, dict[str, Any]]:
    """Return the label of each finished step of a run → `{"output": place, "manifest": …}`, in order of finishing.

    Raises `TornOutput` where a note is none.
    """
    notes = {Path(key).stem: read_note(store, key) for key in store.list(f"runs/{run}/stages")}
    found = {label: note for label, note in notes.items() if note}
    return dict(sorted(found.items(), key=lambda item: str(item[1]["manifest"]["finished_at"])))


def read_note(store: Store, key: str) -> dict[str, Any] | None:
    """Return the note of a finished step, or None where there is none; raises `TornOutput` where it is none."""
    note = store.read_json(key)
    if note is not None:
        place, manifest = note.get("output"), note.get("manifest")
        is_place = isinstance(place, str) and stays_below(place)
        trouble = "it names no output" if not is_place or not isinstance(manifest, dict) else trouble_with(manifest)
        if trouble:
            raise TornOutput(f"{store.uri}/{key}: {trouble}; remove it and run that step again")
    return note


def code_version(stage: Stage) -> str:
    """Return the digest of the code and prompts that a stage's output depends on: its room, models and records."""
    package = Path(__file__).parent
    home = Path(inspect.getfile(stage.body))
    paths = [package / "records.py"]
    if not home.is_relative_to(package):
        paths.append(home)
    else:
        room = package / home.relative_to(package).parts[0]
        for folder in (room, package / "lm"):
            paths += [path for path in folder.rglob("*") if path.suffix in (".py", ".md", ".txt", ".html")]
    state = sha256()
    for path in sorted(paths):
        name = path.relative_to(package).as_posix() if path.is_relative_to(package) else path.name
        state.update(name.encode() + path.read_bytes())
    return state.hexdigest()[:12]


def load(reference: str) -> Stage:
    """Return the stage at `module:name`."""
    module, name = reference.split(":")
    found: Stage = getattr(import_module(module), name)
    return found


def workspace() -> int:
    """Return the number of cores that this process may use: in a container, no more than its limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path, read in (("cpu.max", _quota), ("cpu/cpu.cfs_quota_us", _quota_of_version_1)):
        try:
            limit = read(Path("/sys/fs/cgroup") / path)
        except (OSError, ValueError):
            continue
        return max(1, min(cores, int(limit))) if limit > 0 else cores
    return cores


def _quota(path: Path) -> float:
    quota, period = path.read_text().split()
    return 0 if quota == "max" else int(quota) / int(period)


def _quota_of_version_1(path: Path) -> float:
    return int(path.read_text()) / int(path.with_name("cpu.cfs_period_us").read_text())


def digest_of(*values: Any) -> str:
    """Return a digest of values that JSON can hold, sections of a recipe among them."""

    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)

    return sha256(json.dumps(values, default=plain, sort_keys=True).encode()).hexdigest()[:20]


def peak_rss_mib() -> int:
    """Return the largest resident size of this process or one of its children (MiB)."""
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(usage) // (2**20 if sys.platform == "darwin" else 2**10)


def end_with_parent(parent: int = 0) -> None:
    """Let this process end when the one that started it is killed, and at once and without a word on Ctrl-C.

    `parent` is the id of that process, where it may be gone already.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if parent and os.getppid() != parent:  # killed before this line
            os._exit(1)
