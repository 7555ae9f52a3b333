"""Units: the files of a source, each of them or each LaTeX project what one reader gets."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from telellm.corpus.known_files import list_files
from telellm.recipe import RecipeError, Source
from telellm.store import Store

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".gz")
ARXIV_NUMBER = re.compile(r"(?:[a-z-]+(?:\.[A-Z]{2})?)?\d{7}(?:v\d+)?|\d{4}\.\d{4,5}(?:v\d+)?")
SHARD_BYTES = 64 * 2**20
"""Files of a shard have about this size together, at most, or there is one of them."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one reader gets: a file, or the files of one LaTeX project."""

    source: str
    name: str
    """Its place in the source; "." where the source itself is one project."""
    keys: tuple[str, ...]
    stamps: tuple[str, ...]
    """What changes when the content of each does: its SHA-256 in a folder, its entity tag in a bucket."""
    num_bytes: int

    @property
    def shown_name(self) -> str:
        """Its name as text: bytes that are no UTF-8, as old archives leave them, stand as `\\xff`."""
        return os.fsencode(self.name).decode("utf-8", "backslashreplace")

    @property
    def stamp(self) -> str:
        """What changes when the content of one of them does."""
        return sha256("".join(self.stamps).encode()).hexdigest()


def find_units(store: Store, source_name: str, source: Source) -> list[Unit]:
    """List the files of a source, sorted; LaTeX projects are one unit each.

    `store` is where it is remembered what files there were. Raises `RecipeError` for a path that is not there.
    """
    opened, single = open_source(source_name, source)
    files = ((key, file) for key, file in list_files(opened, single, store) if not _is_hidden(key))
    units = [Unit(source_name, key, (key,), (file.stamp,), file.num_bytes) for key, file in files]
    may_join = source.category == "arxiv" and not single
    projects = _project_folders(opened, [unit.name for unit in units]) if may_join else []
    return sorted(_joined(units, frozenset(projects)), key=lambda unit: unit.name) if projects else units


def _joined(units: Iterable[Unit], projects: frozenset[str]) -> Iterator[Unit]:
    """Yield the files that lie in a project's folder as one unit, the others as they are."""
    groups: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        folders = reversed([str(parent) for parent in PurePosixPath(unit.name).parents])
        groups[next((folder for folder in folders if folder in projects), unit.name)].append(unit)
    for name, files in groups.items():
        keys, stamps = (file.keys[0] for file in files), (file.stamps[0] for file in files)
        yield Unit(files[0].source, name, tuple(keys), tuple(stamps), sum(file.num_bytes for file in files))


def cut(units: Sequence[Unit], shard_files: int) -> dict[str, list[Unit]]:
    """Return the parts of a source by name; their names are in the order of the files, as `reuse.py` needs it."""
    parts: dict[str, list[Unit]] = {}
    name = "0"  # sorted before all others
    for unit in sorted(units, key=_label):
        drawn = int(sha256(os.fsencode(unit.name)).hexdigest()[:8], 16) / 16**8
        if drawn < 1 / shard_files + unit.num_bytes / SHARD_BYTES:
            name = f"from-{_label(unit)}"
        parts.setdefault(name, []).append(unit)
    return parts


def _label(unit: Unit) -> str:
    """Return a name for files that is sorted as theirs are, nearly, and may stand in an address."""
    return f"{re.sub('[^A-Za-z0-9.]', '_', unit.name)[:80]}.{sha256(os.fsencode(unit.name)).hexdigest()[:8]}"


def open_source(source_name: str, source: Source) -> tuple[Store, str]:
    """Return the source as a store and, where its path is one file, that file's name in it."""
    path = local_path(source)
    if path is None:
        return Store.open(source.path), ""
    if not path.exists():
        raise RecipeError(
            f"sources.{source_name}.path: {path} does not exist; name a folder, a file or s3://bucket/prefix"
        )
    return (Store.open(str(path.parent)), path.name) if path.is_file() else (Store.open(str(path)), "")


def local_path(source: Source) -> Path | None:
    """Return the source's path on this machine, or None for a bucket."""
    if source.path.startswith("file://"):
        return Path(unquote(urlsplit(source.path).path))
    return None if "://" in source.path else Path(source.path)


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
