"""Wikipedia: a MediaWiki XML dump, page by page, as Markdown text whose formulas are LaTeX."""

import bz2
import gzip
import html
import re
import zlib
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote
from xml.parsers import expat

from telellm.corpus.sources.file import MAX_FILE_BYTES, SourceFile
from telellm.records import Document, Rejected

LICENCE = "CC BY-SA 4.0"
"""Licence of an article when the recipe states none."""
MAX_PAGE_CHARACTERS = 2 * 2**20
"""Longest wikitext of one page (characters); MediaWiki itself takes no more than 2 MiB."""
MAX_NESTING = 30
"""Templates, links and tables inside each other; the parser gives up at 40 and then costs quadratic time."""
MAX_BRACKETS = 40_000
"""Opening and closing brackets of a page that the parser gets; a page with more is stripped by regular expressions."""
DROPPED_SECTIONS = frozenset(
    {"references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "citations"}
    | {"footnotes", "literature", "notes and references", "references and notes", "works cited", "explanatory notes"}
)

_CHUNK_BYTES = 2**18
_MAX_XML_DEPTH = 32
_DISAMBIGUATION = re.compile(
    r"\{\{[ \t]*(?:(?:[\w-]+ )?disambig(?:uation)?(?: page| cleanup)?|dab|(?:hn|geo|math|school|hospital|number)dis"
    r"|mathdab|surname|given name|begriffsklärung|homonymie|desambiguación)[ \t]*[|}]|__DISAMBIG__",
    re.IGNORECASE,
)
_REDIRECT = re.compile(r"\s{0,99}#(?:redirect|weiterleitung|redirection|redirección)\b", re.IGNORECASE)


class _HostileXML(ValueError):
    """The XML declares entities, or nests deeper than any dump."""


@dataclass
class _Page:
    values: dict[str, str] = field(default_factory=dict)
    is_redirect: bool = False


class _DumpParser:
    """Collects the pages of a dump; holds one page at a time, whatever the dump's size."""

    def __init__(self) -> None:
        self.base = ""
        self.pages: deque[_Page] = deque()
        self._path: list[str] = []
        self._page = _Page()
        self._text: list[str] = []
        self._length = 0
        self._silent_bytes = 0
        self._expat = expat.ParserCreate(namespace_separator="}")
        self._expat.buffer_text = True
        self._expat.StartDoctypeDeclHandler = self._refuse_doctype
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._data

    def feed(self, chunk: bytes, is_final: bool = False) -> None:
        """Parse more bytes; raises `expat.ExpatError` for damage and `_HostileXML` for an attack."""
        self._silent_bytes += len(chunk)
        self._expat.Parse(chunk, is_final)
        if self._silent_bytes > MAX_FILE_BYTES:
            raise _HostileXML("one tag is larger than any page")

    def _refuse_doctype(self, *_: object) -> None:
        raise _HostileXML("the dump has a document type declaration")

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._silent_bytes = 0
        self._path.append(name.rpartition("}")[2])
        if len(self._path) > _MAX_XML_DEPTH:
            raise _HostileXML("elements are nested too deep")
        if len(self._path) == 1 and self._path != ["mediawiki"]:
            raise expat.ExpatError(f"the root element is <{name[:40]}>, not <mediawiki>")
        if self._path[1:] == ["page"]:
            self._page = _Page()
        elif self._path[1:] == ["page", "redirect"]:
            self._page.is_redirect = True
        self._text, self._length = [], 0

    def _data(self, data: str) -> None:
        self._silent_bytes = 0
        self._length += len(data)
        if self._length <= MAX_PAGE_CHARACTERS:
            self._text.append(data)

    def _end(self, _name: str) -> None:
        self._silent_bytes = 0
        match self._path[1:]:
            case ["siteinfo", "base"]:
                self.base = "".join(self._text).strip()
            case ["page"]:
                self.pages.append(self._page)
            case ["page", *path] if len(path) < 3:
                self._page.values["/".join(path)] = "".join(self._text)
                if self._length > MAX_PAGE_CHARACTERS:
                    self._page.values["too large"] = f"{self._length} characters"
        self._path.pop()
        self._text, self._length = [], 0


def read(file: SourceFile) -> Iterator[Document | Rejected]:
    """Yield every article of a dump (`.xml`, `.xml.bz2`, `.xml.gz`), and every other page as rejected.

    Memory does not grow with the dump. Reasons: "redirect", "not an article" (another namespace or
    content model), "disambiguation", "too large", "no text", "hostile XML", and "truncated dump" after
    the pages that came before the damage.
    """
    dump = _DumpParser()
    trouble: Rejected | None = None
    with _open(file.path) as stream:
        is_final = False
        while not is_final and trouble is None:
            try:
                chunk = stream.read(_CHUNK_BYTES)
                is_final = not chunk
                dump.feed(chunk, is_final)
            except _HostileXML as error:
                trouble = file.reject("hostile XML", str(error))
            except (expat.ExpatError, EOFError, OSError, zlib.error, ValueError, LookupError) as error:
                trouble = file.reject("truncated dump", str(error))
            while dump.pages:
                yield _read_page(dump.pages.popleft(), dump.base, file)
    if trouble is not None:
        yield trouble


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        magic = stream.read(3)
    if magic == b"BZh":
        return cast(IO[bytes], bz2.open(path, "rb"))
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _read_page(page: _Page, base: str, file: SourceFile) -> Document | Rejected:
    value = {name: text.strip() for name, text in page.values.items()}
    title, page_id, text = value.get("title", ""), value.get("id", ""), value.get("revision/text", "")
    url = f"{base.rpartition('/')[0]}/{quote(title.replace(' ', '_'), safe='/:(),')}" if base else file.uri

    def reject(reason: str, detail: str = "") -> Rejected:
        item = {"id": f"wiki_{page_id}", "file": file.name, "title": title, "url": url}
        return Rejected(item, reason, detail)

    if value.get("ns", "0") != "0" or value.get("revision/model", "wikitext") != "wikitext" or not page_id.isdecimal():
        return reject("not an article", f"namespace {value.get('ns', '0')[:9]}")
    if page.is_redirect or _REDIRECT.match(text):
        return reject("redirect")
    if "too large" in value:
        return reject("too large", value["too large"])
    if _DISAMBIGUATION.search(text) or title.endswith("(disambiguation)"):
        return reject("disambiguation")
    content = convert_wikitext(text)
    if not content:
        return reject("no text")
    metadata = file.metadata(
        title=title,
        page_id=page_id,
        revision_id=value.get("revision/id", ""),
        retrieved_at=value.get("revision/timestamp", "") or file.retrieved_at,
        source_url=url,
        licence=file.licence or LICENCE,
    )
    return Document.create("wiki", page_id, content, **metadata)


# --- wikitext → Markdown ---------------------------------------------------------------------------------------------

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
    r"\[(?:(?:https?|ftp):)?//[^\s\[\]]{1,2000}(?:[ \t]++((?:[^\[\]\n]|\[\[[^\[\]\n]*+\]\])*+))?\]"
)
_ARGUMENT = re.compile(r"\{\{\{[^{}]*\}\}\}")
_BRACKET = re.compile(r"^[ \t:*#]*(?P<table>\{\|)(?!\})|\{\{|\[\[|^[ \t]*\|\}(?!\})|\}\}|\]\]", re.MULTILINE)
_STRAY = str.maketrans({"{": "&#123;", "}": "&#125;", "[": "&#91;", "]": "&#93;", "<": "&lt;"})
_CLOSES = {"{{": "}}", "[[": "]]", "{|": "|}"}
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_HEADING = "\ue002"
"""Stands for the `#` of a heading until the `#` of numbered lists are gone."""
_BREAK = "\ue003"
"""Stands for a line break that must not end a table's row or a heading."""
_HELD = re.compile("\ue000([0-9]{1,9})\ue001")
_LIST = re.compile(r"^([*#:;]{1,20})[ \t]*", re.MULTILINE)
_BLOCK_FORMULA = re.compile(r"^[ \t]*(?:- )?\$([^$\n]+)\$([ \t]*+[.,;]?)[ \t]*+$", re.MULTILINE)
_NO_TEXT_LINK = re.compile(
    r"\s*(?:file|image|media|category|datei|bild|kategorie|fichier|catégorie|archivo|imagen|categoría|(?-i:[a-z]{2,3}))\s*:",
    re.IGNORECASE,
)


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
        text = _SUPERSCRIPT.sub(lambda found: _raise(found[1].lower() == "sup", found[2]), text)
    text = _CODE_TAG.sub("`", _LINE_TAG.sub(_BREAK, text))
    text = _ANY_TAG.sub("", text).replace("<", "&lt;")
    text = re.sub(r"'{2,5}", "", text)
    text = _ARGUMENT.sub("", _EXTERNAL_LINK.sub(lambda found: found[1] or "", text))
    return re.sub(r"__[A-Z]{3,30}__", "", text)


