"""LaTeX source without TeX: where groups, options and verbatim text end, and what is a comment.

pylatexenc's walker was measured on three real projects and not taken for this: it reads about 150 kB/s, stops at
its recursion limit for a few hundred nested groups, ends a text at an environment that it finds unclosed, and
leaves macros unexpanded. Its table of symbols is used, in `latex_text`.
"""

import re
from array import array
from dataclasses import dataclass, field

COMMAND = re.compile(r"\\(?:([a-zA-Z@]+)|(.))", re.S)
"""A control word (group 1) or a control character (group 2)."""
VERBATIM = re.compile(
    r"\\begin\{(verbatim\*?|[BL]?Verbatim\*?|lstlisting|minted|alltt|comment)\}|\\verb(?![a-zA-Z@])\*?([^\s\w*])"
)
"""The start of text that TeX does not read: an environment (group 1), or `\\verb` and its delimiter (group 2)."""
AFTER_WORD = re.compile(r"[ \t]*+(?>(?:\n[ \t]*+(?!\n))?)")
"""Blanks that TeX passes over behind a control word: not an empty line."""
MAX_OPTION_CHARACTERS = 2_000

_BRACE = re.compile(r"\\.|[{}]", re.S)
_ADDRESS = re.compile(r"\\(?:url|path|nolinkurl|href)\s*\{[^{}\n]*\}")
_COMMENT_LEAD = re.compile(r"\\begin\{|\\verb|\\(?:url|path|nolinkurl|href)(?![a-zA-Z])|\\.|%", re.S)
_COMMENT = re.compile(r"%[^\n]*(?:\n[ \t]*)?")


def match_braces(text: str) -> "array[int]":
    """Return, for every `{` that is closed, the index of its `}`; -1 everywhere else."""
    match = array("l", [-1]) * len(text)
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            match[opened.pop()] = brace.start()
    return match


def find_group_end(text: str, start: int, limit: int | None = None) -> int:
    """Return the index of the `}` that closes the `{` at `start`, or -1 if none does before `limit`."""
    depth = 0
    for brace in _BRACE.finditer(text, start, len(text) if limit is None else limit):
        if brace[0] == "{":
            depth += 1
        elif brace[0] == "}":
            depth -= 1
            if depth == 0:
                return brace.start()
    return -1


def find_option_end(text: str, start: int) -> int:
    """Return the index of the `]` that closes the `[` at `start`, or -1. A `]` within braces closes nothing."""
    end = start
    for _ in range(5):
        end = text.find("]", end + 1, start + MAX_OPTION_CHARACTERS)
        if end < 0 or text.count("{", start, end) == text.count("}", start, end):
            return end
    return -1


def find_verbatim_end(text: str, start: re.Match[str]) -> int:
    """Return the index behind the verbatim text that a match of `VERBATIM` opens (the text's end if unclosed)."""
    if start[1]:
        end = text.find(closing := f"\\end{{{start[1]}}}", start.end())
        return len(text) if end < 0 else end + len(closing)
    end = text.find(start[2], start.end(), start.end() + MAX_OPTION_CHARACTERS)
    return start.end() if end < 0 or text.find("\n", start.end(), end) >= 0 else end + 1


def strip_comments(text: str) -> str:
    r"""Return a text without its comments, as TeX skips them: with the line's end and the next line's indentation.

    `\%` and what is verbatim or an address stays; a line that is only a comment leaves no empty line.
    """
    kept: list[str] = []
    at = copied = 0
    while lead := _COMMENT_LEAD.search(text, at):
        if lead[0] != "%":
            at = lead.end()
            if verbatim := VERBATIM.match(text, lead.start()):
                at = find_verbatim_end(text, verbatim)
                if verbatim[1] == "comment":
                    kept.append(text[copied : lead.start()])
                    copied = at
            elif address := _ADDRESS.match(text, lead.start()):
                at = address.end()
            continue
        comment = _COMMENT.match(text, lead.start())
        assert comment
        kept.append(text[copied : lead.start()])
        at = copied = comment.end()
        # An empty line behind a comment still ends the paragraph.
        if text.startswith("\n", at) and text[at - 1] in "\n \t":
            kept.append("\n")
    kept.append(text[copied:])
    return "".join(kept)


@dataclass
class Cursor:
    """A place in a text, and the ways to pass over what is not read. All take linear time on any input."""

    text: str
    at: int = 0
    match: "array[int]" = field(init=False)
    absent: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.match = match_braces(self.text)

    def find(self, closing: str, start: int) -> int:
        """Find text behind `start`; what is absent once is not sought again, so that hostile input stays linear."""
        if closing in self.absent:
            return -1
        end = self.text.find(closing, start)
        if end < 0:
            self.absent.add(closing)
        return end

    def after_space(self) -> int:
        """Return the index behind blanks, as TeX passes over them: not over an empty line."""
        space = AFTER_WORD.match(self.text, self.at)
        return space.end() if space else self.at

    def skip_star_and_option(self) -> None:
        """Pass over a star and the options behind it."""
        self.at += self.text.startswith("*", self.at)
        # A space before an option is rare, and a bracket behind a space is mostly text.
        self.skip_option()

    def skip_option(self) -> None:
        """Pass over options that start here."""
        while self.text.startswith("[", self.at) and (end := find_option_end(self.text, self.at)) > 0:
            self.at = end + 1

    def skip_arguments(self, number: int) -> None:
        """Pass over up to `number` groups, with the options among them."""
        self.skip_star_and_option()
        for _ in range(number):
            after = self.after_space()
            if not self.text.startswith("{", after) or (end := self.match[after]) < 0:
                return
            self.at = end + 1
            self.skip_option()
