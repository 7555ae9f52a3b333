"""Build `samples/standards/` from `samples/text/standards/`: specifications as .docx, memos as paginated .txt.

A text begins with `key: value` lines and a blank line. The markup of a specification, one block a line:
`# 4 Title` (headings; clause number, then title), `NOTE 1: …`, `- item`, `1) item`, two spaces for a second level,
`[1] reference`, `@ ABBR = expansion`, `Table 4-1: caption` before `| rows |`, fences for ASN.1, and
`$$ formula $$ (4-1)`; within a line `**bold**`, `*italic*` and `$formula$`. A formula is small LaTeX, written as OMML.
A memo knows headings, paragraphs, list items and fences. Same texts, same bytes.
"""

import io
import re
import textwrap
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

from docx import Document
from docx.document import Document as Word
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.text import WD_BREAK
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import qn
from docx.shared import Pt
from docx.table import _Cell
from docx.text.paragraph import Paragraph

SAMPLES = Path(__file__).parent
TEXTS, OUT = SAMPLES / "text" / "standards", SAMPLES / "standards"
STYLES = ["ZA", "ZB", "ZT", "FP", "TT", "B1", "B2", "EX", "EW", "EQ", "NO", "PL", "TH", "TAH", "TAL", "TAC", "TAN"]
STYLES += ["toc 1", "toc 2", "toc 3", "toc 8"]
MATH = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
NAMES = "alpha beta gamma delta Delta lambda mu pi sigma tau kappa upsilon cdot le ge approx oplus parallel quad"
SYMBOLS = dict(zip(NAMES.split(), "αβγδΔλμπστκυ·≤≥≈⊕∥\u2003", strict=True))
FUNCTIONS = ("log", "min", "max", "exp")
FENCES = {"lfloor": ("⌊", "rfloor", "⌋"), "lceil": ("⌈", "rceil", "⌉"), "left(": ("(", "right)", ")")}
WORDS_PER_PAGE = 330


class Formula:
    """A recursive reader of small LaTeX: `\\frac`, `\\sqrt`, `\\text`, scripts, fences, symbols."""

    def __init__(self, latex: str) -> None:
        plain = re.sub(r"\\(left|right)(?=\\)", "", latex)
        self.tokens = re.findall(r"\\left\(|\\right\)|\\text\{[^}]*\}|\\[A-Za-z]+|[A-Za-z]+'?|[\d.]+|\S", plain)

    def omml(self) -> str:
        """Return the whole formula as an `m:oMath` element."""
        return f"<m:oMath {MATH}>{self.row(())}</m:oMath>"

    def row(self, ends: tuple[str, ...]) -> str:
        """Read until one of the tokens `ends`, which is consumed."""
        parts: list[str] = []
        while self.tokens:
            if self.tokens[0] in ends:
                self.tokens.pop(0)
                return "".join(parts)
            parts.append(self.scripted())
        if ends:
            raise ValueError(f"a formula ends before {ends[0]}")
        return "".join(parts)

    def scripted(self) -> str:
        """Read one atom with its subscript and superscript, and the argument if it is a function."""
        is_function = self.tokens[0][1:] in FUNCTIONS
        base = self.atom()
        scripts: dict[str, str] = {}
        while self.tokens and self.tokens[0] in "_^":
            mark = self.tokens.pop(0)
            scripts[mark] = self.atom()
        sub, sup = scripts.get("_"), scripts.get("^")
        if sub is not None and sup is not None:
            base = f"<m:sSubSup><m:e>{base}</m:e><m:sub>{sub}</m:sub><m:sup>{sup}</m:sup></m:sSubSup>"
        elif sub is not None:
            base = f"<m:sSub><m:e>{base}</m:e><m:sub>{sub}</m:sub></m:sSub>"
        elif sup is not None:
            base = f"<m:sSup><m:e>{base}</m:e><m:sup>{sup}</m:sup></m:sSup>"
        if is_function:
            return f"<m:func><m:fName>{base}</m:fName><m:e>{self.scripted()}</m:e></m:func>"
        return base

    def atom(self) -> str:
        """Read one token, or one group."""
        token = self.tokens.pop(0)
        name = token[1:] if token.startswith("\\") else ""
        if token == "{":
            return self.row(("}",))
        if name == "frac":
            return f"<m:f><m:num>{self.atom()}</m:num><m:den>{self.atom()}</m:den></m:f>"
        if name == "sqrt":
            return f'<m:rad><m:radPr><m:degHide m:val="1"/></m:radPr><m:deg/><m:e>{self.atom()}</m:e></m:rad>'
        if name in FENCES:
            left, end, right = FENCES[name]
            properties = f'<m:dPr><m:begChr m:val="{left}"/><m:endChr m:val="{right}"/></m:dPr>'
            return f"<m:d>{properties}<m:e>{self.row((chr(92) + end,))}</m:e></m:d>"
        if name.startswith("text{"):
            return _run(name[5:-1], upright=True)
        if name in FUNCTIONS:
            return _run(name, upright=True)
        if name == "mod":
            return _run(" mod ", upright=True)
        if name and name not in SYMBOLS:
            raise ValueError(f"the formula uses \\{name}, which is not known; known: {', '.join(SYMBOLS)}")
        return _run(SYMBOLS[name] if name else {"-": "\u2212"}.get(token, token), upright=False)


