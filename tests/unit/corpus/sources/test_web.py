import gzip
import zlib
from hashlib import sha256
from pathlib import Path

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm.corpus.sources.file import SourceFile
from telellm.corpus.sources.web import MAX_PAGE_BYTES, decode, extract_text, identify_language, read
from telellm.records import Document, Rejected

PROSE = (
    "The scheduler of a base station decides which phones may send in the next slot, and it does so for every "
    "carrier of the cell. An uplink grant tells a phone the resource blocks and the coding that it has to use. "
)
PAGE = (
    "<html lang=en><head><title>Grants</title></head><body><article><h1>Grants</h1>"
    f"<p>{PROSE}</p>%s</article></body></html>"
)


def record(url: str, body: bytes, status: str = "200 OK", kind: str = "response", **headers: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
    block = head.encode() + b"\r\n" + body if kind == "response" else body
    content_type = "application/http; msgtype=response" if kind == "response" else "text/plain"
    return (
        (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2025-01-02T03:04:05Z\r\n"
            f"WARC-Record-ID: <urn:uuid:9d3a1c4e-0000-4000-8000-000000000000>\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(block)}\r\n\r\n"
        ).encode()
        + block
        + b"\r\n\r\n"
    )


def html_record(url: str, body: str | bytes, **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    return record(url, data, **({"Content_Type": "text/html; charset=utf-8"} | headers))


def read_bytes(folder: Path, data: bytes, name: str = "a.warc") -> list[Document | Rejected]:
    path = folder / name
    path.write_bytes(data)
    return list(read(SourceFile(path, name, "https://site.example/page", "site terms", "2020-01-01")))


def reasons(results: list[Document | Rejected]) -> list[str]:
    return [result.reason for result in results if isinstance(result, Rejected)]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_response_becomes_a_document(tmp_path: Path, compress: type[bytes]) -> None:
    (document,) = read_bytes(tmp_path, compress(html_record("https://a.example/x", PAGE % "")))
    assert isinstance(document, Document)
    assert document.id == "web_" + sha256(b"https://a.example/x").hexdigest()[:16]
    assert document.content == f"# Grants\n\n{PROSE.strip()}"
    fields = document.fields
    assert (fields["source_url"], fields["retrieved_at"]) == ("https://a.example/x", "2025-01-02T03:04:05Z")
    assert (fields["title"], fields["language"], fields["licence"]) == ("Grants", "en", "site terms")


def test_a_single_html_file_is_a_page(tmp_path: Path) -> None:
    (document,) = read_bytes(tmp_path, (PAGE % "").encode(), "page.html")
    assert isinstance(document, Document) and document.fields["source_url"] == "https://site.example/page"


def test_a_wet_record_is_taken_as_it_is(tmp_path: Path) -> None:
    (document,) = read_bytes(tmp_path, gzip.compress(record("https://a.example/x", PROSE.encode(), kind="conversion")))
    assert isinstance(document, Document) and document.content == PROSE.strip()


def test_what_is_no_page_is_rejected_with_its_url(tmp_path: Path) -> None:
    data = html_record("https://a.example/404", PAGE % "", status="404 Not Found")
    data += html_record("https://a.example/pdf", "%PDF", Content_Type="application/pdf")
    data += html_record("https://a.example/empty", "<html><body></body></html>")
    data += html_record("https://a.example/big", PAGE % ("<p>" + "word " * (MAX_PAGE_BYTES // 4) + "</p>"))
    results = read_bytes(tmp_path, data)
    assert reasons(results) == ["not a page", "not a page", "no text", "too large"]
    assert [(result.item["url"], result.detail) for result in results if isinstance(result, Rejected)][:2] == [
        ("https://a.example/404", "status 404"),
        ("https://a.example/pdf", "application/pdf"),
    ]


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)]
)
def test_a_content_encoding_is_undone_and_a_bomb_is_refused(
    tmp_path: Path, encoding: str, compress: type[bytes]
) -> None:
    good = html_record("https://a.example/x", compress((PAGE % "").encode()), Content_Encoding=encoding)
    bomb = html_record(
        "https://a.example/bomb", compress(b"<p>" + bytes(3 * MAX_PAGE_BYTES)), Content_Encoding=encoding
    )
    results = read_bytes(tmp_path, gzip.compress(bomb) + gzip.compress(good))
    assert reasons(results) == ["too large"] and isinstance(results[1], Document)


def test_a_lying_content_encoding_is_ignored(tmp_path: Path) -> None:
    data = html_record("https://a.example/x", PAGE % "", Content_Encoding="gzip", Transfer_Encoding="chunked")
    (document,) = read_bytes(tmp_path, data)
    assert isinstance(document, Document)
    assert reasons(read_bytes(tmp_path, html_record("https://a.example/x", "junk", Content_Encoding="gzip"))) == [
        "not a page"
    ]


@pytest.mark.parametrize("cut", [-495, -300, 3, 200])
def test_a_truncated_archive_keeps_what_came_before(tmp_path: Path, cut: int) -> None:
    noise = "".join(f"<p>{PROSE} {sha256(bytes([number])).hexdigest()}</p>" for number in range(99))
    records = [html_record(f"https://a.example/{number}", PAGE % noise) for number in range(3)]
    whole = b"".join(gzip.compress(each) for each in records[:2])
    results = read_bytes(tmp_path, whole + gzip.compress(records[2])[: 500 + cut], "a.warc.gz")
    assert [isinstance(result, Document) for result in results[:3]] == [True, True, False]
    assert reasons(results).count("truncated archive") == 1 and reasons(results)[-1] == "truncated archive"


def test_headings_lists_and_tables_keep_their_shape() -> None:
    more = f"<h2>Steps</h2><ul><li>request of the phone</li><li>grant of the cell</li></ul><p>{PROSE}</p>"
    more += "<table><tr><th>Band</th><th>Width</th></tr><tr><td>n78</td><td>100 MHz</td></tr></table>"
    text = extract_text(PAGE % more)[2]
    assert "## Steps\n" in text and "- request of the phone\n- grant of the cell" in text
    assert "| Band | Width |" in text and "| n78 | 100 MHz |" in text


@pytest.mark.parametrize(
    "formula",
    [
        "<math><semantics><mi>C</mi><annotation encoding='application/x-tex'>C = B \\log_2 x</annotation>"
        "</semantics></math>",
        "<math alttext='C = B \\log_2 x'><mi>C</mi></math>",
        "<span class='katex'><span class='katex-mathml'><math><semantics>"
        ""
        "<annotation encoding='application/x-tex'>C = B \\log_2 x</annotation>"
        "</semantics></math></span><span class='katex-html'>CBlog</span></span>",
        "<span class='MathJax_Preview'>pre</span><script type='math/tex'>C = B \\log_2 x</script>",
        "\\(C = B \\log_2 x\\)",
    ],
)
def test_a_formula_stays_latex(formula: str) -> None:
    text = extract_text(PAGE % f"<p>Shannon says that {formula} bounds the rate of a link. {PROSE}</p>")[2]
    assert "Shannon says that $C = B \\log_2 x$ bounds the rate of a link." in text


def test_a_display_formula_is_a_block() -> None:
    text = extract_text(
        PAGE % f"<p>{PROSE} \\[ x \\\\ y \\] <math display=block alttext='a_b'><mi>a</mi></math> {PROSE}</p>"
    )[2]
    assert "$$x \\\\ y$$" in text and "$$a_b$$" in text


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The tower is built on the hill and it serves all of the valley."),
        ("de", "Der Mast steht auf dem Hügel und versorgt das Tal, aber nicht die Stadt."),
        ("fr", "Le pylône est sur la colline et il dessert les villages de la vallée avec une antenne."),
        ("es", "La torre está en el cerro y sirve a los pueblos del valle con una antena."),
        ("it", "La torre è sulla collina e serve i paesi della valle, ma non la città che è più lontana."),
        ("pt", "A torre fica no monte e serve as aldeias do vale com uma antena que não é nova."),
        ("nl", "De mast staat op de heuvel en bedient het dal, maar niet de stad aan het water."),
        ("an", "A torre ye en o tozal y da servicio a os lugars d'a val con una antena."),
        ("", "塔位于山上"),
    ],
)
def test_a_language_is_told_by_its_stop_words(language: str, text: str) -> None:
    assert identify_language(text) == language


