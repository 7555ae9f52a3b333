"""What TeX reads its words from: a text, and the expansions that were put before the rest of it."""

from collections import Counter
from dataclasses import dataclass, field

from telellm.corpus.sources.archive import Refused
from telellm.corpus.sources.latex import AFTER_WORD, COMMAND, find_group_end, find_option_end

EXPANSION_CHARACTERS = 100
"""What an expansion costs, beside the characters that it reads and writes."""


@dataclass
class Source:
    """A text that is being read, and the macro whose expansion it is."""

    text: str
    at: int = 0
    name: str = ""


@dataclass
class Input:
    """Texts inside each other, of which the last is read, and the budget that reading them may use up."""

    budget: int
    """Characters that may still be read and written."""
    sources: list[Source] = field(default_factory=list)
    active: Counter[str] = field(default_factory=Counter)
    """Macro → how many of its expansions are being read."""

    def charge(self, num_characters: int) -> None:
        """Pay for an expansion; raises `Refused("too large")` when the budget is used up."""
        self.budget -= num_characters + EXPANSION_CHARACTERS
        if self.budget < 0:
            raise Refused("too large", "its macros expand without end")

    def push(self, text: str, name: str) -> None:
        """Read a macro's expansion before what is left."""
        self.charge(len(text))
        self.sources.append(Source(text, 0, name))
        self.active[name] += 1

    def pop(self) -> None:
        """Leave a text that is read to its end."""
        self.active[self.sources.pop().name] -= 1

    def skip_space(self) -> str:
        """Pass over blanks (not over an empty line) and finished expansions; return the next character."""
        while self.sources:
            source = self.sources[-1]
            if space := AFTER_WORD.match(source.text, source.at):
                source.at = space.end()
            if source.at < len(source.text) or len(self.sources) == 1:
                return source.text[source.at : source.at + 1]
            self.pop()
        return ""

    def read_argument(self) -> str | None:
        """Read one argument: a group without its braces, a control word or a character."""
        lead = self.skip_space()
        if not lead or lead in "}\n":
            return None
        source = self.sources[-1]
        start = source.at
        if lead == "{":
            end = find_group_end(source.text, start)
            self.charge((end if end >= 0 else len(source.text)) - start)
            if end < 0:
                return None
            source.at = end + 1
            return source.text[start + 1 : end]
        command = COMMAND.match(source.text, start)
        source.at = command.end() if command else start + 1
        return source.text[start : source.at]

    def read_option(self) -> str | None:
        """Read an option, without its brackets."""
        if self.skip_space() != "[":
            return None
        source = self.sources[-1]
        end = find_option_end(source.text, source.at)
        if end < 0:
            return None
        option = source.text[source.at + 1 : end]
        source.at = end + 1
        return option

    def read_star(self) -> bool:
        """Read a star, and return whether there was one."""
        source = self.sources[-1]
        starred = source.text.startswith("*", source.at)
        source.at += starred
        return starred

    def read_word(self) -> str:
        r"""Read the control word that is being defined: `\x` or `{\x}`."""
        command = COMMAND.fullmatch((self.read_argument() or "").strip())
        return (command[1] or "") if command else ""
