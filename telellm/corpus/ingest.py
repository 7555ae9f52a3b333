"""Ingest: read every file of the recipe's sources into documents; a bad file is a reject, never the end of the run."""

import json
import re
import signal
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import FrameType
from urllib.parse import unquote, urlsplit

from telellm.corpus.sources.file import Reader, SourceFile
from telellm.recipe import Ingest, RecipeError, Source
from telellm.records import Document, Rejected, whole
from telellm.reuse import EndOfItem
from telellm.stage import Context, Shard, stage
from telellm.store import Store, StoreUnavailable

PROJECTS = (".tar.gz", ".tgz", ".tar", ".gz", ".zip", ".tex")
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".gz")
ARXIV_NUMBER = re.compile(r"(?:[a-z-]+(?:\.[A-Z]{2})?)?\d{7}(?:v\d+)?|\d{4}\.\d{4,5}(?:v\d+)?")
TEXTS = (".txt", ".md", ".markdown", ".rst")
DUMPS = (".xml", ".xml.bz2", ".xml.gz")
PAGES = (".warc", ".warc.gz", ".wet", ".wet.gz", ".html", ".htm")
WORD = (".docx", ".doc", ".docm", ".zip")
SHARD_BYTES = 64 * 2**20
"""Files of a shard have about this size together, at most, or there is one of them."""
SECONDS_BETWEEN_DOCUMENTS = 600
"""A reader that yields nothing for so long is stuck in its file."""


@dataclass(frozen=True)
class Unit:
    """What one reader gets: a file, or the files of one LaTeX project."""

    source: str
    name: str
    """Its place in the source; "." where the source itself is one project."""
    keys: tuple[str, ...]
    stamp: str
    """What changes when the content of one of them does."""
    stamps: tuple[str, ...] = ()
    """That of each: its SHA-256 in a folder, its entity tag in a bucket."""
    num_bytes: int = 0


def divide(context: Context, settings: Ingest) -> list[Shard]:
    """Cut each source's files, in the order of their names, into shards of neighbours.

    Where a shard begins a file's own name and size say, so a file that comes or goes changes its shard alone, and files
    that come with names in a row (papers by number, pages in a folder by date) lie in few shards, whatever night they
    came. Raises `RecipeError` for a folder that is missing or holds no file.
    """
    shards = []
    for source_name, source in context.recipe.sources.items():
        units = find_units(source_name, source)
        if not units:
            raise RecipeError(f"sources.{source_name}.path: {source.path} holds no files")
        for name, part in _cut(units, settings.shard_files).items():
            digest = sha256("".join(f"{unit.name}\0{unit.stamp}\n" for unit in part).encode()).hexdigest()
            shards.append(Shard(f"{source_name}-{name}", digest, part))
    return shards


@stage(sections=("corpus.ingest", "sources"), produces=Document, divide=divide, reuses=True)
def ingest(context: Context, settings: Ingest, units: Iterable[Unit]) -> Iterator[Document | Rejected | EndOfItem]:
    """Read one part of a source; yields its documents, and what could not be read with the reason.

    Writes `raw/` too: each file that was there, with its digest (in a bucket: its entity tag).
    """
    whole_part: list[Unit] = context.content
    target = context.directory / "raw" / f"{context.shard}.jsonl"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(_raw_files(whole_part))
    context.counts["in"] = len(whole_part)
    for unit in context.progress.track(units, len(whole_part) - context.counts["reused"], "files"):
        source = context.recipe.sources[unit.source]
        with tempfile.TemporaryDirectory(prefix="telellm-source-") as folder:
            yield from _read(unit, source, settings, Path(folder))
        yield EndOfItem()


def _cut(units: Sequence[Unit], shard_files: int) -> dict[str, list[Unit]]:
    """Return the parts of a source by name; their names are in the order of the files, as `reuse.py` needs it."""
    parts: dict[str, list[Unit]] = {}
    name = "0"  # sorted before all others
    for label, unit in sorted((_label(unit), unit) for unit in units):
        drawn = int(sha256(unit.name.encode()).hexdigest()[:8], 16) / 16**8
        if drawn < 1 / shard_files + unit.num_bytes / SHARD_BYTES:
            name = f"from-{label}"
        parts.setdefault(name, []).append(unit)
    return parts


def _label(unit: Unit) -> str:
    """Return a name for files that is sorted as theirs are, nearly, and may stand in an address."""
    return f"{re.sub('[^A-Za-z0-9.]', '_', unit.name)[:80]}.{sha256(unit.name.encode()).hexdigest()[:8]}"


def _raw_files(units: Sequence[Unit]) -> bytes:
    """Return a line of JSON for each raw file: source, file, digest."""
    lines = [
        json.dumps({"source": unit.source, "file": key, "digest": digest}, ensure_ascii=False) + "\n"
        for unit in units
        for key, digest in zip(unit.keys, unit.stamps, strict=True)
    ]
    return whole("".join(lines)).encode()


def find_units(source_name: str, source: Source) -> list[Unit]:
    """List the files of a source, with what changes when their content does; LaTeX projects are one unit each."""
    store, single = _open(source_name, source)
    stamps = {key: stamp for key, stamp in store.stamps(single) if not _is_hidden(key)}
    sizes = dict(store.sizes(single)) if not single else {}
    groups: dict[str, list[str]] = defaultdict(list)
    projects = set(_project_folders(store, list(stamps)) if source.category == "arxiv" and not single else [])
    for key in sorted(stamps):
        folders = [str(parent) for parent in PurePosixPath(key).parents] if projects else []
        groups[next((folder for folder in reversed(folders) if folder in projects), key)].append(key)
    return [
        Unit(
            source_name,
            name,
            tuple(keys),
            sha256("".join(found).encode()).hexdigest(),
            found,
            sum(sizes.get(k, 0) for k in keys),
        )
        for name, keys in sorted(groups.items())
        if (found := tuple(stamps[key] for key in keys))
    ]


