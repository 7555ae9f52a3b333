"""arXiv: a LaTeX project becomes one document, or one reject with its reason."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm.corpus.sources import arxiv
from telellm.corpus.sources.archive import Refused
from telellm.corpus.sources.arxiv import decode, find_main, flatten, read
from telellm.corpus.sources.file import SourceFile
from telellm.records import Document, Rejected

PAPER = r"""\documentclass{article}
\newcommand{\vh}{\mathbf{h}}
\title{Beams for Cells}
\begin{document}
\begin{abstract}We point beams.\end{abstract}
\input{parts/intro}
\bibliography{refs}
\end{document}
"""
INTRO = "\\section{Introduction}\nThe channel is $\\vh$. % aside\n"


def source_file(path: Path) -> SourceFile:
    return SourceFile(path, f"cs/{path.name}", "https://arxiv.org/abs/2401.00001", "CC-BY-4.0", "2026-01-01")


def read_one(path: Path) -> Document | Rejected:
    (item,) = read(source_file(path))
    return item


def read_document(path: Path) -> Document:
    item = read_one(path)
    assert isinstance(item, Document), item
    return item


def reason_of(path: Path) -> str:
    item = read_one(path)
    assert isinstance(item, Rejected)
    return item.reason


def write_project(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".tex")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_project_becomes_one_document(tmp_path: Path) -> None:
    document = read_document(write_project(tmp_path / "2401.00001v1", main=PAPER, parts__intro=INTRO))
    assert document.id == "arxiv_2401.00001v1"
    assert document.content == (
        "# Beams for Cells\n\n## Abstract\n\nWe point beams.\n\n## Introduction\n\nThe channel is $\\mathbf{h}$."
    )
    fields = document.fields
    assert (fields["title"], fields["categories"], fields["versions"]) == ("Beams for Cells", [], [])
    assert (fields["num_formulas"], fields["licence"], fields["abstract"]) == (1, "CC-BY-4.0", "We point beams.")


def test_a_folder_a_tar_and_a_single_file_read_alike(tmp_path: Path) -> None:
    whole = PAPER.replace("\\input{parts/intro}", INTRO)
    folder = read_document(write_project(tmp_path / "a", main=PAPER, parts__intro=INTRO))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a", ".")
    (tmp_path / "a.gz").write_bytes(gzip.compress(whole.encode()))
    (tmp_path / "a.tex").write_text(whole)
    others = [read_document(tmp_path / name) for name in ("a.tar.gz", "a.gz", "a.tex")]
    assert {document.content for document in [folder, *others]} == {folder.content}
    assert {document.id for document in [folder, *others]} == {"arxiv_a"}


@pytest.mark.parametrize("stale", ["main.bak", "main_old", "old/main", "main (copy)", "main-v1", "backup/paper"])
def test_a_stale_copy_is_not_the_main_file(stale: str) -> None:
    texts = {f"{stale}.tex": PAPER.encode() * 3, "open.tex": PAPER.encode(), "parts/intro.tex": INTRO.encode()}
    assert find_main(texts) == "open.tex"


def test_the_main_file_is_the_one_that_inputs_the_others() -> None:
    part = b"\\documentclass[main]{subfiles}\\begin{document}Part\\end{document}"
    texts = {
        "aaa.tex": b"\\documentclass{article}\\begin{document}Cover letter\\end{document}",
        "part.tex": part,
        "zzz.tex": b"\\documentclass{book}\\begin{document}Whole: \\subfile{part}\\end{document}",
    }
    assert find_main(texts) == "zzz.tex"
    assert "Whole: Part" in flatten(texts, "zzz.tex")


def test_inputs_are_found_in_all_their_forms_and_only_inside_the_project(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("secret")
    texts = {
        "main.tex": rb"\input a \include{b} \import{c/}{d} \input{../secret} \input{/secret} \input{none}%\input{a}",
        "a.tex": b"AA\\endinput gone",
        "b.tex": b"BB",
        "c/d.tex": b"DD\\input{e}",
        "c/e.tex": b"EE",
    }
    assert flatten(texts, "main.tex").split() == ["AA", "BB", "DDEE"]


def test_an_input_loop_is_refused(tmp_path: Path) -> None:
    paper = PAPER.replace("parts/intro", "one")
    assert reason_of(write_project(tmp_path / "a", main=paper, one="\\input{two}", two="\\input{one}")) == "input loop"
    assert reason_of(write_project(tmp_path / "b", main=PAPER.replace("parts/intro", "main"))) == "input loop"


def test_inputs_that_multiply_are_refused(tmp_path: Path) -> None:
    files = {f"f{number}": f"\\input{{f{number + 1}}}" * 10 for number in range(9)} | {"f9": "x"}
    folder = write_project(tmp_path / "a", main=PAPER.replace("parts/intro", "f0"), **files)
    assert reason_of(folder) == "too large"


def test_what_is_no_paper_is_rejected_with_its_reason(tmp_path: Path) -> None:
    assert reason_of(write_project(tmp_path / "a", notes="Just words.")) == "not a LaTeX project"
    empty = "\\documentclass{article}\\title{T}\\begin{document}\\maketitle\\includepdf{a.pdf}\\end{document}"
    assert reason_of(write_project(tmp_path / "b", main=empty)) == "no text"
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(b"\0" * 2000)[:20])
    assert reason_of(tmp_path / "c.tar.gz") == "damaged archive"
    (tmp_path / "d").mkdir()
    assert reason_of(tmp_path / "d") == "not a LaTeX project"


def test_a_member_that_leads_out_is_rejected(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("../main.tex")
        member.size = len(PAPER)
        tar.addfile(member, io.BytesIO(PAPER.encode()))
    assert reason_of(tmp_path / "a.tar") == "escapes its folder"


def test_macro_bombs_and_long_lines_are_rejected(tmp_path: Path) -> None:
    chain = "".join(f"\\def\\{chr(98 + i)}{{\\{chr(97 + i)}\\{chr(97 + i)}\\{chr(97 + i)}}}" for i in range(24))
    bomb = PAPER.replace("\\input{parts/intro}", f"\\def\\a{{xx}}{chain}\\y")
    assert reason_of(write_project(tmp_path / "a", main=bomb)) == "too large"
    long = PAPER.replace("\\input{parts/intro}", "x" * 1_000_001)
    assert reason_of(write_project(tmp_path / "b", main=long)) == "too large"


def test_more_text_than_a_book_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arxiv, "MAX_TEX_CHARACTERS", 5_000)
    folder = write_project(tmp_path / "a", main=PAPER, parts__intro=INTRO + "word " * 2_000)
    assert reason_of(folder) == "too large"


def test_latin_1_and_nul_bytes_are_read(tmp_path: Path) -> None:
    intro = "Universit\xe9\0 de Gen\xe8ve".encode("latin-1")
    assert (
        "Université de Genève" in read_document(write_project(tmp_path / "a", main=PAPER, parts__intro=intro)).content
    )


def test_a_style_file_of_the_project_lends_its_macros(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "a", main=PAPER.replace("\\title", "\\usepackage{amsmath,own}\n\\title", 1))
    (folder / "own.sty").write_text("\\newcommand{\\name}{OFDM}\n\\def\\name@inner{x}")
    (folder / "parts").mkdir()
    (folder / "parts" / "intro.tex").write_text("This is \\name.")
    assert read_document(folder).content.endswith("This is OFDM.")


@given(st.binary(max_size=300))
def test_any_bytes_decode_without_control_characters(content: bytes) -> None:
    assert not set(decode(content)) & set(map(chr, [*range(9), 11, 12, *range(14, 32)]))


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_document_or_a_reject(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tar.gz"
    for head in (b"", b"\x1f\x8b\x08\0", b"PK\x03\x04", b"\\documentclass{a}\\begin{document}"):
        path.write_bytes(head + content)
        assert isinstance(read_one(path), Document | Rejected)


def test_flatten_refuses_what_is_too_deep() -> None:
    texts = {f"{number}.tex": f"\\input{{{number + 1}}}".encode() for number in range(40)}
    with pytest.raises(Refused, match="deeper"):
        flatten(texts, "0.tex")