def _run(text: str, *, upright: bool) -> str:
    style = '<m:rPr><m:sty m:val="p"/></m:rPr>' if upright else ""
    return f'<m:r>{style}<m:t xml:space="preserve">{escape(text)}</m:t></m:r>'


def write_inline(paragraph: Paragraph, text: str) -> None:
    """Append text with `**bold**`, `*italic*` and `$formula$` to a paragraph."""
    for part in re.split(r"(\$[^$]+\$|\*\*[^*]+\*\*|(?<!\w)\*[^* ][^*]*\*)", text):
        if part.startswith("$"):
            paragraph._p.append(parse_xml(Formula(part.strip("$")).omml()))
        elif part:
            mark = re.match(r"(\*\*?)(?=\S).*\1$", part)
            run = paragraph.add_run(part.strip("*") if mark else part)
            run.bold = True if mark and mark[1] == "**" else None
            run.italic = True if mark and mark[1] == "*" else None


def write_field(paragraph: Paragraph, instruction: str, shown: str) -> None:
    """Append a field with its cached result, as Word saves it."""
    for kind in ("begin", "separate", "end"):
        if kind == "end":
            paragraph.add_run(shown)
        mark = OxmlElement("w:fldChar")
        mark.set(qn("w:fldCharType"), kind)
        paragraph.add_run()._r.append(mark)
        if kind == "begin":
            code = OxmlElement("w:instrText")
            code.set(qn("xml:space"), "preserve")
            code.text = f" {instruction} "
            paragraph.add_run()._r.append(code)