def test_another_language_is_rejected_with_its_name(tmp_path: Path) -> None:
    german = "Der Mast steht auf dem Hügel und versorgt das Tal, aber nicht die Stadt. " * 5
    (rejected,) = read_bytes(tmp_path, html_record("https://a.example/x", (PAGE % "").replace(PROSE, german)))
    assert isinstance(rejected, Rejected) and (rejected.reason, rejected.detail) == ("other language", "de")


def test_a_charset_comes_from_the_header_the_page_or_detection() -> None:
    text = "<p>Größe der Zelle über Köln, naïve Schätzung für die Übergänge der Bänder</p>"
    assert decode(text.encode("iso-8859-1"), "iso-8859-1") == text
    with_meta = f'<meta charset="iso-8859-15">{text}'
    assert decode(with_meta.encode("iso-8859-15"), "") == with_meta
    assert decode(text.encode("utf-16"), "") == text
    assert decode(text.encode(), "no-such-charset") == text
    assert "Größe" in decode(text.encode("cp1252"), "")


@pytest.mark.parametrize("fragment", ["<div>", "<b>", "<ul><li>", "<table><tr><td>", "\\( ", "\\\\[ ", "<math>"])
def test_hostile_nesting_ends(tmp_path: Path, fragment: str) -> None:
    data = html_record("https://a.example/deep", PAGE % (fragment * 2000)) + html_record(
        "https://a.example/x", PAGE % ""
    )
    assert isinstance(read_bytes(tmp_path, data)[-1], Document)


@given(data=st.binary(max_size=200), at=st.integers(0, 600))
@settings(deadline=None, max_examples=60)
def test_any_bytes_are_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    whole = html_record("https://a.example/x", PAGE % "")
    read_bytes(folder, data, "a.html")
    for damaged in (data, whole[:at] + data + whole[at:], gzip.compress(whole)[:at] + data):
        read_bytes(folder, damaged)
