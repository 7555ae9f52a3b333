"""Prompts: versioned text files beside the code that asks them.

A file has blocks, each headed by a line of its own: `[system]`, pairs of `[user]` and `[assistant]` (examples), and a
last `[user]`, the template, in which `{name}` is filled in. `[yes]` and `[no]` blocks are references for calibration,
with one line `name: value` for each name in the template.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from telellm.recipe import RecipeError

HEADING = re.compile(r"^\[(system|user|assistant|yes|no)\][ ]*\n", re.MULTILINE)
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Prompt:
    """A prompt file, parsed."""

    name: str
    digest: str
    template: str
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    references: tuple[tuple[Mapping[str, str], bool], ...] = ()
    """Values for the template, and whether the right answer is yes."""

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the template with its placeholders filled; braces in the values stay as they are."""
        return PLACEHOLDER.sub(lambda match: values[match[1]], self.template)


def load_prompt(folder: Path, name: str) -> Prompt:
    """Return the prompt of that name; raises `RecipeError`, naming the known ones, where there is none."""
    known = {path.stem: path for path in folder.glob("*-[0-9]*.txt")}
    if name not in known:
        raise RecipeError(f'prompt: "{name}" is not a prompt\n  known prompts: {", ".join(sorted(known))}')
    return parse_prompt(name, known[name].read_text(encoding="utf-8"))


def parse_prompt(name: str, text: str) -> Prompt:
    """Parse a prompt file; raises `ValueError` where its blocks do not fit together."""
    pieces = HEADING.split(text)
    blocks = list(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True))
    turns = [(kind, body) for kind, body in blocks if kind in ("user", "assistant")]
    expected = ["user", "assistant"] * (len(turns) // 2) + ["user"]
    if [kind for kind, _ in turns] != expected:
        raise ValueError(f"prompt {name}: [user] and [assistant] must take turns, and the last block must be [user]")
    bodies = [body for _, body in turns]
    return Prompt(
        name=name,
        digest=sha256(text.encode()).hexdigest()[:12],
        template=bodies[-1],
        system="\n".join(body for kind, body in blocks if kind == "system"),
        examples=tuple(zip(bodies[:-1:2], bodies[1:-1:2], strict=True)),
        references=tuple((_values(body), kind == "yes") for kind, body in blocks if kind in ("yes", "no")),
    )


def _values(body: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in body.splitlines() if ": " in line)
