"""What every store promises; each test runs on a folder and on an S3 server."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.directory import DirectoryStore
from telellm.store import (
    InvalidStore,
    Store,
    StoreUnavailable,
    TornOutput,
    cache_directory,
    sha256_file,
)

NAMES = ["data/a-00000.parquet", "data/b-00000.parquet", "rejects/a.parquet"]


@pytest.fixture
def folder(tmp_path):
    """Three files of an output."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "output" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 1000 * (number + 1))
    return tmp_path / "output"


def test_what_is_written_is_read(store):
    store.write("runs/one/recipe.yaml", "größe: 1".encode())
    assert store.read("runs/one/recipe.yaml").decode() == "größe: 1"
    store.write("runs/one/recipe.yaml", b"")
    assert store.read("runs/one/recipe.yaml") == b""


@pytest.mark.parametrize("key", ["a b/ü+&=%20#?.json", "x" * 200 + ".json", ".hidden", "a/notes.part"])
def test_a_key_may_hold_what_a_file_name_may_hold(store, key):
    store.write(key, b"1")
    assert store.exists(key) and store.read(key) == b"1"
    assert list(store.list("")) == [key]


def test_what_is_not_there_is_said_in_one_way(store, tmp_path):
    store.write("a/b", b"1")
    for key in ("missing", "a", "a/b/c", "a/"):
        assert not store.exists(key)
    for key in ("missing", "a", "a/b/c"):
        with pytest.raises(FileNotFoundError):
            store.read(key)
        with pytest.raises(OSError):
            store.download(key, tmp_path / "target")
        assert store.read_json(key) is None
    assert list(store.list("missing")) == [] == list(store.stamps("missing")) == list(store.sizes("missing"))
    store.delete("missing")


def test_keys_are_listed_in_one_order_and_only_below_their_folder(store):
    keys = ["a-b/x", "a/b/y", "a/x", "a/x-1", "a/x.json", "ab/x", "B/x"]
    for key in reversed(keys):
        store.write(key, b"1")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("a")) == ["a/b/y", "a/x", "a/x-1", "a/x.json"]


def test_a_stamp_changes_with_the_content_and_only_with_it(store):
    store.write("raw/one", b"1")
    store.write("raw/two", b"2")
    before = dict(store.stamps("raw"))
    assert list(before) == ["raw/one", "raw/two"] and before["raw/one"] != before["raw/two"]
    store.write("raw/one", b"1")
    store.write("raw/two", b"changed")
    after = dict(store.stamps("raw"))
    assert after["raw/one"] == before["raw/one"] and after["raw/two"] != before["raw/two"]
    assert dict(store.sizes("raw")) == {key: len(store.read(key)) for key in after}
    assert dict(store.stamps("raw/one")) == {"raw/one": before["raw/one"]}


def test_an_object_is_swapped_only_while_it_is_what_was_expected(store):
    assert not store.swap("models/a/pointer", b"1", b"2")
    assert store.swap("models/a/pointer", None, b"1")
    assert not store.swap("models/a/pointer", None, b"2")
    assert not store.swap("models/a/pointer", b"0", b"2")
    assert store.read("models/a/pointer") == b"1"
    assert store.swap("models/a/pointer", b"1", b"2")
    assert not store.swap("models/a/pointer", b"1", b"2")
    assert store.read("models/a/pointer") == b"2"
    assert list(store.list("")) == ["models/a/pointer"]


@pytest.mark.parametrize("expected", [None, b"before"])
def test_of_several_that_swap_at_once_one_wins(store, expected):
    for number in range(5):
        key = f"pointer-{number}"
        if expected:
            store.write(key, expected)
        data = [str(n).encode() for n in range(4)]
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(lambda new, key=key: store.swap(key, expected, new), data))
        assert won.count(True) == 1
        assert store.read(key) == data[won.index(True)]


def test_of_several_processes_that_count_in_a_folder_none_is_lost(directory_store):
    program = """
import sys
from telellm.store import Store
store = Store.open(sys.argv[1])
for _ in range(25):
    while True:
        before = store.read("count") if store.exists("count") else None
        if store.swap("count", before, str(int(before or 0) + 1).encode()):
            break
"""
    counting = [subprocess.Popen([sys.executable, "-c", program, directory_store.uri]) for _ in range(3)]
    assert [process.wait() for process in counting] == [0, 0, 0]
    assert directory_store.read("count") == b"75"


