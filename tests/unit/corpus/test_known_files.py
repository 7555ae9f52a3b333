import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from telellm.corpus import known_files
from telellm.corpus.known_files import Listed, list_files
from telellm.store import Store, sha256_file

AGES_AGO = 1_600_000_000


class Night:
    """A folder of files, a store, and what was read of them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.raw, self.store, self.read = root / "raw", Store.open(str(root / "store")), list[str]()
        monkeypatch.setattr(known_files, "SETTLED_NS", 0)  # files of a test are young
        monkeypatch.setattr(known_files, "sha256_file", self._digest)

    def _digest(self, path: Path) -> str:
        self.read.append(path.relative_to(self.raw).as_posix())
        return sha256_file(path)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.raw / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        time.sleep(0.01)  # a tick of the file system's clock

    def look(self, single: str = "") -> list[str]:
        """List the files; returns the names of those that were read, after all digests were found true."""
        self.read.clear()
        found = dict(list_files(Store.open(str(self.raw)), single, self.store))
        texts = {key: (self.raw / key).read_bytes() for key in found}
        assert found == {key: Listed(sha256(text).hexdigest(), len(text)) for key, text in texts.items()}
        assert list(found) == sorted(found)
        return list(self.read)


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    return Night(tmp_path, monkeypatch)


def test_only_what_is_new_or_changed_is_read_again(night: Night) -> None:
    night.write(a="1", b="2", d="4")
    assert night.look() == ["a.txt", "b.txt", "d.txt"]
    assert night.look() == []
    night.write(b="5", c="3")
    (night.raw / "a.txt").unlink()
    assert night.look() == ["b.txt", "c.txt"]
    assert night.look() == []


def test_a_change_that_hides_behind_the_old_size_and_time_is_seen(night: Night) -> None:
    night.write(a="1", b="2")
    for name in ("a.txt", "b.txt"):
        os.utime(night.raw / name, (AGES_AGO, AGES_AGO))
    time.sleep(0.01)
    assert night.look() == ["a.txt", "b.txt"]
    night.write(a="3")
    os.utime(night.raw / "a.txt", (AGES_AGO, AGES_AGO))
    (night.raw / "other").write_text("4")
    os.utime(night.raw / "other", (AGES_AGO, AGES_AGO))
    (night.raw / "other").replace(night.raw / "b.txt")
    assert night.look() == ["a.txt", "b.txt"]


def test_a_file_that_may_change_within_the_tick_is_read_until_it_is_old(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.write(a="1")
    monkeypatch.setattr(known_files, "SETTLED_NS", 60 * 10**9)
    assert night.look() == night.look() == ["a.txt"]
    monkeypatch.setattr(known_files, "SETTLED_NS", 0)
    assert night.look() == ["a.txt"] and night.look() == []


@pytest.mark.parametrize("damage", [b"", b"\xff\n", b"1-2-3-4 digest\n", b"x y z\n", b"\n\n"])
def test_what_is_remembered_may_be_damaged(damage: bytes, night: Night) -> None:
    night.write(a="1", b="2")
    night.look()
    (key,) = night.store.list("sources")
    first, second = night.store.read(key).splitlines(keepends=True)
    night.store.write(key, first + damage + second)
    assert night.look() in (["b.txt"], [])
    night.store.write(key, damage + second)
    night.look()
    assert night.look() == []
    night.store.write(key, second + first)
    night.look()


def test_names_may_hold_anything_and_a_source_may_be_one_file(night: Night) -> None:
    names = ["a\nb", 'c "d" \\', "é ü 漢", "e f", "g/h", " i", "\udcff"]
    night.write(**dict.fromkeys(names, "text"))
    assert night.look() == sorted(f"{name}.txt" for name in names)
    assert night.look() == ["a\nb.txt"]  # too rare to be remembered
    assert night.look("e f.txt") == ["e f.txt"]
    assert night.look("e f.txt") == []


def test_nothing_is_written_when_nothing_changed(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    night.write(a="1")
    night.look()
    monkeypatch.setattr(night.store, "write", lambda key, data: pytest.fail(f"{key} is written"))
    assert night.look() == []


def test_a_bucket_says_itself_what_changed(bucket_uri: str, tmp_path: Path) -> None:
    bucket, store = Store.open(f"{bucket_uri}/raw"), Store.open(str(tmp_path))
    bucket.write("a.txt", b"one")
    before = dict(list_files(bucket, "", store))
    bucket.write("a.txt", b"three")
    after = dict(list_files(bucket, "", store))
    assert [file.num_bytes for file in (before["a.txt"], after["a.txt"])] == [3, 5]
    assert before["a.txt"].stamp != after["a.txt"].stamp and list(store.list("sources")) == []
