"""Tests of reading plain text, Markdown and RFCs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.corpus.sources.file import MAX_LINE_CHARACTERS, SourceFile
from telellm.corpus.sources.text import MAX_LINES, clean_pages, read
from telellm.records import Document, Rejected

RFC = """\n\n\nNetwork Working Group                                      A. Author
Request for Comments: 9999                                   May 2031
Category: Informational


                    A Protocol for Counting Antennas

Abstract

   This memo counts antennas; a station says how many it has, and its
   peer says\x20\x20


Author                       Informational                      [Page 1]
\f
RFC 9999                   Counting Antennas                    May 2031


   how many it believes.

    0                   1
   +-+-+-+-+-+-+-+-+-+-+-+
   | Type  |   Count     |


Author                       Informational                      [Page 2]
\f
RFC 9999                   Counting Antennas                    May 2031


   | Length  |  Flags    |
   +-+-+-+-+-+-+-+-+-+-+-+

2.  Messages

   A message ends here.


Author                       Informational                      [Page 3]
\f
RFC 9999                   Counting Antennas                    May 2031


   Another paragraph on the next page.


Author                       Informational                      [Page 4]
\f
"""


def source(folder: Path, content: bytes, name: str = "notes.txt") -> SourceFile:
    """Write a file into a source's folder."""
    path = folder / "content"
    path.write_bytes(content)
    return SourceFile(path, name, f"https://example.org/{name}", "CC-BY-4.0", "2031-05-01")


def one(folder: Path, content: bytes, name: str = "notes.txt") -> Document:
    """Read a file that holds one document."""
    (document,) = read(source(folder, content, name), "web")
    assert isinstance(document, Document)
    return document


def reason(folder: Path, content: bytes) -> str:
    """Read a file that is rejected."""
    (rejected,) = read(source(folder, content), "web")
    assert isinstance(rejected, Rejected)
    return rejected.reason


def test_page_heads_and_feet_of_an_rfc_are_taken_out(tmp_path: Path) -> None:
    content = one(tmp_path, RFC.encode()).content
    assert "[Page" not in content and "\f" not in content and "Informational  " not in content
    assert content.count("May 2031") == 1  # Only the memo's own date.
    assert content.startswith("Network Working Group")


def test_a_paragraph_cut_by_a_page_is_one_again(tmp_path: Path) -> None:
    content = one(tmp_path, RFC.encode()).content
    assert "   peer says\n   how many it believes." in content
    assert "A message ends here.\n\n   Another paragraph" in content


def test_a_diagram_cut_by_a_page_is_one_again(tmp_path: Path) -> None:
    diagram = "   +-+-+-+-+-+-+-+-+-+-+-+\n   | Type  |   Count     |\n   | Length  |  Flags    |\n   +-+-+-+-+"
    assert diagram in one(tmp_path, RFC.encode()).content


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (RFC, "A Protocol for Counting Antennas"),
        ("intro\n\n# The F1 split #\n\nText.\n", "The F1 split"),
        ("Building the gNB\n================\n\nText.\n", "Building the gNB"),
        ('<h1 align="center"><b>Fronthaul</b> tutorial</h1>\n\n# 1. Scenario\n', "Fronthaul tutorial"),
        ("just text\n", ""),
    ],
)
def test_the_title_is_found(tmp_path: Path, text: str, title: str) -> None:
    assert one(tmp_path, text.encode()).fields["title"] == title


def test_the_id_is_the_name_within_the_source(tmp_path: Path) -> None:
    document = one(tmp_path, b"Text.", "Docs/5G NAS (v2).notes/README.md")
    assert document.id == "web_docs-5g-nas-v2-.notes-readme"
    assert document.fields["source_url"].endswith("README.md")
    assert document.fields["licence"] == "CC-BY-4.0"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_encodings_are_told_apart(tmp_path: Path, encoding: str) -> None:
    text = "Größe der Zelle: 3 µs\nand a second line of plain words\n"
    assert one(tmp_path, text.encode(encoding)).content == text.strip()


def test_lines_and_markdown_stay_as_they_are(tmp_path: Path) -> None:
    text = "# Title\n\n- item\n    - inner\n\n```\nif a:\n\tb()\n```\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert one(tmp_path, text.replace("\n", "\r\n").encode()).content == text


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"%PDF-1.7 text", b"abc\0def\0\1", b"\x01\x02\x03 and text"])
def test_what_is_not_text_is_rejected(tmp_path: Path, content: bytes) -> None:
    assert reason(tmp_path, content) == "not text"


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\xef\xbb\xbf", b"\f\f"])
def test_an_empty_text_is_rejected(tmp_path: Path, content: bytes) -> None:
    assert reason(tmp_path, content) == "no text"


@pytest.mark.parametrize("letter", ["a", "é", "😀"])
def test_one_long_line_is_rejected(tmp_path: Path, letter: str) -> None:
    assert reason(tmp_path, letter.encode() * (MAX_LINE_CHARACTERS + 1)) == "line too long"
    assert len(one(tmp_path, letter.encode() * MAX_LINE_CHARACTERS).content) == MAX_LINE_CHARACTERS


def test_a_giant_line_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "giant"
    with path.open("wb") as stream:
        stream.write(b"a" * 5_000_000)
        stream.truncate(2**40)  # A terabyte, of which the rest is never read.
    (rejected,) = read(SourceFile(path, "giant", "", "", ""), "web")
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "line too long"


def test_too_many_lines_are_rejected(tmp_path: Path) -> None:
    assert reason(tmp_path, b"a\n" * (MAX_LINES + 1)) == "too large"


@given(st.binary(max_size=3000))
def test_arbitrary_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    (result,) = read(source(tmp_path_factory.getbasetemp(), content), "wiki")
    assert isinstance(result, Document | Rejected)


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_words_survive(word: str) -> None:
    assert clean_pages(f"before {word} after\n".encode()) == f"before {word} after"
