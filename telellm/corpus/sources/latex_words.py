"""What the commands and environments of LaTeX mean for a reader: the tables that the readers look words up in."""


def _words(text: str) -> list[str]:
    return text.split()


SECTIONS = {"part": 0, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4}

CITATIONS = frozenset(
    _words(
        "cite citep citet citealp citealt citeauthor citeyear citeyearpar citenum parencite textcite autocite "
        "footcite "
        "fullcite Cite Citet Citep supercite onlinecite shortcite citen nocite cites"
    )
)
REFERENCES = frozenset(_words("ref eqref autoref cref Cref pageref nameref vref subref labelcref Autoref fref Fref"))

DROPPED = {
    **dict.fromkeys(
        _words(
            "bibliography bibliographystyle bibitem vspace hspace includegraphics pagestyle thispagestyle usepackage "
            "documentclass author date thanks email affiliation affil address institute institution orcid "
            "orcidlink todo "
            "fixme hypersetup pagenumbering input include subfile graphicspath color theoremstyle captionsetup index "
            "includepdf addbibresource RequirePackage title shorttitle shortauthors IEEEauthorblockN "
            "IEEEauthorblockA "
            "IEEEmembership IEEEspecialpapernotice corref cortext fntext fnref tnotetext ead vskip hskip cline "
            "cmidrule "
            "cellcolor rowcolor columncolor label hyphenation pdfinfo DeclareGraphicsExtensions allowdisplaybreaks "
            "setstretch linespread fontsize selectfont enlargethispage vphantom hphantom phantom glsresetall "
            "acroplural "
            "tikzset pgfplotsset usetikzlibrary lstset sisetup glossarystyle printglossary setkeys bstctlcite "
            "acmConference "
            "ccsdesc received stepcounter refstepcounter markright IEEEpubid IEEEtriggeratref tikzstyle fxsetup "
            "theoremheaderfont theorembodyfont newtoggle toggletrue togglefalse sethlcolor excludecomment "
            "degree department advisor newcounter newlength newcolumntype titlerunning authorrunning inst"
        ),
        1,
    ),
    **dict.fromkeys(
        _words(
            "setlength addtolength setcounter addtocounter markboth rule newtheorem DeclareMathOperator import "
            "subimport "
            "newcommand renewcommand providecommand fontsize numberwithin acrodef newacro titleformat "
            "AtBeginEnvironment DeclareAcronym newglossaryentry settowidth"
        ),
        2,
    ),
    **dict.fromkeys(_words("addcontentsline definecolor newacronym newabbreviation newenvironment setlist"), 3),
}
"""Command → how many arguments go with it."""

UNWRAPPED = {
    **dict.fromkeys(
        _words(
            "textcolor colorbox scalebox parbox raisebox href rotatebox captionof hyperlink hypertarget "
            "foreignlanguage "
            "adjustbox texorpdfstring"
        ),
        1,
    ),
    **dict.fromkeys(_words("resizebox multicolumn fcolorbox"), 2),
    "multirow": 2,
}
"""Command → how many arguments are dropped before the one that is read."""

DIMENSIONS = frozenset(
    _words(
        "vskip hskip kern parskip parindent itemsep parsep topsep tabcolsep baselineskip abovedisplayskip "
        "belowdisplayskip textfloatsep arrayrulewidth hsize vsize"
    )
)

DISPLAYS = frozenset(_words("equation displaymath dmath"))
ALIGNED = frozenset(_words("align alignat flalign gather multline eqnarray IEEEeqnarray xalignat dgroup"))
FLOATS = {
    "figure": "Figure", "wrapfigure": "Figure", "SCfigure": "Figure", "sidewaysfigure": "Figure",
    "teaserfigure": "Figure",
    "table": "Table", "wraptable": "Table", "sidewaystable": "Table", "algorithm": "Algorithm",
    "algorithm2e": "Algorithm",
    "longtable": "Table", "subfigure": "", "subtable": "", "listing": "Listing",
}  # fmt: skip
TABLES = {
    "tabular": 1, "tabularx": 2, "tabulary": 2, "tabu": 1, "xltabular": 2, "longtable": 1, "supertabular": 1,
    "array": 1,
    "tabularray": 1, "tblr": 1,
}  # fmt: skip
LISTS = frozenset(
    _words(
        "itemize enumerate description compactitem compactenum compactdesc inparaenum asparaenum asparaitem "
        "inparaitem "
        "IEEEitemize IEEEenumerate IEEEdescription acronym list trivlist outline"
    )
)
ENVIRONMENT_ARGUMENTS = {
    "minipage": 1, "wrapfigure": 2, "wraptable": 2, "multicols": 1, "adjustbox": 1, "list": 2, "subfigure": 1,
    "subtable": 1,
    "spacing": 1, "otherlanguage": 1, "tabbing": 0, "textblock": 1, "appendices": 0,
}  # fmt: skip
UNREAD = frozenset(
    _words(
        "tikzpicture pgfpicture picture thebibliography filecontents CCSXML axis pspicture circuitikz forest "
        "feynman comment "
        "IEEEbiography IEEEbiographynophoto tikzcd bytefield overpic psfrags"
    )
)
THEOREMS = {
    "theorem": "Theorem", "thm": "Theorem", "lemma": "Lemma", "lem": "Lemma", "proposition": "Proposition",
    "prop": "Proposition", "corollary": "Corollary", "cor": "Corollary", "definition": "Definition",
    "defn": "Definition",
    "remark": "Remark", "rem": "Remark", "example": "Example", "assumption": "Assumption", "claim": "Claim",
    "conjecture": "Conjecture", "problem": "Problem", "fact": "Fact", "observation": "Observation",
    "property": "Property",
}  # fmt: skip
UNNUMBERED = {
    "proof": "Proof", "IEEEproof": "Proof", "pf": "Proof", "IEEEkeywords": "Keywords", "keywords": "Keywords",
    "keyword": "Keywords", "acknowledgements": "Acknowledgements", "acknowledgments": "Acknowledgements",
    "acks": "Acknowledgements",
}  # fmt: skip

