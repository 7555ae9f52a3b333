"""Wikitext → Markdown whose formulas are LaTeX: everything but links, templates and tables, which need the parser."""

import html
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from telellm.corpus.sources.wikitext_nodes import BREAK, HEADING, LIST, strip_brackets, to_text
from telellm.corpus.sources.wikitext_templates import write_script

MAX_NESTING = 30
"""Templates, links and tables inside each other; the parser gives up at 40 and then costs quadratic time."""
MAX_BRACKETS = 40_000
"""Opening and closing brackets of a page that the parser gets; a page with more is stripped by regular expressions."""
DROPPED_SECTIONS = frozenset(
    {"references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "citations"}
    | {"footnotes", "literature", "notes and references", "references and notes", "works cited", "explanatory notes"}
)

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_KEPT_BLOCKS = "math|chem|ce|syntaxhighlight|source|pre|nowiki"
_DROPPED_BLOCKS = (
    "ref|references|gallery|timeline|score|imagemap|templatedata|graph|mapframe|maplink|hiero|style|script|categorytree"
)
_BLOCK_TAG = re.compile(rf"<(/?)({_KEPT_BLOCKS}|{_DROPPED_BLOCKS})\b([^<>]*)>", re.IGNORECASE)
_SUPERSCRIPT = re.compile(r"<(su[bp])\b[^<>]*>([^<>]{0,200})</\1\s{0,9}>", re.IGNORECASE)
_LINE_TAG = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|table|blockquote|center|dl|dd|dt|poem|h[1-6])\b[^<>]*>", re.I)
_CODE_TAG = re.compile(r"</?(?:code|kbd|samp|tt|var)\b[^<>]*>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?|ftp):)?//[^\s\[\]]{1,2000}(?:[ \t]++((?>(?:[^\[\]\n]|\[\[[^\[\]\n]*+\]\])*)))?\]"
)
_ARGUMENT = re.compile(r"\{\{\{[^{}]*\}\}\}")
_BRACKET = re.compile(r"^[ \t:*#]*(?P<table>\{\|)(?!\})|\{\{|\[\[|^[ \t]*\|\}(?!\})|\}\}|\]\]", re.MULTILINE)
_STRAY = str.maketrans({"{": "&#123;", "}": "&#125;", "[": "&#91;", "]": "&#93;", "<": "&lt;"})
_CLOSES = {"{{": "}}", "[[": "]]", "{|": "|}"}
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_HELD = re.compile("\ue000([0-9]{1,9})\ue001")
_BLOCK_FORMULA = re.compile(r"^[ \t]*(?:- )?\$([^$\n]+)\$([ \t]*+[.,;]?)[ \t]*+$", re.MULTILINE)


@dataclass
class _Held:
    """Finished pieces of text that no later step may change, each behind a placeholder."""

    pieces: list[str] = field(default_factory=list)

    def hold(self, text: str) -> str:
        self.pieces.append(text)
        return f"\ue000{len(self.pieces) - 1}\ue001"

    def release(self, text: str) -> str:
        for _ in range(3):  # a held piece may hold another one: code in a template in a formula
            text = _HELD.sub(lambda found: self.pieces[int(found[1])] if int(found[1]) < len(self.pieces) else "", text)
        return text


def convert_wikitext(text: str) -> str:
    """Return the prose, formulas, lists and tables of a page's wikitext as Markdown.

    Takes time in proportion to the text, whatever the text is: the parser only sees brackets that are
    closed and not nested deeper than `MAX_NESTING`; what is nested deeper is cut out.
    """
    held = _Held()
    text = re.sub("[\ue000-\ue003]", "", text)
    text = _hold_blocks(_COMMENT.sub("", text), held)
    text = _strip_markup(text)
    text = "\n".join(_render(section) for section in _kept_sections(_balance(text)))
    text = _tidy(_decode(text))
    return _tidy_formulas(held.release(text)).strip()


def _hold_blocks(text: str, held: _Held) -> str:
    """Put formulas, code and literal text aside, and drop notes, galleries and the like."""
    tags = list(_BLOCK_TAG.finditer(text))
    closing: dict[str, list[int]] = defaultdict(list)
    for number, tag in enumerate(tags):
        if tag[1]:
            closing[tag[2].lower()].append(number)
    parts, position = [], 0
    for tag in tags:
        if tag.start() < position:
            continue
        parts.append(text[position : tag.start()])
        position = tag.end()
        name, attributes = tag[2].lower(), tag[3]
        if tag[1] or attributes.endswith("/"):
            continue
        ends = closing[name]
        following = bisect_left(ends, tag.end(), key=lambda number: tags[number].start())
        if following < len(ends):
            end = tags[ends[following]]
            parts.append(_hold_block(name, attributes, text[tag.end() : end.start()], held))
            position = end.end()
    return "".join([*parts, text[position:]])


def _hold_block(name: str, attributes: str, body: str, held: _Held) -> str:
    match name:
        case "math" | "chem" | "ce":
            body = " ".join(_decode(body).split())
            latex = body if name == "math" else f"\\ce{{{body}}}"
            mark = "$$" if "block" in attributes else "$"
            return held.hold(f"{mark}{latex}{mark}") if body else ""
        case "syntaxhighlight" | "source" if "inline" in attributes:
            return held.hold(f"`{body.strip()}`")
        case "syntaxhighlight" | "source" | "pre":
            language = re.search(r"""lang\s*=\s*["']?([\w+#-]{1,30})""", attributes)
            return "\n" + held.hold(f"```{language[1] if language else ''}\n{_decode(body).strip(chr(10))}\n```") + "\n"
        case "nowiki":
            return held.hold(_decode(body))
        case _:
            return ""


