"""Archives: what is read from them, and what is refused."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from telellm.corpus.sources import archive
from telellm.corpus.sources.archive import Refused, archive_stem, read_texts

TEXTS = {"main.tex": b"Hello \\input{parts/one}", "parts/one.tex": b"there"}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def reason_of(path: Path) -> str:
    with pytest.raises(Refused) as refused:
        read_texts(path)
    return refused.value.reason


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_gives_its_text_files_and_passes_over_its_figures(tmp_path: Path, mode: str) -> None:
    path = write_tar(tmp_path / "2401.00001.tar.gz", TEXTS | {"figure.png": b"\x89PNG"}, mode)
    assert read_texts(path) == TEXTS


def test_a_zip_and_a_folder_give_the_same_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "paper.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in TEXTS.items():
            packed.writestr(name, content)
            target = tmp_path / "paper" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    assert read_texts(tmp_path / "paper.zip") == read_texts(tmp_path / "paper") == TEXTS


def test_a_single_file_is_read_plain_and_packed(tmp_path: Path) -> None:
    (tmp_path / "2401.00001.gz").write_bytes(gzip.compress(b"\\documentclass{article}" * 100))
    (tmp_path / "short.tex").write_bytes(b"x")
    assert read_texts(tmp_path / "2401.00001.gz") == {"2401.00001.tex": b"\\documentclass{article}" * 100}
    assert read_texts(tmp_path / "short.tex") == {"short.tex": b"x"}


@pytest.mark.parametrize("name", ["../out.tex", "/etc/out.tex", "a/../../out.tex", "..\\out.tex", "C:\\out.tex"])
def test_a_member_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    assert reason_of(write_tar(tmp_path / "a.tar.gz", TEXTS | {name: b"x"})) == "escapes its folder"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(name, "x")
    assert reason_of(tmp_path / "a.zip") == "escapes its folder"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_device_in_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("main.tex")
        member.type, member.linkname = kind, "secret"
        tar.addfile(member)
    assert reason_of(tmp_path / "a.tar") == "escapes its folder"


def test_a_link_out_of_a_folder_or_in_a_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("secret")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "main.tex").symlink_to(tmp_path / "secret.tex")
    assert reason_of(tmp_path / "paper") == "escapes its folder"
    link = zipfile.ZipInfo("main.tex")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "../secret.tex")
    assert reason_of(tmp_path / "a.zip") == "escapes its folder"


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100_000)
    monkeypatch.setattr(archive, "MAX_STREAM_BYTES", 400_000)
    zeros = bytes(200_000)
    assert reason_of(write_tar(tmp_path / "text.tar.gz", {"main.tex": zeros})) == "too large"
    halves = {f"{number}.tex": zeros[:60_000] for number in range(2)}
    assert reason_of(write_tar(tmp_path / "sum.tar.gz", halves)) == "too large"
    assert reason_of(write_tar(tmp_path / "figure.tar.gz", {"a.png": zeros * 3})) == "too large"
    (tmp_path / "one.gz").write_bytes(gzip.compress(zeros))
    assert reason_of(tmp_path / "one.gz") == "too large"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("main.tex", zeros)
    assert reason_of(tmp_path / "a.zip") == "too large"


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 10)
    assert reason_of(write_tar(tmp_path / "a.tar.gz", {f"{n}.png": b"" for n in range(11)})) == "too large"


def test_a_torn_archive_is_damaged_wherever_it_ends(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar.gz", {"main.tex": bytes(range(256)) * 50}).read_bytes()
    torn = tmp_path / "torn.tar.gz"
    for size in range(20, len(whole) - 1, 7):
        torn.write_bytes(whole[:size])
        assert reason_of(torn) == "damaged archive"


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("main.tex", "hello " * 1000)
    broken = bytearray((tmp_path / "a.zip").read_bytes())
    broken[45:60] = bytes(15)
    (tmp_path / "a.zip").write_bytes(broken)
    assert reason_of(tmp_path / "a.zip") == "damaged archive"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("cs/2401.01234v2.tar.gz", "2401.01234v2"),
        ("2401.01234", "2401.01234"),
        ("2401.01234.gz", "2401.01234"),
        ("paper.tex.gz", "paper"),
        ("a.TGZ", "a"),
        ("folder/project.zip", "project"),
    ],
)
def test_a_name_loses_only_the_extensions_of_archives(name: str, stem: str) -> None:
    assert archive_stem(name) == stem
