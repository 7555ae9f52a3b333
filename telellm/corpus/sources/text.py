"""Plain text and Markdown of any category: RFCs, documentation, notes."""

import codecs
import re
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path, PurePosixPath

from telellm.corpus.sources.archive import Refused
from telellm.corpus.sources.file import MAX_FILE_BYTES, MAX_LINE_CHARACTERS, SourceFile
from telellm.records import Document, Rejected

BLOCK_BYTES = 2**18
MAX_LINES = 4_000_000
"""More lines are refused as too large: no text of `MAX_FILE_BYTES` has lines that short."""
MAX_CONTROL_SHARE = 0.01
"""Largest share of control characters in something that is still a text."""

_MAGIC = (b"PK\x03\x04", b"%PDF-", b"\x1f\x8b", b"\x89PNG", b"\x7fELF", b"\xd0\xcf\x11\xe0", b"\xff\xd8\xff")
_CONTROL = dict.fromkeys([*range(9), 0x0B, *range(0x0E, 0x20), *range(0x7F, 0x85), *range(0x86, 0xA0)])
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_PAGE = re.compile(
    r"(?:\n+|\A)[^\n]{0,150}\[Page [0-9ivxlc]{1,5}\][ ]*"  # the footer
    rf"(?:\n{{1,2}}(?:RFC ?\d+|Internet[- ]Draft)[^\n]{{0,150}}|\n{{1,2}}[^\n]{{0,150}} {_MONTH} \d{{4}})?(?=\n|\Z)\n*",
    re.IGNORECASE,
)
"""The end of a page of an RFC and the head of the next (RFC 7322, section 3): all that stands between their texts."""
_ART = re.compile(r"\s*[|+/\\]|.*[|+]\s*$|.*(?:--|==|-\+|\.\.\.)")


def read(file: SourceFile, category: str) -> Iterator[Document | Rejected]:
    """Yield a text file as one document of `category`; its id is the file's name within the source.

    The text is read as UTF-8, as UTF-16 when it says so or looks so, or else as Latin-1 (as Windows writes it). Page
    heads and feet of RFCs are taken out, lines stay as they are. Beyond `file.metadata()` a document carries `title`,
    "" where none is found. Rejected with "not text", "no text", "line too long" or "too large".
    """
    try:
        text = clean_pages(_load(file.path))
    except Refused as refused:
        yield file.reject(refused.reason, refused.detail)
        return
    if not text:
        yield file.reject("no text")
        return
    key = re.sub(r"[^\w.]+", "-", str(PurePosixPath(file.name).with_suffix("")).lower()).strip("-") or "text"
    yield Document.create(category, key, text, **file.metadata(title=find_title(text)))


def clean_pages(content: bytes) -> str:
    """Return a text without page breaks, trailing spaces, runs of empty lines, and the heads and feet of RFC pages.

    A paragraph or a diagram that a page break cut in two is one again. Raises `Refused` with "not text" or
    "line too long".
    """
    chunks: list[str] = []
    batch: list[str] = []
    for line in _lines(content):
        batch.append(line)
        if len(batch) > 50_000:  # Many short strings take far more memory than one long one.
            chunks.append("\n".join(batch))
            batch = []
    text = "\n".join([*chunks, *batch]).strip("\n")
    return _PAGE.sub(_rejoin, text).strip("\n") if "[Page " in text else text


def _lines(content: bytes) -> Iterator[str]:
    """Yield a text's lines without trailing spaces and control characters, one empty line at most between two."""
    num_characters = num_control = 0
    was_empty = True
    stream = TextIOWrapper(BytesIO(content), encoding=_encoding(content), errors="replace", newline=None)
    for line in stream:
        num_characters += len(line)
        if len(line) - line.endswith("\n") > MAX_LINE_CHARACTERS:
            raise Refused("line too long", f"more than {MAX_LINE_CHARACTERS} characters")
        for part in line.split("\f"):
            part = part.rstrip()
            if not part.isprintable():
                if "\0" in part:
                    raise Refused("not text", "zero bytes")
                seen = part.translate(_CONTROL).rstrip()
                num_control += len(part) - len(seen)
                part = seen
            if part or not was_empty:
                yield part
            was_empty = not part
    if num_control > MAX_CONTROL_SHARE * num_characters:
        raise Refused("not text", "control characters")


def find_title(text: str) -> str:
    """Return the first heading of a Markdown text (also written as HTML) or the title of an RFC, "" for none."""
    head = text[:5000]
    if found := re.search(r"<h1[^>]*>(.*?)</h1>|<font[^>]*>(.*?)</font>|^# +([^\n]+)", head, re.MULTILINE | re.DOTALL):
        return " ".join(re.sub("<[^>]*>", " ", next(filter(None, found.groups()), "")).split()).rstrip(" #")[:300]
    if found := re.search(r"^([^\n]+)\n(?:=+|-{3,})$", head, re.MULTILINE):
        return found[1].strip()[:300]
    if re.search(r"^(?:Request for Comments|Internet[- ]Draft)\b", head, re.MULTILINE | re.IGNORECASE):
        centred = re.search(r"\n\n( {3,}\S[^\n]*(?:\n {3,}\S[^\n]*)*)\n\n", head)
        return " ".join(centred[1].split())[:300] if centred else ""
    return ""


def _load(path: Path) -> bytes:
    """Return a file's bytes, having read no more than is needed to refuse it."""
    content = bytearray()
    num_lines = 0
    start = 0  # where the line begins in which the last block ends
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            if not content and block.startswith(_MAGIC):
                raise Refused("not text", "a binary format")
            ends = max(block.rfind(b"\n"), block.rfind(b"\r"))
            start = len(content) + ends + 1 if ends >= 0 else start
            content += block
            num_lines += block.count(b"\n") + block.count(b"\r") + block.count(b"\f")
            if len(content) - start > 4 * MAX_LINE_CHARACTERS:  # A character has at most 4 bytes.
                raise Refused("line too long", f"more than {MAX_LINE_CHARACTERS} characters")
            if len(content) > MAX_FILE_BYTES or num_lines > MAX_LINES:
                raise Refused("too large", f"more than {MAX_FILE_BYTES} bytes or {MAX_LINES} lines")
    return bytes(content)


def _encoding(content: bytes) -> str:
    """Return how a text is encoded: by its mark, by what decodes, or by the zeros of UTF-16."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = content[:4096]
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head[offset::2].count(0) > len(head) // 4 and 0 not in head[1 - offset :: 2]:
            return encoding  # In most scripts, every second byte is zero.
    for encoding in ("utf-8-sig", "cp1252"):
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            for position in range(0, len(content), BLOCK_BYTES):
                decoder.decode(content[position : position + BLOCK_BYTES])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _rejoin(page: re.Match[str]) -> str:
    """Return what belongs between the last line of a page and the first of the next."""
    text = page.string
    if page.start() == 0 or page.end() == len(text):
        return ""
    before = text[text.rfind("\n", 0, page.start()) + 1 : page.start()]
    end = text.find("\n", page.end())
    after = text[page.end() : end if end >= 0 else len(text)]
    art = bool(_ART.match(before) and _ART.match(after))
    same_indent = len(before) - len(before.lstrip()) == len(after) - len(after.lstrip())
    goes_on = not before.rstrip().endswith((".", ":", "?", "!")) and (same_indent or after.lstrip()[:1].islower())
    return "\n" if art or (goes_on and before.startswith(" ")) else "\n\n"
