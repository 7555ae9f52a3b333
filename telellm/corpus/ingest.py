"""Ingest: read every file of the recipe's sources into documents; a bad file is a reject, never the end of the run."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath

from telellm.corpus.sources.file import Reader, SourceFile
from telellm.recipe import Ingest, RecipeError, Source
from telellm.records import Document, Rejected
from telellm.stage import Context, Shard, stage
from telellm.store import Store

PROJECTS = (".tar.gz", ".tgz", ".tar", ".gz", ".zip", ".tex")
TEXTS = (".txt", ".md", ".markdown", ".rst")
DUMPS = (".xml", ".xml.bz2", ".xml.gz")
PAGES = (".warc", ".warc.gz", ".wet", ".wet.gz", ".html", ".htm")
WORD = (".docx", ".doc", ".docm", ".zip")


@dataclass(frozen=True)
class Unit:
    """What one reader gets: a file, or the files of one LaTeX project."""

    source: str
    name: str
    keys: tuple[str, ...]
    stamp: str


def divide(context: Context, settings: Ingest) -> list[Shard]:
    """Divide each source into `num_shards` parts by the names of its files: a new file changes one part only.

    Raises `RecipeError` for a folder that is missing or holds no file.
    """
    shards = []
    for source_name, source in context.recipe.sources.items():
        parts: dict[int, list[Unit]] = defaultdict(list)
        units = find_units(source_name, source)
        if not units:
            raise RecipeError(f"sources.{source_name}.path: {source.path} holds no files")
        for unit in units:
            parts[int(sha256(unit.name.encode()).hexdigest()[:8], 16) % settings.num_shards].append(unit)
        for number, part in parts.items():
            digest = sha256("".join(f"{unit.name}\0{unit.stamp}\n" for unit in part).encode()).hexdigest()
            shards.append(Shard(f"{source_name}-{number:04}", digest, part))
    return shards


@stage(sections=("corpus.ingest", "sources"), produces=Document, divide=divide)
def ingest(context: Context, settings: Ingest, units: list[Unit]) -> Iterator[Document | Rejected]:
    """Read one part of a source; yields its documents, and what could not be read with the reason."""
    for unit in context.progress.track(units, len(units), "files"):
        source = context.recipe.sources[unit.source]
        context.counts["in"] += 1
        with tempfile.TemporaryDirectory(prefix="telellm-source-") as folder:
            yield from _read(_fetch(unit, source, Path(folder)), source, settings)


def find_units(source_name: str, source: Source) -> list[Unit]:
    """List the files of a source, with what changes when their content does; LaTeX projects are one unit each."""
    store, single = _open(source_name, source)
    stamps = {key: stamp for key, stamp in store.stamps(single) if not _is_hidden(key)}
    groups: dict[str, list[str]] = defaultdict(list)
    projects = _project_folders(store, list(stamps)) if source.category == "arxiv" and not single else []
    for key in stamps:
        folder = next((project for project in projects if project == "." or key.startswith(f"{project}/")), None)
        groups[key if folder is None else folder].append(key)
    return [
        Unit(source_name, name, tuple(keys), sha256("".join(stamps[key] for key in keys).encode()).hexdigest())
        for name, keys in sorted(groups.items())
    ]


def reader_for(file: Path, category: str, languages: list[str]) -> Reader | None:
    """Return the reader of a file (or LaTeX folder) by its name, or None for a format that no reader knows."""
    name = file.name.lower()
    if category == "arxiv" and (file.is_dir() or name.endswith(PROJECTS)):
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


def _read(file: SourceFile, source: Source, settings: Ingest) -> Iterator[Document | Rejected]:
    reader = reader_for(file.path, source.category, settings.languages)
    if reader is None:
        yield file.reject("unknown format", PurePosixPath(file.name).suffix)
        return
    try:
        yield from reader(file)
    except Exception as error:  # whatever a reader did not foresee costs this file, not the run
        yield file.reject("unreadable", f"{type(error).__name__}: {error}"[:500])


def _open(source_name: str, source: Source) -> tuple[Store, str]:
    """Return the source as a store and, where its path is one file, that file's name in it."""
    if "://" in source.path:
        return Store.open(source.path), ""
    path = Path(source.path)
    if not path.exists():
        raise RecipeError(
            f"sources.{source_name}.path: {path} does not exist; name a folder, a file or s3://bucket/prefix"
        )
    return (Store.open(str(path.parent)), path.name) if path.is_file() else (Store.open(str(path)), "")


def _fetch(unit: Unit, source: Source, folder: Path) -> SourceFile:
    """Return a unit's files on this machine: where they are, or downloaded from the bucket."""
    store, _ = _open(unit.source, source)
    if "://" in source.path:
        for key in unit.keys:
            target = folder / key
            target.parent.mkdir(parents=True, exist_ok=True)
            store.download(key, target)
        path, uri = folder / unit.name, f"{source.path.rstrip('/')}/{unit.name}"
    else:
        root = Path(source.path)
        path, uri = (root if root.is_file() else root / unit.name), f"{unit.source}/{unit.name}"
    name = unit.name if unit.name != "." else Path(source.path).name
    return SourceFile(path, name, uri, source.licence, source.retrieved_at)


def _project_folders(store: Store, keys: list[str]) -> list[str]:
    """Return the topmost folders that directly hold a .tex file; "." where the source itself is one project."""
    folders = {str(PurePosixPath(key).parent) for key in keys if key.lower().endswith(".tex")}
    if "." in folders:
        loose = [key for key in keys if "/" not in key and key.lower().endswith(".tex")]
        mains = [key for key in loose if b"\\documentclass" in store.read(key)[:100_000]]
        if len(mains) <= 1:
            return ["."]
        folders.discard(".")
    return sorted(f for f in folders if not any(f != other and f.startswith(f"{other}/") for other in folders))


def _is_hidden(key: str) -> bool:
    return bool(re.search(r"(^|/)[._~]", key))
