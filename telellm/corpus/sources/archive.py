"""Archives as arXiv ships them: their text files are read into memory, and nothing is unpacked on disk."""

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from telellm.corpus.sources.file import MAX_FILE_BYTES

MAX_MEMBERS = 20_000
"""Most members that an archive or a folder may have."""
MAX_STREAM_BYTES = 4 * MAX_FILE_BYTES
"""Most bytes that an archive may unpack to, figures (which are passed over, not kept) included."""
TEXT_SUFFIXES = frozenset({".tex", ".ltx", ".latex", ".sty", ".inc", ".def", ".txt"})
BLOCK_BYTES = 2**20


class Refused(ValueError):
    """A file that is not taken: `reason` is one of few fixed phrases, `detail` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def read_texts(path: Path) -> dict[str, bytes]:
    """Return the text files of a project as name (with `/`) → content.

    `path` is a folder, a tar (plain or gzip), a zip, or one file (plain or gzip), told apart by content.
    Raises `Refused` with `"escapes its folder"`, `"too large"` or `"damaged archive"`.
    """
    if path.is_dir():
        return _collect(_folder_members(path))
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _collect(_zip_members(archive))
        with path.open("rb") as raw:
            if raw.peek(2)[:2] != b"\x1f\x8b":
                return _read_stream(raw, path)
            with gzip.open(raw) as unpacked:
                return _read_stream(unpacked, path)
    except Refused:
        raise
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise Refused("damaged archive", str(error)) from error
    # Encrypted or unknown compression, a lying header, a chain of headers: what the libraries raise for hostile bytes.
    except (RuntimeError, ValueError, KeyError, OverflowError) as error:
        raise Refused("damaged archive", f"{type(error).__name__}: {error}") from error


def archive_stem(name: str) -> str:
    """Return the last component of a name without the extension of an archive or of LaTeX."""
    stem = PurePosixPath(name).name
    for suffix in (".gz", ".tgz", ".tar", ".zip", ".tex"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) and len(stem) > len(suffix) else stem
    return stem


def _collect(members: Iterator[tuple[str, bytes]]) -> dict[str, bytes]:
    """Keep members while they fit into memory."""
    texts: dict[str, bytes] = {}
    size = 0
    for name, content in members:
        size += len(content)
        if size > MAX_FILE_BYTES:
            raise Refused("too large", f"more than {MAX_FILE_BYTES} bytes of text")
        texts[name] = content
    return texts


def _check_name(name: str, number: int) -> str:
    """Return a member's normal name; refuse one that leads out, and one member too many."""
    if number > MAX_MEMBERS:
        raise Refused("too large", f"more than {MAX_MEMBERS} members")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":")):
        raise Refused("escapes its folder", name[:200])
    return str(parts)


def _is_text(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in TEXT_SUFFIXES


def _folder_members(folder: Path) -> Iterator[tuple[str, bytes]]:
    root = folder.resolve()
    number = 0
    for parent, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            number += 1
            path = Path(parent, name)
            relative = _check_name(path.relative_to(root).as_posix(), number)
            if not _is_text(relative):
                continue
            if not path.resolve().is_relative_to(root):
                raise Refused("escapes its folder", relative)
            if not path.is_file():
                continue
            if path.stat().st_size > MAX_FILE_BYTES:
                raise Refused("too large", relative)
            yield relative, path.read_bytes()


def _zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for number, member in enumerate(archive.infolist(), 1):
        name = _check_name(member.filename, number)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused("escapes its folder", f"{name} is a link")
        if not member.is_dir() and _is_text(name):
            with archive.open(member) as content:
                # A header may lie about the size, so the limit is on what is read.
                yield name, content.read(MAX_FILE_BYTES + 1)


class _Bounded:
    """A stream whose head was read, which refuses to give more than `MAX_STREAM_BYTES`."""

    def __init__(self, head: bytes, stream: IO[bytes] | gzip.GzipFile) -> None:
        self.head = head
        self.stream = stream
        self.left = MAX_STREAM_BYTES

    def read(self, size: int) -> bytes:
        if self.head:
            block, self.head = self.head[:size], self.head[size:]
            return block
        block = self.stream.read(min(size, BLOCK_BYTES))
        self.left -= len(block)
        if self.left < 0:
            raise Refused("too large", f"unpacks to more than {MAX_STREAM_BYTES} bytes")
        return block


def _read_stream(stream: IO[bytes] | gzip.GzipFile, path: Path) -> dict[str, bytes]:
    """Read a tar, or else one LaTeX file."""
    head = stream.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        content = head + stream.read(MAX_FILE_BYTES)
        return _collect(iter([(archive_stem(path.name) + ".tex", content)]))
    with tarfile.open(fileobj=_Bounded(head, stream), mode="r|", errorlevel=2) as archive:  # type: ignore[call-overload]
        return _collect(_tar_members(archive))


def _tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for number, member in enumerate(archive, 1):
        name = _check_name(member.name, number)
        if not (member.isreg() or member.isdir()):
            raise Refused("escapes its folder", f"{name} is a link or a device")
        if member.isreg() and _is_text(name):
            if member.size > MAX_FILE_BYTES:
                raise Refused("too large", name)
            content = archive.extractfile(member)
            assert content is not None
            yield name, content.read()
        archive.members.clear()  # type: ignore[attr-defined]  # a stream keeps every header otherwise
