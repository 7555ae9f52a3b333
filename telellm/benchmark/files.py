"""Benchmark files: the rows of what others publish to test models with, whatever they are packed in.

JSON (a list, or an object of questions), JSON Lines whatever the file is called, Parquet, and zip archives of these
with a password, as TeleQnA is published. Nothing is unpacked to the disk.

A file has at most `MAXIMUM_BYTES` and `MAXIMUM_ROWS`, of which as many are read; a JSON value has at most
`MAXIMUM_JSON_BYTES`, so that reading a file takes at most about 2 GiB of memory, and a table takes about twice its
largest part.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from telellm.recipe import RecipeError
from telellm.store import Store, cache_directory, replacing

SUFFIXES = (".json", ".jsonl", ".parquet", ".zip")
"""Files of a folder that are benchmarks; a file that is named itself may end in anything."""
MAXIMUM_BYTES = 2**28
"""A larger file, or a larger table of a Parquet file, is no benchmark."""
MAXIMUM_ROWS = 2**20
"""A table may claim any number of rows of nothing, or of one value."""
MAXIMUM_JSON_BYTES = 2**26
"""A JSON value, or a line of JSON Lines, has at most so many bytes: in memory it may be 24 times as large."""
MAXIMUM_ARCHIVE_BYTES = 2**25
"""An archive, its table of contents and what it unpacks to have at most so many bytes (TeleQnA: 6 MB)."""
MAXIMUM_MEMBERS = 1_000
PLAIN, DEFLATED = 0, 8
QUESTION_FIELDS = ("question", "statement", "prompt", "text")
"""Names under which a row may have its question, however they are capitalised."""


@dataclass(frozen=True, slots=True)
class NotJson:
    """A line of a JSON Lines file that is none."""

    line: int
    text: str


def find_files(name: str, field: str) -> list[Path]:
    """Return local paths of a benchmark file, or of those in a folder, here or in a bucket; `field` is named in errors.

    Raises `RecipeError` where there is none.
    """
    return [path for _, path in find_chosen(name, field, list)]


def find_chosen(name: str, field: str, choose: Callable[[Sequence[str]], list[str]]) -> list[tuple[str, Path]]:
    """Return the files that `choose` takes, given the names of all in the folder: each one's name and local path.

    Of a bucket, no others are fetched. Raises `RecipeError` where there is none at all.
    """
    if "://" in name:
        return _fetched(name, field, choose)
    path = Path(name)
    if not path.exists():
        raise RecipeError(f"{field}: {path} does not exist")
    if not path.is_dir():
        return [(chosen, path) for chosen in choose([path.name])]
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not files:
        raise RecipeError(f"{field}: {path}: no {_kinds()} file is there")
    return [(chosen, path / chosen) for chosen in choose([p.relative_to(path).as_posix() for p in files])]


def read_rows(path: Path, field: str, password_variable: str = "") -> Iterator[Any]:
    """Yield the rows of a file; a broken line of JSON Lines is `NotJson`.

    `password_variable`: the environment variable with the password of an archive. Raises `RecipeError` when the file
    is none of the known kinds, is too large, or is an archive made to do harm.
    """
    try:
        for number, row in enumerate(_rows(path, password_variable)):
            if number >= MAXIMUM_ROWS:
                raise ValueError(f"a benchmark has at most {MAXIMUM_ROWS:,} rows")
            yield row
    except RecipeError:
        raise
    except MissingPassword as error:
        remedy = (
            f"; put it into the environment variable {password_variable}"
            if password_variable
            else "; name it under evaluation.multiple_choice, with the password_variable"
        )
        raise RecipeError(f"{field}: {path}: {error}{remedy}") from None
    except Exception as error:  # archives and tables of others fail in many ways
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise RecipeError(f"{field}: {path} cannot be read: {words}") from None


def _rows(path: Path, password_variable: str) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError("it is no file")  # a pipe or a device has no end
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(4)
    if size > MAXIMUM_BYTES:
        raise ValueError(f"{size:,} bytes are no benchmark; it has at most {MAXIMUM_BYTES:,}")
    if head == b"PAR1":
        yield from _parquet_rows(path)
    elif head[:2] == b"PK":
        for text in _unpacked(path, os.environ.get(password_variable) if password_variable else None):
            yield from _json_rows(text)
    else:
        yield from _json_rows(_decoded(path.read_bytes()))


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16; save it as UTF-8")
    return data.decode("utf-8-sig")


class MissingPassword(ValueError):
    """An archive needs another password, or one at all."""


def _json_rows(text: str) -> Iterator[Any]:
    whole = None
    try:
        if len(text) <= MAXIMUM_JSON_BYTES:
            whole = json.loads(text)
    except ValueError:
        pass
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None
    if isinstance(whole, dict | list):
        yield from _rows_of(whole)
        return
    for number, line in _lines(text):
        if len(line) > MAXIMUM_JSON_BYTES:
            raise ValueError(f"line {number} is longer than {MAXIMUM_JSON_BYTES:,} bytes; write a row a line")
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield NotJson(number, line)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers, one at a time; a text may hold other line ends."""
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if end > start and (line := text[start:end].removesuffix("\r")).strip():
            yield number, line
        if number > MAXIMUM_ROWS:
            raise ValueError(f"a benchmark has at most {MAXIMUM_ROWS:,} lines")
        start, number = end + 1, number + 1


