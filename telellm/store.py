"""Store: where everything lies, a directory (`file://`) or a bucket (`s3://bucket/prefix`), behind one interface.

An output is a folder whose `manifest.json` is written last and atomically: without it the folder is not there."""

import errno
import fcntl
import hashlib
import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from telellm.entries import trouble_with

MANIFEST = "manifest.json"
Item = TypeVar("Item")
Made = TypeVar("Made")
PARALLEL_TRANSFERS = 8
HASHED_BYTES = 2**18
"""Read at a time."""


class InvalidStore(ValueError):
    """The address is not that of a store or of a place in it; the message says what one looks like."""


class StoreUnavailable(OSError):
    """The store does not answer, refuses the credentials, or is full; the message says what to do."""

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """Whether it may be over in a while: the server restarts, the network is gone."""


class TornOutput(ValueError):
    """A file of a finished output is missing or is not the one that its manifest names."""


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file as hex."""
    state = hashlib.sha256()
    with FileIO(str(path)) as stream:  # a hundred thousand small files a night: no buffer and no object a file
        while part := stream.read(HASHED_BYTES):
            state.update(part)
    return state.hexdigest()


def cache_directory() -> Path:
    """Return the folder of this machine for what can be fetched or made again (`TELELLM_CACHE`)."""
    root = (
        os.environ.get("TELELLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "telellm"
    )
    Path(root).mkdir(parents=True, exist_ok=True)
    return Path(root)


class Store(ABC):
    """Keys are relative paths with `/`. Writes are atomic: a reader sees the whole object or none."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @staticmethod
    def open(uri: str) -> "Store":
        """Open `file:///folder`, a plain folder, or `s3://bucket/prefix`.

        Raises `InvalidStore` for another scheme and `StoreUnavailable` when it does not answer.
        """
        parts = urlsplit(uri)
        if parts.scheme == "s3":
            from telellm.bucket import BucketStore

            return BucketStore(uri, parts.netloc, parts.path.strip("/"))
        if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
            raise InvalidStore(f"store: {uri}: write file:///absolute/path or a plain path")
        if parts.scheme in ("", "file"):
            from telellm.directory import DirectoryStore

            return DirectoryStore(Path(unquote(parts.path) if parts.scheme else uri).expanduser().resolve())
        raise InvalidStore(f'store: {uri}: "{parts.scheme}" is not a kind of store; known kinds: file, s3')

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an object; raises `FileNotFoundError`."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write a small object."""

    @abstractmethod
    def swap(self, key: str, expected: bytes | None, data: bytes) -> bool:
        """Write a small object if it is `expected` still (None: not there); says whether it was written.

        Of several that expect the same, one wins.
        """

    @abstractmethod
    def upload(self, key: str, path: Path) -> None:
        """Write an object from a file."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Write an object to a file; raises `FileNotFoundError`."""

    @abstractmethod
    def copy(self, key: str, target: str) -> None:
        """Put an object that nobody changes under another key too, without reading it; raises `FileNotFoundError`."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys under a folder, sorted."""

    @abstractmethod
    def stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield the keys under a folder, each with what changes when its content does."""

    @abstractmethod
    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the keys under a folder, each with its size (bytes)."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Delete one object, if it is there."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Delete the folder, its manifest first."""

    def each(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Sequence[Made]:
        """Return what `work` gives for each item, in their order; side by side, since each waits for a server."""
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            return list(pool.map(work, items))

    def fetch(self, key: str, sha256: str) -> Path:
        """Return a local file with the object's content, checked against its digest and kept in the cache.

        Raises `TornOutput` when the object is missing or another.
        """
        target = cache_directory() / "objects" / sha256[:2] / sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target.parent):  # the processes of a machine read an object once
            if not target.exists():
                self._fetch(key, sha256, target)
        return target

    def _fetch(self, key: str, sha256: str, target: Path) -> None:
        with replacing(target) as temporary:
            try:
                self.download(key, temporary)
            except FileNotFoundError:
                raise TornOutput(
                    f"{self.uri}/{key} is in a manifest but not in the store; run the stage that makes it again"
                ) from None
            if (found := sha256_file(temporary)) != sha256:
                raise TornOutput(
                    f"{self.uri}/{key} is not the file that its manifest names (digest {found[:12]}…, not "
                    f"{sha256[:12]}…); delete its folder and run again"
                )

    def read_json(self, key: str) -> dict[str, Any] | None:
        """Return a JSON object, or None where there is none; raises `TornOutput` where it is no JSON."""
        try:
            data = self.read(key)
        except FileNotFoundError:
            return None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise TornOutput(f"{self.uri}/{key} is damaged (no JSON); delete its folder and run again") from None
        if not isinstance(value, dict):
            raise TornOutput(f"{self.uri}/{key} is damaged (no JSON object); delete its folder and run again")
        return value

    def write_json(self, key: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object."""
        self.write(key, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).encode())

    def manifest(self, prefix: str) -> dict[str, Any] | None:
        """Return the manifest of a finished output, or None: what has no manifest is not there.

        Raises `TornOutput` where it is none, or names files that are not the store's.
        """
        manifest = self.read_json(f"{prefix}/{MANIFEST}")
        if manifest is not None and (trouble := trouble_with(manifest)):
            raise TornOutput(f"{self.uri}/{prefix}/{MANIFEST}: {trouble}; delete its folder and run again")
        return manifest

    def commit(
        self, prefix: str, folder: Path, manifest: Mapping[str, Any], elsewhere: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Upload a folder's files, then its manifest with their sizes and digests; returns the manifest.

        `elsewhere`: entries of the manifest for files that lie in another folder of the store, under their `key`.
        What an earlier try left at the same place is replaced. Two writers of the same content do not disturb one
        another: a manifest that is true stays.
        """
        manifest_of_another = folder / MANIFEST  # some models bring one: it would make the output seem finished
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest_of_another)
        names = [path.relative_to(folder).as_posix() for path in paths]
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            digests = list(pool.map(sha256_file, paths))
            files = {
                name: {"bytes": path.stat().st_size, "sha256": digest}
                for name, path, digest in zip(names, paths, digests, strict=True)
            }
            files |= elsewhere or {}
            before = self.manifest(prefix)
            if before is not None and before["files"] != files:
                self.remove(f"{prefix}/{MANIFEST}")
            list(pool.map(lambda name, path: self.upload(f"{prefix}/{name}", path), names, paths))
        for key in set(self.list(prefix)) - {f"{prefix}/{name}" for name in (*names, MANIFEST)}:
            self.remove(key)
        whole = {**manifest, "files": files}
        self.write_json(f"{prefix}/{MANIFEST}", whole)
        return whole


def inside(key: str) -> str:
    """Return the key; raises `InvalidStore` for one that would leave the store."""
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise InvalidStore(f"store: {key!r} would leave the store; a place is a relative path such as stages/clean/…")
    return key


def beside(target: Path) -> Path:
    """Return a path in the same folder for what is to take a file's place; a listing of the store leaves it out."""
    return target.with_name(f".{target.name[:80]}.{uuid.uuid4().hex}.part")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` that becomes it, if nothing fails; a full disk is one clear error."""
    temporary = beside(target)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        raise explained(error, target) from error
    finally:
        temporary.unlink(missing_ok=True)


def explained(error: OSError, target: Path) -> OSError:
    """Return what an error of this machine's file system means to a person, where that is known."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(
            f"{target.parent}: the disk is full; make room or choose another --store, then run again"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return StoreUnavailable(f"{target.parent}: may not be written ({error.strerror}); choose another --store")
    return error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process (or thread) of this machine at a time into the body, for this folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
