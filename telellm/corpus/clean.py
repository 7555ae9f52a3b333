"""Clean: named rules take out of a document's text what is not prose, formula, table or code."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from telellm.recipe import Clean, RecipeError
from telellm.records import Document, Rejected
from telellm.stage import Context, stage

PROTECTED = re.compile(
    r"```.*?(?:```|\Z)"  # code and ASN.1
    r"|\$\$.{1,20000}?\$\$|\\\[.{1,20000}?\\\]"  # display formulas
    r"|\\begin\{(\w+\*?)\}.{1,20000}?\\end\{\1\}"
    r"|\$(?=\S)[^$\n]{1,2000}?(?<=\S)\$(?!\d)",  # inline formulas, not prices
    re.DOTALL,
)


@dataclass(frozen=True)
class Rule:
    """What is taken out, by a regular expression, outside formulas and code."""

    description: str
    pattern: re.Pattern[str]
    replacement: str = ""
    whole_text: bool = False
    """Whether it sees the document at once, formulas and code included."""


def _rule(description: str, pattern: str, replacement: str = "", flags: int = 0, whole_text: bool = False) -> Rule:
    return Rule(description, re.compile(pattern, flags), replacement, whole_text)


LINE = re.MULTILINE
RULES: dict[str, Rule] = {
    "control-characters": _rule("Characters that no reader shows", "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060\ufeff\ufffe\uffff]"),
    "spaces": _rule("Kinds of space and tab that are all one space", "[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]", " "),
    "contents-lines": _rule("Lines of a table of contents: dots and a page number", r"^.{0,200}?(?:\.[ ]?){5,}[ ]*\d*[ ]*$\n?", "", LINE),
    "page-furniture": _rule("Page numbers that stand alone", r"^[ ]*(?:page[ ]+)?[-–—]?[ ]*\d{1,4}[ ]*(?:of[ ]+\d{1,4}|[-–—])[ ]*$\n?|^[ ]*page[ ]+\d{1,4}[ ]*$\n?", "", LINE | re.I),
    "closing-sections": _rule(
        "Sections that teach nothing: references, acknowledgements, change history",
        r"^#{1,6}[ ]+(?:\d+[.\d]*[ ]+|annex[ ]+\w+[^\n]{0,30}?[ ])?(?:references|bibliography|acknowledge?ments?|funding|author contributions|conflicts? of interest|change history|external links|see also|further reading)\b[ :]*(?:\([^)\n]*\))?[ ]*\n(?:(?!#{1,6}[ ]).*(?:\n|\Z))*",
        "",
        LINE | re.I,
        whole_text=True,
    ),
    "bracket-citations": _rule("Citations in brackets: [12], [3, 5-7]", r"[ ]?(?<![\w\]])\[\d{1,3}(?:[ ]?[,;–—-][ ]?\d{1,3})*\](?!\()"),
    "html-tags": _rule("Tags that an extraction left", r"</?(?:a|abbr|b|big|br|center|code|div|em|font|hr|i|img|li|nowiki|ol|p|small|span|strong|sub|sup|table|tbody|td|th|tr|u|ul)(?:[ ][^<>\n]{0,300})?/?>", "", re.I),
    "images": _rule("Markdown images", r"!\[[^\]\n]{0,300}\]\([^)\n]{0,600}\)"),
    "links": _rule("Markdown links: their text is kept", r"(?<!!)\[([^\]\[\n]{1,300})\]\((?:https?:|/|#|\.|mailto:|[\w./-]+\.(?:md|html?)\b)[^)\s]{0,600}(?:[ ]\"[^\"\n]{0,200}\")?\)", r"\1"),
    "addresses": _rule("Web and mail addresses", r"<?\b(?:https?|ftp)://[^\s<>\"')\]]{1,2000}[>/]?|\bwww\.[^\s<>\"')\]]{3,500}|\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{2,24}){1,4}\b", "", re.I),
    "cookie-notices": _rule("Notices of web pages about cookies, sharing and rights", r"^[^\n|]{0,160}\b(?:we use cookies|accept (?:all )?cookies|cookie (?:policy|settings|preferences)|all rights reserved|subscribe to our newsletter|share (?:this|on) (?:post|page|article|facebook|twitter|linkedin)|sign up for our|click here to)\b[^\n|]{0,160}$\n?", "", LINE | re.I),
    "ornaments": _rule("Lines of nothing but punctuation", r"^[ ]*[*_=~#.·•\\-]{3,}[ ]*$\n?|(?<=\S)[._]{6,}", "", LINE),
    "empty-brackets": _rule("Brackets that the rules above left empty", r"[ ]?\((?:[ ,;]|see|e\.g\.|cf\.)*\)|[ ]?\[[ ,;]*\]", "", re.I),
    "space-before-stop": _rule("A space before a full stop or comma", r"(?<=[\w)\]])[ ]+(?=[.,;:](?:[ \n]|$))", "", LINE),
    "repeated-spaces": _rule("More than one space within a line", r"(?<=[^ \n|])[ ]{2,}(?=\S)", " "),
    "line-ends": _rule("Spaces at line ends", r"[ \t]+$", "", LINE, whole_text=True),
    "blank-lines": _rule("More than one blank line", r"\n{3,}", "\n\n", whole_text=True),
}  # fmt: skip
"""The rules, in the order in which they apply."""


@stage(sections=("corpus.clean",), produces=Document, per=Document)
def clean(context: Context, settings: Clean, documents: Iterator[Document]) -> Iterator[Document | Rejected]:
    """Apply the rules to each document, and count how often each found something.

    Rejects `"too short"`. A sample of the texts that changed is kept before and after, in `samples/`.
    Source: Tele-LLMs (arXiv 2409.05314), Section III on cleaning by regular expressions.
    """
    rules = select_rules(settings.rules)
    samples = []
    for document in documents:
        text, found = apply(document.content, rules)
        for name, number in found.items():
            context.counts[f"rule {name}"] += number
        if found and _drawn(document.id, settings.sample_share):
            samples.append({"id": document.id, "rules": json.dumps(found), "before": document.content, "after": text})
        if word_count(text) < settings.minimum_words:
            yield Rejected(document, "too short", f"{word_count(text)} words")
            continue
        yield document if text == document.content else document.with_content(text)
    if samples:
        _write_samples(context, samples)


def select_rules(names: list[str]) -> dict[str, Rule]:
    """Return the named rules, or all; raises `RecipeError` for a name that is not one."""
    for name in names:
        if name not in RULES:
            raise RecipeError(f'corpus.clean.rules: "{name}" is not a rule\n  known rules: {", ".join(RULES)}')
    return {name: RULES[name] for name in names} if names else RULES


def apply(text: str, rules: dict[str, Rule]) -> tuple[str, dict[str, int]]:
    """Return the cleaned text and how often each rule changed something; formulas and code stay as they are."""
    found: Counter[str] = Counter()
    for name, rule in rules.items():
        if rule.whole_text:
            text, number = rule.pattern.subn(rule.replacement, text)
        else:
            text, number = _outside_formulas(text, lambda part, rule=rule: rule.pattern.subn(rule.replacement, part))  # type: ignore[misc]
        if number:
            found[name] = number
    return text.strip(), dict(found)


def word_count(text: str) -> int:
    """Return the number of words that hold a letter or digit."""
    return sum(1 for _ in re.finditer(r"\w[^\s]*", text))


def _outside_formulas(text: str, change: Callable[[str], tuple[str, int]]) -> tuple[str, int]:
    parts, start, total = [], 0, 0
    for match in PROTECTED.finditer(text):
        part, number = change(text[start : match.start()])
        parts += [part, match[0]]
        total += number
        start = match.end()
    part, number = change(text[start:])
    return "".join([*parts, part]), total + number


def _drawn(identity: str, share: float) -> bool:
    return int(sha256(identity.encode()).hexdigest()[:8], 16) < share * 2**32


def _write_samples(context: Context, samples: list[dict[str, str]]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    folder = context.directory / "samples"
    folder.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(samples), folder / "changed.parquet", compression="zstd")