def _raise(is_superscript: bool, text: str) -> str:
    text = text.strip()
    if not text or (is_superscript and text in ("st", "nd", "rd", "th", "TM")):
        return text
    mark = "^" if is_superscript else "_"
    return mark + (text if len(text) == 1 or (text.isdecimal() and is_superscript) else f"&#123;{text}&#125;")


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
    return balanced if num_kept <= MAX_BRACKETS else _strip_brackets(balanced)


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
        return _text_of(section)
    level, title = heading
    return f"\n{_HEADING * level} {_text_of(title).replace(_BREAK, ' ').strip()}\n{_text_of(body)}"


def _text_of(wikitext: str) -> str:
    import mwparserfromhell

    if not any(mark in wikitext for mark in ("{{", "[[", "{|")):
        return wikitext
    try:
        return _walk(mwparserfromhell.parse(wikitext, skip_style_tags=True))
    except (RecursionError, mwparserfromhell.parser.ParserError):
        return _strip_brackets(wikitext)


def _strip_brackets(text: str) -> str:
    """Return wikitext without links, templates and table marks, by regular expressions alone."""
    for _ in range(3):
        text = re.sub(r"\[\[(?:[^\[\]|]*+\|)?([^\[\]|]*+)\]\]", r"\1", re.sub(r"\{\{[^{}]*+\}\}", "", text))
    return re.sub(r"^[ \t]*(?:\{\||\|[}+-]|!).*|\{\{|\}\}|\[\[|\]\]", "", text, flags=re.MULTILINE)


