"""Rules: what `clean` takes out of a text, each by regular expressions under one name; what is protected stays.

Every pattern needs a time that is proportional to the text: repeats are possessive (`++`), bounded, or begin where the
character before is another. Most begin with a fixed character, which makes them many times faster. Groups repeat within
an atomic group, `(?>(?:…)*)`: as possessive ones, Python before 3.11.5 takes some characters too many.
"""

import re
from dataclasses import dataclass

from telellm.corpus.protect import CLOSE, OPEN, mask, unmask


@dataclass(frozen=True)
class Rule:
    """What is taken out of a text, or what is put in its place."""

    description: str
    patterns: tuple[re.Pattern[str], ...]
    replacement: str = ""
    sign: str = ""
    """A character without which it finds nothing."""

    def apply(self, text: str) -> tuple[str, int]:
        """Return the changed text and the number of changes."""
        total = 0
        for pattern in self.patterns if self.sign in text else ():
            text, number = pattern.subn(self.replacement, text)
            total += number
        return text, total


def _rule(description: str, *patterns: str, replacement: str = "", sign: str = "", ignore_case: bool = False) -> Rule:
    flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
    return Rule(description, tuple(re.compile(pattern, flags) for pattern in patterns), replacement, sign)


_NUMBER = r"(?:annex[ ]+[a-z0-9]{1,3}[ ]+|[a-z0-9]{1,3}(?:\.\d{1,3}){0,5}\.?[ ]+)?"
_CLOSING = (
    r"(?:(?:normative|informative)[ ]+)?references|bibliography|acknowledge?ments?|funding(?:[ ]information)?"
    r"|author[ ]contributions|conflicts?[ ]of[ ]interest|change[ ]history|external[ ]links|see[ ]also|further[ ]reading"
    r"|intellectual[ ]property(?:[ ]rights)?(?:[ ]statement)?|modal[ ]verbs[ ]terminology"
    r"|(?:editor|author)s?['\u2019]?s?[ ]address(?:es)?|(?:full[ ])?copyright[ ](?:statement|notice)"
    r"|status[ ]of[ ]this[ ]memo"
)
_DOWN_TO_NEXT_HEADING = (
    r"(?>(?:(?!\#{1,6}[ ])[^\n]*+\n"  # its lines
    r"|(?!\#{1,6}[ ])[^\n]++\Z"  # its last, without an end
    r"|(?P=level)\#++[ ][^\n]*+(?:\n|\Z))*)"  # headings below it
)
_TAGS = (
    r"abbr|big|blockquote|br|center|code|dd|details|div|dl|dt|em|figcaption|figure|font|footer|h[1-6]|header|hr|img|kbd"
    r"|li|nobr|nowiki|ol|picture|pre|section|small|source|span|strike|strong|sub|summary|sup|table|tbody|td|tfoot|th"
    r"|thead|tr|tt|ul|var"
)
_NOTICES = (
    r"we[ ](?:and[ ]our[ ]partners[ ])?use[ ]cookies|this[ ](?:web)?site[ ]uses[ ]cookies|accept[ ](?:all[ ])?cookies"
    r"|cookie[ ](?:settings|preferences)|all[ ]rights[ ]reserved|subscribe[ ]to[ ]our[ ]newsletter"
    r"|sign[ ]up[ ]for[ ]our"
    r"|share[ ](?:this|on)[ ](?:post|page|article|facebook|twitter|linkedin)|skip[ ]to[ ](?:main[ ])?content"
    r"|your[ ]email[ ]address[ ]will[ ]not[ ]be[ ]published|enable[ ]javascript"
)
_TAUGHT = r"(?![^\s|]{0,200}?(?:example|\{|3gppnetwork|\.invalid|\.test\b))"
"""Not before addresses that a specification teaches: examples, templates, the domains of operators."""
_URL = rf"{_TAUGHT}(?>(?:[^\s<>\"')\]|`{OPEN}.,;:?!*_]|[.,;:?!*_](?=[\w/&=%#~+-])){{1,1000}})"
_CITED = r"[1-9]\d{0,2}(?:[ ]?[,;\u2013\u2014-][ ]?[1-9]\d{0,2}){0,30}"
_NOT_CITED = "".join(
    rf"(?<!\b{word}[ ]\[)"
    for word in (
        *("in", "In", "by", "By", "of", "Of", "to", "on", "and", "see", "See", "for", "from", "From", "with", "than"),
        *("range", "interval", "between", "is", "are", "="),
    )
)
_ASN1 = r"IMPLICIT|EXPLICIT|OCTET|INTEGER|SEQUENCE|SET|CHOICE|BOOLEAN|ENUMERATED|NULL|BIT|UTF8String"

