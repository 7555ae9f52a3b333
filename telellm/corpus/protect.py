"""Protect: formulas, code and drawings are put aside while rules work on a text, and come back as they were."""

import re
from collections.abc import Iterator

LONGEST_FORMULA = 20_000
LONGEST_INLINE_FORMULA = 2_000
LONGEST_DRAWN_LINE = 200
"""Characters; what is longer is text that lost its closing mark, or a line that nobody drew."""
DEEPEST_FENCE = 20
"""Spaces at most before the fence of code."""
OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Noncharacters, which no text may contain; between them, the number of a passage in noncharacters too."""
DIGITS = {ord("0") + digit: 0xFDE0 + digit for digit in range(10)}
VALUES = {character: digit for digit, character in DIGITS.items()}
MARK = re.compile(f"{OPEN}([\ufde0-\ufde9]+){CLOSE}")
OPENING = re.compile(
    r"(?P<fence>```+|~~~+)|(?P<code>`+)|(?P<display>\$\$|\\\[)|(?P<inline>\$(?=[^\s$]))"
    r"|\\begin\{(?P<environment>\w{1,40}\*?)\}"
)
BLOCK = re.compile(r"[^\n]+(?>(?:\n[^\n]+)*)")
SIGNS = ("   ", "--", "==", "__", " |", "│", "─")
DRAWN = re.compile(r"\S[ ]{3,}\S|[+|][-=_]{2}|[-=_]{2}[+|]|[-=]{3}>|<[-=]{3}|^[ ]+\||[\u2500-\u257f]")
LEADERS = re.compile(r"(?:\.[ ]?){5}")


def mask(text: str) -> tuple[str, list[str]]:
    """Put a mark in the place of each formula, piece of code and drawing; returns the text and what was there."""
    text = re.sub("[\ufdd0-\ufdef]", "", text)
    passages: list[str] = []
    for find in (find_formulas, find_drawings):
        parts, start = [], 0
        for first, last in find(text):
            mark = f"{OPEN}{str(len(passages)).translate(DIGITS)}{CLOSE}"
            parts += [text[start:first], mark]
            passages.append(text[first:last])
            start = last
        text = "".join([*parts, text[start:]])
    return text, passages


def unmask(text: str, passages: list[str]) -> str:
    """Put the passages back; a drawing may hold marks of formulas."""
    for _ in range(2):
        text = MARK.sub(lambda mark: passages[int(mark[1].translate(VALUES))], text)
    return text


def find_formulas(text: str) -> Iterator[tuple[int, int]]:
    """Yield where formulas ($…$, $$…$$, \\[…\\], environments) and code (fenced, inline) begin and end."""
    position, ahead = 0, {"$$": -1, "\\]": -1}
    while opening := OPENING.search(text, position):
        end = _closing(text, opening, ahead)
        if end:
            yield opening.start(), end
        position = end or opening.end()


def find_drawings(text: str) -> Iterator[tuple[int, int]]:
    """Yield where diagrams, packet layouts and tables in columns lie: blocks of which a third of the lines is drawn."""
    for block in BLOCK.finditer(text):
        if not any(sign in block[0] for sign in SIGNS):
            continue
        lines = block[0].split("\n")
        num_drawn = sum(map(_is_drawn, lines))
        if num_drawn and 3 * num_drawn >= len(lines):
            yield block.end() - len(block[0].lstrip(" ")), block.end()


def _is_drawn(line: str) -> bool:
    if len(line) > LONGEST_DRAWN_LINE or line.startswith("|"):
        return False
    return bool(DRAWN.search(line)) and not LEADERS.search(line)


def _closing(text: str, opening: re.Match[str], ahead: dict[str, int]) -> int:
    """Return where what begins here ends, or 0 where it does not; `ahead`: where marks were found to come next."""
    begin, start = opening.span()
    _, newline, indent = text[max(0, begin - DEEPEST_FENCE) : begin].rpartition("\n")
    if opening["fence"] and not indent.strip() and (newline or begin < DEEPEST_FENCE):
        end_of_code = re.compile(rf"^[ ]*+{opening['fence']}[^\n]*", re.MULTILINE)
        closing = end_of_code.search(text, text.find("\n", start) + 1 or len(text))
        return closing.end() if closing else len(text)
    if mark := opening["code"] or opening["fence"]:
        end = text.find(mark, start, start + LONGEST_INLINE_FORMULA)
        return 0 if end < 0 or "\n" in text[start:end] else end + len(mark)
    if opening["inline"]:
        end = text.find("$", start, start + LONGEST_INLINE_FORMULA)
        escaped = text[begin - 1 : begin] == "\\"
        broken = end < 0 or "\n" in text[start:end] or text[end - 1].isspace() or text[end + 1 : end + 2].isdigit()
        return 0 if escaped or broken else end + 1
    if opening["environment"]:
        mark = f"\\end{{{opening['environment']}}}"
        end = text.find(mark, start, start + LONGEST_FORMULA)
        return 0 if end < 0 else end + len(mark)
    mark = "$$" if opening["display"] == "$$" else "\\]"
    if ahead[mark] < start:
        found = text.find(mark, start)
        ahead[mark] = found if found >= 0 else len(text) + LONGEST_FORMULA
    escaped = text[begin - 1 : begin] == "\\"
    return 0 if escaped or ahead[mark] - start > LONGEST_FORMULA else ahead[mark] + len(mark)
