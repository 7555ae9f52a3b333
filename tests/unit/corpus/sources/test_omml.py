"""Tests of formulas: Office Math to LaTeX."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from telellm.corpus.sources.omml import to_latex

NAMESPACES = (
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
)


def r(text: str, properties: str = "") -> str:
    """Return a run of a formula."""
    return f"<m:r>{properties}<m:t>{text}</m:t></m:r>"


def latex(inner: str) -> str:
    """Return the LaTeX of a formula."""
    return to_latex(etree.fromstring(f"<m:oMath {NAMESPACES}>{inner}</m:oMath>"))


UPRIGHT = "<m:rPr><m:nor/></m:rPr>"
CASES = {
    "fraction": (f"<m:f><m:num>{r('a+b')}</m:num><m:den>{r('2')}</m:den></m:f>", r"\frac{a+b}{2}"),
    "linear fraction": (
        f'<m:f><m:fPr><m:type m:val="lin"/></m:fPr><m:num>{r("a")}</m:num><m:den>{r("b")}</m:den></m:f>',
        "{a}/{b}",
    ),
    "scripts": (f"<m:sSub><m:e>{r('T')}</m:e><m:sub>{r('c')}</m:sub></m:sSub>", "T_{c}"),
    "both scripts": (
        f"<m:sSubSup><m:e>{r('N')}</m:e><m:sub>{r('symb', UPRIGHT)}</m:sub><m:sup>{r('μ')}</m:sup></m:sSubSup>",
        r"N_{\mathrm{symb}}^{\mu}",
    ),
    "script of a group": (f"<m:sSup><m:e>{r('1+x')}</m:e><m:sup>{r('K')}</m:sup></m:sSup>", "{1+x}^{K}"),
    "sum": (
        f'<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr><m:sub>{r("i=0")}</m:sub><m:sup>{r("N−1")}</m:sup>'
        f"<m:e>{r('x')}</m:e></m:nary>",
        r"\sum_{i=0}^{N-1} x",
    ),
    "integral": (
        f'<m:nary><m:naryPr><m:supHide m:val="1"/></m:naryPr><m:sub>{r("Ω")}</m:sub><m:sup/>'
        f"<m:e>{r('f')}</m:e></m:nary>",
        r"\int_{\Omega} f",
    ),
    "square root": (
        f'<m:rad><m:radPr><m:degHide m:val="1"/></m:radPr><m:deg/><m:e>{r("2")}</m:e></m:rad>',
        r"\sqrt{2}",
    ),
    "cube root": (f"<m:rad><m:deg>{r('3')}</m:deg><m:e>{r('x')}</m:e></m:rad>", r"\sqrt[3]{x}"),
    "matrix": (
        f'<m:d><m:dPr><m:begChr m:val="["/><m:endChr m:val="]"/></m:dPr><m:e><m:m><m:mr><m:e>{r("1")}</m:e>'
        f"<m:e>{r('0')}</m:e></m:mr><m:mr><m:e>{r('0')}</m:e><m:e>{r('1')}</m:e></m:mr></m:m></m:e></m:d>",
        r"\left[\begin{matrix} 1 & 0 \\ 0 & 1 \end{matrix}\right]",
    ),
    "cases": (
        '<m:d><m:dPr><m:begChr m:val="{"/><m:endChr m:val=""/></m:dPr>'
        f"<m:e><m:eqArr><m:e>{r('a')}</m:e><m:e>{r('b')}</m:e></m:eqArr></m:e></m:d>",
        r"\left\{\begin{array}{l} a \\ b \end{array}\right.",
    ),
    "floor": (
        f'<m:d><m:dPr><m:begChr m:val="⌊"/><m:endChr m:val="⌋"/></m:dPr><m:e>{r("x")}</m:e></m:d>',
        r"\left\lfloor x\right\rfloor",
    ),
    "accent": (f'<m:acc><m:accPr><m:chr m:val="̃"/></m:accPr><m:e>{r("h")}</m:e></m:acc>', r"\tilde{h}"),
    "default accent": (f"<m:acc><m:e>{r('h')}</m:e></m:acc>", r"\hat{h}"),
    "bar": (f'<m:bar><m:barPr><m:pos m:val="top"/></m:barPr><m:e>{r("x")}</m:e></m:bar>', r"\overline{x}"),
    "function": (f"<m:func><m:fName>{r('log')}</m:fName><m:e>{r('x')}</m:e></m:func>", r"\log x"),
    "limit": (
        f"<m:func><m:fName><m:limLow><m:e>{r('max', UPRIGHT)}</m:e><m:lim>{r('k')}</m:lim></m:limLow></m:fName>"
        f"<m:e>{r('x')}</m:e></m:func>",
        r"\max_{k} x",
    ),
    "brace": (f"<m:groupChr><m:e>{r('ab')}</m:e></m:groupChr>", r"\underbrace{ab}"),
    "Greek beside letters": (r("2πfτ≤αb"), r"2\pi f\tau\leq\alpha b"),
    "letters of the mathematical alphabet": (r("𝑥+𝛽"), r"x+\beta"),
    "blackboard": (r("R", '<m:rPr><m:scr m:val="double-struck"/></m:rPr>'), r"\mathbb{R}"),
    "words": (r("for all k", UPRIGHT), r"\text{for all k}"),
    "signs with a meaning in LaTeX": (r("50% {a_b}"), r"50\% \{a\_b\}"),
    "tracked changes": (f"<w:ins>{r('a')}</w:ins><w:del>{r('b')}</w:del>", "a"),
    "unknown element": (f"<m:box><m:boxPr/><m:e>{r('y')}</m:e></m:box>", "y"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_formula_becomes_latex(name: str) -> None:
    inner, expected = CASES[name]
    assert latex(inner) == expected


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=40))
def test_braces_stay_balanced(text: str) -> None:
    run = etree.fromstring(f"<m:oMath {NAMESPACES}><m:r><m:t/></m:r></m:oMath>")
    run[0][0].text = text
    written = to_latex(run).replace(r"\{", "").replace(r"\}", "")
    assert written.count("{") == written.count("}")