RULES: dict[str, Rule] = {
    "control-characters": _rule(
        "Characters that no reader shows",
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufff9-\ufffb\ufffe\uffff]",
    ),
    "spaces": _rule(
        "Kinds of space and tab that are all one space",
        "[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]",
        replacement=" ",
    ),
    "contents-lines": _rule(
        "A table of contents: its heading, links within the page, entries with dots and a page number",
        r"^[ #*]*+(?:table[ ]of[ ])?contents[ *:]*+$\n?",
        r"^\[\[_toc_\]\][ ]*+$\n?",
        r"(?>(?:^[ ]*+(?:[-*+]|\d{1,3}\.)[ ]++\[[^\]\[\n]{1,300}\]\(\#[^)\n]{0,300}\)[ ]*+$\n?)+)",
        r"(?:^[ ]*+\d[^\n]{0,110}+(?<![.:])\n(?=[ ]{8}))?"  # the first line of an entry of two
        r"^(?>(?:[^\n.]++|\.(?![ ]?\.))*)(?:(?>(?:\.[ ]?){5,})[ ]*+\w{0,8}|(?>(?:\.[ ]?){4})[ ]*+\d{1,4})[ ]*+$\n?",
        ignore_case=True,
    ),
    "page-furniture": _rule(
        "Page numbers that stand alone",
        r"^[ ]*+page[ ]++\d{1,4}(?>(?:[ ]++of[ ]++\d{1,4})?)[ ]*+$\n?",
        r"^[ ]*+[-\u2013\u2014][ ]*+\d{1,4}[ ]*+[-\u2013\u2014][ ]*+$\n?",
        ignore_case=True,
    ),
    "closing-sections": _rule(
        "Sections that teach nothing: references, acknowledgements, change history, rights, how versions are numbered",
        rf"^(?P<level>\#{{1,6}})[ ]+{_NUMBER}(?:\([a-z]{{1,15}}\)[ ]*:?[ ]*)?(?:{_CLOSING})[ :]*+$\n?"
        rf"{_DOWN_TO_NEXT_HEADING}",
        r"^(?P<level>\#{1,6})[ ]+foreword[ ]*+\n+This[ ]technical[ ](?:specification|report)[ ](?:\(T[SR]\)[ ])?"
        rf"has[ ]been[ ]produced[ ]by{_DOWN_TO_NEXT_HEADING}",
        rf"^(?:\d{{1,2}}(?:\.\d{{1,2}}){{0,3}}\.?[ ]+)?(?:{_CLOSING})[ ]*+\n"  # of a memo, whose text is indented
        rf"(?=\n?(?:[ ]{{2,6}}\S|(?:\d{{1,2}}\.\d{{1,2}}\.?[ ]+)?(?:{_CLOSING})[ ]*+\n))"
        r"(?>(?:[ ]++[^\n]*+(?:\n|\Z)|\n)*)",
        ignore_case=True,
    ),
    "fields": _rule(
        "Fields of a word processor that lost what they point to, and notes to a page's typesetter",
        r"Error!?[ ](?:Reference[ ]source|Bookmark)[ ]not[ ](?:found|defined)\.?",
        r"\{:[^{}\n]{0,200}\}",
    ),
    "html-blocks": _rule(
        "Comments, styles and scripts that an extraction left",
        r"<!--(?>(?:(?!-->|<!--)[\s\S]){0,20000})-->",
        r"<style\b[^<>]{0,300}>[^<]{0,20000}+</style>",
        r"<script\b[^<>]{0,300}>(?>(?:(?!</?script\b)[\s\S]){0,20000})</script>",
        ignore_case=True,
        sign="<",
    ),
    "superscripts": _rule(
        "Superscripts as tags, written as in formulas", r"<sup>([^<>\n]{1,40})</sup>", replacement=r"^\1"
    ),
    "subscripts": _rule(
        "Subscripts as tags, written as in formulas", r"<sub>([^<>\n]{1,40})</sub>", replacement=r"_\1"
    ),
    "html-tags": _rule(
        "Tags that an extraction left; one of a single letter may be a variable: it needs attributes or an end",
        rf"</?(?:{_TAGS})(?:[ ][^<>\n]{{0,500}})?/?>",
        r"<(?P<letter>[abipsu])(?:[ ][^<>\n]{1,500})?>(?=[^<>\n]{0,500}</(?P=letter)>)",
        r"<[abip][ ]+(?:class|href|id|name|style|target|title)[ ]*=[^<>\n]{0,500}>",
        r"</[abipsu]>",
        ignore_case=True,
        sign="<",
    ),
    "images": _rule("Markdown images", r"!\[[^\]\[\n]{0,300}\]\([^()\n]{0,600}\)(?:\{[^{}\n]{0,200}\})?"),
    "links": _rule(
        "Markdown links: their text is kept",
        r"\[(?<!!\[)([^\]\[]{1,300})\]\("
        r"(?:https?:|/|\#|\.|mailto:|[\w./-]{1,200}\.[a-z]{2,5}(?=[)\#]))[^()\s]{0,600}"
        r"(?:[ ]\"[^\"\n]{0,200}\")?\)",
        replacement=r"\1",
    ),
    "link-definitions": _rule(
        "Where the links of a Markdown text point",
        r"^[ ]{0,3}\[[^\]\[\n]{1,100}\]:[ ]++(?:<|https?:|\.|/|\#)[^\n]*+\n?",
        sign="]:",
    ),
    "addresses": _rule(
        "Web and mail addresses, but for the examples and templates of a specification",
        rf"<(?:https?|ftp)://{_URL}>",
        rf"https?://{_URL}/?",
        rf"ftp://{_URL}/?",
        rf"www\.(?<!\w{{4}}\.){_URL}/?",
    ),
    "mail-addresses": _rule(
        "Mail addresses, but for the examples of a specification",
        r"<?(?<![\w.+@-])(?![^\s@]{1,64}@[^\s]{0,80}?(?:example|3gppnetwork|invalid)\b)"
        r"[\w.+-]{1,64}+@[\w-]{1,64}(?:\.[\w-]{2,24}){0,3}\.[A-Za-z]{2,24}\b>?",
        sign="@",
    ),
    "bracket-citations": _rule(
        "Citations in brackets, [12] or [3, 5-7]; not indices, ASN.1 tags or ranges such as [0, 7]",
        rf"\((?:as[ ]in|see(?:[ ]also)?|cf\.|e\.g\.,?|in)[ ]\[{_CITED}\](?>(?:(?:,|[ ]and)?[ ]\[{_CITED}\])*)\)",
        r"[ ](?:as[ ])?(?:in|by|from|see|cf\.)[ ]\[[1-9]\d{0,2}\]"
        r"(?>(?:(?:,|[ ]and)[ ]\[[1-9]\d{0,2}\])*)(?=[ ]?[.;)]|\Z)",
        rf"\[(?<![\w\])}}>=∈/]\[){_NOT_CITED}{_CITED}\](?>(?:[ ]?(?:,|and|or|[\u2013-])?[ ]?\[{_CITED}\])*)"
        rf"(?![\w(\[])(?![ ]+(?:{_ASN1})\b)",
        sign="[",
    ),
    "notices": _rule(
        "Notices about cookies, sharing and rights",
        rf"^[^\n|]{{0,160}}?\b(?:{_NOTICES})\b[^\n|]{{0,160}}$\n?",
        ignore_case=True,
    ),
    "ornaments": _rule(
        "Lines of nothing but punctuation, and blanks to fill in",
        r"^[ ]*+[*_=~#.·•\\-]{3,}+[ ]*+$\n?",
        r"\.{6,}+",
        r"_{6,}+",
    ),
    "empty-brackets": _rule(
        "Brackets that the rules above left empty; the brackets of a function stay",
        r"\((?<![\w>\])}`]\()(?>(?:[ ,;]|see\b|e\.g\.|cf\.)*)\)",
        r"\[(?<![\w>\])}`]\[)[ ,;]*+\](?!\()",
    ),
    "repeated-spaces": _rule("More than one space within a line", r"(?<=[^ \n])[ ]{2,}+(?=[^\n])", replacement=" "),
    "space-before-stop": _rule(
        "A space before a full stop, comma or closing bracket",
        rf"[ ](?<=[\w)\]{CLOSE}][ ])(?=[.,;](?:[ \n]|\Z))",
        rf"[ ](?<=[\w.{CLOSE}][ ])(?=\)[\s.,;:])",
    ),
    "line-ends": _rule("Spaces at line ends", r"[ ](?<![ ][ ])[ ]*+$"),
    "blank-lines": _rule("More than one blank line", r"\n{3,}+", replacement="\n\n"),
}
"""The rules, in the order in which they apply."""


def apply(text: str, rules: dict[str, Rule]) -> tuple[str, dict[str, int]]:
    """Return the cleaned text and how often each rule changed something; what is protected stays as it is."""
    masked, passages = mask(text)
    found: dict[str, int] = {}
    for name, rule in rules.items():
        masked, number = rule.apply(masked)
        if number:
            found[name] = number
    return unmask(masked, passages).strip("\n").rstrip(), found
