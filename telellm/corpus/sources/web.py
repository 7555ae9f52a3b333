"""Web: pages of a WARC or WET archive, or single HTML files, as Markdown text whose formulas are LaTeX."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from io import BufferedReader, BytesIO
from typing import Any, BinaryIO, cast

from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from telellm.corpus.sources.file import SourceFile
from telellm.records import Document, Rejected

MAX_PAGE_BYTES = 4 * 2**20
"""Largest page, after its transfer and content encodings are undone (bytes)."""
MAX_ELEMENTS = 100_000
"""Most tags of a page; the extractor's time grows with them."""
MINIMUM_STOP_WORDS = 0.08
"""Share of the words that must be stop words of a language before a text counts as written in it."""

STOP_WORDS = {
    "en": "the of and to in is that for it with as was on are be by this from at which or an have not can",
    "de": "der die und das den von zu mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er",
    "fr": "le la les des et est une du dans qui pour pas que au sur ce sont avec plus par ne il cette aux ou",
    "es": "el la los las del y que una por con para es se un su lo como más al pero sus este fue son no",
    "it": "il di che la e è per una sono con non del della nel alla le dei si da gli più anche come questo ha",
    "pt": "o os as do da dos das em um uma não que para com por mais foi ao na no é são pelo pela como",
    "nl": "de het een van en in is dat op te voor met zijn niet aan er om ook als bij door naar wordt uit worden",
    "an": "o a os as d'o d'a d'os d'as ye en y que una con por ta dende tamién yera estió feito n'o n'a fue lo",
}
"""Language → its most frequent words, which tell it apart from the others."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w-]{1,40})|<\?xml[^>]{0,99}encoding=["']([\w-]{1,40})""",
    re.IGNORECASE,
)
_KNOWN_CHARSET = re.compile(
    r"utf-?8|utf-?16(?:le|be)?|iso-?8859-?\d{1,2}|(?:windows|cp)-?\d{3,4}|latin-?1|(?:us-)?ascii|koi8-[ru]|gb2312|gbk"
    r"|gb18030|big5(?:-?hkscs)?|euc-(?:jp|kr)|shift[_-]jis|iso-2022-jp|macintosh",
    re.IGNORECASE,
)
_WEB_CHARSETS = {
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "gb2312": "gb18030",
}
"""What browsers read where a page names the charset (WHATWG Encoding Standard)."""
_INLINE_FORMULA = re.compile(r"\\\(((?>(?:[^\\]|\\[^()])*))\\\)")
_BLOCK_FORMULA = re.compile(r"\\\[((?>(?:[^\\]|\\[^\[\]])*))\\\]")


def read(file: SourceFile, languages: Sequence[str] = ("en",)) -> Iterator[Document | Rejected]:
    """Yield the pages of an archive (`.warc`, `.warc.gz`, `.warc.wet.gz`) or of one `.html` file.

    `languages` are ISO 639-1 codes. Reasons: "not a page" (status, type or encoding), "too large",
    "no text", "other language", and "truncated archive" after the pages that came before the damage.
    A rejected page keeps its `url`.
    """
    if file.path.suffix.lower() in (".html", ".htm", ".xhtml"):
        with file.path.open("rb") as stream:
            body = stream.read(MAX_PAGE_BYTES + 1)
        yield _Page(file, file.uri, file.retrieved_at).read_html(body, "", languages)
        return
    with file.path.open("rb") as stream:
        archive = _Archive(stream)
        try:
            for record in ArchiveIterator(
                cast(BinaryIO, archive), record_types=WarcRecordType.any_type, parse_http=False
            ):
                result = _read_record(record, file, languages)
                if isinstance(result, Rejected) and result.reason == "truncated archive":
                    archive.damage = archive.damage or result.detail or "inside a record"
                elif result is not None:
                    yield result
        except (OSError, ValueError) as error:
            archive.damage = archive.damage or str(error)
    if archive.damage:
        yield file.reject("truncated archive", archive.damage)


class _Archive:
    """The bytes of an archive up to its damage; FastWARC alone takes a gzip member that is cut off for the end."""

    def __init__(self, stream: BufferedReader) -> None:
        self.damage = ""
        self._stream: BufferedReader | gzip.GzipFile = stream
        if stream.peek(2)[:2] == b"\x1f\x8b":
            self._stream = gzip.GzipFile(fileobj=stream)

    def read(self, size: int = -1) -> bytes:
        try:
            return b"" if self.damage else self._stream.read1(size)  # read() would lose what precedes the damage
        except (OSError, EOFError, zlib.error) as error:
            self.damage = str(error)
            return b""

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def close(self) -> None:
        self._stream.close()