STEPS = {
    "state": ("", ""), "statex": ("", ""), "return": ("return ", ""), "kwret": ("return ", ""),
    "require": ("Require: ", ""), "ensure": ("Ensure: ", ""), "input": ("Input: ", ""), "output": ("Output: ", ""),
    "kwin": ("Input: ", ""), "kwout": ("Output: ", ""), "kwdata": ("Data: ", ""), "kwresult": ("Result: ", ""),
    "if": ("if ", " then"), "uif": ("if ", " then"), "eif": ("if ", " then"), "elsif": ("else if ", " then"),
    "elseif": ("else if ", " then"), "else": ("else", ""), "uelse": ("else", ""), "endif": ("end if", ""),
    "for": ("for ", " do"), "forall": ("for all ", " do"), "foreach": ("for each ", " do"), "endfor": ("end for", ""),
    "while": ("while ", " do"), "endwhile": ("end while", ""), "repeat": ("repeat", ""), "until": ("until ", ""),
    "loop": ("loop", ""), "endloop": ("end loop", ""), "function": ("function ", ""), "procedure": ("procedure ", ""),
    "endfunction": ("end function", ""), "endprocedure": ("end procedure", ""),
}  # fmt: skip
"""Step of an algorithm (in lower case) → the words around its argument."""

ACCENTS = {
    "`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", '"': "\u0308", "=": "\u0304", ".": "\u0307",
    "u": "\u0306", "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328", "r": "\u030a", "d": "\u0323",
    "b": "\u0331",
}  # fmt: skip

SYMBOLS = {
    ",": " ", ";": " ", ":": " ", " ": " ", "\n": " ", "\t": " ", "!": "", "-": "", "/": "", "@": "", "quad": " ",
    "qquad": " ", "S": "§", "P": "¶", "copyright": "©", "textgreater": ">", "textless": "<", "textbar": "|",
    "euro": "€",
    "EUR": "€", "textunderscore": "_", "texttrademark": "™", "TeX": "TeX", "LaTeX": "LaTeX", "LaTeXe": "LaTeX2e",
    "BibTeX": "BibTeX", "slash": "/", "textquotesingle": "'", "textquotedbl": '"', "%": "%", "par": "\n\n",
    "newline": "\n", "linebreak": "\n", "textellipsis": "…", "textbullet": "•", "pounds": "£", "ohm": "Ω",
    "textohm": "Ω",
    "micro": "µ", "degree": "°", "celsius": "°C", "textasteriskcentered": "*", "textcelsius": "°C", "checkmark": "✓",
    "percent": "%", "protect": "", "thinspace": " ", "hfill": " ", "and": " ", "textbraceleft": "{",
    "textbraceright": "}",
    "lbrack": "[", "rbrack": "]", "textemdash": "—", "textendash": "\u2013", "today": "", "cmark": "✓", "xmark": "✗",
}  # fmt: skip

UNITS = {
    "tera": "T", "giga": "G", "mega": "M", "kilo": "k", "hecto": "h", "deci": "d", "centi": "c", "milli": "m",
    "micro": "µ", "nano": "n", "pico": "p", "femto": "f", "hertz": "Hz", "Hz": "Hz", "kHz": "kHz", "MHz": "MHz",
    "GHz": "GHz", "THz": "THz", "second": "s", "s": "s", "ms": "ms", "us": "µs", "ns": "ns", "minute": "min",
    "hour": "h",
    "day": "d", "metre": "m", "meter": "m", "m": "m", "km": "km", "cm": "cm", "mm": "mm", "um": "µm", "nm": "nm",
    "gram": "g", "kilogram": "kg", "kg": "kg", "ampere": "A", "mA": "mA", "volt": "V", "V": "V", "mV": "mV",
    "watt": "W",
    "W": "W", "mW": "mW", "kW": "kW", "joule": "J", "ohm": "Ω", "farad": "F", "henry": "H", "kelvin": "K",
    "radian": "rad",
    "degree": "°", "celsius": "°C", "degreeCelsius": "°C", "decibel": "dB", "deci\\bel": "dB", "bel": "B", "dB": "dB",
    "dBm": "dBm", "dBi": "dBi", "bit": "bit", "byte": "B", "percent": "%", "per": "/", "squared": "²", "cubed": "³",
    "square": "²", "decibelm": "dBm", "bps": "bit/s", "newton": "N", "pascal": "Pa", "angstrom": "Å",
    "electronvolt": "eV",
}  # fmt: skip
