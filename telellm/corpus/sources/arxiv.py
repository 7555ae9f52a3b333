r"""A LaTeX project from arXiv becomes one document: title, abstract and text, with its formulas as LaTeX."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from posixpath import normpath

from telellm.corpus.sources.archive import Refused, archive_stem, read_texts
from telellm.corpus.sources.file import MAX_LINE_CHARACTERS, SourceFile
from telellm.corpus.sources.latex import strip_comments
from telellm.corpus.sources.latex_macros import expand_macros
from telellm.corpus.sources.latex_text import to_text
from telellm.corpus.sources.latex_words import CITATIONS, REFERENCES, SECTIONS
from telellm.records import Document, Rejected

MAX_TEX_CHARACTERS = 2_000_000
"""Longest LaTeX text of one project, with its inputs and with its macros expanded."""
MAX_TEX_BYTES = 4 * MAX_TEX_CHARACTERS
MAX_INPUTS = 5_000
MAX_INPUT_DEPTH = 30
MAX_CANDIDATES = 200
MAX_STYLE_BYTES = 200_000

PROTECTED = frozenset(
    {*SECTIONS, *CITATIONS, *REFERENCES, "title", "abstract", "author", "label", "item", "footnote", "caption"}
    | {"begin", "end", "document", "input", "paragraph", "subparagraph", "maketitle", "thanks", "figure", "table"}
    | {"bibitem", "bibliography", "includegraphics", "text", "par"}
)

_CLASS = re.compile(r"\\document(?:class|style)(?![a-zA-Z])")
_BEGIN, _END = re.compile(r"\\begin\s*\{document\}"), re.compile(r"\\end\s*\{document\}")
_INPUT = re.compile(
    r"\\(?:(?P<two>import|subimport|inputfrom|includefrom)\*?\s*\{(?P<folder>[^{}]*)\}\s*\{(?P<file>[^{}]*)\}"
    r"|(?:input|include|subfile|subfileinclude|subinputfrom)(?![a-zA-Z@])\s*(?:\{(?P<name>[^{}]*)\}|(?P<bare>[\w./\-]+)))"
    r"|\\(?P<stop>endinput)(?![a-zA-Z@])"
)
_PACKAGE = re.compile(r"\\usepackage\s*(?:\[[^\[\]]*\])?\s*\{([^{}]*)\}")
_STALE = re.compile(
    r"(?i)(?:^|[/._\- (])(?:bak|backup|old|copy|copie|orig|original|stale|tmp|temp|prev|v\d+|\d)(?:$|[/._\- )])"
)
_NAMED_MAIN = re.compile(r"(?i)(?:main|ms|paper|article|manuscript|root|thesis|top|template)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def read(file: SourceFile) -> Iterator[Document | Rejected]:
    """Yield the paper of a folder, an archive or a `.tex` file as one document.

    Rejects with `"not a LaTeX project"`, `"no text"`, `"escapes its folder"`, `"too large"`, `"input loop"` or
    `"damaged archive"`.
    """
    try:
        texts = read_texts(file.path)
        source = flatten(texts, find_main(texts))
        yield _convert(file, source, _read_styles(texts, source))
    except Refused as refused:
        yield file.reject(refused.reason, refused.detail)


def _convert(file: SourceFile, source: str, styles: str) -> Document:
    source = expand_macros(source, PROTECTED, styles)
    if len(source) > MAX_TEX_CHARACTERS:
        raise Refused("too large", f"{len(source)} characters with its macros expanded")
    begin = _BEGIN.search(source)
    if begin is None:
        raise Refused("not a LaTeX project", "its main file begins no document")
    end = _END.search(source, begin.end())
    text = to_text(source[: begin.start()], source[begin.end() : end.start() if end else len(source)])
    if not re.search(r"[^\W\d_]{2}", text.abstract + text.body):
        raise Refused("no text", text.title[:200])
    parts = [f"# {text.title}"] if text.title else []
    parts += [f"## Abstract\n\n{text.abstract}"] if text.abstract else []
    fields = file.metadata(
        title=text.title, categories=[], versions=[], abstract=text.abstract, num_formulas=text.num_formulas
    )
    return Document.create("arxiv", archive_stem(file.name), "\n\n".join([*parts, text.body]), **fields)


def decode(content: bytes) -> str:
    """Return a file's text: UTF-8 if it is, else Latin-1; without control characters.

    Raises `Refused("too large")`, also for a line that no person wrote.
    """
    if len(content) > MAX_TEX_BYTES:
        raise Refused("too large", f"more than {MAX_TEX_BYTES} bytes of LaTeX")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if any(len(line) > MAX_LINE_CHARACTERS for line in text.split("\n")):
        raise Refused("too large", f"a line of more than {MAX_LINE_CHARACTERS} characters")
    return text


def find_main(texts: Mapping[str, bytes]) -> str:
    """Return the name of the file that LaTeX would be run on.

    It begins a document and no other candidate inputs it; then comes first what is no stale copy by its name, what
    inputs the most files, what is called like a main file, what lies highest, and what is longest.
    Raises `Refused("not a LaTeX project")`.
    """
    candidates = [name for name, content in texts.items() if _is_tex(name) and b"\\document" in content]
    if sum(len(texts[name]) for name in candidates[:MAX_CANDIDATES]) > MAX_TEX_BYTES:
        raise Refused("too large", f"more than {MAX_TEX_BYTES} bytes of LaTeX")
    sources = {name: strip_comments(decode(texts[name])) for name in candidates[:MAX_CANDIDATES]}
    sources = {name: source for name, source in sources.items() if _CLASS.search(source) and _BEGIN.search(source)}
    if not sources:
        raise Refused("not a LaTeX project", "no file begins a document")
    inputs = {
        name: {found for match in _INPUT.finditer(source) if (found := _find_input(texts, name, name, match))}
        for name, source in sources.items()
    }
    parts = {name for main, names in inputs.items() for name in names if name != main}

    def rank(name: str) -> tuple[bool, bool, int, bool, int, int, str]:
        path = PurePosixPath(name)
        stale = bool(_STALE.search(str(path.with_suffix(""))))
        named = bool(_NAMED_MAIN.search(path.stem))
        return name in parts, stale, -len(inputs[name]), not named, len(path.parts), -len(sources[name]), name

    return min(sources, key=rank)


def flatten(texts: Mapping[str, bytes], main: str) -> str:
    r"""Return the main file with every `\input` replaced by its file, and without comments.

    A file that the project does not have is left out. Raises `Refused("input loop")` for a file that inputs
    itself, and `Refused("too large")`.
    """
    pieces: list[str] = []
    open_files = [(main, _load(texts, main), 0)]
    num_inputs = size = 0
    while open_files:
        name, source, at = open_files.pop()
        found = _INPUT.search(source, at)
        pieces.append(source[at : found.start() if found else len(source)])
        if found and not found["stop"]:
            open_files.append((name, source, found.end()))
            target = _find_input(texts, main, name, found)
            if target and any(target == opened for opened, *_ in open_files):
                raise Refused("input loop", f"{target} inputs itself")
            num_inputs += 1
            if num_inputs > MAX_INPUTS or len(open_files) > MAX_INPUT_DEPTH:
                raise Refused("too large", f"more than {MAX_INPUTS} inputs, or deeper than {MAX_INPUT_DEPTH}")
            if target:
                loaded = _body(_load(texts, target))
                size += len(loaded)
                open_files.append((target, loaded, 0))
        if size + len(source) > MAX_TEX_CHARACTERS:
            raise Refused("too large", f"more than {MAX_TEX_CHARACTERS} characters of LaTeX")
    return "".join(pieces)


def _is_tex(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (".tex", ".ltx", ".latex")


def _load(texts: Mapping[str, bytes], name: str) -> str:
    return strip_comments(decode(texts[name]))


def _body(source: str) -> str:
    """Return what a file that could stand alone gives to the one that inputs it."""
    begin = _BEGIN.search(source) if _CLASS.search(source) else None
    if begin is None:
        return source
    end = _END.search(source, begin.end())
    return source[begin.end() : end.start() if end else len(source)]


def _find_input(texts: Mapping[str, bytes], main: str, including: str, match: re.Match[str]) -> str | None:
    """Return the project's file that an input means: beside the main file, beside the one that inputs it, or none."""
    if match["stop"]:
        return None
    wanted = f"{match['folder']}/{match['file']}" if match["two"] else match["name"] or match["bare"] or ""
    wanted = wanted.strip().strip('"')
    for folder in dict.fromkeys((PurePosixPath(main).parent, PurePosixPath(including).parent)):
        path = normpath(str(folder / wanted))
        for name in (f"{path}.tex", path):
            if name in texts:
                return name
    return None


def _read_styles(texts: Mapping[str, bytes], source: str) -> str:
    """Return the project's own style files that its main file uses, for their macros."""
    begin = _BEGIN.search(source)
    preamble = source[: begin.start()] if begin else ""
    wanted = {f"{name.strip()}.sty" for names in _PACKAGE.findall(preamble) for name in names.split(",")}
    used = [name for name in texts if PurePosixPath(name).name in wanted and len(texts[name]) < MAX_STYLE_BYTES]
    return "\n".join(_load(texts, name) for name in used[:20])