def _walk(code: Any) -> str:
    """Return parsed wikitext as text."""
    from mwparserfromhell import nodes

    parts = []
    for node in code.nodes if code is not None else ():
        match node:
            case nodes.Text():
                parts.append(node.value)
            case nodes.Wikilink():
                parts.append(_link(node))
            case nodes.Template():
                parts.append(_template(node))
            case nodes.Tag() if node.tag == "table":
                parts.append(_table(node))
            case nodes.Tag():
                parts.append(node.wiki_markup if node.wiki_markup in ("*", "#", ":", ";") else _walk(node.contents))
            case nodes.Heading():
                parts.append(f"\n{_HEADING * node.level} {_walk(node.title).strip()}\n")
            case nodes.ExternalLink():
                parts.append(_walk(node.title) if node.brackets else str(node.url))
            case nodes.HTMLEntity():
                parts.append(str(node))
    return "".join(parts)


def _link(node: Any) -> str:
    target = str(node.title)
    if _NO_TEXT_LINK.match(target):
        return ""
    if node.text is None:
        return target.lstrip(": ").replace("_", " ")
    return _walk(node.text) or re.sub(r"\s*\([^()]*\)\s*$|^[^:]*:", "", target)


def _table(node: Any) -> str:
    """Return a table as Markdown rows; its caption as a line above it."""
    from mwparserfromhell.nodes import Template

    rows: list[list[str]] = [[]]
    caption = ""
    for child in node.contents.nodes:
        tag = str(getattr(child, "tag", ""))
        if tag == "tr":
            rows.append(
                [_cell(cell) for cell in child.contents.filter_tags(recursive=False) if cell.tag in ("td", "th")]
            )
        elif tag in ("td", "th"):
            text = _cell(child)
            if text.startswith("+") and not any(rows):
                caption = text.rpartition(" | ")[2].lstrip("+ ")
            else:
                rows[-1].append(text)
        elif isinstance(child, Template):
            rows.append([cell for cell in [_cell_text(_template(child))] if cell])
    kept = [row for row in rows if any(row)]
    if any("| --- |" in cell for row in kept for cell in row):  # a table for layout alone
        return "\n" + "\n".join([caption, *(cell for row in kept for cell in row)]) + "\n"
    lines = [f"| {' | '.join(row)} |" for row in kept]
    if kept:
        lines.insert(1, f"|{' --- |' * len(kept[0])}")
    return "\n" + "\n".join([caption, *lines] if caption else lines) + "\n"


