"""What the styles and list numbers of a Word document mean: headings, code, lists, table of contents, cover."""

import re
from collections import defaultdict
from typing import Any

from telellm.corpus.sources.omml import W

MONOSPACED = re.compile(r"courier|consolas|monospace|menlo|lucida console", re.IGNORECASE)
_KINDS = [
    ("heading", re.compile(r"heading (\d)")),
    ("contents", re.compile(r"toc \d|toc heading|tt|table of figures|toa heading|contents heading")),
    ("cover title", re.compile(r"zt")),
    ("cover", re.compile(r"z[a-z]")),
    ("form", re.compile(r"cr ?cover ?page.*")),
    ("title", re.compile(r"title")),
    ("code", re.compile(r"pl|asn\.?1.*|code|source code|html preformatted")),
    ("item", re.compile(r"(?:b|list(?: bullet| number)?) ?(\d?)")),
    ("entry", re.compile(r"e[wx]")),
]
"""Meaning of a paragraph → the names of styles that have it (those of the 3GPP and ETSI templates, and Word's own)."""


def whole_number(text: str | None, default: int = 0) -> int:
    """Return the number that an attribute states, `default` when it states none that Word could mean."""
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,6}", text) else default


def is_on(properties: Any, name: str) -> bool:
    """Return whether a switch (`w:ins`, `w:vMerge` …) is among an element's properties and not switched off."""
    found = None if properties is None else properties.find(W + name)
    return found is not None and found.get(f"{W}val") not in ("0", "false", "off")


class Styles:
    """What each paragraph style means, following what it is based on."""

    def __init__(self, root: Any = None) -> None:
        self._elements = {} if root is None else {s.get(f"{W}styleId", ""): s for s in root.iterchildren(f"{W}style")}
        self._kinds: dict[str, tuple[str, int]] = {}

    def kind(self, style: str) -> tuple[str, int]:
        """Return the meaning and level (1-9) of a style; ("", 0) for running text."""
        if style not in self._kinds:
            chain = self._chain(style)
            self._kinds[style] = next((found for name, _ in chain if (found := _meaning(name))), ("", 0))
            if self._kinds[style] == ("", 0) and any(_is_monospaced(element) for _, element in chain):
                self._kinds[style] = ("code", 0)
        return self._kinds[style]

    def numbering(self, style: str) -> Any:
        """Return the `w:numPr` that a style gives to its paragraphs, or None."""
        found = (element.find(f"{W}pPr/{W}numPr") for _, element in self._chain(style) if element is not None)
        return next((properties for properties in found if properties is not None), None)

    def _chain(self, style: str) -> list[tuple[str, Any]]:
        chain: list[tuple[str, Any]] = []
        while style and len(chain) < 12:
            element = self._elements.get(style)
            name = None if element is None else element.find(f"{W}name")
            chain.append((style if name is None else name.get(f"{W}val", ""), element))
            base = None if element is None else element.find(f"{W}basedOn")
            style = "" if base is None else base.get(f"{W}val", "")
        return chain


def _meaning(name: str) -> tuple[str, int] | None:
    plain = re.sub(r"(?<=heading)(?=\d)|(?<=toc)(?=\d)", " ", name.strip().lower())
    for kind, pattern in _KINDS:
        if found := pattern.fullmatch(plain):
            return kind, int(found[1] or 1) if found.groups() else 0
    return None


def _is_monospaced(element: Any) -> bool:
    fonts = None if element is None else element.find(f"{W}rPr/{W}rFonts")
    return fonts is not None and bool(MONOSPACED.match(fonts.get(f"{W}ascii", "")))


class Numbering:
    """The numbers and bullets that Word writes before paragraphs (ISO/IEC 29500-1 clause 17.9)."""

    def __init__(self, root: Any = None) -> None:
        self._levels: dict[str, dict[int, Any]] = {}
        self._lists: dict[str, str] = {}
        self._counters: dict[str, list[int]] = defaultdict(lambda: [0] * 9)
        for one in [] if root is None else root.iterchildren(f"{W}abstractNum"):
            levels = {whole_number(level.get(f"{W}ilvl")): level for level in one.iterchildren(f"{W}lvl")}
            self._levels[one.get(f"{W}abstractNumId", "")] = levels
        for one in [] if root is None else root.iterchildren(f"{W}num"):
            abstract = one.find(f"{W}abstractNumId")
            self._lists[one.get(f"{W}numId", "")] = "" if abstract is None else abstract.get(f"{W}val", "")
            if one.find(f"{W}lvlOverride/{W}startOverride") is not None and abstract is not None:
                # A list that starts again counts alone.
                copy = f"{abstract.get(f'{W}val', '')} from {one.get(f'{W}numId', '')}"
                self._levels[copy] = self._levels.get(abstract.get(f"{W}val", ""), {})
                self._lists[one.get(f"{W}numId", "")] = copy

    def level(self, properties: Any, style: str) -> int:
        """Return the list level (0-8) of a paragraph with these `w:numPr` and this style."""
        stated = properties.find(f"{W}ilvl")
        if stated is None:
            for level, element in self._levels.get(self._list(properties), {}).items():
                linked = element.find(f"{W}pStyle")
                if linked is not None and linked.get(f"{W}val") == style:
                    return min(max(level, 0), 8)
            return 0
        return min(max(whole_number(stated.get(f"{W}val")), 0), 8)

    def count(self, properties: Any, style: str) -> str:
        """Return what Word writes before the next paragraph of a list: "1.", "b)", "-"; "" for none."""
        name, level = self._list(properties), self.level(properties, style)
        levels = self._levels.get(name, {})
        if level not in levels:
            return ""
        counters = self._counters[name]
        for upper in range(level + 1):
            if upper == level or counters[upper] == 0:
                counters[upper] = counters[upper] + 1 if counters[upper] else _start(levels.get(upper))
        counters[level + 1 :] = [0] * (8 - level)
        if _value(levels[level], "numFmt") == "bullet":
            return "-"
        template = _value(levels[level], "lvlText")[:60]
        formats = [_value(levels.get(index), "numFmt") for index in range(9)]
        return re.sub(r"%([1-9])", lambda m: _format(counters[int(m[1]) - 1], formats[int(m[1]) - 1]), template).strip()

    def _list(self, properties: Any) -> str:
        number = properties.find(f"{W}numId")
        return "" if number is None else self._lists.get(number.get(f"{W}val", ""), "")


def _value(level: Any, name: str) -> str:
    found = None if level is None else level.find(W + name)
    return "" if found is None else found.get(f"{W}val", "")


def _start(level: Any) -> int:
    return max(whole_number(_value(level, "start"), 1), 1)


def _format(number: int, style: str) -> str:
    if style in ("lowerLetter", "upperLetter") and 0 < number <= 26 * 4:
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters if style == "lowerLetter" else letters.upper()
    if style in ("lowerRoman", "upperRoman") and 0 < number < 400:
        numerals = _roman(number)
        return numerals.lower() if style == "lowerRoman" else numerals
    return "" if style == "none" else str(number)


def _roman(number: int) -> str:
    text = ""
    for value, numeral in [(100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV")]:
        text += numeral * (number // value)
        number %= value
    return text + "I" * number
