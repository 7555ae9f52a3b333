"""Templates of Wikipedia that carry text, and what each of them prints."""

from collections.abc import Callable

Render = Callable[[list[str], dict[str, str]], str]
_RANGE_WORDS = frozenset({"to", "and", "or", "by", "x", "×", "-", "–", "to(-)", "±", "+/-"})
_UNITS = {"C": "°C", "F": "°F", "m2": "m²", "km2": "km²", "m3": "m³", "sqmi": "sq mi", "sqkm": "km²", "cuft": "cu ft"}


def write_script(is_superscript: bool, text: str) -> str:
    """Return text as a superscript or a subscript, in LaTeX's marks; an ordinal's ending stays on the line."""
    text = text.strip()
    if not text or (is_superscript and text in ("st", "nd", "rd", "th", "TM")):
        return text
    mark = "^" if is_superscript else "_"
    return mark + (text if len(text) == 1 or (text.isdecimal() and is_superscript) else f"&#123;{text}&#125;")


def _formula(latex: str) -> str:
    latex = latex.replace("$", "").strip()
    return f"${latex}$" if latex else ""


def _convert(args: list[str], _: dict[str, str]) -> str:
    parts = args[:1]
    rest = args[1:]
    while len(rest) > 1 and rest[0] in _RANGE_WORDS:
        parts += rest[:2]
        rest = rest[2:]
    return " ".join([*parts, *(_UNITS.get(unit, unit) for unit in rest[:1])])


def _value(args: list[str], named: dict[str, str]) -> str:
    text = args[0] if args else ""
    if len(args) > 1:
        text += f"±{args[1]}"
    if named.get("e"):
        text += f"×10^{{{named['e']}}}"
    unit = named.get("u") or named.get("ul") or ""
    if named.get("up") or named.get("upl"):
        unit += f"/{named.get('up') or named.get('upl')}"
    return f"{text} {unit}".strip()


def _fraction(args: list[str], _: dict[str, str]) -> str:
    match [arg.replace("$", "") for arg in args]:
        case [bottom]:
            return _formula(f"\\frac{{1}}{{{bottom}}}")
        case [top, bottom]:
            return _formula(f"\\frac{{{top}}}{{{bottom}}}")
        case [whole, top, bottom, *_]:
            return _formula(f"{whole}\\frac{{{top}}}{{{bottom}}}")
    return ""


def _items(args: list[str], _: dict[str, str]) -> str:
    return "".join(f"\n* {item}" for item in args if item) + "\n"


def _argument(index: int) -> Render:
    return lambda args, _: args[index] if -len(args) <= index < len(args) else ""


def _constant(text: str) -> Render:
    return lambda _args, _named: text


TEMPLATES: dict[str, Render] = {
    name: render
    for names, render in (
        ("math|mvar|tmath|bigmath|var|intmath|math inline", lambda args, _: _formula(args[0] if args else "")),
        ("sfrac|frac|tfrac|fraction|dfrac", _fraction),
        ("sqrt|radic", lambda args, _: _formula(f"\\sqrt{{{args[0]}}}" if args else "")),
        ("overline", lambda args, _: _formula(f"\\overline{{{args[0]}}}" if args else "")),
        ("abs", lambda args, _: f"|{args[0]}|" if args else ""),
        ("sup", lambda args, _: write_script(True, args[0]) if args else ""),
        ("sub", lambda args, _: write_script(False, args[0]) if args else ""),
        ("su", lambda _, named: write_script(True, named.get("p", "")) + write_script(False, named.get("b", ""))),
        ("e", lambda args, _: f"×10^{{{args[0]}}}" if args else ""),
        ("val", _value),
        ("convert|cvt", _convert),
        ("chem|chem2|gaps", lambda args, _: "".join(args)),
        ("numblk|lang|transliteration|transl|langx", lambda args, _: args[1] if len(args) > 1 else "".join(args)),
        (
            "nowrap|nobr|nobreak|abbr|abbrlink|tooltip|em|strong|small|smaller|big|larger|sic|not a typo|proper name|"
            "nowrap begin|visible anchor|vanchor|noitalic|italics correction|angbr|keypress|dfn|def|ordinal|okina|"
            "lang-de|lang-fr|lang-es|lang-it|lang-la|lang-el|lang-ru|lang-ja|lang-zh|mono|font|color|colored text|"
            "formatnum|lc|uc|plainlist|flatlist|center|resize|nobold|normal|block indent|bi|pad|underline|u",
            _argument(0),
        ),
        ("term", lambda args, _: f"\n{args[0]}\n" if args else ""),
        ("defn|ghat", lambda args, named: (args[0] if args else named.get("1", named.get("defn", ""))) + "\n"),
        ("quote|blockquote|cquote|bquote|block quote", lambda args, named: args[0] if args else named.get("text", "")),
        ("code|kbd|samp|tt|codett|var serif", lambda args, _: f"`{args[0]}`" if args else ""),
        ("unbulleted list|ubl|bulleted list|hlist|ordered list|plain list|flat list", _items),
        ("circa|c.|ca.", lambda args, _: f"c. {args[0]}" if args else "c."),
        ("as of", lambda args, _: f"As of {args[0]}" if args else ""),
        ("us$|usd", lambda args, _: f"US${args[0]}" if args else "US$"),
        ("equation box 1", lambda _, named: named.get("equation", "")),
        ("nbsp|space|spaces|thinsp|thin space|hair space|zwsp|wbr", _constant(" ")),
        ("snd|spnd|spaced ndash|ndash|en dash|dash", _constant(" – ")),
        ("mdash|em dash", _constant("—")),
        ("=", _constant("=")),
        ("!", _constant("|")),
        ("'", _constant("'")),
        ("pi", _constant("π")),
        ("mu", _constant("μ")),
        ("times", _constant("×")),
        ("minus", _constant("−")),
        ("·|dot|middot|bullet|•", _constant(" · ")),
        ("yes|ya|tick", lambda args, _: args[0] if args else "Yes"),
        ("no|na|cross", lambda args, _: args[0] if args else "No"),
    )
    for name in names.split("|")
}
"""Name of a template that carries text → its text; every other template is dropped."""
