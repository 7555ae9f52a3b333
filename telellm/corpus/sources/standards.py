"""Standards: specifications of 3GPP and ETSI and the contributions (Tdocs) to them, as Word files or zips of them."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from zipfile import ZipFile

from telellm.corpus.sources.archive import Refused
from telellm.corpus.sources.file import SourceFile
from telellm.corpus.sources.word import Word
from telellm.corpus.sources.word_file import find_main_part, open_archive, open_member, read_word
from telellm.records import Document, Rejected

_SUFFIXES = (".docx", ".docm", ".dotx")
# 23032-i30, 38101-1-i30, 36331-i00_s05-06: a character a part of the version, or two digits where one is above 35.
_FILE_3GPP = re.compile(r"(\d{2})[._]?(\d{3})((?:-\d{1,2})*)-([0-9a-z]{3}|\d{6})(?:[_ -].*)?")
# ts_123032v180300p, ts_13810101v150300p
_FILE_ETSI = re.compile(r"[a-z]{2,3}_?(\d{3})(\d{3})(\d{2})?v(\d{2})(\d{2})(\d{2})[a-z]?(?:_.*)?")
_NAME = r"(?:\b(?:3GPP|ETSI)\s+)?\b(?:TS|TR|EN|ES|EG|GS|GR)\s+(?:\w+-?\w* )?(\d{2,3}[. ]\d{3}(?:-\d+)*)"
_COVER = re.compile(_NAME + r"\s+V(\d+\.\d+\.\d+)")
_FORM = re.compile(r"(\d{2}\.\d{3}(?:-\d+)*)\s+CR\b.*?current version:\s*(\d+\.\d+\.\d+)", re.IGNORECASE)
_RELEASE = re.compile(r"\b(?:Release|Rel-?)[:\s]*(?:Rel-?)?(\d{1,4})\b", re.IGNORECASE)
_NO_TITLE = re.compile(
    r"3rd Generation Partnership Project|Technical Specification Group|\(Release \d+\)|Technical Report"
)
_TITLE_LINE = re.compile(r"^Title:\s*(\S.*)$", re.MULTILINE)


def read(file: SourceFile) -> Iterator[Document | Rejected]:
    """Yield the document of a Word file, or those of the Word files in a zip; its id is the file's stem.

    The content is Markdown that begins with the title; cover, table of contents, page headers and footers are left
    out, formulas are LaTeX between dollar signs. Beyond `file.metadata()` a document carries `title`, `series` ("23"),
    `specification` ("23.032"), `release` ("18"), `version` ("18.3.0"; each may be ""), `clauses` (list of
    [number, title]), `num_tables` and `num_formulas`. Rejected with "not a Word file", "encrypted", "no text",
    "too large", "hostile XML", "damaged archive" or "escapes its folder".
    """
    with file.path.open("rb", buffering=0) as stream:
        try:
            with open_archive(stream) as archive:
                main = find_main_part(archive)
                yield from [_document(file, archive, main)] if main else _members(file, archive)
        except Refused as refused:
            yield file.reject(refused.reason, refused.detail)


def _members(file: SourceFile, archive: ZipFile) -> Iterator[Document | Rejected]:
    """Yield what each Word file of a zip holds."""
    files = {name: PurePosixPath(name.replace("\\", "/")) for name in archive.namelist() if not name.endswith("/")}
    # Not what macOS and Word leave beside a document.
    files = {name: path for name, path in files.items() if not path.name.startswith(("._", "~$"))}
    if not any(path.suffix.lower() in (*_SUFFIXES, ".doc") for path in files.values()):
        held = ", ".join(path.name for path in list(files.values())[:5]) or "nothing"
        raise Refused("not a Word file", f"a zip without a Word file; it holds {held}")
    seen: set[str] = set()
    for name, path in files.items():
        inner = replace(file, name=f"{file.name}/{path}")
        if path.suffix.lower() == ".doc":
            yield inner.reject("not a Word file", "a Word 97-2003 document (.doc); save it as .docx")
        elif path.suffix.lower() in _SUFFIXES:
            stem = path.stem.lower()
            key = stem if stem not in seen else str(path.with_suffix("")).replace("/", "-").lower()
            seen.add(key)
            yield _member(inner, archive, name, key)


def _member(file: SourceFile, archive: ZipFile, name: str, key: str) -> Document | Rejected:
    try:
        with open_member(archive, name) as stream, open_archive(stream) as inner:
            if main := find_main_part(inner):
                return _document(file, inner, main, key)
            raise Refused("not a Word file", "a zip inside a zip")
    except Refused as refused:
        return file.reject(refused.reason, refused.detail)


def _document(file: SourceFile, archive: ZipFile, main: str, key: str = "") -> Document:
    word = read_word(archive, main)
    text = word.markdown()
    if not text:
        raise Refused("no text", "only a cover" if word.titles or word.cover else "")
    stem = PurePosixPath(file.name).stem.lower()
    identity = identify(stem, word)
    title = _title(word, text)
    heading = ": ".join(filter(None, [_spoken(word, identity["specification"]), title]))
    return Document.create(
        "standard",
        key or stem,
        f"# {heading}\n\n{text}" if heading else text,
        **file.metadata(
            title=title,
            **identity,
            clauses=word.clauses,
            num_tables=word.num_tables,
            num_formulas=word.num_formulas,
        ),
    )


def identify(stem: str, word: Word) -> dict[str, str]:
    """Return `series`, `specification`, `version` and `release` of a document, from its file's name or its cover.

    How 3GPP names files and numbers versions: TR 21.900, clause 4 and annex B.
    """
    cover = "\n".join(word.cover)
    stated = _COVER.search(cover) or _FORM.search(cover)
    specification, version = (stated[1], stated[2]) if stated else ("", "")
    if named := _FILE_3GPP.fullmatch(stem):
        specification = f"{named[1]}.{named[2]}{named[3]}"
        digits = re.findall("..", named[4]) if len(named[4]) == 6 else list(named[4])
        version = ".".join(str(int(d, 36 if len(d) == 1 else 10)) for d in digits)
    elif named := _FILE_ETSI.fullmatch(stem):
        specification = specification or f"{named[1]} {named[2]}{f'-{int(named[3])}' if named[3] else ''}"
        version = ".".join(str(int(number)) for number in named.group(4, 5, 6))
    if transposed := re.fullmatch(r"1([2-5]\d) (\d{3}.*)", specification):
        specification = f"{transposed[1]}.{transposed[2]}"  # ETSI publishes 3GPP's TS 23.032 as TS 123 032.
    release = _RELEASE.search(cover)
    major = int(version.split(".")[0]) if version else 0
    return {
        "series": re.split("[. ]", specification)[0],
        "specification": specification,
        "version": version,
        "release": release[1][-2:] if release else "99" if major == 3 else str(major) if major > 3 else "",
    }


def _title(word: Word, text: str) -> str:
    lines = word.titles or _TITLE_LINE.findall(text[:5000])[:1]
    kept = [line.strip(" ;") for line in lines if not _NO_TITLE.search(line)]
    return re.sub(r"\s*\(Release \d+\)$", "", "; ".join(filter(None, kept)))[:500]


def _spoken(word: Word, specification: str) -> str:
    """Return a specification's name as people write it ("3GPP TS 23.032"), "" where the cover does not say."""
    found = next(filter(None, map(re.compile(_NAME).search, word.cover)), None)
    return found[0] if found and found[1].replace(" ", ".") in (specification, f"1{specification}") else ""
