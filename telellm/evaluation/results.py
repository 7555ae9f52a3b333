"""Results: what was measured on each question, as a table that can be read, joined and compared later.

One schema for every task; `docs/evaluation.md` says what its columns mean.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

TELE_EVAL = "tele-eval"
FILE = "questions.parquet"
COLUMNS = {
    "task": "text",
    "id": "text",
    "statement": "text",
    "answer": "text",
    "split": "text",
    "kind": "text",
    "clause": "text",
    "category": "text",
    "nll": "number",
    "tokens": "integer",
    "bytes": "integer",
    "generated": "text",
    "semscore": "number",
    "judge_probability": "number",
    "judge_verdict": "text",
    "options": "texts",
    "orders": "lists of integers",
    "log_likelihoods": "lists of numbers",
    "correct": "number",
    "correct_by_order": "numbers",
    "edit_distance": "number",
}
"""Column → what it holds; a column that a task does not measure is empty in its rows."""
Row = dict[str, Any]


def row(task: str, **values: Any) -> Row:
    """Return a row in which what is not given is empty."""
    assert not values.keys() - COLUMNS.keys(), values.keys() - COLUMNS.keys()
    return dict.fromkeys(COLUMNS) | {"task": task} | values


def schema() -> "pyarrow.Schema":
    """Return the table's Arrow schema."""
    import pyarrow

    text, number, integer = pyarrow.large_string(), pyarrow.float64(), pyarrow.int64()
    kinds = {
        "text": text,
        "texts": pyarrow.list_(text),
        "number": number,
        "numbers": pyarrow.list_(number),
        "lists of numbers": pyarrow.list_(pyarrow.list_(number)),
        "integer": integer,
        "lists of integers": pyarrow.list_(pyarrow.list_(integer)),
    }
    return pyarrow.schema({name: kinds[kind] for name, kind in COLUMNS.items()})


def write_results(folder: Path, rows: Sequence[Row], scores: Mapping[str, Any]) -> None:
    """Write `questions.parquet` and `scores.json`."""
    import pyarrow
    import pyarrow.parquet as parquet

    table = pyarrow.Table.from_pylist(list(rows), schema=schema())
    parquet.write_table(table, folder / FILE, compression="zstd")
    scored = json.dumps(scores, indent=1, ensure_ascii=False)
    (folder / "scores.json").write_text(scored, encoding="utf-8")
