"""Wikipedia: a MediaWiki XML dump, page by page, as Markdown text whose formulas are LaTeX."""

import bz2
import gzip
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote
from xml.parsers import expat

from telellm.corpus.sources.file import MAX_FILE_BYTES, SourceFile
from telellm.corpus.sources.wikitext import convert_wikitext
from telellm.records import Document, Rejected

LICENCE = "CC BY-SA 4.0"
"""Licence of an article when the recipe states none."""
MAX_PAGE_CHARACTERS = 2 * 2**20
"""Longest wikitext of one page (characters); MediaWiki itself takes no more than 2 MiB."""

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
