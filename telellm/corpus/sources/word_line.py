"""One paragraph of a Word document as text: runs, scripts, symbols, formulas, fields, notes."""

import re
from typing import Any

from telellm.corpus.sources.omml import M, W, to_latex
from telellm.corpus.sources.word_styles import MONOSPACED

_UNREAD = (
    """del moveFrom pPr rPr sdtPr object pict drawing delText delInstrText rt annotationRef footnoteRef endnoteRef"""
)
_SKIPPED = frozenset(
    [W + name for name in _UNREAD.split()] + ["{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"]
)
_SPACES = str.maketrans(
    dict.fromkeys(range(0x2000, 0x200B), " ")
    | {0xA0: " ", 0x202F: " ", 0x205F: " ", 0x3000: " ", 0x2011: "-"}
    | dict.fromkeys([0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF], "")
)
"""Spaces that do not break → a space; marks that are not seen → nothing."""
_SYMBOL_FONT = (
    " !∀#∃%&∋()∗+,−./0123456789:;<=>?"
    "≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_"
    "‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼ "
    + " " * 32
    + "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵"
    + "ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓"
    + "◊〈®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪ 〉∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭ "
)  # fmt: skip
"""The characters 0x20-0xff of the font Symbol (Adobe's Symbol encoding)."""
_WINGDINGS = {0x6C: "•", 0x6E: "•", 0x9F: "•", 0xA7: "•", 0xD8: "•", 0x76: "•", 0xDF: "←", 0xE0: "→", 0xE1: "↑"} | {
    0xE2: "↓",
    0xE8: "→",
    0xF0: "⇒",
    0xF3: "⇔",
    0xFB: "✗",
    0xFC: "✓",
    0x4A: "☺",
}
_PLAIN_SUPERSCRIPTS = frozenset(["st", "nd", "rd", "th", "tm", "®", "™", "*"])


class Line:
    """The text of one paragraph, with what was seen in it."""

    def __init__(self, paragraph: Any = None) -> None:
        self._pieces: list[tuple[str, str]] = []
        self._field: str | None = None
        self._answered = False
        self.num_formulas = 0
        self.notes: list[str] = []
        """Keys of the notes that the paragraph refers to: "footnote 2"."""
        self._num_monospaced = self._num_other = 0
        if paragraph is not None:
            self._walk(paragraph)

    @property
    def is_monospaced(self) -> bool:
        """Whether every run that shows something is set in a fixed-width font."""
        return self._num_monospaced > 0 and self._num_other == 0

    def text(self) -> str:
        """Return the text; superscripts as `^{…}`, subscripts as `_{…}`, formulas as `$…$`, breaks as newlines."""
        merged: list[tuple[str, str]] = []
        for position, text in self._pieces:
            if merged and merged[-1][0] == position:
                merged[-1] = (position, merged[-1][1] + text)
            else:
                merged.append((position, text))
        return "".join(_script(position, text) for position, text in merged)

    def _walk(self, element: Any) -> None:
        for child in element:
            tag = child.tag
            if tag == f"{W}r":
                self._run(child)
            elif tag in (f"{M}oMath", f"{M}oMathPara"):
                self._formulas(child)
            elif isinstance(tag, str) and tag not in _SKIPPED:
                self._walk(child)

    def _formulas(self, element: Any) -> None:
        for math in [element] if element.tag == f"{M}oMath" else element.iterchildren(f"{M}oMath"):
            if latex := to_latex(math):
                self.num_formulas += 1
                self._add("", f"${latex}$")

    def _run(self, run: Any) -> None:
        position, font = "", ""
        properties = run.find(f"{W}rPr")
        if properties is not None:
            script = properties.find(f"{W}vertAlign")
            position = "" if script is None else {"superscript": "^", "subscript": "_"}.get(script.get(f"{W}val"), "")
            fonts = properties.find(f"{W}rFonts")
            font = "" if fonts is None else fonts.get(f"{W}ascii") or fonts.get(f"{W}hAnsi") or ""
        before = len(self._pieces)
        self._contents(run, position, font)
        shown = sum(len(text.strip()) for _, text in self._pieces[before:])
        if MONOSPACED.match(font):
            self._num_monospaced += shown
        else:
            self._num_other += shown

    def _contents(self, run: Any, position: str, font: str) -> None:
        for node in run:
            tag = node.tag
            if tag == f"{W}t":
                self._add(position, _visible(node.text or "", font))
            elif tag in (f"{W}tab", f"{W}ptab"):
                self._add("", "\t")
            elif tag in (f"{W}br", f"{W}cr"):
                if node.get(f"{W}type") not in ("page", "column"):
                    self._add("", "\n")
            elif tag == f"{W}noBreakHyphen":
                self._add(position, "-")
            elif tag == f"{W}sym":
                code = node.get(f"{W}char", "")
                self._add(position, _symbol(code, node.get(f"{W}font", "")))
            elif tag == f"{W}fldChar":
                self._turn_field(node.get(f"{W}fldCharType"))
            elif tag == f"{W}instrText":
                self._field = None if self._field is None else self._field + (node.text or "")
            elif tag in (f"{W}footnoteReference", f"{W}endnoteReference"):
                self._refer(f"{tag[len(W) : -len('Reference')]} {node.get(f'{W}id')}")
            elif isinstance(tag, str) and tag not in _SKIPPED:
                self._walk(node)

    def _turn_field(self, state: str | None) -> None:
        """Follow a field; one that asks for a symbol is replaced by that symbol, its cached result is not read."""
        if state == "begin":
            self._field, self._answered = "", False
            return
        symbol = re.match(r'\s*SYMBOL\s+(0x[0-9a-fA-F]{1,4}|\d{1,5})(?:.*?\\f\s*"?([^"\\]+))?', self._field or "")
        if symbol and not self._answered:
            self._add("", _symbol(f"{int(symbol[1], 0):x}", symbol[2] or "Symbol"))
        self._answered = bool(symbol) and state == "separate"
        self._field = self._field if state == "separate" and symbol else None

    def _refer(self, note: str) -> None:
        self.notes.append(note)
        self._add("", f"[^{note.replace(' ', '')}]")

    def _add(self, position: str, text: str) -> None:
        if text and not (self._answered and self._field is not None):
            self._pieces.append((position, text))


def _script(position: str, text: str) -> str:
    inner = text.strip()
    if not position or not inner or inner.lower() in _PLAIN_SUPERSCRIPTS:
        return text
    if position == "^" and inner in ("o", "º"):
        return text.replace(inner, "°")
    lead, tail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{lead}{position}{{{inner}}}{tail}"


def _visible(text: str, font: str) -> str:
    text = text.translate(_SPACES)
    if any("\uf000" <= character <= "\uf0ff" for character in text):
        return "".join(_symbol(f"{ord(c):x}", font) if "\uf000" <= c <= "\uf0ff" else c for c in text)
    return text


def _symbol(code: str, font: str) -> str:
    """Return the character that a symbol font shows for a code (hexadecimal); "" for one without a meaning in text."""
    number = int(code, 16) if re.fullmatch(r"[0-9a-fA-F]{1,4}", code) else 0
    number -= 0xF000 if 0xF000 <= number <= 0xF0FF else 0
    if font.lower().startswith(("wingdings", "webdings")):
        return _WINGDINGS.get(number, "")
    if font.lower().startswith("symbol") or not font:
        return _SYMBOL_FONT[number - 0x20].strip() if 0x20 <= number <= 0xFF else ""
    return chr(number) if number >= 0x20 and not 0xD800 <= number <= 0xF8FF else ""
