"""Expand the macros, environments and acronyms that a LaTeX project defines for itself, within a budget."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from telellm.corpus.sources.latex import COMMAND, VERBATIM, find_verbatim_end
from telellm.corpus.sources.latex_acronyms import ACRONYM, Acronyms, collect_acronyms
from telellm.corpus.sources.latex_input import Input, Source

SPARE_CHARACTERS = 5_000_000
"""What macros may read and write (characters), beside ten times the text itself."""

_PARAMETERS = re.compile(r"(?:\s*#\d)*\s*")
_PARAMETER = re.compile(r"#([1-9])")
_ENDS_IN_WORD = re.compile(r"\\[a-zA-Z@]+\Z")
_PRIMITIVE = re.compile(
    r"\\(?:if(?!f\b)[a-z]*|csname|expandafter|futurelet|catcode|begingroup|loop|the|let|[egx]?def|(?:re)?newcommand"
    r"|[a-zA-Z]*@[a-zA-Z@]*)(?![a-zA-Z])"
)
_CONDITION = r"if(?:x|num|dim|cat|odd|mmode|vmode|hmode|inner|true|false|case|defined|csname|eof|void|hbox|vbox)?"
MAX_CONDITIONS = 100
MAX_NESTED_USES = 30


@dataclass(frozen=True)
class Macro:
    """What a control word stands for: `body` with `#1` … `#9`."""

    num_parameters: int
    default: str | None
    body: str
    final: bool = False
    r"""Whether the body is not read again: `\let\old\vec` keeps what `\vec` meant before."""


def expand_macros(text: str, protected: Collection[str] = (), learned: str = "") -> str:
    r"""Return a text whose own macros are expanded; their definitions are taken out.

    Knows `\newcommand` and its kin, `\def` without delimiters, `\let`, `\DeclareMathOperator`,
    `\DeclarePairedDelimiter`, `\newenvironment`, `\newif`, and acronyms (the long form at the first use). A macro
    that means itself is given up after a while, one whose body programs TeX is left alone, and the words in
    `protected` keep their meaning. `learned` is read for definitions only. Raises `Refused("too large")` when
    expansion explodes.
    """
    expander = _Expander(
        protected=protected, acronyms=Acronyms(collect_acronyms(text)), budget=10 * len(text) + SPARE_CHARACTERS
    )
    if learned:
        expander.expand(learned)
    return expander.expand(text)


@dataclass(kw_only=True)
class _Expander(Input):
    protected: Collection[str]
    acronyms: Acronyms
    macros: dict[str, Macro] = field(default_factory=dict)
    environments: dict[str, tuple[Macro, str]] = field(default_factory=dict)
    conditions: dict[str, bool] = field(default_factory=lambda: {"iftrue": True, "iffalse": False})
    out: list[str] = field(default_factory=list)

    def expand(self, text: str) -> str:
        self.sources = [Source(text)]
        self.out = out = []
        while self.sources:
            source = self.sources[-1]
            command = COMMAND.search(source.text, source.at)
            if command is None:
                out.append(source.text[source.at :])
                self.pop()
                continue
            out.append(source.text[source.at : command.start()])
            source.at = command.end()
            verbatim = VERBATIM.match(source.text, command.start())
            if verbatim:
                source.at = find_verbatim_end(source.text, verbatim)
                out.append(source.text[command.start() : source.at])
            elif command[1] is None or not self._obey(command[1]):
                out.append(command[0])
        return "".join(out)

    def _obey(self, name: str) -> bool:
        """Carry out a control word; return whether it did something, and leaves nothing in the text."""
        if name in self.macros and self.active[name] < MAX_NESTED_USES:
            return self._replace(name, self.macros[name])
        if name in ("newcommand", "renewcommand", "providecommand", "DeclareRobustCommand"):
            return self._define_command(name == "providecommand")
        if name in ("def", "gdef", "edef", "xdef"):
            return self._define_plainly()
        if name in ("begin", "end"):
            return self._replace_environment(name)
        if name in self.conditions or name in ("else", "fi"):
            return self._choose(name)
        if self.acronyms.forms and ACRONYM.match(name):
            return self._use_acronym(name)
        if name == "acresetall":
            self.acronyms.introduced.clear()
            return True
        define = {
            "let": self._alias,
            "newif": self._define_condition,
            "DeclareMathOperator": self._define_operator,
            "DeclarePairedDelimiter": self._define_delimiter,
            "NewDocumentCommand": self._define_document_command,
            "newenvironment": self._define_environment,
            "renewenvironment": self._define_environment,
        }.get(name)
        if define:
            return define()
        if (
            name.endswith(("true", "false"))
            and f"if{name.removesuffix('true').removesuffix('false')}" in self.conditions
        ):
            self.conditions[f"if{name.removesuffix('true').removesuffix('false')}"] = name.endswith("true")
            return True
        return False

    def _arguments(self, macro: Macro) -> list[str] | None:
        arguments: list[str] = []
        if macro.num_parameters and macro.default is not None:
            option = self.read_option()
            arguments.append(macro.default if option is None else option)
        while len(arguments) < macro.num_parameters:
            argument = self.read_argument()
            if argument is None:
                return None
            arguments.append(argument)
        return arguments

    def _replace(self, name: str, macro: Macro) -> bool:
        before = (self.sources[-1], self.sources[-1].at)
        if not macro.num_parameters and not macro.body.endswith("\\xspace"):
            self.skip_space()
        arguments = self._arguments(macro)
        if arguments is None:
            if self.sources[-1] is before[0]:
                self.sources[-1].at = before[1]
            return False
        if macro.final:
            self.out.append(f"{macro.body} ")
        else:
            self.push(_substitute(macro.body.removesuffix("\\xspace"), arguments), name)
        return True

    def _replace_environment(self, edge: str) -> bool:
        source = self.sources[-1]
        name = re.compile(r"\s*\{([^{}]*)\}").match(source.text, source.at)
        if not name or name[1] not in self.environments or self.active[name[1]] >= MAX_NESTED_USES:
            return False
        source.at = name.end()
        macro, closing = self.environments[name[1]]
        arguments = self._arguments(macro) if edge == "begin" else []
        # Only the begin part knows the arguments, as in LaTeX.
        self.push(_substitute(macro.body if edge == "begin" else closing, arguments or []), name[1])
        return True

    def _set(self, name: str, macro: Macro) -> bool:
        self.macros.pop(name, None)
        if name and name not in self.protected and not _PRIMITIVE.search(macro.body):
            self.macros[name] = macro
        return True

    def _define_command(self, keep_old: bool) -> bool:
        self.read_star()
        name = self.read_word()
        num_parameters, default = self.read_option(), None
        if num_parameters is not None:
            default = self.read_option()
        body = self.read_argument()
        if body is None or (num_parameters or "0").strip() not in set("0123456789"):
            return True
        if not (keep_old and name in self.macros):
            self._set(name, Macro(int((num_parameters or "0").strip()), default, body))
        return True

    def _define_plainly(self) -> bool:
        name = self.read_word()
        source = self.sources[-1]
        opening = source.text.find("{", source.at, source.at + 200)
        if not name or opening < 0:
            return False
        parameters = source.text[source.at : opening]
        source.at = opening
        body = self.read_argument()
        if body is not None and _PARAMETERS.fullmatch(parameters):
            return self._set(name, Macro(parameters.count("#"), None, body))
        return True

    def _alias(self) -> bool:
        name = self.read_word()
        if self.skip_space() == "=":
            self.sources[-1].at += 1
        old = self.read_argument() or ""
        if not old.startswith("\\"):
            return True
        return self._set(name, self.macros.get(old[1:], Macro(0, None, old, final=True)))

    def _define_condition(self) -> bool:
        if (name := self.read_word()).startswith("if") and len(self.conditions) < MAX_CONDITIONS:
            self.conditions[name] = False
        return True

    def _define_operator(self) -> bool:
        star = "*" if self.read_star() else ""
        name, body = self.read_word(), self.read_argument()
        return self._set(name, Macro(0, None, f"\\operatorname{star}{{{body or ''}}}"))

    def _define_delimiter(self) -> bool:
        name, left, right = self.read_word(), self.read_argument() or "", self.read_argument() or ""
        return self._set(name, Macro(1, None, f"{left} #1 {right}"))

    def _define_document_command(self) -> bool:
        name, arguments, body = self.read_word(), self.read_argument() or "", self.read_argument() or ""
        if set(arguments) <= set("m "):
            return self._set(name, Macro(min(arguments.count("m"), 9), None, body))
        return True

    def _define_environment(self) -> bool:
        self.read_star()
        name = (self.read_argument() or "").strip()
        num_parameters, default = self.read_option(), self.read_option()
        opening, closing = self.read_argument() or "", self.read_argument() or ""
        self.environments.pop(name, None)
        known = f"{opening}{closing}"
        if name not in self.protected and (num_parameters or "0") in set("0123456789") and not _PRIMITIVE.search(known):
            self.environments[name] = (Macro(int(num_parameters or "0"), default, opening), closing)
        return True

    def _choose(self, name: str) -> bool:
        r"""Leave out the branch of a known condition that is not taken; `\else` is met only behind one that is."""
        source = self.sources[-1]
        if name == "fi" or self.conditions.get(name, False):
            self.skip_space()
            return True
        own = "|".join(re.escape(condition) for condition in self.conditions)
        depth = 1
        for step in re.compile(rf"\\(?:({_CONDITION}|{own})|(else)|fi)(?![a-zA-Z@])").finditer(source.text, source.at):
            if step[1]:
                depth += 1
            elif not step[2]:
                depth -= 1
            if depth == 0 or (depth == 1 and step[2] and name != "else"):
                self.charge(step.end() - source.at)
                source.at = step.end()
                self.skip_space()
                return True
        self.charge(len(source.text) - source.at)
        return True

    def _use_acronym(self, name: str) -> bool:
        self.read_star()
        self.read_option()
        label = self.read_argument()
        if label is None:
            return False
        words = self.acronyms.write(name, label.strip())
        self.push(words, "")
        return True


def _substitute(body: str, arguments: list[str]) -> str:
    """Put arguments into a body; a control word never melts with the letter behind it."""
    pieces: list[str] = []
    at = 0
    for parameter in _PARAMETER.finditer(body):
        number = int(parameter[1])
        pieces.append(body[at : parameter.start()])
        argument = arguments[number - 1] if number <= len(arguments) else ""
        if argument[:1].isalpha() and _ENDS_IN_WORD.search(pieces[-1][-100:]):
            pieces.append(" ")
        pieces.append(argument)
        at = parameter.end()
    pieces.append(body[at:])
    text = "".join(pieces)
    return f"{text} " if _ENDS_IN_WORD.search(text[-100:]) else text
