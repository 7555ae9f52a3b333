"""Formulas of Word documents (Office Math, ISO/IEC 29500-1 clause 22.1) as LaTeX."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from pylatexenc.latexencode import get_builtin_uni2latex_dict  # type: ignore[import-untyped,unused-ignore]

M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"

_NAMES = """arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd inf ker lg lim liminf limsup ln log
max min Pr sec sin sinh sup tan tanh"""
FUNCTIONS = frozenset(_NAMES.split())
ACCENTS = {
    "\u0300": "grave",
    "\u0301": "acute",
    "\u0302": "hat",
    "\u0303": "tilde",
    "\u0304": "bar",
    "\u0305": "overline",
    "\u00af": "overline",
    "\u0306": "breve",
    "\u0307": "dot",
    "\u0308": "ddot",
    "\u030c": "check",
    "\u0332": "underline",
    "\u20d1": "vec",
    "\u20d7": "vec",
    "\u2192": "vec",
}
OPERATORS = {
    "∑": r"\sum",
    "∏": r"\prod",
    "∐": r"\coprod",
    "∫": r"\int",
    "∬": r"\iint",
    "∭": r"\iiint",
    "∮": r"\oint",
    "\u22c3": r"\bigcup",
    "⋂": r"\bigcap",
    "\u22c1": r"\bigvee",
    "⋀": r"\bigwedge",
    "⨁": r"\bigoplus",
    "⨂": r"\bigotimes",
}
DELIMITERS = {
    "": ".",
    "{": r"\{",
    "}": r"\}",
    "‖": r"\|",
    "∥": r"\|",
    "⌊": r"\lfloor",
    "⌋": r"\rfloor",
    "⌈": r"\lceil",
    "⌉": r"\rceil",
    "〈": r"\langle",
    "〉": r"\rangle",
    "⟨": r"\langle",
    "⟩": r"\rangle",
    "\u2223": "|",
}
BRACES = {"⏟": "underbrace", "⏞": "overbrace"}
_ROW = r" \\ "
ALPHABETS = {"double-struck": "mathbb", "script": "mathcal", "fraktur": "mathfrak", "sans-serif": "mathsf"}
ESCAPES = {ord(c): f"\\{c}" for c in "#$%&_{}"} | {ord("\\"): r"\backslash", ord("~"): r"\sim", ord("^"): r"\wedge"}
SYMBOLS = {"\u2212": "-", "\u2217": "*", "\u22c5": r"\cdot", "\u00b7": r"\cdot", "\u2026": r"\ldots"} | {
    "\u2032": "'",
    "\u2061": "",
    "\u2062": "",
    "\u2063": "",
    "\u200b": "",
    "\u00a0": " ",
    "\u2003": r"\quad",
}


def to_latex(math: Any) -> str:
    """Return the LaTeX of an `m:oMath` or `m:oMathPara` element, without dollar signs; "" when it shows nothing.

    What is inserted by a tracked change is kept, what is deleted is not.
    """
    return re.sub(r"\s+", " ", _all(math)).strip()


def _all(elements: Iterable[Any]) -> str:
    return _join(_one(element) for element in elements)


def _one(element: Any) -> str:
    tag = element.tag
    if not isinstance(tag, str) or tag.endswith("Pr") or tag in (f"{W}del", f"{W}moveFrom", f"{W}r"):
        return ""
    known = _WRITERS.get(tag)
    return known(element) if known else _all(element)


def _join(parts: Iterable[str]) -> str:
    """Put pieces side by side; a space where a command would swallow the letter after it."""
    text = ""
    for part in parts:
        glue = " " if part[:1].isalpha() and re.search(r"\\[A-Za-z]+$", text[-40:]) else ""
        text += glue + part
    return text


def _part(element: Any, name: str) -> str:
    child = element.find(M + name)
    return "" if child is None else _all(child).strip()


def _setting(element: Any, name: str, default: str) -> str:
    """Return the value of a property of a formula's part: `m:naryPr/m:chr` is `chr`."""
    found = element.find(f"./*/{M}{name}")
    if found is None:
        return default
    value: str = found.get(f"{M}val", "1" if name.endswith("Hide") else "")
    return value


def _hidden(element: Any, name: str) -> bool:
    return _setting(element, name, "0") in ("1", "on", "true")


def _base(element: Any) -> str:
    """Return the part that scripts hang on, in braces when it is longer than one symbol."""
    text = _part(element, "e")
    return text if re.fullmatch(r"\\?[A-Za-z]+", text) and (len(text) == 1 or text[0] == "\\") else f"{{{text}}}"


def _run(run: Any) -> str:
    text = "".join(node.text or "" for node in run.iter(f"{M}t", f"{W}t"))
    upright = run.find(f"{M}rPr/{M}nor") is not None
    style, script = _setting(run, "sty", ""), _setting(run, "scr", "")
    if upright and len(text.split()) > 1:
        return rf"\text{{{_symbols(text)}}}"
    latex = _symbols(text)
    word = text.strip()
    if (upright or style == "p") and word.isalpha() and word.isascii() and len(word) > 1:
        return rf"\{word}" if word in FUNCTIONS else rf"\mathrm{{{word}}}"
    if script in ALPHABETS and word:
        return rf"\{ALPHABETS[script]}{{{latex}}}"
    return rf"\mathbf{{{latex}}}" if style in ("b", "bi") and word else latex