def _cell(node: Any) -> str:
    return _cell_text(_walk(node.contents))


def _cell_text(text: str) -> str:
    if "| --- |" in text:
        return text
    return " ".join(_LIST.sub("", text.replace(_BREAK, " ").strip()).split())


# --- templates -------------------------------------------------------------------------------------------------------

_Render = Callable[[list[str], dict[str, str]], str]
_RANGE_WORDS = frozenset({"to", "and", "or", "by", "x", "×", "-", "–", "to(-)", "±", "+/-"})
_UNITS = {"C": "°C", "F": "°F", "m2": "m²", "km2": "km²", "m3": "m³", "sqmi": "sq mi", "sqkm": "km²", "cuft": "cu ft"}


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


def _argument(index: int) -> _Render:
    return lambda args, _: args[index] if -len(args) <= index < len(args) else ""


def _constant(text: str) -> _Render:
    return lambda _args, _named: text


_TEMPLATES: dict[str, _Render] = {
    name: render
    for names, render in (
        ("math|mvar|tmath|bigmath|var|intmath|math inline", lambda args, _: _formula(args[0] if args else "")),
        ("sfrac|frac|tfrac|fraction|dfrac", _fraction),
        ("sqrt|radic", lambda args, _: _formula(f"\\sqrt{{{args[0]}}}" if args else "")),
        ("overline", lambda args, _: _formula(f"\\overline{{{args[0]}}}" if args else "")),
        ("abs", lambda args, _: f"|{args[0]}|" if args else ""),
        ("sup", lambda args, _: _raise(True, args[0]) if args else ""),
        ("sub", lambda args, _: _raise(False, args[0]) if args else ""),
        ("su", lambda _, named: _raise(True, named.get("p", "")) + _raise(False, named.get("b", ""))),
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


def _template(node: Any) -> str:
    name = " ".join(_walk(node.name).replace("_", " ").split()).casefold()
    positional, named = [], {}
    if name.startswith(("formatnum:", "lc:", "uc:")):
        return name.partition(":")[2]
    render = _TEMPLATES.get(name)
    if render is None:
        return ""
    for parameter in node.params:
        key = str(parameter.name).strip()
        if parameter.showkey and not key.isdecimal():
            named[key] = _walk(parameter.value).strip()
        else:
            positional.append(_walk(parameter.value).strip())
    return render(positional, named)


# --- tidying ---------------------------------------------------------------------------------------------------------


def _decode(text: str) -> str:
    """Decode entities that end in a semicolon; `&` alone is LaTeX's column mark."""
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def _tidy(text: str) -> str:
    """Make list marks Markdown, close the gaps that dropped templates leave, drop empty sections."""
    text = (
        text.replace("\u00a0", " ").replace("\u2009", " ").replace("\u200b", "").replace("\r", "").replace(_BREAK, "\n")
    )
    text = _LIST.sub(_list_mark, text)
    text = re.sub(r"\((?:[ ,;:]{0,20})\)", "", text)
    text = re.sub(r"\([ ;,]{1,20}", "(", text)
    text = re.sub(r"(?<=\S)[ \t]{2,}", " ", text)
    text = re.sub(r"(?<![ \t])[ \t]{1,9}([,.;:)])(?=\s|\Z)", r"\1", text)
    kept: list[str] = []
    has_text, level_below = False, 0
    for line in reversed([line.rstrip() for line in text.split("\n")]):
        level = len(line) - len(line.lstrip(_HEADING))
        if level == 0:
            if line.startswith("|") or line.strip(" -") not in ("", "1."):
                has_text = True
            elif line:
                continue
            kept.append(line)
        elif has_text or level_below > level:
            has_text, level_below = False, level
            kept += ["", "#" * level + line[level:], ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(kept))).replace(_HEADING, "")


def _list_mark(found: re.Match[str]) -> str:
    marks = found[1]
    if marks[-1] in ":;":
        return ""
    return "  " * (len(marks) - 1) + ("- " if marks[-1] == "*" else "1. ")


def _tidy_formulas(text: str) -> str:
    """Make a formula that has a line for itself a block."""
    return _BLOCK_FORMULA.sub(lambda found: f"$${found[1]}$${found[2].strip()}", text)
