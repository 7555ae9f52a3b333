"""LaTeX: comments, macros, and what the text of a paper becomes."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm.corpus.sources.archive import Refused
from telellm.corpus.sources.latex import find_group_end, find_option_end, match_braces, strip_comments
from telellm.corpus.sources.latex_macros import expand_macros
from telellm.corpus.sources.latex_text import to_text

PIECES = r"""
\ { } [ ] $ $$ % a Zz & ~ #1 \a | \newcommand \def \iffalse \fi \[ \] \\ \' \item \section \cite{k} \ref{x} \SI \ac{x}
\begin{itemize} \end{itemize} \begin{align} \end{align} \begin{tabular}{c} \end{tabular} \begin{figure} \end{figure}
\begin{verbatim} \end{verbatim} \begin{abstract} \end{abstract} \begin{theorem}[ \caption \footnote \title \verb|
"""
LATEX = st.lists(st.sampled_from([*PIECES.split(), " ", "\n", "\n\n"]), max_size=60).map("".join)


def body_of(source: str) -> str:
    return to_text("", source).body


# Comments.


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        ("one % two\nthree", "one three"),
        ("95\\% of it % really", "95\\% of it "),
        ("break \\\\% here\nnext", "break \\\\next"),
        ("a\n% only\nb", "a\nb"),
        ("a % end\n\nb", "a \n\nb"),
        ("\\verb|50%| off % gone", "\\verb|50%| off "),
        ("\\url{http://a/b%20c} % gone", "\\url{http://a/b%20c} "),
        ("\\begin{verbatim}\n% kept\n\\end{verbatim}% gone", "\\begin{verbatim}\n% kept\n\\end{verbatim}"),
        ("a\\begin{comment}\nnot this\n\\end{comment}b", "ab"),
    ],
)
def test_a_comment_goes_and_what_only_looks_like_one_stays(source: str, stripped: str) -> None:
    assert strip_comments(source) == stripped


@given(st.lists(st.tuples(st.from_regex(r"(?:[ab{}]|\\%){1,5}", fullmatch=True), st.text(alphabet="xy %\\{}"))))
def test_comments_go_and_nothing_else(lines: list[tuple[str, str]]) -> None:
    source = "\n".join(f"{text}%{comment}" for text, comment in lines)
    assert strip_comments(source) == "".join(text for text, _ in lines)


@given(st.text(alphabet="ab \\%\n{}"))
def test_no_comment_survives(source: str) -> None:
    assert "%" not in re.sub(r"(?s)\\.", "", strip_comments(source))


@given(st.text(alphabet="ab \\\n{}$&"))
def test_a_text_without_a_percent_sign_stays_as_it_is(source: str) -> None:
    assert strip_comments(source) == source


@given(st.text(alphabet="{}\\a]", max_size=40))
def test_braces_match_as_they_do_one_at_a_time(source: str) -> None:
    match = match_braces(source)
    opened = [brace.start() for brace in re.finditer(r"\\.|\{", source) if brace[0] == "{"]
    assert all(match[start] == find_group_end(source, start) for start in opened)


def test_an_option_ends_outside_braces() -> None:
    assert find_option_end("[a{]}b] c]", 0) == 6
    assert find_option_end("[a{b", 0) == -1


# Macros.


@pytest.mark.parametrize(
    ("source", "expanded"),
    [
        (r"\newcommand{\vx}{\mathbf{x}}$\vx y$", r"$\mathbf{x}y$"),
        (r"\newcommand\E[1]{\mathbb{E}[#1]}\E{X}+\E Y", r"\mathbb{E}[X]+\mathbb{E}[Y]"),
        (r"\newcommand{\n}[2][2]{|#2|_{#1}}\n{x}\n[1]{y}", r"|x|_{2}|y|_{1}"),
        (r"\def\a#1#2{#2#1}\a xy", "yx"),
        (r"\newcommand{\al}{\alpha}$\al x$", r"$\alpha x$"),
        (r"\newcommand{\h}[1]{\hat#1}\h x", r"\hat x"),
        (r"\DeclareMathOperator*{\argmin}{arg\,min}\argmin_x", r"\operatorname*{arg\,min}_x"),
        (r"\renewcommand{\x}{a}\providecommand{\x}{b}\x", "a"),
        (r"\newcommand{\eg}{e.g.\xspace}\eg this", "e.g. this"),
        (r"\def\bea{\begin{align}}\def\eea{\end{align}}\bea x\eea", r"\begin{align}x\end{align}"),
        (r"\newenvironment{my}[1]{<#1>}{</>}\begin{my}{t}x\end{my}", "<t>x</>"),
        (r"\let\old\vec\renewcommand{\vec}[1]{\old{\mathbf #1}}\vec{a}", r"\vec {\mathbf a}"),
        (r"a\iffalse b\else c\fi d\iftrue e\else f\fi", "acde"),
        (r"\newif\ifdraft\drafttrue\ifdraft a\else b\fi\draftfalse\ifdraft c\fi", "a"),
        (r"\newcommand{\x}{a}\verb|\x|\x", r"\verb|\x|a"),
        (r"\newcommand{\section}{gone}\section{S}", r"\section{S}"),
        (r"\def\odd#1,{#1}\newcommand{\p}{\csname x\endcsname}\p", r"\p"),
        (r"\NewDocumentCommand{\f}{m m}{#2#1}\f{a}{b}", "ba"),
        (r"\DeclarePairedDelimiter{\abs}{\lvert}{\rvert}\abs{x}", r"\lvert x \rvert "),
    ],
)
def test_a_macro_becomes_what_it_stands_for(source: str, expanded: str) -> None:
    assert expand_macros(source, {"section"}) == expanded


def test_an_acronym_is_long_once_and_short_then() -> None:
    source = r"\newacronym{bs}{BS}{base station}\acro{ue}[UE]{user equipment}\DeclareAcronym{rf}{short=RF, long=radio}"
    source += r"|\gls{bs}, \gls{bs}, \Acp{ue}, \acp{ue}, \acl{rf}, \acf{rf}, \ac{none}"
    assert expand_macros(source).split("|")[1] == (
        "base station (BS), BS, User equipments (UEs), UEs, radio, radio (RF), none"
    )


@pytest.mark.parametrize("letter", ["x", ""])
def test_a_macro_bomb_is_refused(letter: str) -> None:
    chain = "".join(f"\\def\\{chr(98 + i)}{{\\{chr(97 + i)}\\{chr(97 + i)}\\{chr(97 + i)}}}" for i in range(24))
    with pytest.raises(Refused, match="too large"):
        expand_macros(f"\\def\\a{{{letter}}}{chain}\\y")
    with pytest.raises(Refused, match="too large"):
        expand_macros(r"\newcommand{\q}[1]{#1#1}" + r"\q{" * 60 + f"x{letter}" + "}" * 60)


def test_a_macro_that_means_itself_ends() -> None:
    assert expand_macros(r"\def\a{\b}\def\b{<\a>}\a").count("<") < 100
    with pytest.raises(Refused, match="too large"):
        expand_macros(r"\def\a{\a\a}\a")


def test_a_macro_is_expanded_in_its_own_argument() -> None:
    assert expand_macros(r"\newcommand{\q}[1]{<#1>}\q{a\q{b}}") == "<a<b>>"


@given(st.text(alphabet="ab \n{}$&%\\[]#1"))
def test_a_text_without_definitions_is_not_changed(source: str) -> None:
    assert expand_macros(source) == source


@given(st.text(alphabet="abc {}", max_size=20).filter(lambda text: find_group_end(f"{{{text}}}", 0) == len(text) + 1))
def test_an_argument_arrives_whole(argument: str) -> None:
    assert expand_macros(f"\\newcommand{{\\q}}[1]{{<#1>}}\\q{{{argument}}}") == f"<{argument}>"


@settings(deadline=None)
@given(LATEX)
def test_whatever_is_written_is_expanded_and_read_or_refused(source: str) -> None:
    try:
        text = to_text(source, expand_macros(strip_comments(source)))
    except Refused:
        return
    assert not set(text.body) & set(map(chr, range(1, 6)))


# Text.


def test_formulas_stay_latex() -> None:
    text = to_text(
        "", r"A \(x_1\) and $\text{if $b$}$. \[ E = mc^2 \label{e} \] \begin{align}a&=b\\c&=d\nonumber\end{align}"
    )
    assert text.num_formulas == 4
    assert text.body == ("A $x_1$ and $\\text{if $b$}$.\n$$ E = mc^2 $$\n\n\\begin{align}\na&=b\\\\c&=d\n\\end{align}")


def test_an_unclosed_formula_ends_with_its_paragraph() -> None:
    text = to_text("", "It costs $5 here.\n\nNext \\emph{one}.")
    assert text.body == "It costs $5 here.\n\nNext one."
    assert text.num_formulas == 0


def test_title_and_abstract_come_apart_from_the_body() -> None:
    text = to_text(
        r"\title[Short]{On\\ Beams\thanks{Us}}\author{A}",
        r"\maketitle\begin{abstract}We \emph{do}.\end{abstract}\section{In}",
    )
    assert (text.title, text.abstract, text.body) == ("On Beams", "We do.", "## In")


def test_sections_become_headings_and_chapters_stand_above_them() -> None:
    assert body_of(r"\section{A}\subsection*{B}x") == "## A\n\n### B\n\nx"
    assert body_of(r"\chapter{A}\section{B}") == "## A\n\n### B"


def test_lists_become_items() -> None:
    source = r"\begin{itemize}\item one \item[key] two \begin{enumerate}\item x\item y\end{enumerate}\end{itemize}"
    assert body_of(source) == "- one\n- key: two\n  1. x\n  2. y"


def test_a_table_keeps_its_rows() -> None:
    source = r"""\begin{table}\caption{Speeds}\begin{tabular}{|l|c|}\hline Band & \textbf{Rate} \\[2pt]
    \multicolumn{2}{c}{n78 \& n79} \\ \cmidrule{1-2} $a & b$ & \begin{tabular}{c}x\\y\end{tabular}
    \end{tabular}\end{table}"""
    assert body_of(source) == "Table 1: Speeds\n\nBand | Rate\nn78 & n79\n$a & b$ | x y"


def test_a_figure_keeps_only_its_caption() -> None:
    source = r"Before \begin{figure}[t]\includegraphics{a}junk $x$\caption{A \emph{cell}.}\label{f}\end{figure} "
    source += r"after Fig.~\ref{f}."
    text = to_text("", source)
    assert text.body == "Before\n\nFigure 1: A cell.\n\nafter Fig. 1."
    assert text.num_formulas == 0


def test_citations_go_without_a_gap() -> None:
    assert body_of(
        r"As shown~\cite{a}, it works (see \citep[p.~2]{b}) \cite{c}. In \cite{a},\cite{b}, x [\cite{z}]."
    ) == ("As shown, it works (see). In, x.")


def test_references_become_numbers() -> None:
    source = (
        r"\section{A}\label{a}\begin{equation}x\label{e}\end{equation}\begin{align}y\nonumber\\z\label{g}\end{align}"
        r"See \ref{a}, \eqref{e}, \cref{g}\ref{none}."
    )
    assert body_of(source).endswith("See 1, (1), Equation 2.")


def test_theorems_and_proofs_keep_their_text() -> None:
    text = to_text(
        r"\newtheorem{satz}{Statement}", r"\begin{satz}[Old]It holds.\end{satz}\begin{proof}Easy.\end{proof}"
    )
    assert text.body == "Statement 1 (Old). It holds.\n\nProof. Easy."


def test_algorithms_keep_their_steps() -> None:
    source = (
        r"\begin{algorithmic}[1]\Require $x$\While{$x>0$}\State $x \gets x-1$ \Comment{down}\EndWhile\end{algorithmic}"
    )
    assert body_of(source) == "Require: $x$\nwhile $x>0$ do\n$x \\gets x-1$ // down\nend while"


def test_accents_quotes_and_dashes_become_characters() -> None:
    source = r"Schr\"odinger, Erd\H{o}s, \'{e}t\'e, na\"{\i}ve, \c{c}a, Stra\ss e; ``so''---1--2~m \LaTeX{} "
    source += r"\& 5\,\% \textmu s"
    assert body_of(source) == ("Schrödinger, Erdős, été, naïve, ça, Straße; “so”—1\u20132 m LaTeX & 5 % µs")


def test_units_are_written_out() -> None:
    assert body_of(r"\SI{3.5}{\giga\hertz}, \qty{1}{\mega\bit\per\second}, \SI{20}{dBm}, \num{4}") == (
        "3.5 GHz, 1 Mbit/s, 20 dBm, 4"
    )


def test_footnotes_stand_in_brackets_and_the_bibliography_goes() -> None:
    assert body_of(r"One\footnote{A note.} two.\begin{thebibliography}{9}\bibitem{a}A\end{thebibliography}") == (
        "One (A note.) two."
    )


def test_code_stays_as_it_is() -> None:
    assert body_of("\\begin{lstlisting}[language=C]\nint  a = 5 % 2; // $x$\n\\end{lstlisting}\\verb|a_b$|") == (
        "```\nint  a = 5 % 2; // $x$\n```\n\na_b$"
    )


def test_deep_nesting_needs_no_recursion() -> None:
    depth = 5_000
    assert body_of("{" * depth + "x" + "}" * depth) == "x"
    assert body_of(r"\footnote{" * depth + "x" + "}" * depth).startswith("(")
    assert body_of(r"\begin{tabular}{c}" * depth + "x").endswith("x")