def _strip_markup(text: str) -> str:
    """Turn tags, emphasis and external links into text, and escape every `<` that is left."""
    for _ in range(2):
        text = _SUPERSCRIPT.sub(lambda found: write_script(found[1].lower() == "sup", found[2]), text)
    text = _CODE_TAG.sub("`", _LINE_TAG.sub(BREAK, text))
    text = _ANY_TAG.sub("", text).replace("<", "&lt;")
    text = re.sub(r"'{2,5}", "", text)
    text = _ARGUMENT.sub("", _EXTERNAL_LINK.sub(lambda found: found[1] or "", text))
    return re.sub(r"__[A-Z]{3,30}__", "", text)


def _balance(text: str) -> str:
    """Escape every bracket without a partner, and cut out what is nested deeper than `MAX_NESTING`."""
    brackets = list(_BRACKET.finditer(text))
    partner: dict[int, int] = {}
    stack: list[tuple[str, int]] = []
    waiting = {"}}": 0, "]]": 0, "|}": 0}
    for number, bracket in enumerate(brackets):
        mark = bracket["table"] or bracket[0].strip()
        if mark in _CLOSES:
            stack.append((mark, number))
            waiting[_CLOSES[mark]] += 1
        elif waiting[mark]:
            while True:
                opening, start = stack.pop()
                waiting[_CLOSES[opening]] -= 1
                if _CLOSES[opening] == mark:
                    break
            partner[start] = number
    pairs = {**partner, **{end: start for start, end in partner.items()}}
    parts, position, depth, skipped_until, num_kept = [], 0, 0, -1, 0
    for number, bracket in enumerate(brackets):
        if number > skipped_until:
            parts.append(text[position : bracket.start()].translate(_STRAY))
        position = bracket.end()
        if number <= skipped_until:
            continue
        if number not in pairs:
            parts.append(bracket[0].translate(_STRAY))
        elif number in partner:
            depth += 1
            if depth > MAX_NESTING:
                skipped_until, depth = partner[number], depth - 1
            else:
                parts.append("\n{|" if bracket["table"] else bracket[0])
                num_kept += 2
        else:
            depth -= 1
            parts.append(bracket[0])
    balanced = "".join([*parts, text[position:].translate(_STRAY)])
    return balanced if num_kept <= MAX_BRACKETS else strip_brackets(balanced)


def _kept_sections(text: str) -> Iterator[str]:
    """Yield balanced wikitext section by section, without the sections that only point elsewhere."""
    lines: list[str] = []
    depth, dropped_level = 0, 0
    for line in text.split("\n"):
        heading = _heading(line) if depth == 0 else None
        if heading is not None:
            level, title = heading
            if dropped_level == 0 or level <= dropped_level:
                if lines:
                    yield "\n".join(lines)
                lines = []
                dropped_level = level if title.casefold() in DROPPED_SECTIONS else 0
        depth += line.count("{{") + line.count("[[") + line.startswith("{|") - line.count("}}") - line.count("]]")
        depth -= re.match(r"[ \t]*\|\}(?!\})", line) is not None
        if dropped_level == 0:
            lines.append(line)
    if lines:
        yield "\n".join(lines)


def _heading(line: str) -> tuple[int, str] | None:
    """Return level and title when the line is a heading."""
    line = line.strip()
    if len(line) > 500 or not (line.startswith("=") and line.endswith("=")):
        return None
    level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
    title = line[level:-level].strip()
    return (level, title) if title.strip("=") else None


def _render(section: str) -> str:
    """Return one section as Markdown, its heading first."""
    first, _, body = section.partition("\n")
    heading = _heading(first)
    if heading is None:
        return to_text(section)
    level, title = heading
    return f"\n{HEADING * level} {to_text(title).replace(BREAK, ' ').strip()}\n{to_text(body)}"


def _decode(text: str) -> str:
    """Decode entities that end in a semicolon; `&` alone is LaTeX's column mark."""
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def _tidy(text: str) -> str:
    """Make list marks Markdown, close the gaps that dropped templates leave, drop empty sections."""
    text = (
        text.replace("\u00a0", " ").replace("\u2009", " ").replace("\u200b", "").replace("\r", "").replace(BREAK, "\n")
    )
    text = LIST.sub(_list_mark, text)
    text = re.sub(r"\((?:[ ,;:]{0,20})\)", "", text)
    text = re.sub(r"\([ ;,]{1,20}", "(", text)
    text = re.sub(r"(?<=\S)[ \t]{2,}", " ", text)
    text = re.sub(r"(?<![ \t])[ \t]{1,9}([,.;:)])(?=\s|\Z)", r"\1", text)
    kept: list[str] = []
    has_text, level_below = False, 0
    for line in reversed([line.rstrip() for line in text.split("\n")]):
        level = len(line) - len(line.lstrip(HEADING))
        if level == 0:
            if line.startswith("|") or line.strip(" -") not in ("", "1."):
                has_text = True
            elif line:
                continue
            kept.append(line)
        elif has_text or level_below > level:
            has_text, level_below = False, level
            kept += ["", "#" * level + line[level:], ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(kept))).replace(HEADING, "")


def _list_mark(found: re.Match[str]) -> str:
    marks = found[1]
    if marks[-1] in ":;":
        return ""
    return "  " * (len(marks) - 1) + ("- " if marks[-1] == "*" else "1. ")


def _tidy_formulas(text: str) -> str:
    """Make a formula that has a line for itself a block."""
    return _BLOCK_FORMULA.sub(lambda found: f"$${found[1]}$${found[2].strip()}", text)
