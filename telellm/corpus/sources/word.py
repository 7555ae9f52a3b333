"""The body of a Word document as Markdown: headings, lists, tables, code, notes.

Elements are read one at a time, so that a long specification is never held as a tree.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from telellm.corpus.sources.omml import W
from telellm.corpus.sources.word_line import Line
from telellm.corpus.sources.word_styles import Numbering, Styles, is_on, whole_number

MAX_CLAUSES = 2000
MAX_CELL_CHARACTERS = 20_000
"""Longer cells are cut (characters)."""
MAX_COLUMNS = 64
"""Cells further to the right are joined into the last (columns)."""
MAX_ROWS = 10_000
"""Rows further down are left out, with a line that says so (rows)."""

_CLAUSE = re.compile(
    r"((?:[A-Z]{1,2}|\d{1,3}[a-zA-Z]{0,2})(?:\.\d{1,4}[a-zA-Z]{0,3}(?:-\d+)?)*)\.?(?:[\s:]+|$)(.*)", re.S
)
_ANNEX = re.compile(r"(Annex|Appendix)\s+([A-Z]{1,2}|\d{1,2})\b\s*(\([^)]*\))?\s*:?\s*(.*)", re.S | re.I)
_MARKER = re.compile(r"([-–—•*+o]|\(?[0-9a-zA-Z]{1,4}[.)]|\[[^\]]{1,12}\])[ \t]+(?=\S)")


@dataclass
class Word:
    """What a Word document holds, collected element by element with `add`."""

    styles: Styles = field(default_factory=Styles)
    numbering: Numbering = field(default_factory=Numbering)
    notes: dict[str, str] = field(default_factory=dict)
    """Text of a note by its key ("footnote 2")."""
    titles: list[str] = field(default_factory=list)
    cover: list[str] = field(default_factory=list)
    """Lines of the cover page, and of a change request's form."""
    clauses: list[list[str]] = field(default_factory=list)
    """Number and title of the first `MAX_CLAUSES` headings; the number is "" where there is none."""
    num_tables: int = 0
    num_formulas: int = 0
    num_characters: int = 0
    _blocks: list[tuple[str, str]] = field(default_factory=list)
    _in_front: bool = True
    _has_cover: bool = False
    _carried: str = ""

    def add(self, element: Any) -> None:
        """Take in one child of the document's body: a paragraph, a table, or what holds them."""
        if element.tag == f"{W}p":
            self._paragraph(element)
        elif element.tag == f"{W}tbl":
            self._table(element)
        elif element.tag == f"{W}sdt":
            gallery = element.find(f"{W}sdtPr/{W}docPartObj/{W}docPartGallery")
            if gallery is None or gallery.get(f"{W}val") != "Table of Contents":
                self._inside(element.find(f"{W}sdtContent"))
        elif element.tag in (f"{W}ins", f"{W}moveTo", f"{W}customXml", f"{W}smartTag"):
            self._inside(element)

    def markdown(self) -> str:
        """Return the text collected so far, without the document's title."""
        if self._in_front and self._has_cover:
            return ""  # Nothing but a cover.
        parts: list[str] = []
        before = ""
        for kind, text in self._blocks:
            if kind == "code" and before == "code":
                parts[-1] += f"\n{text}"
            else:
                joined = kind == before and kind in ("item", "entry")
                parts.append(("\n" if joined else "\n\n") + text if kind != "code" else "\n\n\0" + text)
            before = kind
        return "".join(_fence(part) if part.startswith("\n\n\0") else part for part in parts).strip("\n")

    def _inside(self, element: Any) -> None:
        for child in () if element is None else element:
            if isinstance(child.tag, str):
                self.add(child)

    def _paragraph(self, paragraph: Any) -> None:
        if not len(paragraph):
            return
        properties = paragraph.find(f"{W}pPr")
        style = _style(properties)
        kind, level = self.styles.kind(style)
        line = Line(paragraph)
        text = self._carried + line.text()
        self._carried = ""
        if properties is not None and is_on(properties.find(f"{W}rPr"), "del"):
            self._carried = text  # The end of this paragraph is deleted: Word shows it as one with the next.
            return
        self.num_formulas += line.num_formulas
        outline = None if properties is None else properties.find(f"{W}outlineLvl")
        if not kind and outline is not None and whole_number(outline.get(f"{W}val"), 9) < 9 and len(text) < 200:
            kind, level = "heading", whole_number(outline.get(f"{W}val")) + 1
        if kind in ("contents", "cover", "cover title", "form"):
            self._front(kind, text)
        elif kind == "title" and not self.titles and text.strip():
            self.titles.append(_tidy(text))
        elif kind == "heading":
            self._heading(_numbered(self, properties, style, text), level)
        elif kind == "code" or (line.is_monospaced and kind != "item"):
            self._block("code", "\n".join(part.rstrip() for part in text.expandtabs(4).split("\n")))
        elif text.strip():
            self._text(kind, level, text, properties, style)
        for note in line.notes:
            self._note(note)

    def _text(self, kind: str, level: int, text: str, properties: Any, style: str) -> None:
        listed = _list(self, properties, style)
        if kind == "entry":
            # The tab between a term and what it stands for is kept: without it, nobody sees where the term ends.
            marked = _MARKER.match(text)
            self._block("entry", _tidy(text) if marked else "\t".join(map(_tidy, re.split(r"\t+", text.strip()))))
        elif kind == "item" or listed is not None:
            level = max(level, 1 if listed is None else self.numbering.level(listed, style) + 1)
            self._block("item", "  " * (level - 1) + _item(_numbered(self, properties, style, text)))
        else:
            self._block("", _lines(text))

    def _heading(self, text: str, level: int) -> None:
        text = " ".join(text.split())
        if not text:
            return
        if self._in_front:
            self._in_front = False
            if self._has_cover:
                self.cover += [block for _, block in self._blocks]
                self._blocks, self.num_characters, self.num_tables = [], 0, 0
        number, title = "", text
        if annex := _ANNEX.fullmatch(text):
            number, level = annex[2], 1
            title = annex[4]
            text = " ".join(filter(None, [annex[1], annex[2], annex[3]])) + (f": {title}" if title else "")
        elif clause := _CLAUSE.fullmatch(text):
            number, title = clause[1], clause[2].strip()
            text = f"{number} {title}".strip()
            if "." in number:
                level = number.count(".") + 1
        if len(self.clauses) < MAX_CLAUSES:
            self.clauses.append([number, title])
        self._block("heading", f"{'#' * min(level + 1, 6)} {text}")

    def _front(self, kind: str, text: str) -> None:
        """Set aside a line of the cover, the table of contents, or a form."""
        self._has_cover = self._has_cover or kind in ("cover", "cover title")
        if kind == "cover title" and text.strip():
            self.titles.append(_tidy(text))
        if kind != "contents" and text.strip():
            self.cover.append(_tidy(text))

    def _note(self, key: str) -> None:
        if text := self.notes.pop(key, ""):
            self._block("note", f"[^{key.replace(' ', '')}]: {text}")

    def _block(self, kind: str, text: str) -> None:
        self.num_characters += len(text) + 2
        self._blocks.append((kind, text))

    def _table(self, table: Any) -> None:
        kinds = {self._kind(paragraph) for paragraph in islice(table.iter(f"{W}p"), 200)} if self._in_front else set()
        if kinds & {"cover", "cover title"}:
            for paragraph in table.iter(f"{W}p"):
                text = Line(paragraph).text()
                self._front("cover title" if self._kind(paragraph) == "cover title" else "cover", text)
            return
        rows = [row for row in _children(table, "tr") if not is_on(row.find(f"{W}trPr"), "del")]
        if "form" in kinds:
            self._form(rows)
            return
        if len(rows) == 1 and len(cells := list(_children(rows[0], "tc"))) == 1:
            self._inside(cells[0])  # A frame around text, often code.
            return
        self._rows(rows)

    def _rows(self, rows: list[Any]) -> None:
        seen: list[str] = []
        lines = [cells for row in rows[:MAX_ROWS] if any(cells := self._row(row, seen))]
        if not lines:
            return
        self.num_tables += 1
        width = max(map(len, lines))
        written = [f"| {' | '.join(cells + [''] * (width - len(cells)))} |" for cells in lines]
        written.insert(1, f"|{' --- |' * width}")
        if len(rows) > MAX_ROWS:
            written.append(f"\n({len(rows) - MAX_ROWS} more rows)")
        self._block("table", "\n".join(written))
        for note in seen:
            self._note(note)

    def _row(self, row: Any, seen: list[str]) -> list[str]:
        """Return a row's cells; a merged cell holds its text once, the places that it covers are empty."""
        cells = [""] * _span(row.find(f"{W}trPr"), "gridBefore", 0)
        for cell in _children(row, "tc"):
            properties = cell.find(f"{W}tcPr")
            merged = None if properties is None else properties.find(f"{W}vMerge")
            goes_on = merged is not None and merged.get(f"{W}val", "continue") == "continue"
            if is_on(properties, "cellDel"):
                continue
            text = "" if goes_on else self._cell(cell, seen)
            if len(cells) >= MAX_COLUMNS:
                cells[-1] = f"{cells[-1]} {text}"[:MAX_CELL_CHARACTERS]
            else:
                cells += [text] + [""] * (min(_span(properties, "gridSpan", 1), MAX_COLUMNS - len(cells)) - 1)
        return cells

    def _cell(self, cell: Any, seen: list[str]) -> str:
        """Return a cell on one line; a table inside it as its rows, divided by semicolons."""
        parts: list[str] = []
        length = 0
        for text in self._cell_parts(cell, seen):
            if text := " ".join(text.split()):
                parts.append(text)
                length += len(text) + 1
            if length > MAX_CELL_CHARACTERS:
                parts = [" ".join(parts)[:MAX_CELL_CHARACTERS] + "…"]
                break
        return " ".join(parts).replace("|", r"\|")

    def _cell_parts(self, cell: Any, seen: list[str]) -> Iterator[str]:
        for child in cell:
            if child.tag == f"{W}p":
                line = Line(child)
                self.num_formulas += line.num_formulas
                seen += line.notes
                properties = child.find(f"{W}pPr")
                yield _numbered(self, properties, _style(properties), line.text())
            elif child.tag == f"{W}tbl":
                rows = (
                    ", ".join(filter(None, (self._cell(c, seen) for c in _children(r, "tc"))))
                    for r in _children(child, "tr")
                )
                yield "; ".join(filter(None, rows))
            elif isinstance(child.tag, str) and child.tag != f"{W}tcPr":
                yield from self._cell_parts(child, seen)

    def _form(self, rows: list[Any]) -> None:
        """Take the filled-in fields of a change request's cover form; its printed instructions are left out."""
        for row in rows:
            cells = [text for cell in _children(row, "tc") if (text := self._cell(cell, []))]
            self.cover.append("\t".join(cells))
            label = cells[0].rstrip(": ").lower() if cells else ""
            if label == "title" and len(cells) > 1:
                self.titles.append(cells[1])
            elif label in _FIELDS and len(cells) > 1:
                self._block("", f"{cells[0].rstrip(': ')}: {cells[1]}")

    def _kind(self, paragraph: Any) -> str:
        return self.styles.kind(_style(paragraph.find(f"{W}pPr")))[0]