def _rows_of(whole: Any) -> Iterator[Any]:
    """Yield the rows of a list, of an object of rows, or of the tables in an object; a single row is itself one."""
    if isinstance(whole, list):
        is_row = len(whole) > 1 and isinstance(whole[0], str) and not isinstance(whole[1], str)
        yield from [whole] if is_row else whole
    elif _is_row(whole):
        yield whole
    else:
        for value in whole.values():
            yield from value if _is_table(value) else [value]


def _is_row(whole: dict[str, Any]) -> bool:
    """Say whether an object is a row itself: it asks something, or holds no other rows."""
    asks = any(isinstance(value, str) and str(key).lower() in QUESTION_FIELDS for key, value in whole.items())
    return asks or (bool(whole) and not any(isinstance(value, dict) or _is_table(value) for value in whole.values()))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict | list) for row in value)


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        if (size := sum(group.total_byte_size for group in groups)) > MAXIMUM_BYTES:
            raise ValueError(f"{size:,} bytes are no benchmark; it has at most {MAXIMUM_BYTES:,}")
        if file.metadata.num_rows > MAXIMUM_ROWS:
            raise ValueError(f"{file.metadata.num_rows:,} rows are no benchmark; it has at most {MAXIMUM_ROWS:,}")
        # a value that is written once may stand in every row
        largest = max((group.total_byte_size for group in groups), default=1)
        left = MAXIMUM_BYTES
        for batch in file.iter_batches(batch_size=min(max(MAXIMUM_BYTES // max(largest, 1), 1), 256)):
            for row in batch.to_pylist():
                if (left := left - _size(row)) < 0:
                    raise ValueError(f"it unpacks to more than {MAXIMUM_BYTES:,} bytes")
                yield row


def _size(value: Any) -> int:
    """Return about how large a value is (bytes), without what holds it."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return sum(map(_size, value.values())) if isinstance(value, dict) else 8


def _unpacked(path: Path, password: str | None) -> Iterator[str]:
    """Yield the texts in an archive, with bounded memory whatever it claims; raises `ValueError`."""
    from pyzipper import AESZipFile

    _refuse_large_contents(path)
    with path.open("rb") as stream, AESZipFile(stream) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MAXIMUM_MEMBERS:
            raise ValueError(f"the archive holds more than {MAXIMUM_MEMBERS:,} files")
        for member in members:
            name = member.filename
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or ":" in name:
                raise ValueError(f"the archive holds a path that leaves its folder: {name[:100]!r}")
        left = MAXIMUM_ARCHIVE_BYTES
        wanted = [
            member
            for member in members
            if member.filename.lower().endswith((".json", ".jsonl", ".txt")) and "__MACOSX/" not in member.filename
        ]
        if not wanted:
            raise ValueError("the archive holds no .json, .jsonl or .txt file")
        for member in wanted:
            if member.flag_bits & 1 and not password:
                raise MissingPassword("the archive needs a password")
            if member.compress_type not in (PLAIN, DEFLATED):
                raise ValueError(f"{member.filename}: this kind of compression is not used for benchmarks")
            try:
                with archive.open(member, pwd=password.encode() if password else None) as content:
                    data = content.read(left + 1)
            except NotImplementedError:
                raise
            except RuntimeError:  # what pyzipper raises for a wrong password
                raise MissingPassword(f"{member.filename}: the password is not that of the archive") from None
            if (left := left - len(data)) < 0:
                raise ValueError(f"the archive unpacks to more than {MAXIMUM_ARCHIVE_BYTES:,} bytes")
            yield _decoded(data)


def _refuse_large_contents(path: Path) -> None:
    """Look at an archive's end before a table of contents is made in memory; raises `ValueError`."""
    size = path.stat().st_size
    if size > MAXIMUM_ARCHIVE_BYTES:
        raise ValueError(f"{size:,} bytes are no archive of questions; it has at most {MAXIMUM_ARCHIVE_BYTES:,}")
    with path.open("rb") as stream:
        stream.seek(max(0, size - 2**16 - 22))
        tail = stream.read()
    for end in (len(tail) - 22, tail.rfind(b"PK\x05\x06")):  # both places where it is looked for
        if end >= 0 and tail[end : end + 4] == b"PK\x05\x06" and end + 22 <= len(tail):
            members, length = struct.unpack_from("<HL", tail, end + 10)
            if members > MAXIMUM_MEMBERS or length > MAXIMUM_MEMBERS * 2**10:
                raise ValueError(f"the archive holds more than {MAXIMUM_MEMBERS:,} files")
    if b"PK\x06\x07" in tail:
        raise ValueError("an archive of questions has no need of the format for more than 4 GiB (ZIP64)")


def _kinds() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _fetched(uri: str, field: str, choose: Callable[[Sequence[str]], list[str]]) -> list[tuple[str, Path]]:
    """Return local copies of a benchmark file, or of those in a folder, of a bucket."""
    parent, _, place = uri.rstrip("/").rpartition("/")
    store = Store.open(parent)
    stamps = {
        key.removeprefix(f"{place}/"): (key, stamp)
        for key, stamp in store.stamps(place)
        if key == place or PurePosixPath(key).suffix.lower() in SUFFIXES
    }
    if not stamps:
        raise RecipeError(f"{field}: {uri}: no {_kinds()} file is there")
    files = []
    for chosen in choose(list(stamps)):
        key, stamp = stamps[chosen]
        state = sha256(f"{uri}\0{key}\0{stamp}".encode()).hexdigest()[:20]
        target = cache_directory() / "benchmarks" / state / PurePosixPath(key).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with replacing(target) as temporary:
                store.download(key, temporary)
        files.append((chosen, target))
    return files
