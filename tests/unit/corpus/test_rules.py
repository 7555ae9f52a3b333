import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm.corpus import rules
from telellm.corpus.protect import mask, unmask
from telellm.corpus.rules import RULES, apply

NASTY = (
    *("[1,1", "[1,", "[", "[[1]", "[1] ", "[1] and ", "see [1] ", "$$$$", "$", "$a ", "$a$", "<a <a", "<a href=", "<"),
    *("<b>", "</", "<style>", "<!--", "<script>", "<sup>1", "....", ". ", "(((", "(,", "(see ", "x", "x ", "  ", " \n"),
    *("\n", "# ", "# References\n", "## a\n", "References\n   x\n", "`", "```\n", "~~~", "\\begin{a}", "\\[", "\\]"),
    *("![", "![a](", "[a](", "[a](http:", "](", "www.", "http://", "https://.", "a@", "a.", "a@b.", "a.b@", "@", "---"),
    *(
        "- 1",
        "page 1 of ",
        "1. a\n        ",
        "- [a](#b)\n",
        "|  ",
        "___",
        "+-",
        "a   b\n",
        "   |\n",
        "\ufdd0\ufde1\ufdd1",
    ),
    *(
        "{:",
        "Error! Reference source",
        "we use cookies ",
        "all rights reserved",
        "Foreword\n\nThis",
        "table of contents",
    ),
    *("annex a ", "]: /", "[a]: /x\n", "\\begin{a}x\\end{b}", "*", "\u00ad", "\t"),
)
KEPT = {
    "an inline formula": "The capacity is $C = B \\log_2 (1 + [1, 2] ) .$ in the end.",
    "a displayed formula": "so that\n$$\nx_{[1]} = \\sum ( )  ,\n$$\nholds",
    "an environment": "\\begin{align}\na &= b  [3] \\\\\n\\end{align}",
    "a clause number": "4.2.2.2.1 General\n\n5.3.3.1a Conditions",
    "a table": "| Bits | [7:4] | CRC(x) |\n| --- | --- | --- |\n| 0 | reserved | - |",
    "ASN.1 in a fence": "```\nA ::= SEQUENCE {\n  a  [0] INTEGER (1..8)  ,\n  ...\n}\n```",
    "ASN.1 without a fence": "value [1] IMPLICIT OCTET STRING\nitem [12] SEQUENCE OF Item",
    "code in a line": "Set `gNBs.[0].x  ( )` and `https://git.host/a.git` here.",
    "a function": "Then nr_rx_pusch() calls memset() on int buffer[] and block[12].",
    "a range": "in the range [0, 7] and the interval [1, 14], with k in [1, 4].",
    "a bit diagram": (
        "    0                   1\n    0 1 2 3 4 5 6 7 8 9 0\n"
        "   +-+-+-+-+-+-+-+-+-+-+\n   |V=2|P|    RC   |....|\n   +-+-+-+-+-+-+-+-+-+-+"
    ),
    "a message sequence": "   UE                    gNB\n   |------ Msg1 [1] ------>|\n   |<----- Msg2 ( ) -------|",
    "a template": "GET http://{apiRoot}/nnrf-disc/v1 and 0123@nai.epc.mnc001.mcc001.3gppnetwork.org",
    "an example address": "the canonical name is doe@sleepy.example.com",
    "a price": "It costs $5 and $10 .5 a month",
    "a placeholder": "drb-<i> of cell <s> and /sys/<b>/x",
    "an emphasis": "a **bold** and _slanted_ word",
    "an ellipsis": "n = 1, 2, ..., N and so on...",
}
TAKEN = {
    "control-characters": ("a\u200bb\u00adc", "abc"),
    "spaces": ("3\u00a0dB\tis", "3 dB is"),
    "contents-lines": (
        "Table of Contents\n   1. Scope ........ 3\n"
        "   2. Protecting against the loss of\n            data ....... 12\nText.",
        "Text.",
    ),
    "page-furniture": ("a\nPage 3 of 12\n- 4 -\nb", "a\nb"),
    "closing-sections": (
        "## 1 Scope\nA.\n## 2 References\n[1] B\n### 2.1 Normative\nC\n"
        "## 3 Terms\nD.\n## Annex C (informative): Change history\n|x|",
        "## 1 Scope\nA.\n## 3 Terms\nD.",
    ),
    "fields": ("as in Error! Reference source not found. above {: .note}", "as in above"),
    "html-blocks": ("a<!-- no -->b<style>\nx {y}\n</style>", "ab"),
    "superscripts": ("10<sup>-6</sup>", "10^-6"),
    "subscripts": ("T<sub>c</sub>", "T_c"),
    "html-tags": ('<table class="x"><tr><td><b><font size="5">Cell</font></b></td></tr></table>', "Cell"),
    "images": ("a ![the network](net.png){width=10} b", "a b"),
    "links": ("see [the\nbuild guide](./doc/BUILD.md#x) and [5G](https://a.b/c)", "see the\nbuild guide and 5G"),
    "link-definitions": ("a\n[1]: https://a.b/c\nb", "a\nb"),
    "addresses": ("It is at https://a.b/c_d?e=f. See <http://x.y/>.", "It is at. See."),
    "mail-addresses": ("Write to <joe.doe@operator.net>, please", "Write to, please"),
    "bracket-citations": ("As shown in [3], it fades [12, 14-17] deeply [2], [4] and [5] (as in [7]).", None),
    "notices": ("We use cookies to please you.\nText.", "Text."),
    "ornaments": ("a\n-----\nName: ________ b", "a\nName: b"),
    "empty-brackets": ("a (see ) and (, ) b", "a and b"),
    "repeated-spaces": ("a.  The b", "a. The b"),
    "space-before-stop": ("TS 23.501 ), b .", "TS 23.501), b."),
    "line-ends": ("a  \nb", "a\nb"),
    "blank-lines": ("a\n\n\n\nb", "a\n\nb"),
}


