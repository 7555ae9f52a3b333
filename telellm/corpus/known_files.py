"""Known files: a night reads those files of a source again that changed, and only looks at the others.

`sources/<digest of the folder>.txt` in the store holds a line a file: what the file system says of it (size, times,
number), its SHA-256 and its name. A bucket says itself what changes with an object's content.
"""

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from telellm.directory import DirectoryStore
from telellm.store import Store, sha256_file

NONE = ("", "", "")
SETTLED_NS = 2 * 10**9
"""What changed less than this before it was read may change again within the same tick of the file system's clock."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a source."""

    stamp: str
    """What changes when its content does: its SHA-256 in a folder, its entity tag in a bucket."""
    num_bytes: int


def list_files(opened: Store, single: str, store: Store) -> Iterator[tuple[str, Listed]]:
    """Yield a source's files by name, sorted: all of them, or `single`; `store` remembers what is in a folder."""
    if not isinstance(opened, DirectoryStore):
        sizes = dict(opened.sizes(single))
        yield from ((key, Listed(stamp, sizes.get(key, 0))) for key, stamp in opened.stamps(single))
        return
    place = f"sources/{sha256(os.fsencode(f'{opened.uri}/{single}')).hexdigest()[:20]}.txt"
    before = _read(store, place)
    known, after = _lines(before), bytearray()
    last, began = next(known, NONE), time.time_ns()
    for key, state in opened.states(single):
        while last is not NONE and last[0] < key:
            last = next(known, NONE)
        seen = _seen(state)
        digest = last[2] if last[:2] == (key, seen) else sha256_file(opened.root / key)
        if max(state.st_mtime_ns, state.st_ctime_ns) < began - SETTLED_NS and "\n" not in key:
            after += f"{seen} {digest} ".encode() + os.fsencode(key) + b"\n"
        yield key, Listed(digest, state.st_size)
    if after != before:
        store.write(place, bytes(after))


def _read(store: Store, place: str) -> bytes:
    try:
        return store.read(place)
    except FileNotFoundError:
        return b""


def _lines(data: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield name, state and digest of each file; a line that is none ends it, and what follows is read again."""
    for line in io.BytesIO(data):
        try:
            seen, digest, name = os.fsdecode(line[:-1]).split(" ", 2)
        except ValueError:
            return
        yield name, seen, digest


def _seen(state: os.stat_result) -> str:
    return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}"
