r"""Turn LaTeX whose macros are expanded into readable text in which the formulas stay LaTeX.

One pass over the text with a stack of our own, so that deep nesting costs memory and not recursion. Inline formulas
become `$…$`, displays `$$ … $$`; aligned displays keep their environment.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from telellm.corpus.sources.latex import COMMAND, VERBATIM, Cursor, find_option_end, find_verbatim_end, match_braces
from telellm.corpus.sources.latex_page import CELL, INDENT, REFERENCE, ROW, Page, Text
from telellm.corpus.sources.latex_words import (
    ACCENTS,
    ALIGNED,
    CITATIONS,
    DIMENSIONS,
    DISPLAYS,
    DROPPED,
    ENVIRONMENT_ARGUMENTS,
    FLOATS,
    LISTS,
    REFERENCES,
    SECTIONS,
    STEPS,
    SYMBOLS,
    TABLES,
    THEOREMS,
    UNITS,
    UNNUMBERED,
    UNREAD,
    UNWRAPPED,
)

MAX_NESTED_TABLES = 10
MAX_INDENT = 8

_SPECIAL = re.compile(r"[\\{}$&~\]]")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^{}]{0,100})\}")
_INLINE_END = re.compile(r"\\.|[{}$]|\n[ \t]*\n", re.S)
_LABEL = re.compile(r"\\label\s*\{([^{}]*)\}")
_ACCENTED = re.compile(r"[ \t]*(?:\{[ \t]*\\?([a-zA-Z])[ \t]*\}|\\([ij])(?![a-zA-Z])[ ]?|([a-zA-Z]))")
_DIMENSION = re.compile(
    r"\s*+=?\s*+-?[\d.]*+\s*+(?:\\[a-zA-Z]+|pt|em|ex|cm|mm|in|sp|bp|pc)(?:\s*(?:plus|minus)\s*[\d.]+\w\w)*"
)
_ASSIGNMENT = re.compile(r"\s*=\s*-?\d+")
_THEOREM = re.compile(r"\\newtheorem\*?\s*\{([^{}]{1,50})\}\s*(?:\[[^\[\]]*\]\s*)?\{([^{}]{1,80})\}")
_AUTHOR_NOTE = re.compile(r"\\FXRegisterAuthor\s*\{(\w{1,20})\}")
_UNIT = re.compile(r"\\([a-zA-Z]+)|([^\\{}~\s]+)")


def to_text(preamble: str, body: str) -> Text:
    """Convert a document: the title and the abstract are looked for in `preamble` and in `body`."""
    heads = [preamble[start : end + 1] for start, end in _find_heads(preamble)]
    theorems = {name: " ".join(title.split()) for name, title in _THEOREM.findall(preamble + body)}
    notes = {f"{author}{kind}" for author in _AUTHOR_NOTE.findall(preamble) for kind in ("note", "warning", "error")}
    source = "\n\n".join([*heads, body])
    return _Reader(source, THEOREMS | theorems, notes, "\\chapter" in body).read()


def _find_heads(preamble: str) -> list[tuple[int, int]]:
    match = match_braces(preamble)
    heads = []
    for command in re.finditer(r"\\(?:title|abstract|icmltitle)\s*(?:\[[^\[\]]*\]\s*)?(?=\{)", preamble):
        if match[command.end()] > 0:
            heads.append((command.start(), match[command.end()]))
    return heads


@cache
def _symbols() -> dict[str, str]:
    """Return control word → character, from pylatexenc, with what text mode needs beside it."""
    from pylatexenc.latex2text import get_default_latex_context_db

    symbols = {
        macro.macroname: macro.simplify_repl
        for macro in get_default_latex_context_db().iter_macro_specs()
        if isinstance(macro.simplify_repl, str) and "%" not in macro.simplify_repl
    }
    return symbols | SYMBOLS


@dataclass
class _Frame:
    """An open group or environment, and what its end does."""

    environment: str = ""
    closing: str = ""
    muted: bool | None = None
    capture: str = ""


_GROUP = _Frame()


class _Reader(Cursor):
    """Reads a text from its start to its end, and writes what it says on a page."""

    def __init__(self, text: str, theorems: dict[str, str], notes: set[str], has_chapters: bool) -> None:
        super().__init__(text)
        self.theorems = theorems
        self.notes = notes
        self.has_chapters = has_chapters
        self.page = Page()
        self.stack: list[_Frame] = []
        self.open_environments: dict[str, int] = {}
        self.lists: list[int] = []
        self.ends: dict[int, str] = {}
        self.sections = [0] * 5
        self.in_appendix = False
        self.num_algorithms = 0

    def read(self) -> Text:
        while special := _SPECIAL.search(self.text, self.at):
            self.page.say(self.text[self.at : special.start()])
            self.at = special.start()
            self._read_special(special[0])
        self.page.say(self.text[self.at :])
        return self.page.finish()

    def _read_special(self, special: str) -> None:
        start = self.at
        self.at += 1
        if special == "\\":
            self._read_command(start)
        elif special == "{":
            self.stack.append(_GROUP)
        elif special == "}":
            if self.stack and not self.stack[-1].environment:
                self._close(self.stack.pop())
        elif special == "$":
            self._read_dollar(start)
        elif special == "&":
            self.page.emit(CELL if self.page.tables else " ")
        elif special == "~":
            self.page.emit(" ")
        else:
            self.page.emit(self.ends.pop(start, "]"))

    def _read_command(self, start: int) -> None:
        command = COMMAND.match(self.text, start)
        if command is None:
            return
        self.at = command.end()
        name = command[1] or command[2]
        if verbatim := VERBATIM.match(self.text, start):
            self.at = find_verbatim_end(self.text, verbatim)
            self._keep_code(verbatim)
        elif name in ("begin", "end") and (edge := _ENVIRONMENT.match(self.text, start)):
            self.at = edge.end()
            (self._begin if edge[1] == "begin" else self._end)(edge[2].strip())
        elif name in ("[", "("):
            self._read_formula("\\]" if name == "[" else "\\)", "$$ {} $$" if name == "[" else "${}$")
        elif name == "\\":
            self.skip_star_and_option()
            self.page.emit(ROW if self.page.tables else "\n")
        elif name in ACCENTS and (letter := _ACCENTED.match(self.text, self.at)):
            self.at = letter.end()
            self.page.emit(unicodedata.normalize("NFC", (letter[1] or letter[2] or letter[3]) + ACCENTS[name]))
        elif command[1]:
            self._read_word(name)
        elif name in ("]", ")"):
            pass
        else:
            self.page.emit(_symbols().get(name, name))

    def _read_word(self, name: str) -> None:
        after = self.after_space()
        if name in SECTIONS:
            self._begin_section(name)
        elif name in CITATIONS:
            self.skip_arguments(2 if name == "cites" else 1)
            self._close_up()
        elif name in REFERENCES:
            self._refer(name)
        elif name == "label":
            if label := _LABEL.match(self.text, self.at - len("\\label")):
                self.page.labels[label[1]] = self.page.here
                self.at = label.end()
        elif name == "item":
            self._begin_item()
        elif name in ("title", "abstract", "icmltitle"):
            self.skip_star_and_option()
            self._open(_Frame(capture=name.removeprefix("icml")))
        elif name in ("footnote", "footnotetext", "thanks"):
            self.skip_star_and_option()
            if name == "thanks":
                self.skip_arguments(1)
            elif self._open(_Frame(closing=")")):
                self._close_up()
                self.page.emit(" (")
        elif name == "caption":
            self._begin_caption()
        elif name in ("paragraph", "subparagraph"):
            self.skip_star_and_option()
            self.page.emit("\n\n")
            self._open(_Frame(closing=" "))
        elif name in ("url", "path", "nolinkurl", "SI", "qty", "si", "unit", "num", "SIrange", "ang"):
            self._write_raw(name)
        elif name in ("acro", "ensuremath", "appendix", "tabularnewline", "Comment", "tcp", "Call"):
            self._read_special_word(name)
        elif self.num_algorithms and name.lower() in STEPS:
            self._write_step(name.lower())
        elif name in DIMENSIONS and (dimension := _DIMENSION.match(self.text, self.at)):
            self.at = dimension.end()
            self.page.emit(" ")
        elif name in UNWRAPPED:
            self.skip_arguments(UNWRAPPED[name])
            self.skip_star_and_option()
        elif name in DROPPED or name in self.notes:
            self.skip_arguments(DROPPED.get(name, 1))
        elif name in _symbols():
            self.page.emit(_symbols()[name])
            self.at = after
        else:
            # A word that only formats, or that nobody knows: its arguments are read as text.
            self.skip_star_and_option()
            if not self.text.startswith("{", self.at):
                number = _ASSIGNMENT.match(self.text, self.at)
                self.at = number.end() if number else max(self.at, after)

    def _read_special_word(self, name: str) -> None:
        if name == "acro":
            self._define_acronym()
        elif name == "ensuremath":
            start = self.at
            if self.text.startswith("{", start) and (end := self.match[start]) > 0:
                self.at = end + 1
                self.page.write_formula(self.text[start + 1 : end], "${}$")
        elif name == "appendix":
            self.in_appendix = True
            self.sections = [0] * 5
        elif name == "tabularnewline":
            self.page.emit(ROW if self.page.tables else "\n")
        elif name == "Call":
            self._open(_Frame(closing=""))
            self.page.emit(" ")
        else:
            self.page.emit(" // ")
            self.skip_star_and_option()

    def _read_dollar(self, start: int) -> None:
        if self.text.startswith("$$", start):
            self.at = start + 2
            self._read_formula("$$", "$$ {} $$")
            return
        depth = 0
        for step in _INLINE_END.finditer(self.text, self.at):
            if step[0] == "{":
                depth += 1
            elif step[0] == "}":
                depth -= 1
            elif step[0] == "$" and depth == 0:
                formula = self.text[self.at : step.start()]
                self.at = step.end()
                self.page.write_formula(formula, "${}$")
                return
            if depth < 0 or step[0][0] == "\n":
                break
        else:
            self.page.emit(self.text[start:])
            self.at = len(self.text)
            return
        # TeX, too, ends an unclosed formula with its paragraph.
        self.page.emit(self.text[start : step.start()])
        self.at = step.start()

    def _read_formula(self, closing: str, form: str) -> None:
        end = self.find(closing, self.at)
        if end >= 0:
            formula = self.text[self.at : end]
            self.at = end + len(closing)
            self.page.write_formula(formula, form)

    def _read_display(self, name: str, base: str) -> None:
        start = self.at
        end = self.find(closing := f"\\end{{{name}}}", start)
        if end < 0:
            return
        formula = self.text[start:end]
        self.at = end + len(closing)
        if not name.endswith("*"):
            self.page.number_rows(formula, base in ALIGNED and base != "multline")
        here = dict(self.page.labels)
        if base in ALIGNED:
            self.page.write_formula(formula, f"\\begin{{{name}}}\n{{}}\n{closing}")
        else:
            self.page.write_formula(formula, "$$ {} $$")
        self.page.labels |= here

    def _begin(self, name: str) -> None:
        base = name.removesuffix("*")
        frame = _Frame(environment=name)
        if base in DISPLAYS or base in ALIGNED:
            self._read_display(name, base)
            return
        if base == "math":
            self._read_formula(f"\\end{{{name}}}", "${}$")
            return
        if base in UNREAD:
            if (end := self.find(closing := f"\\end{{{name}}}", self.at)) >= 0:
                self.at = end + len(closing)
            return
        if base in self.theorems or base in UNNUMBERED:
            frame.closing = "\n\n"
            self._begin_theorem(base)
        elif base == "abstract":
            frame = _Frame(name, capture="abstract")
        elif base in TABLES:
            self.skip_option()
            self.skip_arguments(TABLES[base] + (name == "tabular*"))
            frame.closing = "\n\n"
            if self.page.tables < MAX_NESTED_TABLES:
                frame.capture = "table"
                self.page.tables += 1
        elif base in FLOATS:
            self.skip_option()
            self.skip_arguments(ENVIRONMENT_ARGUMENTS.get(base, 0))
            frame.closing = "\n\n"
            if "figure" in base:
                frame.muted, self.page.muted = self.page.muted, True
            self.num_algorithms += base.startswith("algorithm")
        else:
            self._begin_other(base, frame)
        self.open_environments[name] = self.open_environments.get(name, 0) + 1
        self.stack.append(frame)
        if frame.capture:
            self.page.capture()

    def _begin_other(self, base: str, frame: _Frame) -> None:
        self.skip_option()
        self.skip_arguments(ENVIRONMENT_ARGUMENTS.get(base, 0))
        if base in LISTS:
            self.lists.append(1 if "enum" in base.lower() else 0)
            frame.closing = "\n\n" if len(self.lists) == 1 else "\n"
        elif base == "algorithmic":
            self.num_algorithms += 1
            frame.closing = "\n\n"
        elif base in ("quote", "quotation", "center", "flushleft", "minipage"):
            frame.closing = "\n\n"
            self.page.emit("\n\n")

    def _begin_theorem(self, base: str) -> None:
        title = self.theorems.get(base) or UNNUMBERED[base]
        option_end = find_option_end(self.text, self.at) if self.text.startswith("[", self.at) else -1
        if base in UNNUMBERED and base not in self.theorems:
            mark = ": " if title == "Keywords" else ". "
            self.page.emit("\n\n" if option_end > 0 else f"\n\n{title}{mark}")
        else:
            mark = "). "
            number = self.page.count(title)
            self.page.emit(f"\n\n{title} {number}" + (" (" if option_end > 0 else ". "))
        if option_end > 0:
            self.ends[option_end] = mark
            self.at += 1

    def _end(self, name: str) -> None:
        if not self.open_environments.get(name):
            return
        while self.stack:
            frame = self.stack.pop()
            self._close(frame)
            if frame.environment == name:
                return

    def _close(self, frame: _Frame) -> None:
        if frame is _GROUP:
            return
        base = frame.environment.removesuffix("*")
        if frame.environment:
            self.open_environments[frame.environment] -= 1
            self.num_algorithms -= base.startswith("algorithm")
            if base in LISTS:
                self.lists.pop()
        if frame.capture:
            self.page.keep(frame.capture)
            self.page.tables -= frame.capture == "table"
        self.page.emit(frame.closing)
        if frame.muted is not None:
            self.page.muted = frame.muted

    def _begin_section(self, name: str) -> None:
        level = SECTIONS[name]
        starred = self.text.startswith("*", self.at)
        self.skip_star_and_option()
        if not starred:
            self.sections[level] += 1
            self.sections[level + 1 :] = [0] * (len(self.sections) - level - 1)
            first = 1 if self.has_chapters else 2
            numbers = [str(number) for number in self.sections[min(first, level) : level + 1]]
            if self.in_appendix:
                numbers[0] = chr(64 + min(max(int(numbers[0]), 1), 26))
            self.page.here = ("Section", ".".join(numbers))
        depth = max(level - (0 if self.has_chapters else 1), 0) + 1
        self._open(_Frame(capture="#" * max(depth, 2)))

    def _begin_item(self) -> None:
        depth = min(max(len(self.lists) - 1, 0), MAX_INDENT)
        mark = "- "
        if self.lists and self.lists[-1]:
            mark = f"{self.lists[-1]}. "
            self.lists[-1] += 1
        self.page.emit("\n" + INDENT * depth + mark)
        self.at = self.after_space()
        if self.text.startswith("[", self.at) and (end := find_option_end(self.text, self.at)) > 0:
            self.ends[end] = ": "
            self.at += 1

    def _define_acronym(self) -> None:
        start = self.at
        if not (self.text.startswith("{", start) and (end := self.match[start]) > 0):
            return
        self.at = end + 1
        self.page.emit("\n- ")
        if self.text.startswith("[", self.at) and (option := find_option_end(self.text, self.at)) > 0:
            self.ends[option] = ": "
            self.at += 1
        else:
            self.page.emit(f"{self.text[start + 1 : end]}: ")

    def _begin_caption(self) -> None:
        self.skip_star_and_option()
        floats = [frame for frame in reversed(self.stack[-100:]) if frame.environment.removesuffix("*") in FLOATS]
        title = FLOATS[floats[0].environment.removesuffix("*")] if floats else ""
        if self._open(_Frame(closing="\n\n", muted=self.page.muted)):
            self.page.muted = False
            self.page.emit(f"\n\n{title} {self.page.count(title)}: " if title else "\n\n")

    def _refer(self, name: str) -> None:
        self.skip_star_and_option()
        start = self.at
        if self.text.startswith("{", start) and (end := self.match[start]) > 0:
            self.at = end + 1
            kind = (
                "eqref" if name == "eqref" else "cref" if name.lower() in ("cref", "autoref", "vref", "fref") else "ref"
            )
            self.page.emit(f"{REFERENCE}{kind}:{self.text[start + 1 : end]}{REFERENCE}")

    def _write_step(self, name: str) -> None:
        before, after = STEPS[name]
        self.page.emit(f"\n{before}")
        if name in ("function", "procedure"):
            return
        if after or name.startswith("kw") or name == "until":
            self._open(_Frame(closing=after))

    def _write_raw(self, name: str) -> None:
        self.skip_star_and_option()
        pieces: list[str] = []
        for _ in range({"SI": 2, "qty": 2, "SIrange": 3}.get(name, 1)):
            if self.text.startswith("{", self.at) and (end := self.match[self.at]) > 0:
                pieces.append(self.text[self.at + 1 : end])
                self.at = end + 1
        if name in ("SI", "qty", "si", "unit", "SIrange") and pieces:
            pieces[-1] = "".join(UNITS.get(word, word) if word else other for word, other in _UNIT.findall(pieces[-1]))
        if name == "SIrange" and len(pieces) == 3:
            pieces[:2] = [f"{pieces[0]} to {pieces[1]}"]
        self.page.emit(" ".join(pieces) + ("°" if name == "ang" else ""))

    def _keep_code(self, start: re.Match[str]) -> None:
        content = self.text[start.end() : self.at]
        if start[1] == "comment" or self.page.muted:
            return
        if start[2]:
            self.page.emit(content.removesuffix(start[2]))
            return
        content = content.removesuffix(f"\\end{{{start[1]}}}")
        if content.startswith("[") and (end := find_option_end(content, 0)) > 0:
            content = content[end + 1 :]
        if start[1] == "minted" and content.startswith("{"):
            content = content.partition("}")[2]
        self.page.keep_code(content)

    def _open(self, frame: _Frame) -> bool:
        """Enter the group that starts here, if one does, with what its end shall do."""
        start = self.after_space()
        if not self.text.startswith("{", start) or self.match[start] < 0:
            return False
        self.at = start + 1
        self.stack.append(frame)
        if frame.capture:
            self.page.capture()
        return True

    def _close_up(self) -> None:
        self.at += self.page.close_up(self.text[self.at : self.at + 1])
