"""Ingest: read every file of the recipe's sources into documents; a bad file is a reject, never the end of the run."""

import json
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import FrameType

from telellm.corpus.sources.file import Reader, SourceFile
from telellm.corpus.units import ARXIV_NUMBER, Unit, cut, find_units, local_path
from telellm.recipe import Ingest, RecipeError, Source
from telellm.records import Document, Rejected
from telellm.reuse import EndOfItem
from telellm.stage import Context, Shard, stage
from telellm.store import Store, StoreUnavailable

PROJECTS = (".tar.gz", ".tgz", ".tar", ".gz", ".zip", ".tex")
TEXTS = (".txt", ".md", ".markdown", ".rst")
DUMPS = (".xml", ".xml.bz2", ".xml.gz")
PAGES = (".warc", ".warc.gz", ".wet", ".wet.gz", ".html", ".htm")
WORD = (".docx", ".doc", ".docm", ".zip")
SECONDS_BETWEEN_DOCUMENTS = 600
"""A reader that yields nothing for so long is stuck in its file."""


def divide(context: Context, settings: Ingest) -> list[Shard]:
    """Cut each source's files, in the order of their names, into shards of neighbours.

    Where a shard begins a file's own name and size say, so a file that comes or goes changes its shard alone, and files
    that come with names in a row (papers by number, pages in a folder by date) lie in few shards, whatever night they
    came. Raises `RecipeError` for a folder that is missing or holds no file.
    """
    shards = []
    for source_name, source in context.recipe.sources.items():
        units = find_units(context.store, source_name, source)
        if not units:
            raise RecipeError(f"sources.{source_name}.path: {source.path} holds no files")
        for name, part in cut(units, settings.shard_files).items():
            digest = sha256("".join(f"{unit.shown_name}\0{unit.stamp}\n" for unit in part).encode()).hexdigest()
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


def _raw_files(units: Sequence[Unit]) -> bytes:
    """Return a line of JSON for each raw file: source, file, digest."""
    lines = [
        json.dumps({"source": unit.source, "file": key, "digest": digest}, ensure_ascii=False) + "\n"
        for unit in units
        for key, digest in zip(unit.keys, unit.stamps, strict=True)
    ]
    return "".join(lines).encode("utf-8", "backslashreplace")


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
    name = unit.shown_name if unit.name != "." else PurePosixPath(source.path).name
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


def _fetch(unit: Unit, source: Source, folder: Path) -> Path:
    """Return where a unit's files are on this machine: where they were, or downloaded from the bucket to `folder`."""
    if (path := local_path(source)) is not None:
        return path if path.is_file() or unit.name == "." else path / unit.name
    store = Store.open(source.path)
    for key in unit.keys:
        if key.startswith("/") or ".." in PurePosixPath(key).parts:
            raise ValueError(f"{key} would leave its folder")
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(key, target)
    return folder / unit.name