_FIELDS = frozenset(["reason for change", "summary of change", "consequences if not approved", "clauses affected"])


def _children(element: Any, name: str) -> Iterator[Any]:
    """Yield the rows of a table or the cells of a row, also those inside content controls and insertions."""
    for child in element:
        if child.tag == W + name:
            yield child
        elif child.tag in (f"{W}sdt", f"{W}sdtContent", f"{W}ins", f"{W}moveTo", f"{W}customXml"):
            yield from _children(child, name)


def _style(properties: Any) -> str:
    found = None if properties is None else properties.find(f"{W}pStyle")
    return "" if found is None else found.get(f"{W}val", "")


def _span(properties: Any, name: str, default: int) -> int:
    found = None if properties is None else properties.find(W + name)
    number = default if found is None else whole_number(found.get(f"{W}val"), default)
    return min(max(number, default), MAX_COLUMNS)


def _list(word: Word, properties: Any, style: str) -> Any:
    own = None if properties is None else properties.find(f"{W}numPr")
    return word.styles.numbering(style) if own is None else own


def _numbered(word: Word, properties: Any, style: str, text: str) -> str:
    """Put before a paragraph what Word counts for it."""
    listed = _list(word, properties, style)
    label = word.numbering.count(listed, style) if listed is not None and text.strip() else ""
    return f"{label}\t{text}" if label else text


def _item(text: str) -> str:
    """Return a list item: its own mark, or none where it goes on from the item above."""
    if text.startswith("\t"):
        return "  " + _tidy(text)
    marker = _MARKER.match(text)
    if not marker:
        return "- " + _tidy(text) if not re.match(r"NOTE|EXAMPLE|Editor", text) else _tidy(text)
    mark = "-" if marker[1] in "-–—•*+o" else marker[1]
    return f"{mark} {_tidy(text[marker.end() :])}"


def _lines(text: str) -> str:
    return "\n".join(filter(None, map(_tidy, text.split("\n"))))


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _fence(part: str) -> str:
    code = part[3:].strip("\n")
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", code))])
    return f"\n\n{ticks}\n{code}\n{ticks}" if code.strip() else ""
