"""Links, templates and tables of wikitext, which mwparserfromhell finds, as text."""

import re
from typing import Any

from telellm.corpus.sources.wikitext_templates import TEMPLATES

HEADING = "\ue002"
"""Stands for the `#` of a heading until the `#` of numbered lists are gone."""
BREAK = "\ue003"
"""Stands for a line break that must not end a table's row or a heading."""
LIST = re.compile(r"^([*#:;]{1,20})[ \t]*", re.MULTILINE)
"""The marks of a list's item, at the start of its line."""

_NO_TEXT_LINK = re.compile(
    r"\s*(?:file|image|media|category|datei|bild|kategorie|fichier|catégorie|archivo|imagen|categoría|(?-i:[a-z]{2,3}))\s*:",
    re.IGNORECASE,
)


def to_text(wikitext: str) -> str:
    """Return balanced wikitext as text, its parsed parts in place; tags and emphasis are gone already."""
    import mwparserfromhell

    if not any(mark in wikitext for mark in ("{{", "[[", "{|")):
        return wikitext
    try:
        return _walk(mwparserfromhell.parse(wikitext, skip_style_tags=True))
    except (RecursionError, mwparserfromhell.parser.ParserError):
        return strip_brackets(wikitext)


def strip_brackets(text: str) -> str:
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
                parts.append(f"\n{HEADING * node.level} {_walk(node.title).strip()}\n")
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
    return " ".join(LIST.sub("", text.replace(BREAK, " ").strip()).split())


def _template(node: Any) -> str:
    name = " ".join(_walk(node.name).replace("_", " ").split()).casefold()
    positional, named = [], {}
    if name.startswith(("formatnum:", "lc:", "uc:")):
        return name.partition(":")[2]
    render = TEMPLATES.get(name)
    if render is None:
        return ""
    for parameter in node.params:
        key = str(parameter.name).strip()
        if parameter.showkey and not key.isdecimal():
            named[key] = _walk(parameter.value).strip()
        else:
            positional.append(_walk(parameter.value).strip())
    return render(positional, named)
