from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from telellm.recipe import RecipeError
from telellm.training.texts import read_conversations, read_texts, replay_digests, text_files


def test_replay_reads_every_kind_of_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/b.txt").write_text("two")
    (tmp_path / "c.json").write_text("{}")
    parquet.write_table(pyarrow.table({"text": ["three", None, "four"]}), tmp_path / "d.parquet")
    store, names = text_files(str(tmp_path))
    assert [text for name in names for text in read_texts(store, name)] == ["one", "three", "four", "two"]


def test_replay_digests_change_with_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one")
    before = replay_digests(str(tmp_path))
    (tmp_path / "a.md").write_text("two")
    assert replay_digests(str(tmp_path)) != before
    assert replay_digests("") == []


def test_broken_replay_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such folder"):
        text_files(str(tmp_path / "missing"))
    with pytest.raises(RecipeError, match="no text is there"):
        text_files(str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    parquet.write_table(pyarrow.table({"words": ["x"]}), tmp_path / "c.parquet")
    store, names = text_files(str(tmp_path))
    for name, reason in zip(names, ["not UTF-8", "not a Parquet file", "no column of text"], strict=True):
        with pytest.raises(RecipeError, match=f"{name}: {reason}"):
            list(read_texts(store, name))


@pytest.mark.parametrize("line", ["no json", "[]", '{"messages": []}', '{"messages": [{"role": "user"}]}'])
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(f'{{"messages": [{{"role": "user", "content": "x"}}]}}\n\n{line}\n')
    with pytest.raises(RecipeError, match="line 3"):
        read_conversations(str(path))


def test_a_missing_conversation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        read_conversations(str(tmp_path / "none.jsonl"))
    with pytest.raises(RecipeError, match="no such file"):
        read_conversations("")
