"""Files of questions: sets that are there already, with the paper's fields or with telellm's own.

JSON Lines, a JSON array, or Parquet. They are streamed: a set of any size is read in the memory of one row.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from telellm.benchmark.files import find_files
from telellm.recipe import RecipeError
from telellm.records import Question, Rejected
from telellm.tele_eval.written import CONTROL

FIELD = "tele_eval.path"
NAMES = {
    "statement": ("statement", "question"),
    "answer": ("answer",),
    "id": ("id", "document", "document_id"),
    "kind": ("kind",),
    "evidence": ("evidence",),
    "clause": ("clause",),
    "split": ("split",),
}
"""Field → names under which a row may have it, however they are capitalised."""
SPLITS = ("", "train", "held-out")
MAXIMUM_CHARACTERS = {"statement": 2_000, "answer": 10_000, "id": 500, "kind": 40, "evidence": 20_000, "clause": 500}
MAXIMUM_ROW = 2**20
"""A longer row is none (characters)."""
KEPT_CHARACTERS = 2_000
CHUNK = 2**16


def find_question_files(name: str) -> list[Path]:
    """Return local paths of the files of a set; raises `RecipeError` where there is none that can be read."""
    files = find_files(name, FIELD)
    if archives := [path.name for path in files if path.suffix.lower() == ".zip"]:
        raise RecipeError(f"{FIELD}: {archives[0]} is an archive; unpack it: JSON, JSONL and Parquet are read")
    return files


def read_questions(path: Path, field: str = FIELD) -> Iterator[Question | Rejected]:
    """Yield a file's rows as questions; what is not fit is rejected with its reason, with its place in the file.

    `split` and `kind` are "" where the row has none. Raises `RecipeError` when the file is of no known kind.
    """
    for number, row in enumerate(_rows(path, field), 1):
        found = question_of(row)
        if isinstance(found, Question):
            yield found
        else:
            shown = json.dumps(row, ensure_ascii=False, default=str)[:KEPT_CHARACTERS]
            yield Rejected({"file": f"{path.name}:{number}", "row": shown}, found)


def question_of(row: Any) -> Question | str:
    """Return a row as a question, or why it is none."""
    if isinstance(row, _Broken):
        return row.reason
    if not isinstance(row, Mapping):
        return "not an object"
    given = {str(name).strip().lower(): value for name, value in row.items()}
    fields: dict[str, str] = {}
    for field, names in NAMES.items():
        value = next((given[name] for name in names if given.get(name) is not None), "")
        if not isinstance(value, str):
            return f"{field} is no text"
        if len(value) > MAXIMUM_CHARACTERS.get(field, 40):
            return f"{field} is too long"
        fields[field] = value.strip()
    if CONTROL.search("".join(fields.values())):
        return "control characters"
    if missing := [field for field in ("statement", "answer", "id") if not fields[field]]:
        return f"{missing[0]} is missing"
    if fields["split"] not in SPLITS:
        return "unknown split"
    return Question(**fields)


class _Broken:
    """A row that cannot be read."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _rows(path: Path, field: str) -> Iterator[Any]:
    try:
        with path.open("rb") as stream:
            head = stream.read(CHUNK)
        if head[:4] == b"PAR1":
            yield from _parquet_rows(path)
        elif head[:4] in (b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"\x1f\x8b\x08\x08"):
            raise ValueError("it is an archive; unpack it")
        elif head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
            yield from _array_rows(path)
        else:
            yield from _line_rows(path)
    except RecipeError:
        raise
    except Exception as error:  # what calls itself Parquet or JSON fails in many ways
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise RecipeError(f"{field}: {path} cannot be read: {words}") from None


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        wanted = [name for names in NAMES.values() for name in names]
        columns = [name for name in file.schema_arrow.names if name.strip().lower() in wanted]
        for batch in file.iter_batches(batch_size=256, columns=columns):
            yield from batch.to_pylist()


def _line_rows(path: Path) -> Iterator[Any]:
    with path.open("rb") as stream:
        while line := stream.readline(MAXIMUM_ROW + 1):
            if len(line) > MAXIMUM_ROW:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAXIMUM_ROW)
                yield _Broken("row is too long")
            elif line.strip():
                yield _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return _Broken("not JSON")


def _array_rows(path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON array while it is read; the first that cannot be read ends it."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        held, at_end = stream.read(CHUNK).lstrip()[1:], False
        while True:
            held = held.lstrip().removeprefix(",").lstrip()
            if held.startswith("]"):
                return
            try:
                row, end = decoder.raw_decode(held)
                is_whole = at_end or end < len(held)  # a number may go on in what is not read yet
            except (ValueError, RecursionError):
                is_whole = False
            if is_whole:
                yield row
                held = held[end:]
            elif at_end or len(held) > MAXIMUM_ROW:
                yield _Broken("not JSON from here on")
                return
            else:
                more = stream.read(max(CHUNK, len(held)))
                held, at_end = held + more, not more
