"""Files of others: many kinds, broken ones, and archives made to do harm."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import pytest
import pyzipper
from hypothesis import given
from hypothesis import strategies as st

from telellm.benchmark import files
from telellm.benchmark.files import NotJson, find_files, read_rows
from telellm.recipe import RecipeError

ROWS: list[Any] = [{"question": "What?", "choices": ["this", "that"], "answer": 1}, ["Why?", ["1. a", "2. b"], "2"]]
VARIABLE = "TELELLM_TEST_PASSWORD"


def rows_of(content: bytes, tmp_path: Path, name: str = "questions.json") -> list[Any]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_rows(path, "here", VARIABLE))


def archive(members: dict[str, bytes], password: str = "", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    if password:
        with pyzipper.AESZipFile(stream, "w", compression=compression, encryption=pyzipper.WZ_AES) as file:
            file.setpassword(password.encode())
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with zipfile.ZipFile(stream, "w", compression) as plain:
            for name, content in members.items():
                plain.writestr(name, content)
    return stream.getvalue()


def test_rows_are_found_in_every_kind_of_file(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    assert rows_of(json.dumps(ROWS).encode(), tmp_path) == ROWS
    assert rows_of(b"\xef\xbb\xbf" + lines + b"\n\n", tmp_path) == ROWS
    assert rows_of(json.dumps({"question 1": ROWS[0], "question 2": ROWS[1]}).encode(), tmp_path) == ROWS
    assert rows_of(json.dumps({"version": "1", "data": ROWS}).encode(), tmp_path)[1:] == ROWS
    for row in ROWS:
        assert rows_of(json.dumps(row).encode(), tmp_path) == [row]
    assert rows_of(archive({"folder/": b"", "folder/a.txt": lines, "read.me": b"!"}), tmp_path, "a.zip") == ROWS
    table = pyarrow.Table.from_pylist(ROWS[:1])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet", "here")) == ROWS[:1]


def test_a_line_may_hold_another_kind_of_line_end(tmp_path: Path) -> None:
    text = json.dumps(["What is\u2028this?", ["a\x85", "b"], "1"], ensure_ascii=False)
    assert rows_of(f"{text}\n{text}\n".encode(), tmp_path) == [json.loads(text)] * 2


def test_a_broken_line_is_one_and_the_others_are_read(tmp_path: Path) -> None:
    broken = "{'question': 1}", "[" * 10**5
    content = "\n".join([json.dumps(ROWS[0]), *broken, json.dumps(ROWS[1])])
    assert rows_of(content.encode(), tmp_path) == [ROWS[0], NotJson(2, broken[0]), NotJson(3, broken[1]), ROWS[1]]


def test_an_archive_opens_with_the_password_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive({"TeleQnA.txt": json.dumps({"question 0": ROWS[0]}).encode()}, password="secret")
    with pytest.raises(
        RecipeError, match=rf"here: .*needs a password; put it into the environment variable {VARIABLE}"
    ):
        rows_of(content, tmp_path)
    monkeypatch.setenv(VARIABLE, "wrong")
    with pytest.raises(RecipeError, match="the password is not that of the archive"):
        rows_of(content, tmp_path)
    monkeypatch.setenv(VARIABLE, "secret")
    assert rows_of(content, tmp_path) == [ROWS[0]]
    path = tmp_path / "questions.json"
    with pytest.raises(RecipeError, match="name it under evaluation"):
        list(read_rows(path, "here"))


def bomb() -> bytes:
    return archive({"a.json": bytes(2**26)})


def lying_bomb() -> bytes:
    """Says that it unpacks to ten bytes."""
    content = bytearray(bomb())
    real = struct.pack("<L", 2**26)
    return bytes(content.replace(real, struct.pack("<L", 10)))


def many_members() -> bytes:
    return archive({f"{number}.json": b"[]" for number in range(2_000)}, compression=zipfile.ZIP_STORED)


def hidden_members() -> bytes:
    """Says in its end that it holds one file, with a long table of contents."""
    content = bytearray(many_members())
    content[-14:-10] = struct.pack("<HH", 1, 1)
    return bytes(content)


def zip64() -> bytes:
    content = archive({"a.json": b"[]"})
    return content[:-22] + b"PK\x06\x07" + bytes(16) + content[-22:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb(), "unpacks to more than"),
        (lying_bomb(), "cannot be read"),
        (many_members(), "more than 1,000 files"),
        (hidden_members(), "more than 1,000 files"),
        (zip64(), "ZIP64"),
        (archive({"../a.json": b"[]"}), "leaves its folder"),
        (archive({"/etc/a.json": b"[]"}), "leaves its folder"),
        (archive({"C:\\a.json": b"[]"}), "leaves its folder"),
        (archive({"a.json": b"[]"}, compression=zipfile.ZIP_LZMA), "this kind of compression"),
        (archive({"a.exe": b"[]"}), "holds no .json"),
        (archive({"a.json": b"[]"})[:-5], "cannot be read"),
        (b"PK\x03\x04" + zlib.compress(bytes(2**25)), "cannot be read"),
        (b"PAR1" + bytes(100), "cannot be read"),
        (b"[" * 10**6, "nested too deep"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_file_is_refused_within_bounded_memory(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.zip"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError, match=reason) as caught:
            list(read_rows(path, "here", VARIABLE))
        assert tracemalloc.get_traced_memory()[1] < 110 * 2**20
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"here: {path}")
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.jsonl").open("wb") as stream:
        os.truncate(stream.fileno(), 2**30)
    with pytest.raises(RecipeError, match="1,073,741,824 bytes are no benchmark"):
        list(read_rows(tmp_path / "large.jsonl", "here"))


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=4))
def test_no_archive_raises_anything_but_a_recipe_error(noise: bytes, at: int, patch: bytes) -> None:
    good = archive({"a.json": json.dumps(ROWS).encode()})
    for content in (b"PK" + noise, good[:at] + patch + good[at + len(patch) :], b"PAR1" + noise + b"PAR1", noise):
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"telellm-archive-{os.getpid()}"
        path.write_bytes(content)
        try:
            list(read_rows(path, "here"))
        except RecipeError:
            pass
        finally:
            path.unlink()


def test_a_folder_gives_its_benchmarks_and_a_named_file_may_be_called_anything(tmp_path: Path) -> None:
    for name in ("b.json", "a.JSONL", "c.zip", "d.md", "e.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_files(str(tmp_path), "here")] == ["a.JSONL", "b.json", "c.zip"]
    assert find_files(str(tmp_path / "e.txt"), "here") == [tmp_path / "e.txt"]
    with pytest.raises(RecipeError, match=r"here: .*x\.json does not exist"):
        find_files(str(tmp_path / "x.json"), "here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"no \.json, \.jsonl, \.parquet or \.zip file is there"):
        find_files(str(tmp_path / "empty"), "here")


def table(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, compression="zstd")
    return path


def test_a_table_that_unpacks_to_much_more_than_it_claims_is_refused_within_bounded_memory(tmp_path: Path) -> None:
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10_000, pyarrow.int32()), ["x" * 2**18])
    path = table(tmp_path / "a.parquet", question=text)
    assert path.stat().st_size < 2**16
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError, match="unpacks to more than"):
            for _ in read_rows(path, "here"):
                pass
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()


def test_a_file_with_rows_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="rows are no benchmark"):
        list(read_rows(table(tmp_path / "a.parquet", a=pyarrow.nulls(2**21)), "here"))
    for content, reason in ((b"[" + b"1," * 2**20 + b"1]", "rows"), (b"\n" * 2**21, "lines"), (b"1\n" * 2**21, "rows")):
        with pytest.raises(RecipeError, match=f"at most 1,048,576 {reason}"):
            rows_of(content, tmp_path)


def test_a_line_of_json_is_bounded_and_lines_are_not_all_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAXIMUM_JSON_BYTES", 1_000)
    lines = "\r\n".join(json.dumps(row) for row in ROWS * 20)
    assert rows_of(lines.encode(), tmp_path) == ROWS * 20
    with pytest.raises(RecipeError, match="line 2 is longer"):
        rows_of(b"1\n" + b"[" + b"{}," * 1_000 + b"1]", tmp_path)


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be"])
def test_another_encoding_is_named_or_refused(tmp_path: Path, code: str) -> None:
    text = json.dumps(ROWS) if code == "utf-16" else "\ufeff" + json.dumps(ROWS)
    with pytest.raises(RecipeError, match="it is UTF-16; save it as UTF-8"):
        rows_of(text.encode(code), tmp_path)


def test_a_pipe_or_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero"), tmp_path):
        with pytest.raises(RecipeError, match="it is no file"):
            list(read_rows(path, "here"))