@contextmanager
def no_hang(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"still at work after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_teaches_is_kept(text: str) -> None:
    assert apply(text, RULES)[0] == text.rstrip().strip("\n")


@pytest.mark.parametrize("name", RULES)
def test_a_rule_takes_out_what_it_is_for(name: str) -> None:
    text, expected = TAKEN[name]
    cleaned, found = apply(text, RULES)
    assert found[name] > 0
    if expected is not None:
        assert cleaned == expected


def test_a_citation_goes_with_the_words_that_point_to_it() -> None:
    cleaned, _ = apply(TAKEN["bracket-citations"][0], RULES)
    assert cleaned == "As shown in [3], it fades deeply."


def test_a_memo_loses_its_closing_sections_and_keeps_its_appendix() -> None:
    memo = "9.  Security\n\n   None.\n\nReferences\n\nNormative References\n\n   [1]  A, B.\n\n   [RFC2]    C.\n\n"
    memo += "Appendix A.  Code\n\n   main\n\nAuthors' Addresses\n\n   J. Doe\n   EMail: j@doe.net\n"
    assert apply(memo, RULES)[0] == "9.  Security\n\n   None.\n\nAppendix A.  Code\n\n   main".replace(".  ", ". ")


def test_only_the_foreword_that_all_specifications_share_goes() -> None:
    shared = "# T\n\n## Foreword\n\nThis Technical Specification has been produced by a body.\n\n- Version x"
    shared += "\n\n## 1 Scope\n\nA."
    own = "# T\n\n## Foreword\n\nPlanning begins with a subtraction.\n\n## 1 Scope\n\nA."
    assert apply(shared, RULES)[0] == "# T\n\n## 1 Scope\n\nA."
    assert apply(own, RULES)[0] == own


def test_every_rule_is_linear_on_hostile_text() -> None:
    with no_hang(60):
        for unit in NASTY:
            text = "x\n" + unit * (100_000 // len(unit)) + "!"
            mask(text)
            for rule in RULES.values():
                rule.apply(text)


pieces = st.sampled_from([*NASTY, *KEPT.values(), *(text for text, _ in TAKEN.values())])


@settings(max_examples=200)
@given(st.lists(st.one_of(pieces, st.text(max_size=20)), max_size=12).map("".join))
def test_what_is_masked_comes_back(text: str) -> None:
    assert unmask(*mask(text)) == re.sub("[\ufdd0-\ufdef]", "", text)


@settings(max_examples=100)
@given(st.lists(st.one_of(pieces, st.text(max_size=20)), max_size=12).map("".join))
def test_cleaning_adds_nothing_and_leaves_no_marks(text: str) -> None:
    cleaned, found = apply(text, RULES)
    assert len(cleaned) <= len(text)
    assert not re.search("[\ufdd0-\ufdef]", cleaned)
    assert set(found) <= set(RULES)


@given(st.text(alphabet=" abc.,\n", max_size=200))
def test_a_clean_text_stays_as_it_is(text: str) -> None:
    once, _ = apply(text, RULES)
    twice, _ = apply(once, RULES)
    assert apply(twice, RULES)[0] == twice


def test_no_group_repeats_possessively_which_differs_between_versions_of_python():
    possessive = re.compile(r"(?<!\\)\)(?:[*+?]|\{+\d*,?\d*\}+)\+")
    package = Path(rules.__file__).parents[1]
    found = {path.name: possessive.findall(path.read_text()) for path in package.rglob("*.py")}
    assert not {name: groups for name, groups in found.items() if groups}


def test_a_closing_section_takes_nothing_of_the_next_heading():
    text = "# One\n\nText.\n\n## References\n\n[1] A book.\n\n### Below\n\nMore.\n\n## Next\n\nText."
    assert apply(text, RULES)[0] == "# One\n\nText.\n\n## Next\n\nText."
