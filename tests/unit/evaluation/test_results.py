import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from telellm.evaluation.results import COLUMNS, row, schema, write_results

DOCS = Path(__file__).parents[3] / "docs" / "evaluation.md"


def test_every_task_has_the_same_columns_and_what_it_lacks_is_empty(tmp_path: Path) -> None:
    rows = [row("general", id="a", nll=3.5, tokens=2), row("multiple_choice.quiz", options=["x"], orders=[[0]])]
    write_results(tmp_path, rows, {"name": "tiny"})
    table = parquet.read_table(tmp_path / "questions.parquet")
    assert table.schema == schema() and table.column_names == list(COLUMNS)
    assert table.to_pylist() == rows and rows[0]["options"] is None
    assert json.loads((tmp_path / "scores.json").read_text()) == {"name": "tiny"}
    with pytest.raises(AssertionError, match="nil"):
        row("general", nil=1)


def test_every_column_is_documented() -> None:
    text = DOCS.read_text()
    assert [name for name in COLUMNS if f"`{name}`" not in text] == []