def test_a_large_file_goes_there_and_comes_back(store, tmp_path):
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * 4 * 12_500)  # 12.8 MB: several parts of an upload
    store.upload("models/large", source)
    store.download("models/large", tmp_path / "back")
    assert sha256_file(tmp_path / "back") == sha256_file(source)
    assert sorted(path.name for path in tmp_path.iterdir() if "back" in path.name) == ["back"]


def test_a_fetched_file_is_checked_against_its_digest(store, tmp_path):
    store.write("a/file", b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    assert store.fetch("a/file", digest).read_bytes() == b"content"
    assert store.fetch("a/file", digest).read_bytes() == b"content"
    with pytest.raises(TornOutput, match=r"is not the file that its manifest names.*run again"):
        store.fetch("a/file", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(TornOutput, match="is in a manifest but not in the store"):
        store.fetch("a/missing", hashlib.sha256(b"other").hexdigest())


def test_an_output_is_there_when_its_manifest_is(store, folder):
    manifest = store.commit("stages/clean/1", folder, {"stage": "clean"})
    assert store.manifest("stages/clean/1") == manifest
    assert manifest["stage"] == "clean" and list(manifest["files"]) == NAMES
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        assert store.fetch(f"stages/clean/1/{name}", entry["sha256"]).stat().st_size == entry["bytes"]
    assert list(store.list("stages/clean/1")) == sorted(
        [*(f"stages/clean/1/{n}" for n in NAMES), "stages/clean/1/manifest.json"]
    )


def test_an_output_without_a_manifest_is_not_there_and_is_replaced(store, folder):
    store.write("stages/clean/1/data/left-over.parquet", b"half")
    store.write("stages/clean/1/data/a-00000.parquet", b"half")
    assert store.manifest("stages/clean/1") is None
    manifest = store.commit("stages/clean/1", folder, {})
    assert "data/left-over.parquet" not in manifest["files"]
    assert not store.exists("stages/clean/1/data/left-over.parquet")
    assert store.read("stages/clean/1/data/a-00000.parquet") == (folder / "data/a-00000.parquet").read_bytes()


def test_an_output_with_other_files_replaces_the_one_that_was_there(store, folder):
    store.commit("models/one", folder, {"try": 1})
    (folder / "data/a-00000.parquet").unlink()
    (folder / "data/b-00000.parquet").write_bytes(b"another")
    manifest = store.commit("models/one", folder, {"try": 2})
    assert list(manifest["files"]) == NAMES[1:] and store.manifest("models/one") == manifest
    assert not store.exists("models/one/data/a-00000.parquet")
    assert store.read("models/one/data/b-00000.parquet") == b"another"


def test_an_output_is_gone_with_its_folder_and_its_neighbour_stays(store, folder):
    store.commit("stages/clean/1", folder, {})
    store.commit("stages/clean/10", folder, {})
    store.delete("stages/clean/1")
    assert store.manifest("stages/clean/1") is None and list(store.list("stages/clean/1")) == []
    assert store.manifest("stages/clean/10") is not None


def test_a_damaged_manifest_is_a_torn_output(store):
    store.write("stages/clean/1/manifest.json", b'{"files": {')
    with pytest.raises(TornOutput, match=r"stages/clean/1/manifest.json is damaged .*run again"):
        store.manifest("stages/clean/1")


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/outside", "a/..", "a\0b"])
def test_a_key_that_leaves_the_store_is_refused(store, key, tmp_path):
    for use in (store.read, store.exists, store.delete, store.manifest, lambda key: list(store.list(key))):
        with pytest.raises(InvalidStore, match="would leave the store"):
            use(key)
    with pytest.raises(InvalidStore, match="would leave the store"):
        store.write(key, b"1")
    assert not (tmp_path / "outside").exists()


def test_two_prefixes_of_one_store_do_not_see_each_other(store):
    one, two = Store.open(f"{store.uri}/one"), Store.open(f"{store.uri}/one-more")
    one.write("a", b"1")
    two.write("b", b"2")
    assert list(one.list("")) == ["a"] and list(two.list("")) == ["b"]
    assert list(store.list("")) == ["one-more/b", "one/a"]


def test_a_store_is_found_again_by_its_address(store):
    store.write("a", b"1")
    assert Store.open(store.uri).read("a") == b"1"


@given(data=st.binary(), value=st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none())))
def test_any_bytes_and_any_json_come_back(tmp_path_factory, data, value):
    store = DirectoryStore(tmp_path_factory.mktemp("store"))
    store.write("a", data)
    store.write_json("b", value)
    assert store.read("a") == data and store.read_json("b") == value


