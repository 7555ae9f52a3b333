"""The page that a LaTeX text is written on: running text, tables, formulas with their numbers, and references."""

import re
from dataclasses import dataclass, field

CELL, ROW, CODE, REFERENCE, INDENT = "\x01", "\x02", "\x03", "\x04", "\x05"
"""Marks in the text under way: control characters, which the decoder took out of what came in."""

_FORMULA_ROW = re.compile(r"\\(begin|end|\\|nonumber|notag|label\s*\{([^{}]*)\})")
_LABEL = re.compile(r"\\label\s*\{([^{}]*)\}")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_UNPRINTED = re.compile(r"\\label\s*\{[^{}]*\}|\\(?:nonumber|notag)(?![a-zA-Z])")


@dataclass(frozen=True)
class Text:
    """A paper as text; a formula is counted once however long it is."""

    title: str
    abstract: str
    body: str
    num_formulas: int


@dataclass
class Page:
    """What is written so far. Text that is captured (a title, a heading, a table) is written apart from the rest."""

    muted: bool = False
    """Whether nothing is written: in a figure, but for its caption."""
    tables: int = 0
    """How many tables are open."""
    here: tuple[str, str] = ("", "")
    """What a label names at this place: its kind and its number."""
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)
    num_formulas: int = 0
    out: list[str] = field(default_factory=list)
    outer: list[list[str]] = field(default_factory=list)
    captured: dict[str, list[str]] = field(default_factory=dict)
    code: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)

    def capture(self) -> None:
        """Write what follows apart, until `keep`."""
        self.outer.append(self.out)
        self.out = []

    def emit(self, text: str) -> None:
        """Write characters as they are."""
        if text and not self.muted:
            self.out.append(text)

    def say(self, text: str) -> None:
        """Write running text: typed marks become characters, line ends become spaces, empty lines paragraphs."""
        if not text or self.muted:
            return
        if "\n" in text:
            text = _PARAGRAPH.sub("\r", text).replace("\n", " ").replace("\r", "\n\n")
        if "-" in text or "`" in text or "'" in text:
            text = text.replace("---", "—").replace("--", "\u2013")
            text = text.replace("``", "“").replace("''", "”").replace("`", "\u2018")
        self.out.append(text)

    def write_formula(self, formula: str, form: str) -> None:
        """Write a formula in `form`, where `{}` stands for it; one of several lines keeps them."""
        for label in _LABEL.findall(formula):
            self.labels[label] = self.here
        formula = _UNPRINTED.sub("", formula)
        if "\n" in form:
            formula = "\n".join(line for row in formula.split("\n") if (line := " ".join(row.split())))
        else:
            formula = " ".join(formula.split())
        if formula and not self.muted:
            self.num_formulas += 1
            display = form.replace("{}", formula, 1)
            self.out.append(display if form == "${}$" else f"\n{display}\n")

    def number_rows(self, formula: str, every_row: bool) -> None:
        """Give every row of a display its number, as LaTeX does, and the number to the row's label."""
        number = self.counters.get("Equation", 0)
        depth, counted, labels = 0, True, []
        for step in _FORMULA_ROW.finditer(formula + "\\\\"):
            if step[2]:
                labels.append(step[2])
            elif step[1] == "begin":
                depth += 1
            elif step[1] == "end":
                depth -= 1
            elif step[1] in ("nonumber", "notag"):
                counted = False
            elif depth == 0 and (every_row or step.end() == len(formula) + 2):
                number += counted
                self.labels |= {label: ("Equation", str(number)) for label in labels}
                counted, labels = True, []
        self.counters["Equation"] = number

    def keep(self, kind: str) -> None:
        """End a capture: keep a title or an abstract, write a table's rows or a heading (`kind` is its marks)."""
        written, self.out = self.out, self.outer.pop()
        if kind == "table":
            rows = [[" ".join(cell.split()) for cell in row.split(CELL)] for row in "".join(written).split(ROW)]
            self.emit("\n\n" + "\n".join(" | ".join(row) for row in rows if any(row)))
        elif kind in ("title", "abstract"):
            # The last one counts, as in LaTeX; an empty one does not.
            if "".join(written).strip():
                self.captured[kind] = written
        else:
            self.emit(f"\n\n{kind} " + " ".join("".join(written).split()) + "\n\n")

    def count(self, title: str) -> int:
        """Return the number of the next figure, table, theorem …, which labels then name."""
        self.counters[title] = self.counters.get(title, 0) + 1
        self.here = (title, str(self.counters[title]))
        return self.counters[title]

    def finish(self) -> Text:
        """Return the text, its references resolved; what was captured and never ended stays in the body."""
        while self.outer:
            self.outer[-1].extend(self.out)
            self.out = self.outer.pop()
        title, abstract = (self._tidy(self.captured.get(kind, [])) for kind in ("title", "abstract"))
        return Text(" ".join(title.split()), abstract, self._tidy(self.out), self.num_formulas)

    def _tidy(self, written: list[str]) -> str:
        text = re.sub(f"{REFERENCE}([^{REFERENCE}]*){REFERENCE}", self._resolve, "".join(written))
        text = text.replace(CELL, " ").replace(ROW, "\n")
        text = re.sub(r" {2,}", " ", text.replace("\t", " "))
        text = re.sub(r" ?\n ?", "\n", text)
        text = re.sub(r"\n{3,}", "\n\n", text).replace(INDENT, "  ").strip()
        return re.sub(f"{CODE}(\\d+){CODE}", lambda match: f"```\n{self.code[int(match[1])]}\n```", text)

    def _resolve(self, reference: re.Match[str]) -> str:
        kind, _, labels = reference[1].partition(":")
        found = [self.labels[label] for part in labels.split(",") if (label := part.strip()) in self.labels]
        if kind == "cref":
            return ", ".join(f"{title} {number}".strip() for title, number in found)
        numbers = ", ".join(number for _, number in found if number)
        return f"({numbers})" if kind == "eqref" and numbers else numbers

    def keep_code(self, content: str) -> None:
        """Write a block of code, which nothing changes any more."""
        self.emit(f"\n\n{CODE}{len(self.code)}{CODE}\n\n")
        self.code.append(content.strip("\n"))

    def close_up(self, following: str) -> bool:
        """Take back the space before something that leaves no trace, and a bracket or comma that stays empty.

        Returns whether the character that follows is to go, too.
        """
        while self.out and not self.out[-1].strip(" "):
            self.out.pop()
        if not self.out:
            return False
        self.out[-1] = self.out[-1].rstrip(" ")
        last = self.out[-1][-1:]
        if last + following in ("()", "[]"):
            self.out[-1] = self.out[-1][:-1].rstrip(" ")
            return True
        if last in (",", ";") and following == ".":
            self.out[-1] = self.out[-1][:-1]
        return last in (",", ";") and following in (",", ";")