def reader_for(file: Path, category: str, languages: list[str]) -> Reader | None:
    """Return the reader of a file (or LaTeX folder) by its name, or None for a format that no reader knows."""
    name = file.name.lower()
    if category == "arxiv" and (file.is_dir() or name.endswith(PROJECTS) or ARXIV_NUMBER.fullmatch(name)):
        from telellm.corpus.sources import arxiv

        return arxiv.read
    if category == "wiki" and name.endswith(DUMPS):
        from telellm.corpus.sources import wikipedia

        return wikipedia.read
    if name.endswith(PAGES):
        from telellm.corpus.sources import web

        return partial(web.read, languages=languages)
    if name.endswith(WORD):
        from telellm.corpus.sources import standards

        return standards.read
    if name.endswith(TEXTS):
        from telellm.corpus.sources import text

        return partial(text.read, category=category)
    return None


def _read(unit: Unit, source: Source, settings: Ingest, folder: Path) -> Iterator[Document | Rejected]:
    name = unit.name if unit.name != "." else PurePosixPath(source.path).name
    uri = source.path.rstrip("/") if "://" in source.path else unit.source
    file = SourceFile(folder, name, uri if unit.name == "." else f"{uri}/{name}", source.licence, source.retrieved_at)
    try:
        file = replace(file, path=_fetch(unit, source, folder))
        reader = reader_for(file.path, source.category, settings.languages)
        if reader is None:
            yield file.reject("unknown format", PurePosixPath(file.name).suffix)
        else:
            yield from _within(SECONDS_BETWEEN_DOCUMENTS, reader(file))
    except (StoreUnavailable, ImportError):
        raise
    except Exception as error:  # whatever a reader did not foresee costs this file, not the run
        reason = "too slow" if isinstance(error, TimeoutError) else "unreadable"
        yield file.reject(reason, f"{type(error).__name__}: {error}"[:500])


def _within(seconds: float, items: Iterator[Document | Rejected]) -> Iterator[Document | Rejected]:
    """Yield items; raises `TimeoutError` where one takes longer than `seconds`."""
    while True:
        with _alarm(seconds):
            item = next(items, None)
        if item is None:
            return
        yield item


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the body after so many seconds; in a process's main thread, where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"nothing was read for {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _open(source_name: str, source: Source) -> tuple[Store, str]:
    """Return the source as a store and, where its path is one file, that file's name in it."""
    path = _local(source)
    if path is None:
        return Store.open(source.path), ""
    if not path.exists():
        raise RecipeError(
            f"sources.{source_name}.path: {path} does not exist; name a folder, a file or s3://bucket/prefix"
        )
    return (Store.open(str(path.parent)), path.name) if path.is_file() else (Store.open(str(path)), "")


def _local(source: Source) -> Path | None:
    """Return the source's path on this machine, or None for a bucket."""
    if source.path.startswith("file://"):
        return Path(unquote(urlsplit(source.path).path))
    return None if "://" in source.path else Path(source.path)


def _fetch(unit: Unit, source: Source, folder: Path) -> Path:
    """Return where a unit's files are on this machine: where they were, or downloaded from the bucket to `folder`."""
    if (path := _local(source)) is not None:
        return path if path.is_file() or unit.name == "." else path / unit.name
    store = Store.open(source.path)
    for key in unit.keys:
        if key.startswith("/") or ".." in PurePosixPath(key).parts:
            raise ValueError(f"{key} would leave its folder")
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(key, target)
    return folder / unit.name


def _project_folders(store: Store, keys: list[str]) -> list[str]:
    """Return the topmost folders that directly hold a .tex file and are one project; "." is the source itself.

    A folder of papers is none: it holds archives, LaTeX files that are called by their arXiv numbers, or, at the top,
    more than one that begins a document.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        files[str(PurePosixPath(key).parent)].append(key)
    found = {folder for folder, names in files.items() if any(map(_is_tex, names)) and not _holds_papers(names)}
    if "." in found:
        stems = [PurePosixPath(key).stem for key in filter(_is_tex, files["."]) if _begins_document(store, key)]
        copies = [stem for stem in stems if any(stem != other and stem.startswith(other) for other in stems)]
        if len(stems) - len(copies) > 1:  # main.bak.tex beside main.tex is no second paper
            found.discard(".")
    return ["."] if "." in found else sorted(f for f in found if not found & set(map(str, PurePosixPath(f).parents)))


def _holds_papers(names: Iterable[str]) -> bool:
    stems = [PurePosixPath(name) for name in names]
    num_archives = sum(name.name.lower().endswith(ARCHIVES) for name in stems)
    return num_archives > 1 or any(_is_tex(str(name)) and ARXIV_NUMBER.fullmatch(name.stem) for name in stems)


def _is_tex(key: str) -> bool:
    return key.lower().endswith(".tex")


def _begins_document(store: Store, key: str) -> bool:
    return b"\\documentclass" in store.read(key)[:100_000]


def _is_hidden(key: str) -> bool:
    """Say whether a key is no document: a hidden file, what an office suite leaves, or a bucket's mark of a folder."""
    return bool(re.search(r"(?:^|/)(?:\.|~\$|__MACOSX/)|/$", key))
