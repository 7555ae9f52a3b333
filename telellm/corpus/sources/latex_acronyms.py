"""Acronyms of a LaTeX project: what the glossaries, acro and acronym packages define, long at its first use."""

import re
from dataclasses import dataclass, field

from telellm.corpus.sources.latex import AFTER_WORD, find_group_end, find_option_end

MAX_BAD_DEFINITIONS = 100

ACRONYM = re.compile(
    r"(?:i?ac(?:[fsl]|fi)?p?|acr(?:short|long|full)(?:pl)?|gls(?:pl|first|text)?|glsentry(?:short|long))\Z", re.I
)
_DEFINITION = re.compile(
    r"\\(newacronym|newabbreviation|DeclareAcronym|acro|acrodef|newacro|newglossaryentry)(?![a-zA-Z])\s*"
)
_ENTRY = re.compile(r"(short|long|name|description)\s*=\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|([^,{}]*))")


@dataclass
class Acronyms:
    """The forms of a paper's acronyms, and those that were introduced already."""

    forms: dict[str, tuple[str, str]]
    introduced: set[str] = field(default_factory=set)

    def write(self, command: str, label: str) -> str:
        r"""Return what `\command{label}` prints; a label that nobody defined prints itself."""
        short, long = self.forms.get(label, (label, ""))
        form = command.lower()
        plural = "s" if form.endswith(("p", "pl")) else ""
        base = form.removesuffix("pl").removesuffix("p") if plural else form
        words = f"{short}{plural}"
        if base in ("acl", "acrlong", "glsentrylong"):
            words = f"{long or short}{plural}"
        elif base in ("acs", "acrshort", "glsentryshort", "glstext"):
            pass
        elif base in ("acf", "acfi", "acrfull", "glsfirst") or label not in self.introduced:
            words = f"{long}{plural} ({words})" if long else words
            self.introduced.add(label)
        return words[:1].upper() + words[1:] if command[0].isupper() else words


def collect_acronyms(text: str) -> dict[str, tuple[str, str]]:
    """Return label → (short form, long form)."""
    acronyms: dict[str, tuple[str, str]] = {}
    num_bad = 0
    for definition in _DEFINITION.finditer(text):
        arguments, option = _read_arguments(text, definition.end(), 3 if definition[1].startswith("newa") else 2)
        kind = definition[1]
        if kind in ("DeclareAcronym", "newglossaryentry") and len(arguments) == 2:
            entry = {match[1]: (match[2] or match[3] or "").strip() for match in _ENTRY.finditer(arguments[1])}
            short = entry.get("short") or entry.get("name") or arguments[0]
            acronyms[arguments[0]] = (short, entry.get("long", "") if kind == "DeclareAcronym" else "")
        elif kind in ("newacronym", "newabbreviation") and len(arguments) == 3:
            acronyms[arguments[0]] = (arguments[1], arguments[2])
        elif kind in ("acro", "acrodef", "newacro") and len(arguments) == 2:
            acronyms[arguments[0]] = (option or arguments[0], arguments[1])
        elif (num_bad := num_bad + 1) > MAX_BAD_DEFINITIONS:
            break
    return acronyms


def _read_arguments(text: str, at: int, number: int) -> tuple[list[str], str]:
    """Return up to `number` short arguments and the last option among them."""
    arguments: list[str] = []
    option = ""
    while len(arguments) < number:
        space = AFTER_WORD.match(text, at)
        at = space.end() if space else at
        if text.startswith("[", at) and (end := find_option_end(text, at)) > 0:
            option = text[at + 1 : end]
        elif text.startswith("{", at) and (end := find_group_end(text, at, at + 2_000)) > 0:
            arguments.append(text[at + 1 : end].strip())
        else:
            break
        at = end + 1
    return arguments, option