def _symbols(text: str) -> str:
    """Return text with its symbols as LaTeX commands: Greek, operators, letters of the mathematical alphabets."""
    return _join(_symbol(character) for character in text)


@cache
def _symbol(character: str) -> str:
    if ord(character) in ESCAPES:
        return ESCAPES[ord(character)]
    if character in SYMBOLS:
        return SYMBOLS[character]
    if character.isascii():
        return character
    plain = unicodedata.normalize("NFKC", character) if "\U0001d400" <= character <= "\U0001d7ff" else character
    found = get_builtin_uni2latex_dict().get(ord(plain)) if len(plain) == 1 and not plain.isascii() else plain
    inner = re.fullmatch(r"\\ensuremath\{(.*)\}", found or "")
    return inner[1] if inner else plain


def _fraction(element: Any) -> str:
    top, bottom = _part(element, "num"), _part(element, "den")
    match _setting(element, "type", "bar"):
        case "lin" | "skw":
            return f"{{{top}}}/{{{bottom}}}"
        case "noBar":
            return rf"\genfrac{{}}{{}}{{0pt}}{{}}{{{top}}}{{{bottom}}}"
    return rf"\frac{{{top}}}{{{bottom}}}"


def _scripts(element: Any) -> str:
    sub = f"_{{{_part(element, 'sub')}}}" if element.find(f"{M}sub") is not None else ""
    sup = f"^{{{_part(element, 'sup')}}}" if element.find(f"{M}sup") is not None else ""
    if element.tag == f"{M}sPre":
        return f"{{}}{sub}{sup}{_base(element)}"
    return f"{_base(element)}{sub}{sup}"


def _nary(element: Any) -> str:
    character = _setting(element, "chr", "∫")
    sub, sup = _part(element, "sub"), _part(element, "sup")
    operator = OPERATORS.get(character) or _symbols(character)
    operator += f"_{{{sub}}}" if sub and not _hidden(element, "subHide") else ""
    operator += f"^{{{sup}}}" if sup and not _hidden(element, "supHide") else ""
    return f"{operator} {_part(element, 'e')}"


def _root(element: Any) -> str:
    degree = "" if _hidden(element, "degHide") else _part(element, "deg")
    return rf"\sqrt{f'[{degree}]' if degree else ''}{{{_part(element, 'e')}}}"


def _matrix(element: Any) -> str:
    rows = (
        " & ".join(_all(cell).strip() for cell in row.iterchildren(f"{M}e")) for row in element.iterchildren(f"{M}mr")
    )
    return rf"\begin{{matrix}} {_ROW.join(rows)} \end{{matrix}}"


def _equations(element: Any) -> str:
    rows = (_all(row).replace(r"\&", "").strip() for row in element.iterchildren(f"{M}e"))
    return rf"\begin{{array}}{{l}} {_ROW.join(rows)} \end{{array}}"


def _accent(element: Any) -> str:
    name = ACCENTS.get(_setting(element, "chr", "\u0302"), "hat")
    return rf"\{name}{{{_part(element, 'e')}}}"


def _bar(element: Any) -> str:
    name = "overline" if _setting(element, "pos", "bot") == "top" else "underline"
    return rf"\{name}{{{_part(element, 'e')}}}"


def _delimited(element: Any) -> str:
    left, right = _setting(element, "begChr", "("), _setting(element, "endChr", ")")
    between = DELIMITERS.get(separator := _setting(element, "sepChr", "|"), separator)
    inside = f" {between} ".join(_all(part).strip() for part in element.iterchildren(f"{M}e"))
    return _join([r"\left", DELIMITERS.get(left, left), inside, r"\right", DELIMITERS.get(right, right)])


def _function(element: Any) -> str:
    name = _part(element, "fName")
    if name.isalpha() and name.isascii():
        name = rf"\{name}" if name in FUNCTIONS else rf"\operatorname{{{name}}}"
    return f"{name} {_part(element, 'e')}"


def _limit(element: Any) -> str:
    base, limit = _part(element, "e"), _part(element, "lim")
    low = element.tag == f"{M}limLow"
    if base.lstrip("\\") in FUNCTIONS:
        return rf"\{base.lstrip(chr(92))}{'_' if low else '^'}{{{limit}}}"
    return rf"\{'underset' if low else 'overset'}{{{limit}}}{{{base}}}"


def _group(element: Any) -> str:
    character = _setting(element, "chr", "⏟")
    if character in BRACES:
        return rf"\{BRACES[character]}{{{_part(element, 'e')}}}"
    over = "overset" if _setting(element, "pos", "bot") == "top" else "underset"
    return rf"\{over}{{{_symbols(character)}}}{{{_part(element, 'e')}}}"


_WRITERS: dict[str, Callable[[Any], str]] = {
    M + name: writer
    for writer, names in {
        _run: "r",
        _fraction: "f",
        _scripts: "sSub sSup sSubSup sPre",
        _nary: "nary",
        _root: "rad",
        _matrix: "m",
        _equations: "eqArr",
        _accent: "acc",
        _bar: "bar",
        _delimited: "d",
        _function: "func",
        _limit: "limLow limUpp",
        _group: "groupChr",
    }.items()
    for name in names.split()
}