def read_text(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the `key: value` head and the lines of the body."""
    head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    return dict(line.split(": ", 1) for line in head.splitlines()), body.splitlines()


def split_heading(line: str) -> tuple[str, int, str, str]:
    """Return style, contents level, clause number and title of a `#` line."""
    marks, title = line.split(" ", 1)
    if title.startswith("Annex "):
        number, _, rest = title.partition(": ")
        return "Heading 8", 8, f"{number}:", rest
    found = re.match(r"((?:[A-Z]\.)?\d+(?:\.\d+)*) (.+)", title)
    return f"Heading {len(marks)}", len(marks), found[1] if found else "", found[2] if found else title


def contents(lines: list[str]) -> Iterator[tuple[int, str, int]]:
    """Yield level, text and page of every heading; pages are counted from the words before them."""
    words, fenced = 0, False
    for line in lines:
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            _, level, number, title = split_heading(line)
            yield level, f"{number}\t{title}" if number else title, 4 + words // WORDS_PER_PAGE
        words += len(line.split())


def write_front(word: Word, head: dict[str, str], lines: list[str]) -> None:
    """Write the cover, the page of rights and the contents."""
    cover = word.add_table(rows=3, cols=1)
    cells: list[_Cell] = [row.cells[0] for row in cover.rows]
    cells[0].paragraphs[0].style = "ZA"
    run = cells[0].paragraphs[0].add_run(name_of(head))
    run.bold, run.font.size = True, Pt(20)
    cells[1].paragraphs[0].style = "ZB"
    cells[1].paragraphs[0].add_run("Technical Specification")
    cells[2].paragraphs[0].style = "ZT"
    cells[2].paragraphs[0].add_run(f"{head['group']};")
    for line in (*head["title"].split("; "), f"(Release {head['version'].split('.')[0]})"):
        cells[2].add_paragraph(line, "ZT")
    word.add_paragraph().add_run().add_break(WD_BREAK.PAGE)
    rights = word.add_table(rows=2, cols=1)
    rights.rows[0].cells[0].paragraphs[0].style = rights.rows[1].cells[0].paragraphs[0].style = "FP"
    rights.rows[0].cells[0].paragraphs[0].add_run(f"Keywords: {head['keywords']}")
    rights.rows[1].cells[0].paragraphs[0].add_run(
        f"Sample text of {head['date'][:4]}, given to the public domain (CC0 1.0). No standards body approved it."
    )
    title = word.add_paragraph(style="TT")
    title.add_run().add_break(WD_BREAK.PAGE)
    title.add_run("Contents")
    for index, (level, text, page) in enumerate(contents(lines)):
        entry = word.add_paragraph(style=f"toc {level}")
        entry.add_run(f"{text}\t")
        write_field(entry, f"PAGEREF _Toc{index:08d} \\h", str(page))
    word.add_paragraph().add_run().add_break(WD_BREAK.PAGE)


def write_table(word: Word, rows: list[str]) -> None:
    """Write `| a | b |` rows: the first is the heading, the second aligns, `| NOTE … |` spans the table."""
    split = [[cell.strip() for cell in row.strip().strip("|").split(" | ")] for row in rows]
    header, aligns = split[0], [cell.strip(" |") for cell in rows[1].strip("| ").split("|")]
    table = word.add_table(rows=0, cols=len(header), style="Table Grid")
    for index, row in enumerate(split):
        if index == 1:
            continue
        cells = table.add_row().cells
        if len(row) == 1 < len(header):
            cells, styles = (cells[0].merge(cells[-1]),), ["TAN"]
            row = [row[0].replace(": ", ":\t", 1)]
        else:
            styles = ["TAH"] * len(row) if index == 0 else ["TAC" if ":" in align else "TAL" for align in aligns]
        for cell, text, style in zip(cells, row, styles, strict=True):
            cell.paragraphs[0].style = style
            write_inline(cell.paragraphs[0], text)
    word.add_paragraph()


def write_line(word: Word, line: str) -> None:
    """Write one block of the markup that is neither a table nor a fence."""
    if line.startswith("#"):
        style, _, number, title = split_heading(line)
        paragraph = word.add_paragraph(style=style)
        paragraph.add_run(number)
        if style == "Heading 8":
            paragraph.add_run().add_break()
        elif number:
            paragraph.add_run("\t")
        paragraph.add_run(title)
    elif formula := re.fullmatch(r"\$\$ (.+) \$\$ ?(\(.+\))?", line):
        paragraph = word.add_paragraph("\t", style="EQ")
        paragraph._p.append(parse_xml(Formula(formula[1]).omml()))
        paragraph.add_run(f"\t{formula[2]}" if formula[2] else "")
    elif note := re.fullmatch(r"(NOTE(?: \d+)?:) (.+)", line):
        write_inline(word.add_paragraph(f"{note[1]}\t", style="NO"), note[2])
    elif item := re.fullmatch(r"( *)(-|\w\)) (.+)", line):
        write_inline(word.add_paragraph(f"{item[2]}\t", style="B2" if item[1] else "B1"), item[3])
    elif reference := re.fullmatch(r"(\[\d+\]) (.+)", line):
        write_inline(word.add_paragraph(f"{reference[1]}\t", style="EX"), reference[2])
    elif abbreviation := re.fullmatch(r"@ (.+?) = (.+)", line):
        write_inline(word.add_paragraph(style="EW"), f"{abbreviation[1]}\t{abbreviation[2]}")
    else:
        write_inline(word.add_paragraph(style="TH" if re.match(r"Table \S+: ", line) else "Normal"), line)


def write_body(word: Word, lines: list[str]) -> None:
    """Write the clauses."""
    fenced = False
    for is_table, group in groupby(lines, key=lambda line: line.startswith("|")):
        if is_table:
            write_table(word, list(group))
            continue
        for line in group:
            if line.startswith("```"):
                fenced = not fenced
            elif fenced:
                word.add_paragraph(line, style="PL")
            elif line.strip():
                write_line(word, line)


def name_of(head: dict[str, str]) -> str:
    """Return number, version and date as a cover shows them."""
    return f"TS {head['number']} V{head['version']} ({head['date']})"


def build_specification(path: Path) -> bytes:
    """Return the .docx of one text, with fixed properties and zip times."""
    head, lines = read_text(path)
    word = Document()
    for name in STYLES:
        style = word.styles.add_style(name, WD_STYLE_TYPE.PARAGRAPH)
        style.base_style = word.styles["Normal"]
        style.paragraph_format.space_after = Pt(0 if name in ("PL", "EW", "TAL", "TAC") else 6)
    word.styles["PL"].font.name, word.styles["PL"].font.size = "Courier New", Pt(8)
    word.styles["TH"].font.bold = word.styles["TAH"].font.bold = True
    section = word.sections[0]
    header = section.header.paragraphs[0]
    header.add_run(f"{name_of(head)}\t")
    write_field(header, "PAGE", "1")
    header.add_run(f"\tRelease {head['version'].split('.')[0]}")
    section.footer.paragraphs[0].add_run("Telecom sample specifications")
    write_front(word, head, lines)
    write_body(word, lines)
    core, date = word.core_properties, datetime.strptime(f"{head['date']} +0000", "%Y-%m %z").astimezone(UTC)
    core.title, core.subject, core.author = name_of(head), head["title"], "telellm"
    core.last_modified_by, core.created, core.modified, core.revision = "telellm", date, date, 1
    core.comments, core.keywords = "", head["keywords"]
    saved, fixed = io.BytesIO(), io.BytesIO()
    word.save(saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(fixed, "w") as target:
        for name in source.namelist():
            target.writestr(zipfile.ZipInfo(name), source.read(name), zipfile.ZIP_DEFLATED)
    return fixed.getvalue()


PAGE_LINES, COLUMNS = 58, 72


def spread(left: str, middle: str, right: str) -> str:
    """Return a page's header or footer line: left, centred and right."""
    side = (COLUMNS - len(middle)) // 2
    start = f"{left:<{side}}{middle}"
    return start + right.rjust(COLUMNS - len(start))


def memo_blocks(lines: list[str]) -> Iterator[list[str]]:
    """Yield the blocks of a memo, wrapped and indented; a heading is one block with what it introduces."""
    fence: list[str] | None = None
    heading: list[str] = []
    for line in lines:
        if line.startswith("```"):
            if fence is not None:
                yield heading + fence
                heading = []
            fence = None if fence is not None else []
        elif fence is not None:
            fence.append(f"   {line}".rstrip())
        elif line.startswith("#"):
            heading += [memo_heading(line), ""]
        elif line.strip():
            item = re.match(r"(-|\d+\)|\[[\w-]+\]) (.+)", line)
            first = f"   {'o' if item[1] == '-' else item[1]}  " if item else "   "
            text, rest = item[2] if item else line, " " * len(first)
            yield heading + textwrap.wrap(text, COLUMNS, initial_indent=first, subsequent_indent=rest)
            heading = []


def memo_heading(line: str) -> str:
    """Return a heading as a memo shows it."""
    _, _, number, title = split_heading(line)
    return f"{number}.  {title}" if number else title


def lay_out(head: dict[str, str], blocks: list[list[str]]) -> list[list[str]]:
    """Return the pages of a memo, without footers; a block is not broken over two pages."""
    opening = [
        spread("Telecom Samples", "", head["author"]),
        spread(f"Request for Comments: none (sample memo {head['number']})", "", "telellm"),
        spread(f"Category: {head['category']}", "", head["date"]),
    ]
    title = [line.center(COLUMNS).rstrip() for line in textwrap.wrap(head["title"], 60)]
    pages = [["", "", *opening, "", "", *title]]
    for block in blocks:
        if len(pages[-1]) + len(block) > PAGE_LINES - 4:
            pages.append([spread(f"Memo {head['number']}", head["short"], head["date"]), "", ""])
        else:
            pages[-1].append("")
        pages[-1] += block
    return pages


def build_memo(path: Path) -> bytes:
    """Return one memo as pages of 58 lines with contents, header, footer and form feed."""
    head, lines = read_text(path)
    blocks = list(memo_blocks(lines))
    headings = [memo_heading(line) for line in lines if line.startswith("#")]
    first = next(index for index, block in enumerate(blocks) if block[0].startswith("1."))
    table = ["Table of Contents", "", *(f"   {text}" for text in headings[2:])]
    pages = lay_out(head, [*blocks[:first], table, *blocks[first:]])
    numbers = {line: number for number, page in enumerate(pages, start=1) for line in page if line in headings}
    table[2:] = [f"   {text} {'.' * (COLUMNS - 8 - len(text))} {numbers[text]:2}" for text in headings[2:]]
    text = ""
    for number, page in enumerate(lay_out(head, [*blocks[:first], table, *blocks[first:]]), start=1):
        body = "\n".join(page + [""] * (PAGE_LINES - 1 - len(page)))
        text += f"{body}\n{spread(head['author'], head['category'], f'[Page {number}]')}\n\f\n"
    return text.removesuffix("\f\n").encode("ascii")


def build(out: Path) -> None:
    """Build every text into the folder `out`."""
    for path in sorted(TEXTS.glob("*.md")):
        if path.name.startswith("memo-"):
            (out / f"{path.stem}.txt").write_bytes(build_memo(path))
        else:
            (out / f"{path.stem}.docx").write_bytes(build_specification(path))


if __name__ == "__main__":
    build(OUT)
