"""The store in a folder of this machine, or of a shared file system."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from telellm.store import (
    MANIFEST,
    Item,
    Made,
    Store,
    StoreUnavailable,
    TornOutput,
    beside,
    explained,
    inside,
    replacing,
    sha256_file,
)


class DirectoryStore(Store):
    """A store in a folder of this machine (or a shared file system)."""

    def __init__(self, root: Path) -> None:
        super().__init__(root.as_uri())
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"store: {root}: the folder cannot be made: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        return self.root / inside(key)

    def read(self, key: str) -> bytes:
        """Return an object."""
        try:
            return self._path(key).read_bytes()
        except (NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(key) from None

    def write(self, key: str, data: bytes) -> None:
        """Write a small object."""
        target = self._path(key)
        with _folder(target), replacing(target) as temporary:
            temporary.write_bytes(data)

    def swap(self, key: str, expected: bytes | None, data: bytes) -> bool:
        """Write a small object if it is `expected` still; a lock file beside it lets one writer at a time in.

        What is new is linked into its place, which succeeds once even where a shared file system has no locks.
        """
        target = self._path(key)
        with _folder(target), target.with_name(f".{target.name}.lock.part").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (target.read_bytes() if target.is_file() else None) != expected:
                return False
            if expected is not None:
                self.write(key, data)
                return True
            temporary = beside(target)
            try:
                temporary.write_bytes(data)
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                raise explained(error, target) from error
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def upload(self, key: str, path: Path) -> None:
        """Write an object from a file."""
        target = self._path(key)
        with _folder(target), replacing(target) as temporary:
            shutil.copyfile(path, temporary)

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file."""
        shutil.copyfile(self._path(key), path)

    def copy(self, key: str, target: str) -> None:
        """Link the file where the file system can, else copy it."""
        source, place = self._path(key), self._path(target)
        with _folder(place):
            temporary = beside(place)
            try:
                os.link(source, temporary)
                temporary.replace(place)
            except FileNotFoundError:
                raise FileNotFoundError(key) from None
            except OSError:  # no hard links here
                self.upload(target, source)
            finally:
                temporary.unlink(missing_ok=True)  # a link that replaces another to the same file stays

    def fetch(self, key: str, sha256: str) -> Path:
        """Return the object's own path: nothing is copied, its size was checked when it was written."""
        path = self._path(key)
        if not path.exists():
            raise TornOutput(f"{path} is in a manifest but not in the store; run the stage that makes it again")
        if sha256_file(path) != sha256:
            raise TornOutput(f"{path} is not the file that its manifest names; delete its folder and run again")
        return path

    def each(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Sequence[Made]:
        """Return what `work` gives for each item; threads would wait for one another longer than for a disk."""
        return [work(item) for item in items]

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys under a folder, sorted."""
        yield from (key for key, _ in self._entries(prefix))

    def stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield keys and digests; `prefix` may be one file."""
        for key in [prefix] if self.exists(prefix) else self.list(prefix):
            yield key, sha256_file(f"{self.root}/{key}")

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield keys and sizes."""
        yield from ((key, state.st_size) for key, state in self.states(prefix))

    def states(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield keys and what the file system says of each, sorted by key; `prefix` may be one file."""
        if self.exists(prefix):
            yield prefix, self._path(prefix).stat()
            return
        yield from ((key, entry.stat()) for key, entry in self._entries(prefix))

    def _entries(self, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        start = len(str(self.root).rstrip("/")) + 1
        return ((entry.path[start:], entry) for entry in _files(str(self._path(prefix))))

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        return self._path(key).is_file()

    def remove(self, key: str) -> None:
        """Delete one object, if it is there."""
        self._path(key).unlink(missing_ok=True)

    def delete(self, prefix: str) -> None:
        """Delete the folder."""
        folder = self._path(prefix)
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: str) -> Iterator["os.DirEntry[str]"]:
    """Yield a folder's files, sorted, without those that are being written; much quicker than `rglob`."""
    try:
        entries = [(_in_path(entry), entry) for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):  # also: removed by another process
        return
    entries.sort(key=lambda item: item[0], reverse=True)
    while entries:  # a file that was yielded is let go, and what is known of it
        name, entry = entries.pop()
        if name.endswith("/"):
            yield from _files(entry.path)
        elif entry.is_file() and not (entry.name.startswith(".") and entry.name.endswith(".part")):
            yield entry


def _in_path(entry: "os.DirEntry[str]") -> str:
    """Return what a path has of it: names that are sorted so give sorted paths."""
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


@contextmanager
def _folder(target: Path) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, target) from error
    yield