def test_a_folder_with_a_strange_name_is_a_store(tmp_path):
    for name in ("with space", "größe%20#1", "a?b"):
        store = Store.open(str(tmp_path / name))
        store.write("a", b"1")
        assert (tmp_path / name / "a").read_bytes() == b"1"
        assert Store.open(store.uri).read("a") == b"1"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://host/a", r'"ftp" is not a kind of store; known kinds: file, s3'),
        ("file://host/a", r"write file:///absolute/path or a plain path"),
    ],
)
def test_what_is_not_a_store_is_refused_with_what_is(address, words):
    with pytest.raises(InvalidStore, match=words):
        Store.open(address)


def test_a_store_that_cannot_be_a_folder_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="the folder cannot be made"):
        Store.open(str(tmp_path / "file" / "store"))


def test_a_killed_write_leaves_nothing_that_is_read(tmp_path):
    store = Store.open(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".manifest.json.0123.part").write_text("{")
    assert list(store.list("")) == [] and store.manifest("a") is None


def test_a_manifest_is_json_that_a_person_can_read(tmp_path, folder):
    store = Store.open(str(tmp_path / "store"))
    store.commit("a", folder, {"stage": "prüfen"})
    text = (tmp_path / "store/a/manifest.json").read_text()
    assert "prüfen" in text and text.count("\n") > 5 and json.loads(text)["files"]


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TELELLM_CACHE", str(tmp_path / "cache"))
    assert cache_directory() == tmp_path / "cache" and (tmp_path / "cache").is_dir()


def test_an_object_is_put_under_another_key_too(store: Store) -> None:
    store.write("one/text", b"text")
    for _ in range(2):  # a second time over the first
        store.copy("one/text", "two/folder/text")
    store.remove("one/text")
    assert store.read("two/folder/text") == b"text" and list(store.list("")) == ["two/folder/text"]
    with pytest.raises(FileNotFoundError):
        store.copy("one/text", "two/again")


SHA = "0" * 64


@pytest.mark.parametrize(
    ("files", "trouble"),
    [
        ({"data/../../../etc/x": {}}, "leaves its folder"),
        ({"model//etc/passwd": {}}, "leaves its folder"),
        ({"/etc/passwd": {}}, "leaves its folder"),
        ({"data/a": {"bytes": 1, "sha256": "../../../../etc/passwd"}}, "digest"),
        ({"data/a": {"bytes": 1, "sha256": "/etc/passwd"}}, "digest"),
        ({"data/a": {"bytes": -1, "sha256": SHA}}, "size"),
        ({"data/a": {"bytes": "1", "sha256": SHA}}, "size"),
        ({"data/a": {"bytes": 1, "sha256": SHA, "key": "../other/data/a"}}, "leaves the store"),
        ({"data/a": {"bytes": 1, "sha256": SHA, "key": 7}}, "leaves the store"),
        ({"data/a": 1}, "says nothing"),
        (["data/a"], "names no files"),
    ],
)
def test_a_manifest_that_leads_elsewhere_is_not_followed(directory_store, files, trouble):
    directory_store.write_json("a/manifest.json", {"files": files})
    with pytest.raises(TornOutput, match=rf"a/manifest\.json: .*{trouble}"):
        directory_store.manifest("a")


@pytest.mark.parametrize("content", [b"[1]", b'"x"', b"[" * 100_000, b"null"])
def test_a_manifest_that_is_no_object_is_a_torn_output(directory_store, content):
    directory_store.write("a/manifest.json", content)
    with pytest.raises(TornOutput, match="is damaged"):
        directory_store.manifest("a")


def test_a_manifest_that_is_among_the_files_of_an_output_is_not_its_own(directory_store, folder):
    (folder / "manifest.json").write_text('{"files": {}, "mine": 1}')
    manifest = directory_store.commit("a", folder, {"stage": "clean"})
    assert "manifest.json" not in manifest["files"] and directory_store.manifest("a") == manifest
