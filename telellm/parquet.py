"""Parquet: records streamed to and from files, with bounded memory."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from telellm.records import Document, Question, Record, Rejected, from_batch, rejected_row, to_table

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

ROWS_IN_MEMORY = 256
CHARACTERS_IN_MEMORY = 16 * 2**20
FILE_BYTES = 256 * 2**20
"""A whole data set is written in files of about this size (bytes of text)."""
R = TypeVar("R", Document, Question)


def write_records(
    items: Iterable[Record | Rejected],
    kind: type[Document] | type[Question],
    folder: Path,
    name: str,
    counts: Counter[str],
    drops: Counter[str],
) -> dict[str, int]:
    """Stream records to `data/<name>-….parquet` and rejects to `rejects/<name>.parquet`; returns rows a file.

    Adds to `counts["out"]` and to `drops` by reason. Memory is bounded by `ROWS_IN_MEMORY` records
    and `CHARACTERS_IN_MEMORY` of text.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    rejects_schema = pyarrow.schema([(column, pyarrow.large_string()) for column in ("reason", "detail", "id", "item")])
    rows: dict[str, int] = {}
    kept: list[Record] = []
    thrown: list[dict[str, str]] = []
    writers: dict[str, pyarrow.parquet.ParquetWriter] = {}
    written_bytes = held = 0

    def write(file: str, table: "pyarrow.Table") -> None:
        path = folder / file
        if file not in writers:
            path.parent.mkdir(parents=True, exist_ok=True)
            writers[file] = parquet.ParquetWriter(path, table.schema, compression="zstd")
        writers[file].write_table(table)
        rows[file] = rows.get(file, 0) + len(table)

    def flush() -> None:
        nonlocal written_bytes, held
        held = 0
        if kept:
            table = to_table(kept, kind)
            write(f"data/{name}-{written_bytes // FILE_BYTES:05}.parquet", table)
            written_bytes += table.nbytes
            kept.clear()
        if thrown:
            write(f"rejects/{name}.parquet", pyarrow.Table.from_pylist(thrown, schema=rejects_schema))
            thrown.clear()

    try:
        for item in items:
            if isinstance(item, Rejected):
                drops[item.reason] += 1
                thrown.append(rejected_row(item))
                held += len(thrown[-1]["item"])
            else:
                counts["out"] += 1
                kept.append(item)
                held += len(item.content) if isinstance(item, Document) else 0
            if len(kept) + len(thrown) >= ROWS_IN_MEMORY or held >= CHARACTERS_IN_MEMORY:
                flush()
        flush()
    finally:
        for writer in writers.values():
            writer.close()
    return rows


def read_records(path: Path, kind: type[R], start: int = 0, number: int | None = None) -> Iterator[R]:
    """Stream the records of a file, or `number` of them from the `start`-th on."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        groups, first, skipped = [], 0, 0
        for group in range(file.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if first + length <= start:
                skipped += length  # not even read
            elif number is None or first < start + number:
                groups.append(group)
            first += length
        records = (
            record
            for batch in file.iter_batches(batch_size=ROWS_IN_MEMORY, row_groups=groups)
            for record in from_batch(batch, kind)
        )
        begin = start - skipped
        yield from islice(records, begin, None if number is None else begin + number)
