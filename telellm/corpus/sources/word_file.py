"""A Word file opened with care: a zip of XML parts that are not trusted for their sizes, names or entities."""

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Any

from lxml import etree  # type: ignore[import-untyped,unused-ignore]

from telellm.corpus.sources.archive import Refused
from telellm.corpus.sources.file import MAX_FILE_BYTES
from telellm.corpus.sources.omml import W
from telellm.corpus.sources.word import Word
from telellm.corpus.sources.word_line import Line
from telellm.corpus.sources.word_styles import Numbering, Styles

MAX_ARCHIVE_BYTES = 16 * MAX_FILE_BYTES
"""Most bytes that an archive may unpack to, images (which are never read) included."""
MAX_LIST_BYTES = 8 * 2**20
"""Longest list of members that an archive may have (bytes)."""
MAX_BLOCKS = 250_000
"""Most paragraphs and tables of a document's body: more than the longest specifications have."""
BLOCK_BYTES = 2**18

_PARSER = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False, "remove_pis": True}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OTHERS = {
    b"{\\rtf": "Rich Text Format",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip file",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}


class _Bounded(BufferedReader):
    """A file of which nobody reads much at once: `zipfile` would take in a list of members of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_LIST_BYTES:
            raise Refused("too large", "the archive's list of members")
        return super().read(size)


@contextmanager
def open_archive(stream: Any) -> Iterator[zipfile.ZipFile]:
    """Open a zip from an unbuffered binary file; everything that goes wrong while it is used becomes `Refused`.

    Raises `Refused` with "not a Word file", "encrypted", "too large", "escapes its folder", "damaged archive" or
    "hostile XML".
    """
    bounded = _Bounded(stream)
    head = bounded.peek(8)[:8]
    try:
        if not head.startswith(b"PK"):
            raise _other_format(head, bounded)
        with zipfile.ZipFile(bounded) as archive:  # type: ignore[arg-type,unused-ignore]
            _check(archive)
            yield archive
    except etree.XMLSyntaxError as error:
        hostile = re.search("huge|entity|entities|excessive|depth", str(error), re.IGNORECASE)
        raise Refused("hostile XML" if hostile else "damaged archive", str(error)) from error
    except RecursionError as error:
        raise Refused("hostile XML", "elements are nested too deeply") from error
    except Refused:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        OverflowError,
    ) as error:
        raise Refused("damaged archive", f"{type(error).__name__}: {error}"[:300]) from error


def _check(archive: zipfile.ZipFile) -> None:
    size = 0
    for member in archive.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or (name.parts and name.parts[0].endswith(":")):
            raise Refused("escapes its folder", member.filename[:200])
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused("escapes its folder", f"{member.filename[:200]} is a link")
        if member.flag_bits & 1:
            raise Refused("encrypted", f"{member.filename[:200]} needs a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused("damaged archive", f"{member.filename[:200]} is compressed in a way that Word does not use")
        size += member.file_size
    if size > MAX_ARCHIVE_BYTES:
        raise Refused("too large", f"unpacks to {size} bytes; at most {MAX_ARCHIVE_BYTES} are taken")


def _other_format(head: bytes, stream: BufferedReader) -> Refused:
    if head == _OLE:
        names = stream.read(MAX_LIST_BYTES)
        if "EncryptedPackage".encode("utf-16-le") in names:
            return Refused("encrypted", "a Word file with a password")
        kinds = {"WordDocument": "a Word 97-2003 document (.doc)", "Workbook": "an Excel 97-2003 workbook (.xls)"}
        found = (kind for name, kind in kinds.items() if name.encode("utf-16-le") in names)
        return Refused("not a Word file", next(found, "a binary Office file") + "; save it as .docx")
    other = (kind for magic, kind in _OTHERS.items() if head.startswith(magic))
    return Refused("not a Word file", next(other, "an unknown format" if head else "an empty file"))


class _Part:
    """A member of an archive, read no further than a limit: what its header says of its size may be a lie."""

    def __init__(self, archive: zipfile.ZipFile, name: str, limit: int) -> None:
        if archive.getinfo(name).file_size > limit:
            raise Refused("too large", f"{name} unpacks to more than {limit} bytes")
        self._stream, self._name, self._left = archive.open(name), name, limit

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(BLOCK_BYTES if size < 0 else min(size, BLOCK_BYTES))
        self._left -= len(block)
        if self._left < 0:
            raise Refused("too large", f"{self._name} unpacks to more than its limit")
        return block


@contextmanager
def open_member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """Open a member that is an archive itself, as an unnamed temporary file."""
    part = _Part(archive, name, MAX_ARCHIVE_BYTES)
    with TemporaryFile(buffering=0) as copy:
        while block := part.read():
            copy.write(block)
        copy.seek(0)
        yield copy


def find_main_part(archive: zipfile.ZipFile) -> str | None:
    """Return the name of the part that holds the document's body, or None where the archive is no Office file."""
    names = set(archive.namelist())
    if "_rels/.rels" in names:
        for relation in _parse(archive, "_rels/.rels"):
            target = relation.get("Target", "").lstrip("/") if isinstance(relation.tag, str) else ""
            if target in names and relation.get("Type", "").endswith("/officeDocument"):
                return str(target)
    return "word/document.xml" if "word/document.xml" in names else None


def read_word(archive: zipfile.ZipFile, main: str) -> Word:
    """Read a document's body, with its styles, list numbers and notes. Raises `Refused`."""
    folder = PurePosixPath(main).parent
    names = set(archive.namelist())
    roots = {
        name: _parse(archive, path)
        for name in ["styles", "numbering", "footnotes", "endnotes"]
        if (path := str(folder / f"{name}.xml")) in names
    }
    word = Word(Styles(roots.get("styles")), Numbering(roots.get("numbering")))
    for name in ("footnote", "endnote"):
        for note in roots.get(f"{name}s", ()):
            if note.tag == W + name and note.get(f"{W}type", "normal") == "normal":
                texts = (" ".join(Line(paragraph).text().split()) for paragraph in note.iter(f"{W}p"))
                word.notes[f"{name} {note.get(f'{W}id')}"] = " ".join(filter(None, texts))
    roots.clear()
    for number, element in enumerate(_body(archive, main)):
        if number >= MAX_BLOCKS:
            raise Refused("too large", f"more than {MAX_BLOCKS:,} paragraphs and tables")
        word.add(element)
        if word.num_characters > MAX_FILE_BYTES:
            raise Refused("too large", f"more than {MAX_FILE_BYTES} characters of text")
    return word


def _body(archive: zipfile.ZipFile, main: str) -> Iterator[Any]:
    """Yield the children of the document's body one by one; each is forgotten before the next."""
    part = _Part(archive, main, MAX_FILE_BYTES)
    parser = etree.XMLPullParser(events=("start",), tag=f"{W}body", **_PARSER)
    body = None
    while block := part.read():
        parser.feed(block)
        if body is None:
            body = next((element for _, element in parser.read_events()), None)
            if body is None:
                continue
            _refuse_doctype(body, main)
        while len(body) and body[0].getnext() is not None:  # What has a successor is complete.
            element = body[0]
            yield element
            element.clear()  # Cheap while nobody holds a descendant; to detach a long table first takes minutes.
            del body[0]
    root = parser.close()
    _refuse_doctype(root, main)
    if body is None:
        raise Refused("not a Word file", f"{main} is {etree.QName(root).localname}, not a Word document")
    yield from body


def _parse(archive: zipfile.ZipFile, name: str) -> Any:
    root = etree.parse(_Part(archive, name, MAX_FILE_BYTES // 4), etree.XMLParser(**_PARSER)).getroot()
    _refuse_doctype(root, name)
    return root


def _refuse_doctype(element: Any, name: str) -> None:
    if element.getroottree().docinfo.doctype:
        raise Refused("hostile XML", f"{name} declares a document type")
