"""Records in Parquet files."""

from collections import Counter

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm import parquet
from telellm.parquet import read_records, write_records
from telellm.records import Document, Question, Rejected

TEXT = st.text(st.characters(), max_size=50)


def documents(number, content="text"):
    return [Document.create("web", f"{index:06}", f"{content} {index}") for index in range(number)]


@settings(max_examples=20)
@given(texts=st.lists(TEXT, min_size=1, max_size=20))
def test_what_is_written_is_read_again(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("records")
    written = [Document.create("wiki", str(index), text, title=text) for index, text in enumerate(texts)]
    rows = write_records(written, Document, folder, "part", Counter(), Counter())
    assert rows == {"data/part-00000.parquet": len(texts)}
    assert list(read_records(folder / "data/part-00000.parquet", Document)) == written


def test_rejects_lie_beside_the_records_with_their_reasons(tmp_path):
    kept, (short, empty, *_) = documents(600), documents(3, "rejected")
    items = [*kept[:300], Rejected(short, "too short", "2 words"), *kept[300:], Rejected(empty, "empty")]
    counts, drops = Counter(), Counter()
    rows = write_records(items, Document, tmp_path, "s", counts, drops)
    assert rows == {"data/s-00000.parquet": 600, "rejects/s.parquet": 2}
    assert counts["out"] == 600 and drops == {"too short": 1, "empty": 1}
    table = pyarrow.parquet.read_table(tmp_path / "rejects/s.parquet").to_pylist()
    assert [(row["reason"], row["detail"], row["id"]) for row in table] == [
        ("too short", "2 words", short.id),
        ("empty", "", empty.id),
    ]


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_records(iter(documents(700)), Document, tmp_path / name, "part", Counter(), Counter())
    one, two = (next((tmp_path / name / "data").iterdir()).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_large_data_set_is_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FILE_BYTES", 20_000)
    rows = write_records(documents(2000), Document, tmp_path, "part", Counter(), Counter())
    assert len(rows) > 2 and sum(rows.values()) == 2000
    found = [item for name in sorted(rows) for item in read_records(tmp_path / name, Document)]
    assert found == documents(2000)


def test_long_documents_are_not_gathered_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CHARACTERS_IN_MEMORY", 50_000)
    items = [Document.create("web", str(index), "x" * 20_000) for index in range(30)]
    write_records(items, Document, tmp_path, "part", Counter(), Counter())
    with pyarrow.parquet.ParquetFile(tmp_path / "data/part-00000.parquet") as file:
        assert file.num_row_groups == 10


def test_the_files_load_with_datasets_columns_and_zstd(tmp_path):
    write_records([Question("What?", "That.", "web_1")], Question, tmp_path, "part", Counter(), Counter())
    with pyarrow.parquet.ParquetFile(tmp_path / "data/part-00000.parquet") as file:
        assert file.schema_arrow.names == ["statement", "answer", "id", "kind", "evidence", "split", "clause"]
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"


@settings(max_examples=20)
@given(start=st.integers(0, 720), number=st.integers(0, 720))
def test_a_range_of_a_file_is_what_a_list_would_give(tmp_path_factory, start, number):
    folder = tmp_path_factory.mktemp("range")
    written = documents(700)
    write_records(written, Document, folder, "part", Counter(), Counter())
    found = list(read_records(folder / "data/part-00000.parquet", Document, start, number))
    assert found == written[start : start + number]


def test_a_file_from_before_a_field_was_added_is_still_read(tmp_path):
    table = pyarrow.table({"statement": ["What?"], "answer": ["That."], "id": ["web_1"]})
    pyarrow.parquet.write_table(table, tmp_path / "old.parquet")
    assert list(read_records(tmp_path / "old.parquet", Question)) == [Question("What?", "That.", "web_1")]


def test_an_error_of_the_source_is_the_error_of_the_writer(tmp_path):
    def failing():
        yield from documents(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_records(failing(), Document, tmp_path, "part", Counter(), Counter())
