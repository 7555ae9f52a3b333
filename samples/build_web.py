"""Write `samples/web/sample.warc.gz` and its truth files from the pages in `samples/text/web`.

A page is a file whose first line is a comment with its facts as JSON (url, site, published, telecom, …),
then the main text, then `<!-- comments -->` and what readers wrote under it. `sites/` has the boilerplate
of each site. The archive is the same bytes every time.

Usage: python samples/build_web.py
"""

import gzip
import json
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any
from uuid import UUID

from fastwarc.warc import WarcRecord, WarcRecordType

SAMPLES = Path(__file__).parent
PAGES = SAMPLES / "text" / "web"
DATE = "2025-06-02T04:00:00Z"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def page_id(url: str) -> str:
    """Return the id that the web reader gives to a page."""
    return f"web_{sha256(url.encode()).hexdigest()[:16]}"


def read_pages() -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the facts of every page and its HTML, originals before the pages that repeat them."""
    for path in sorted(PAGES.glob("*.html")):
        first, rest = path.read_text("utf-8").split("\n", 1)
        facts = {"language": "en", "charset": "utf-8"} | json.loads(first.removeprefix("<!--").removesuffix("-->"))
        main, _, comments = rest.partition("<!-- comments -->\n")
        site = Template((PAGES / "sites" / f"{facts['site']}.html").read_text("utf-8"))
        values = {key: escape(str(value)) for key, value in facts.items()}
        html = site.substitute(values, slug=path.stem, main=main.strip(), comments=comments.strip())
        yield facts, html.encode(facts["charset"])
        if "also_at" in facts:
            yield facts | {"url": facts["also_at"], "duplicate_of": facts["url"]}, html.encode(facts["charset"])


def make_record(kind: WarcRecordType, target: str, content_type: str, body: bytes, **headers: str) -> bytes:
    """Return one record as one gzip member; its id is a digest of what it holds."""
    digest = sha256("\n".join([str(kind), target, content_type]).encode() + body).digest()
    record = WarcRecord()
    record.init_headers(kind, f"uuid:{UUID(bytes=digest[:16], version=4)}".encode())
    record.headers["WARC-Date"] = DATE
    record.headers["Content-Type"] = content_type
    if target:
        record.headers["WARC-Target-URI"] = target
    for name, value in headers.items():
        record.headers[name.replace("_", "-")] = value
    record.set_bytes_content(body)
    stream = BytesIO()
    record.write(stream, checksum_data=True)
    return gzip.compress(stream.getvalue(), mtime=0)


def make_response(url: str, content_type: str, body: bytes, status: str = "200 OK", *more: str) -> bytes:
    """Return the record of a server's answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *more]
    http = "\r\n".join([*lines, "Server: sample", "", ""]).encode() + body
    return make_record(WarcRecordType.response, url, "application/http; msgtype=response", http)


def make_records(pages: list[tuple[dict[str, Any], bytes]]) -> Iterator[bytes]:
    """Yield the archive's records: the pages, and between them what a crawl also brings home."""
    about = b"software: samples/build_web.py\r\nformat: WARC File Format 1.1\r\n"
    yield make_record(WarcRecordType.warcinfo, "", "application/warc-fields", about, WARC_Filename="sample.warc.gz")
    first = pages[0][0]["url"]
    host, path = first.removeprefix("https://").split("/", 1)
    request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sample-crawler\r\nAccept: */*\r\n\r\n".encode()
    yield make_record(WarcRecordType.request, first, "application/http; msgtype=request", request)
    for number, (facts, html) in enumerate(pages):
        yield make_response(facts["url"], f"text/html; charset={facts['charset']}", html)
        if number == 0:
            metadata = b"fetchTimeMs: 212\r\ncharset-detected: UTF-8\r\n"
            yield make_record(WarcRecordType.metadata, first, "application/warc-fields", metadata)
        if number == 4:
            pdf = b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
            yield make_response("https://kb.haldenradio.example/files/datasheet.pdf", "application/pdf", pdf)
        if number == 8:
            gone = b"<html><head><title>404</title></head><body><h1>Not found</h1><p>No such page.</p></body></html>"
            yield make_response("https://forum.cellbench.example/t/9999", "text/html", gone, "404 Not Found")
        if number == 12:
            moved = "Location: https://blog.norvikmobil.example/engineering"
            yield make_response("http://blog.norvikmobil.example/", "text/html", b"", "301 Moved Permanently", moved)
        if number == 16:
            yield make_response("https://blog.norvikmobil.example/assets/pixel.png", "image/png", PNG)


def make_truth(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what is known about a page: is it telecom, what does it repeat, is it not English, is it too short."""
    original = facts.get("duplicate_of")
    truth = {"telecom": facts["telecom"], "duplicate_of": page_id(original) if original else None}
    if facts["language"] != "en":
        truth["language"] = facts["language"]
    if facts.get("short"):
        truth["short"] = True
    return truth


def write_json(path: Path, value: object) -> None:
    """Write a truth file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def build() -> None:
    """Write the archive and the truth files."""
    pages = list(read_pages())
    archive = SAMPLES / "web" / "sample.warc.gz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(b"".join(make_records(pages)))
    write_json(SAMPLES / "truth" / "web.json", {page_id(facts["url"]): make_truth(facts) for facts, _ in pages})
    contaminated = [page_id(facts["url"]) for facts, _ in pages if facts.get("contaminated")]
    write_json(SAMPLES / "truth" / "contaminated.json", contaminated)


if __name__ == "__main__":
    build()