def _read_record(record: WarcRecord, file: SourceFile, languages: Sequence[str]) -> Document | Rejected | None:
    """Return what a record holds: a page, a reject, or None for a record that is no page."""
    kind = record.record_type
    if kind not in (WarcRecordType.response, WarcRecordType.conversion):
        length = record.content_length
        return file.reject("truncated archive") if record.reader.consume() < length else None
    url = record.headers.get("WARC-Target-URI", "") or ""
    page = _Page(file, url.strip("<> "), record.headers.get("WARC-Date", "") or file.retrieved_at)
    if kind == WarcRecordType.response:
        try:
            record.parse_http(auto_decode="none")
        except OSError as error:
            return page.reject("not a page", str(error))
    length = record.content_length
    body = record.reader.read(min(length, MAX_PAGE_BYTES + 1))
    if len(body) < min(length, MAX_PAGE_BYTES + 1):
        return file.reject("truncated archive", f"inside {page.url[:500]}")
    if kind == WarcRecordType.conversion:
        return page.read_text(body, languages)
    headers = record.http_headers
    content_type = (headers.get("Content-Type", "") or "").partition(";")[0].strip().lower() if headers else ""
    if headers is None or headers.status_code != 200:
        return page.reject("not a page", f"status {headers.status_code if headers else 'missing'}")
    if content_type not in ("text/html", "application/xhtml+xml", ""):
        return page.reject("not a page", content_type[:100])
    try:
        body = _undo_encodings(
            body, headers.get("Transfer-Encoding", "") or "", headers.get("Content-Encoding", "") or ""
        )
    except (OSError, ValueError, zlib.error) as error:
        return page.reject("not a page", f"cannot decode: {error}")
    return page.read_html(body, record.http_charset or "", languages)


def _undo_encodings(body: bytes, transfer: str, content: str) -> bytes:
    """Return at most one byte more than a page may have; a crawler may leave the headers of what it undid."""
    names = [name.strip().lower() for name in f"{transfer},{content}".split(",")]
    for name in [name for name in names if name in _DECODERS][:3]:
        try:
            body = _DECODERS[name](body)
        except (OSError, ValueError, zlib.error):
            if not body.lstrip().startswith(b"<"):
                raise
    return body


def _inflate(body: bytes) -> bytes:
    """Undo `deflate`, which some servers send without the zlib header."""
    has_header = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS).decompress(body, MAX_PAGE_BYTES + 1)


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "chunked": lambda body: ChunkedReader(BytesIO(body)).read(MAX_PAGE_BYTES + 1),
    "gzip": lambda body: GzipReader(BytesIO(body)).read(MAX_PAGE_BYTES + 1),
    "x-gzip": lambda body: GzipReader(BytesIO(body)).read(MAX_PAGE_BYTES + 1),
    "deflate": _inflate,
    "br": lambda body: BrotliReader(BytesIO(body)).read(MAX_PAGE_BYTES + 1),
    "zstd": lambda body: ZstdReader(BytesIO(body)).read(MAX_PAGE_BYTES + 1),
}


class _Page:
    """A page of a file: where it is from, and what becomes of it."""

    def __init__(self, file: SourceFile, url: str, retrieved_at: str) -> None:
        self.file = file
        self.url = url
        self.retrieved_at = retrieved_at
        self.key = sha256(url.encode("utf-8", "replace")).hexdigest()[:16]

    def reject(self, reason: str, detail: str = "") -> Rejected:
        return Rejected({"id": f"web_{self.key}", "file": self.file.name, "url": self.url}, reason, detail)

    def read_html(self, body: bytes, charset: str, languages: Sequence[str]) -> Document | Rejected:
        if len(body) > MAX_PAGE_BYTES or body.count(b"<") > 2 * MAX_ELEMENTS:
            return self.reject("too large")
        try:
            title, declared, text = extract_text(decode(body, charset))
        except RecursionError:
            return self.reject("no text", "nested too deep")
        except Exception as error:  # the parser and the extractor raise what they like on hostile markup
            return self.reject("no text", f"{type(error).__name__}: {error}"[:200])
        return self._finish(title, text, declared, languages)

    def read_text(self, body: bytes, languages: Sequence[str]) -> Document | Rejected:
        if len(body) > MAX_PAGE_BYTES:
            return self.reject("too large")
        return self._finish("", body.decode("utf-8", "replace").replace("\0", "").strip(), "", languages)

    def _finish(self, title: str, text: str, declared: str, languages: Sequence[str]) -> Document | Rejected:
        if not text:
            return self.reject("no text")
        language = identify_language(text) or declared or "unknown"
        if language not in languages:
            return self.reject("other language", language)
        metadata = self.file.metadata(
            source_url=self.url, retrieved_at=self.retrieved_at, title=title, language=language
        )
        return Document.create("web", self.key, text, **metadata)


