"""Tests of reading specifications and Tdocs from Word files."""

import zipfile
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from docx import Document as new_word
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm.corpus.sources import word_file
from telellm.corpus.sources.file import SourceFile
from telellm.corpus.sources.standards import identify, read
from telellm.corpus.sources.word import MAX_CELL_CHARACTERS, MAX_ROWS, Word
from telellm.records import Document, Rejected

NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
)
STYLES = {
    **{f"Heading{level}": f"heading {level}" for level in range(1, 10)},
    **{name: name for name in ["ZA", "ZB", "ZT", "TT", "PL", "B1", "B2", "EX", "EW", "NO", "TH"]},
    "TOC1": "toc 1",
    "CRCoverPage": "CR Cover Page",
}


def p(text: str, style: str = "", properties: str = "") -> str:
    """Return a paragraph; tabs in its text are Word's tabs, newlines its line breaks."""
    named = f'<w:pStyle w:val="{style}"/>' if style else ""
    inner = "".join({"\t": "<w:tab/>", "\n": "<w:br/>"}.get(c, f"<w:t>{escape(c)}</w:t>") for c in text)
    return f"<w:p><w:pPr>{named}{properties}</w:pPr><w:r>{inner}</w:r></w:p>"


def table(*rows: list[str]) -> str:
    """Return a table of cells, each given as text or as XML."""
    cells = ("".join(f"<w:tc>{c if c.startswith('<w:') else p(c)}</w:tc>" for c in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def package(body: str, **parts: str) -> bytes:
    """Return a Word file."""
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{key}"><w:name w:val="{name}"/></w:style>'
        for key, name in STYLES.items()
    )
    contents = {
        "word/document.xml": f"<w:document {NAMESPACES}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {NAMESPACES}>{styles}</w:styles>",
    } | {f"word/{name}.xml": xml.replace("NS", NAMESPACES) for name, xml in parts.items()}
    return archive({name: xml.encode() for name, xml in contents.items()})


def archive(members: dict[str, bytes]) -> bytes:
    """Return a zip."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return packed.getvalue()


def results(folder: Path, content: bytes, name: str = "23999-i30.docx") -> list[Document | Rejected]:
    """Read a file with these bytes."""
    path = folder / "content"
    path.write_bytes(content)
    return list(read(SourceFile(path, name, "https://example.org/", "CC0", "")))


def one(folder: Path, content: bytes, name: str = "23999-i30.docx") -> Document:
    """Read a file that holds one document."""
    (document,) = results(folder, content, name)
    assert isinstance(document, Document), document
    return document


def cell(inner: str, properties: str = "") -> str:
    """Return a cell of a table."""
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{inner}</w:tc>"


def text(folder: Path, body: str, **parts: str) -> str:
    """Return the content of a document with this body."""
    return one(folder, package(body, **parts)).content


def reason(folder: Path, content: bytes) -> str:
    """Read a file that is rejected."""
    (rejected,) = results(folder, content)
    assert isinstance(rejected, Rejected), rejected
    return rejected.reason


COVER = (
    p("3GPP TS 23.999 V18.3.0 (2031-05)", "ZA")
    + p("3rd Generation Partnership Project;", "ZT")
    + p("Technical Specification Group Antennas;", "ZT")
    + p("Counting of antennas;", "ZT")
    + p("Stage 2", "ZT")
    + p("(Release 18)", "ZT")
    + p("Postal address")
    + p("Contents", "TT")
    + p("1\tScope\t5", "TOC1")
)


def test_a_specification_begins_with_its_title_and_has_no_cover(tmp_path: Path) -> None:
    document = one(tmp_path, package(COVER + p("1\tScope", "Heading1") + p("Antennas are counted.")))
    assert document.id == "standard_23999-i30"
    assert document.content == "# 3GPP TS 23.999: Counting of antennas; Stage 2\n\n## 1 Scope\n\nAntennas are counted."
    fields = document.fields
    assert (fields["series"], fields["specification"]) == ("23", "23.999")
    assert (fields["release"], fields["version"]) == ("18", "18.3.0")
    assert fields["title"] == "Counting of antennas; Stage 2"
    assert fields["clauses"] == [["1", "Scope"]]


@pytest.mark.parametrize(
    ("stem", "specification", "version", "release"),
    [
        ("23032-i30", "23.032", "18.3.0", "18"),
        ("38101-1-ia1", "38.101-1", "18.10.1", "18"),
        ("36331-f00_s05-06", "36.331", "15.0.0", "15"),
        ("25301-3d0", "25.301", "3.13.0", "99"),
        ("24008-183600", "24.008", "18.36.0", "18"),
        ("ts_123032v180300p", "23.032", "18.3.0", "18"),
        ("ts_13810101v150300p", "38.101-1", "15.3.0", "15"),
        ("notes", "", "", ""),
    ],
)
def test_a_file_name_tells_the_specification(stem: str, specification: str, version: str, release: str) -> None:
    found = identify(stem, Word())
    assert (found["specification"], found["version"], found["release"]) == (specification, version, release)


def test_a_change_request_keeps_what_was_asked_and_why(tmp_path: Path) -> None:
    form = table(
        [p("23.502", "CRCoverPage"), "CR", "3598", "rev", "1", "Current version:", "17.6.0"],
        ["Title:\t", "Counting of antennas"],
        ["Release:", "Rel-18"],
        ["For HELP on using this form: see the instructions"],
        ["Reason for change:", "Nobody counts."],
    )
    document = one(tmp_path, package(form + p("4.2\tGeneral", "Heading2") + p("Text.")), "S2-9900001.docx")
    assert document.content == "# Counting of antennas\n\nReason for change: Nobody counts.\n\n### 4.2 General\n\nText."
    fields = document.fields
    assert [fields[name] for name in ("specification", "version", "release")] == ["23.502", "17.6.0", "18"]


def test_headings_take_their_level_from_the_clause_number(tmp_path: Path) -> None:
    body = (
        p("5.2.1\tCell search", "Heading4") + p("Annex B (normative):\nTests", "Heading8") + p("B.1\tSetup", "Heading1")
    )
    document = one(tmp_path, package(body))
    assert document.content == "#### 5.2.1 Cell search\n\n## Annex B (normative): Tests\n\n### B.1 Setup"
    assert document.fields["clauses"] == [["5.2.1", "Cell search"], ["B", "Tests"], ["B.1", "Setup"]]


def test_numbers_that_word_counts_are_written(tmp_path: Path) -> None:
    levels = "".join(
        f'<w:lvl w:ilvl="{i}"><w:start w:val="1"/><w:numFmt w:val="{style}"/><w:lvlText w:val="{label}"/></w:lvl>'
        for i, (style, label) in enumerate([("decimal", "%1"), ("decimal", "%1.%2"), ("lowerLetter", "%3)")])
    )
    numbering = (
        f'<w:numbering NS><w:abstractNum w:abstractNumId="7">{levels}</w:abstractNum>'
        '<w:num w:numId="3"><w:abstractNumId w:val="7"/></w:num></w:numbering>'
    )

    def counted(words: str, level: int, style: str = "") -> str:
        return p(words, style, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="3"/></w:numPr>')

    body = counted("Scope", 0, "Heading1") + counted("General", 0, "Heading1") + counted("Case", 1, "Heading2")
    body += counted("first", 2) + counted("second", 2)
    expected = "## 1 Scope\n\n## 2 General\n\n### 2.1 Case\n\n    a) first\n    b) second"
    assert text(tmp_path, body, numbering=numbering) == expected


def test_lists_notes_and_abbreviations_stay_readable(tmp_path: Path) -> None:
    body = (
        p("-\tfirst;", "B1") + p("i)\tinner;", "B2") + p("\tgoes on.", "B1")
        + p("NOTE\u00a01:\tMind the\u00ad gap.", "NO")
        + p("UE\tUser Equipment", "EW") + p("gNB\tNext generation Node B", "EW") + p("[1]\tA reference.", "EX")
    )  # fmt: skip
    assert text(tmp_path, body) == (
        "- first;\n  i) inner;\n  goes on.\n\nNOTE 1: Mind the gap.\n\n"
        "UE\tUser Equipment\ngNB\tNext generation Node B\n[1] A reference."
    )


def test_code_keeps_its_lines_and_indentation(tmp_path: Path) -> None:
    courier = (
        '<w:p><w:r><w:rPr><w:rFonts w:ascii="Courier New"/></w:rPr><w:t xml:space="preserve">  x = 1</w:t></w:r></w:p>'
    )
    body = (
        p("-- ASN1START", "PL") + p("Count ::= SEQUENCE {\n\ta\tINTEGER\n}", "PL") + p("", "PL") + courier + p("End.")
    )
    expected = "```\n-- ASN1START\nCount ::= SEQUENCE {\n    a   INTEGER\n}\n\n  x = 1\n```\n\nEnd."
    assert text(tmp_path, body) == expected


def test_a_table_keeps_its_merged_cells_in_their_columns(tmp_path: Path) -> None:
    rows = [
        cell(p("head"), '<w:gridSpan w:val="2"/>') + cell(p("c|d")),
        cell(p("tall"), '<w:vMerge w:val="restart"/>')
        + cell(p("1") + p("2"))
        + cell(table(["in", "side"], ["the", "cell"])),
        cell(p(""), "<w:vMerge/>") + cell(p("3")),
    ]
    body = f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>"
    document = one(tmp_path, package(p("x") + body))
    assert document.content.split("\n\n")[1].split("\n") == [
        "| head |  | c\\|d |",
        "| --- | --- | --- |",
        "| tall | 1 2 | in, side; the, cell |",
        "|  | 3 |  |",
    ]
    assert document.fields["num_tables"] == 1


def test_giant_cells_and_tables_are_bounded(tmp_path: Path) -> None:
    content = text(tmp_path, table(["x" * 3 * MAX_CELL_CHARACTERS, "a"], *[["b", "c"]] * (MAX_ROWS + 5)))
    assert len(content) < MAX_CELL_CHARACTERS + 20 * MAX_ROWS
    assert content.endswith("(6 more rows)")


def test_tracked_insertions_are_kept_and_deletions_are_not(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:t>The UE shall </w:t></w:r><w:del><w:r><w:delText>not </w:delText><w:tab/></w:r></w:del>"
        "<w:ins><w:r><w:t>count</w:t></w:r></w:ins><w:moveFrom><w:r><w:t> away</w:t></w:r></w:moveFrom></w:p>"
        + p(" One", properties="<w:rPr><w:del/></w:rPr>") + p(" sentence.")
        + "<w:tbl><w:tr><w:trPr><w:del/></w:trPr><w:tc><w:p/></w:tc><w:tc>" + p("gone") + "</w:tc></w:tr></w:tbl>"
    )  # fmt: skip
    assert text(tmp_path, body) == "The UE shall count\n\nOne sentence."


def test_runs_are_read_with_symbols_scripts_fields_links_and_formulas(tmp_path: Path) -> None:
    def run(inner: str, script: str = "") -> str:
        inner = inner if inner.startswith("<") else f'<w:t xml:space="preserve">{inner}</w:t>'
        return f'<w:r><w:rPr><w:vertAlign w:val="{script or "baseline"}"/></w:rPr>{inner}</w:r>'

    body = (
        run("2") + run("2", "superscript") + run("3", "superscript") + run(" K") + run("AMF", "subscript")
        + run(" 1") + run("st", "superscript") + run(" 90") + run("o", "superscript") + run(" ")
        + run('<w:sym w:font="Symbol" w:char="F061"/>') + run('<w:fldChar w:fldCharType="begin"/>')
        + run('<w:instrText>SYMBOL 163 \\f "Symbol"</w:instrText>') + run('<w:fldChar w:fldCharType="separate"/>')
        + run("?") + run('<w:fldChar w:fldCharType="end"/>') + f"<w:hyperlink>{run('1')}</w:hyperlink>"
        + run("<w:noBreakHyphen/>") + run("3 ") + run("<w:object><w:t>unseen</w:t></w:object>")
        + "<m:oMath><m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath>"
    )  # fmt: skip
    document = one(tmp_path, package(f"<w:p>{body}</w:p>"))
    assert document.content == "2^{23} K_{AMF} 1st 90° α≤1-3 $x^{2}$"
    assert document.fields["num_formulas"] == 1


def test_a_footnote_stands_below_its_paragraph(tmp_path: Path) -> None:
    notes = f'<w:footnotes NS><w:footnote w:id="2">{p("Except on Sundays.")}</w:footnote></w:footnotes>'
    body = '<w:p><w:r><w:t>Always</w:t><w:footnoteReference w:id="2"/></w:r></w:p>' + p("Next.")
    assert text(tmp_path, body, footnotes=notes) == "Always[^footnote2]\n\n[^footnote2]: Except on Sundays.\n\nNext."


def test_a_file_of_another_program_is_read(tmp_path: Path) -> None:
    word = new_word()
    word.add_heading("1 Scope", 1)
    word.add_paragraph("One item", "List Bullet")
    rows = word.add_table(2, 2)
    rows.cell(0, 0).text = "first"
    rows.cell(1, 1).text = "last"
    word.save(str(tmp_path / "saved.docx"))
    content = one(tmp_path, (tmp_path / "saved.docx").read_bytes(), "Note.DOCX").content
    assert content == "## 1 Scope\n\n- One item\n\n| first |  |\n| --- | --- |\n|  | last |"


def test_a_zip_holds_a_document_for_each_word_file(tmp_path: Path) -> None:
    files = {f"{name}.docx": package(p(f"Text of {name}.")) for name in ("23999-i30", "part/23999-i30", "__MACOSX/._x")}
    first, second, old = results(tmp_path, archive(files | {"old.DOC": b"x", "code.asn": b"x"}), "23999-i30.zip")
    assert isinstance(first, Document) and isinstance(second, Document) and isinstance(old, Rejected)
    assert (first.id, second.id) == ("standard_23999-i30", "standard_part-23999-i30")
    assert first.content == "Text of 23999-i30."
    assert second.fields["file_name"] == "23999-i30.zip/part/23999-i30.docx"
    assert (old.reason, old.item) == (
        "not a Word file",
        {"file": "23999-i30.zip/old.DOC", "uri": "https://example.org/"},
    )


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
GOOD = package(p("Good text. " * 50))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a Word file"),
        (b"%PDF-1.7", "not a Word file"),
        (b"{\\rtf1 text}", "not a Word file"),
        (OLE + "WordDocument".encode("utf-16-le"), "not a Word file"),
        (OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        (archive({"a.txt": b"x"}), "not a Word file"),
        (archive({"_rels/.rels": b"<r/>", "word/document.xml": b"<workbook/>"}), "not a Word file"),
        (archive({"../../x.docx": b"x"}), "escapes its folder"),
        (archive({"/etc/x.docx": b"x"}), "escapes its folder"),
        (archive({"C:\\x.docx": b"x"}), "escapes its folder"),
        (package(""), "no text"),
        (package(COVER), "no text"),
        (GOOD[: len(GOOD) // 2], "damaged archive"),
        (GOOD[:60] + b"\x00\xff\x00\xff" + GOOD[64:], "damaged archive"),
        (package("<w:p>"), "damaged archive"),
        (package("<w:ins>" * 1500 + "</w:ins>" * 1500), "hostile XML"),
        (package("<w:p>" + "<w:ins>" * 1500 + "</w:ins>" * 1500 + "</w:p>"), "hostile XML"),
    ],
)
def test_what_cannot_be_read_is_rejected_with_its_reason(tmp_path: Path, content: bytes, expected: str) -> None:
    assert reason(tmp_path, content) == expected


def test_an_old_word_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    (rejected,) = results(tmp_path, OLE + "WordDocument".encode("utf-16-le"), "23999-300.doc")
    assert isinstance(rejected, Rejected) and "Word 97-2003" in rejected.detail


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE d SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE d [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    ],
)
@pytest.mark.parametrize("part", ["word/document.xml", "word/styles.xml"])
def test_a_document_type_is_refused(tmp_path: Path, doctype: str, part: str) -> None:
    with zipfile.ZipFile(BytesIO(GOOD)) as good:
        members = {name: good.read(name) for name in good.namelist()}
    assert reason(tmp_path, archive(members | {part: doctype.encode() + members[part]})) == "hostile XML"


def test_a_zip_bomb_is_refused_by_what_it_declares_and_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_file, "MAX_FILE_BYTES", 100_000)
    assert reason(tmp_path, package(p("") * 10_000)) == "too large"
    lying = bytearray(package(p("a b c ") * 10_000))
    entry = lying.index(b"PK\x01\x02")
    lying[entry + 24 : entry + 28] = (500).to_bytes(4, "little")
    assert reason(tmp_path, bytes(lying)) in ("too large", "damaged archive")


def test_a_package_with_a_password_is_encrypted(tmp_path: Path) -> None:
    locked = bytearray(GOOD)
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert reason(tmp_path, bytes(locked)) == "encrypted"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(GOOD)), st.booleans())
def test_arbitrary_bytes_never_raise(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int, in_xml: bool
) -> None:
    content = archive({"word/document.xml": noise}) if in_xml else GOOD[:place] + noise + GOOD[place + len(noise) :]
    for found in results(tmp_path_factory.getbasetemp(), content):
        assert isinstance(found, Document | Rejected)


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(WORDS, min_size=2, max_size=4), min_size=2, max_size=6))
def test_a_table_of_arbitrary_cells_keeps_its_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    written = text(tmp_path_factory.getbasetemp(), table(*rows)).split("\n")
    width = max(map(len, rows))
    assert len(written) == len(rows) + 1
    for row, line in zip(rows, written[:1] + written[2:], strict=True):
        cells = line.replace(r"\|", "\0").strip("|").split("|")
        assert [cell.strip().replace("\0", "|") for cell in cells] == row + [""] * (width - len(row))


@settings(max_examples=40, deadline=None)
@given(WORDS)
def test_words_survive(tmp_path_factory: pytest.TempPathFactory, word: str) -> None:
    assert text(tmp_path_factory.getbasetemp(), p(f"before {word} after")) == f"before {word} after"


def test_endless_paragraphs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_file, "MAX_BLOCKS", 1000)
    assert reason(tmp_path, package("<w:p/>" * 1001)) == "too large"
    assert reason(tmp_path, package("<w:p/>" * 900)) == "no text"
