r"""Turn LaTeX whose macros are expanded into readable text in which the formulas stay LaTeX.

One pass over the text with a stack of our own, so that deep nesting costs memory and not recursion. Inline formulas
become `$…$`, displays `$$ … $$`; aligned displays keep their environment.
"""

import re
import unicodedata
from functools import cache

from telellm.corpus.sources.latex import COMMAND, VERBATIM, find_option_end, find_verbatim_end, match_braces
from telellm.corpus.sources.latex_page import CELL, REFERENCE, ROW, Text
from telellm.corpus.sources.latex_structure import GROUP, Frame, Structure
from telellm.corpus.sources.latex_words import (
    ACCENTS,
    CITATIONS,
    DIMENSIONS,
    DROPPED,
    REFERENCES,
    SECTIONS,
    STEPS,
    SYMBOLS,
    THEOREMS,
    UNITS,
    UNWRAPPED,
)

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


class _Reader(Structure):
    """Reads a text from its start to its end, and writes what it says on a page."""

    def __init__(self, text: str, theorems: dict[str, str], notes: set[str], has_chapters: bool) -> None:
        super().__init__(text, theorems, has_chapters)
        self.notes = notes

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
            self.stack.append(GROUP)
        elif special == "}":
            if self.stack and not self.stack[-1].environment:
                self.close(self.stack.pop())
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
            (self.begin if edge[1] == "begin" else self.end)(edge[2].strip())
        elif name in ("[", "("):
            self.read_formula("\\]" if name == "[" else "\\)", "$$ {} $$" if name == "[" else "${}$")
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
            self.begin_section(name)
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
            self.begin_item()
        elif name in ("title", "abstract", "icmltitle"):
            self.skip_star_and_option()
            self.open(Frame(capture=name.removeprefix("icml")))
        elif name in ("footnote", "footnotetext", "thanks"):
            self.skip_star_and_option()
            if name == "thanks":
                self.skip_arguments(1)
            elif self.open(Frame(closing=")")):
                self._close_up()
                self.page.emit(" (")
        elif name == "caption":
            self.begin_caption()
        elif name in ("paragraph", "subparagraph"):
            self.skip_star_and_option()
            self.page.emit("\n\n")
            self.open(Frame(closing=" "))
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
            self.define_acronym()
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
            self.open(Frame(closing=""))
            self.page.emit(" ")
        else:
            self.page.emit(" // ")
            self.skip_star_and_option()

    def _read_dollar(self, start: int) -> None:
        if self.text.startswith("$$", start):
            self.at = start + 2
            self.read_formula("$$", "$$ {} $$")
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
            self.open(Frame(closing=after))

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

    def _close_up(self) -> None:
        self.at += self.page.close_up(self.text[self.at : self.at + 1])