def decode(body: bytes, charset: str) -> str:
    """Return a page as text: by its byte order mark, the HTTP header, its `<meta>`, and last by detection."""
    import charset_normalizer

    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    found = _CHARSET.search(body[:4096])
    in_page = (found[1] or found[2]).decode() if found else ""
    for name in (charset, in_page, "utf-8-sig"):
        name = name.strip().lower()
        if name == "utf-8-sig" or _KNOWN_CHARSET.fullmatch(name):
            try:
                return body.decode(_WEB_CHARSETS.get(name, name)).removeprefix("\ufeff")
            except (UnicodeDecodeError, LookupError):
                continue
    guess = charset_normalizer.from_bytes(body[:65536]).best()
    return body.decode(guess.encoding if guess else "cp1252", "replace")


def identify_language(text: str) -> str:
    """Return the language of a text by its stop words (ISO 639-1), "" when none has enough of them."""
    words = [word.lower() for word in _WORD.findall(text[:200_000].replace("’", "'"))]
    shares = {
        language: sum(word in stop_words for word in words) / max(len(words), 1)
        for language, stop_words in _STOP_WORD_SETS.items()
    }
    best = max(shares, key=lambda language: shares[language])
    return best if shares[best] >= MINIMUM_STOP_WORDS else ""


_STOP_WORD_SETS = {language: frozenset(words.split()) for language, words in STOP_WORDS.items()}


def extract_text(html: str) -> tuple[str, str, str]:
    """Return title, declared language (ISO 639-1, may be "") and main text of a page, as Markdown.

    The text is "" when the page has none; raises whatever the parser raises on hostile markup.
    """
    from lxml import etree
    from trafilatura import extract
    from trafilatura.utils import load_html

    tree = load_html(html.replace("\0", ""))
    if tree is None:
        return "", "", ""
    title = " ".join((tree.findtext(".//title") or "").split())
    declared = (tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang") or "")[:2].lower()
    _keep_formulas(tree)
    etree.strip_tags(tree, "b", "strong", "i", "em")
    # precision, fast: on articles the same text as with justext and readability, which are quadratic and add menus
    text = extract(tree, output_format="markdown", favor_precision=True, fast=True, include_comments=False) or ""
    text = re.sub(r"[ \t]++$", "", text, flags=re.MULTILINE)
    return title, declared, text.strip()


def _keep_formulas(tree: Any) -> None:
    """Put LaTeX in the place of every formula that carries it: MathML, KaTeX, MathJax scripts, LaTeXML."""
    for drawn in tree.xpath(
        "//*[contains(@class, 'katex-html') or contains(@class, 'MathJax') or @class='MJX_Assistive_MathML']"
    ):
        if drawn.tag != "script" and not drawn.xpath(".//annotation|.//script"):
            _replace(drawn, "")
    for image in tree.xpath("//img[contains(@class, 'mwe-math-fallback-image')]"):
        _replace(image, "")
    for script in tree.xpath("//script[starts-with(@type, 'math/tex')]"):
        _replace(script, _formula(script.text or "", "display" in script.get("type")))
    for math in tree.xpath("//math"):
        annotation = math.xpath(".//annotation[@encoding='application/x-tex']")
        latex = annotation[0].text_content() if annotation else math.get("alttext") or ""
        _replace(math, _formula(latex, math.get("display") == "block") if latex.strip() else math.text_content())
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.text, element.tail = _delimit(element.text), _delimit(element.tail)


def _formula(latex: str, is_block: bool) -> str:
    latex = " ".join(latex.split())
    if latex.startswith("{\\displaystyle") and latex.endswith("}"):
        latex = latex[len("{\\displaystyle") : -1].strip()
    mark = "$$" if is_block else "$"
    return f"{mark}{latex}{mark}" if latex else ""


def _delimit(text: str | None) -> str | None:
    """Write `\\(…\\)` as `$…$`; an opening mark without its end costs the extractor quadratic time."""
    if text is None or "\\" not in text:
        return text
    text = _INLINE_FORMULA.sub(lambda found: _formula(found[1], False), text)
    text = _BLOCK_FORMULA.sub(lambda found: _formula(found[1], True), text)
    return re.sub(r"(\\++)([(\[])", lambda found: f"{found[1]} {found[2]}" if len(found[1]) > 1 else found[2], text)


def _replace(element: Any, text: str) -> None:
    """Put text in the place of an element and keep what follows it."""
    parent = element.getparent()
    if parent is None:
        return
    text += element.tail or ""
    previous = element.getprevious()
    if previous is not None:
        previous.tail = (previous.tail or "") + text
    else:
        parent.text = (parent.text or "") + text
    parent.remove(element)
