from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from telellm.recipe import RecipeError
from telellm.text_files import read_texts, text_digests, text_files

FIELD = "training.pack.replay"


def test_a_folder_gives_every_kind_of_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/b.txt").write_text("two")
    (tmp_path / "c.json").write_text("{}")
    parquet.write_table(pyarrow.table({"text": ["three", None, "four"]}), tmp_path / "d.parquet")
    store, names = text_files(str(tmp_path), FIELD)
    assert [text for name in names for text in read_texts(store, name)] == ["one", "three", "four", "two"]


def test_digests_change_with_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one")
    before = text_digests(str(tmp_path), FIELD)
    (tmp_path / "a.md").write_text("two")
    assert text_digests(str(tmp_path), FIELD) != before
    assert text_digests("", FIELD) == []


def test_a_broken_text_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"training.pack.replay: .*: there is no such folder"):
        text_files(str(tmp_path / "missing"), FIELD)
    with pytest.raises(RecipeError, match="no text is there"):
        text_files(str(tmp_path), FIELD)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    parquet.write_table(pyarrow.table({"words": ["x"]}), tmp_path / "c.parquet")
    store, names = text_files(str(tmp_path), FIELD)
    for name, reason in zip(names, ["not UTF-8", "not a Parquet file", "no column of text"], strict=True):
        with pytest.raises(RecipeError, match=f"{name}: {reason}"):
            list(read_texts(store, name))


def test_the_text_that_came_with_telellm_is_found_in_its_package() -> None:
    store, names = text_files("package:telellm/evaluation/general", "evaluation.general.text")
    texts = [text for name in names for text in read_texts(store, name)]
    assert len(texts) >= 20 and all(len(text.split()) > 150 for text in texts)
    with pytest.raises(RecipeError, match="the package nowhere is not installed"):
        text_files("package:nowhere/general", "evaluation.general.text")
