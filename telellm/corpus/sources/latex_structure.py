"""What is open at a place of a LaTeX text: groups, environments, lists, headings, captions; and what ends each."""

from dataclasses import dataclass

from telellm.corpus.sources.latex import Cursor, find_option_end
from telellm.corpus.sources.latex_page import INDENT, Page
from telellm.corpus.sources.latex_words import (
    ALIGNED,
    DISPLAYS,
    ENVIRONMENT_ARGUMENTS,
    FLOATS,
    LISTS,
    SECTIONS,
    TABLES,
    UNNUMBERED,
    UNREAD,
)

MAX_NESTED_TABLES = 10
MAX_INDENT = 8


@dataclass
class Frame:
    """An open group or environment, and what its end does."""

    environment: str = ""
    closing: str = ""
    muted: bool | None = None
    capture: str = ""


GROUP = Frame()
"""A group that only formats."""


class Structure(Cursor):
    """Enters what a text opens, leaves what it closes, and writes on a page what both say."""

    def __init__(self, text: str, theorems: dict[str, str], has_chapters: bool) -> None:
        super().__init__(text)
        self.theorems = theorems
        self.has_chapters = has_chapters
        self.page = Page()
        self.stack: list[Frame] = []
        self.open_environments: dict[str, int] = {}
        self.lists: list[int] = []
        self.ends: dict[int, str] = {}
        self.sections = [0] * 5
        self.in_appendix = False
        self.num_algorithms = 0

    def read_formula(self, closing: str, form: str) -> None:
        """Write a formula up to `closing` in `form`, where `{}` stands for it; one without an end is no formula."""
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

    def begin(self, name: str) -> None:
        """Enter an environment behind its `begin`; a display, and what is not read, is passed over at once."""
        base = name.removesuffix("*")
        frame = Frame(environment=name)
        if base in DISPLAYS or base in ALIGNED:
            self._read_display(name, base)
            return
        if base == "math":
            self.read_formula(f"\\end{{{name}}}", "${}$")
            return
        if base in UNREAD:
            if (end := self.find(closing := f"\\end{{{name}}}", self.at)) >= 0:
                self.at = end + len(closing)
            return
        if base in self.theorems or base in UNNUMBERED:
            frame.closing = "\n\n"
            self._begin_theorem(base)
        elif base == "abstract":
            frame = Frame(name, capture="abstract")
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

    def _begin_other(self, base: str, frame: Frame) -> None:
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

    def end(self, name: str) -> None:
        """Leave an environment and all that is still open in it; an end without a beginning does nothing."""
        if not self.open_environments.get(name):
            return
        while self.stack:
            frame = self.stack.pop()
            self.close(frame)
            if frame.environment == name:
                return

    def close(self, frame: Frame) -> None:
        """Do what the end of a group or environment does."""
        if frame is GROUP:
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

    def begin_section(self, name: str) -> None:
        """Begin a heading, numbered as LaTeX numbers it."""
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
        self.open(Frame(capture="#" * max(depth, 2)))

    def begin_item(self) -> None:
        """Begin an item of the innermost list."""
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

    def define_acronym(self) -> None:
        """Begin an item that says what an acronym stands for."""
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

    def begin_caption(self) -> None:
        """Begin a caption, numbered if it is of a float; it is read even where the float is not."""
        self.skip_star_and_option()
        floats = [frame for frame in reversed(self.stack[-100:]) if frame.environment.removesuffix("*") in FLOATS]
        title = FLOATS[floats[0].environment.removesuffix("*")] if floats else ""
        if self.open(Frame(closing="\n\n", muted=self.page.muted)):
            self.page.muted = False
            self.page.emit(f"\n\n{title} {self.page.count(title)}: " if title else "\n\n")

    def open(self, frame: Frame) -> bool:
        """Enter the group that starts here, if one does, with what its end shall do."""
        start = self.after_space()
        if not self.text.startswith("{", start) or self.match[start] < 0:
            return False
        self.at = start + 1
        self.stack.append(frame)
        if frame.capture:
            self.page.capture()
        return True
