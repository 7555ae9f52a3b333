import bz2
import gzip
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm.corpus.sources.file import SourceFile
from telellm.corpus.sources.wikipedia import MAX_PAGE_CHARACTERS, read
from telellm.corpus.sources.wikitext import convert_wikitext
from telellm.records import Document, Rejected

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" version="{version}" xml:lang="en">
<siteinfo><sitename>Wiki</sitename><base>https://wiki.example/wiki/Main_Page</base></siteinfo>
"""


def page(number: int, title: str, text: str, namespace: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{number}</id>{extra}<revision><id>{number}77</id>"
        f"<timestamp>2025-02-03T04:05:06Z</timestamp><contributor><id>5</id></contributor>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(*pages: str, version: str = "0.11") -> bytes:
    return (HEAD.format(version=version) + "".join(pages) + "</mediawiki>").encode()


def read_bytes(folder: Path, data: bytes, name: str = "dump.xml", licence: str = "") -> list[Document | Rejected]:
    path = folder / name
    path.write_bytes(data)
    return list(read(SourceFile(path, name, "https://dumps.example/dump.xml", licence, "2020-01-01")))


def reasons(results: list[Document | Rejected]) -> list[str]:
    return [result.reason for result in results if isinstance(result, Rejected)]


@pytest.mark.parametrize("version", ["0.3", "0.10", "0.11"])
def test_a_page_becomes_a_document_with_its_revision_and_address(tmp_path: Path, version: str) -> None:
    (document,) = read_bytes(tmp_path, dump(page(12, "Random access", "Phones send a preamble."), version=version))
    assert isinstance(document, Document)
    assert (document.id, document.category, document.content) == ("wiki_12", "wiki", "Phones send a preamble.")
    fields = document.fields
    assert fields["source_url"] == "https://wiki.example/wiki/Random_access"
    assert (fields["title"], fields["page_id"], fields["revision_id"]) == ("Random access", "12", "1277")
    assert (fields["retrieved_at"], fields["licence"]) == ("2025-02-03T04:05:06Z", "CC BY-SA 4.0")


def test_the_recipes_licence_wins(tmp_path: Path) -> None:
    (document,) = read_bytes(tmp_path, dump(page(1, "A", "Text.")), licence="CC0")
    assert isinstance(document, Document) and document.fields["licence"] == "CC0"


@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip.compress])
def test_every_compression_reads_alike(tmp_path: Path, compress: type[bytes]) -> None:
    results = read_bytes(tmp_path, compress(dump(page(1, "A", "One."), page(2, "B", "Two."))))
    assert [result.content for result in results if isinstance(result, Document)] == ["One.", "Two."]


def test_pages_that_are_no_articles_are_rejected_with_their_reason(tmp_path: Path) -> None:
    results = read_bytes(
        tmp_path,
        dump(
            page(1, "Old name", "#REDIRECT [[New name]]", extra='<redirect title="New name" />'),
            page(2, "Talk:Slice", "Hello", namespace=1),
            page(3, "Cell", "'''Cell''' may be:\n* [[Base station]]\n{{disambiguation}}"),
            page(4, "Empty", "{{Infobox | a = b}}"),
            page(5, "Good", "{{Disambiguation needed|date=May 2020}} Kept."),
        ),
    )
    assert reasons(results) == ["redirect", "not an article", "disambiguation", "no text"]
    assert isinstance(results[0], Rejected) and results[0].item["title"] == "Old name"
    assert isinstance(results[-1], Document)


@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip.compress])
def test_a_truncated_dump_keeps_the_pages_before_the_damage(tmp_path: Path, compress: type[bytes]) -> None:
    texts = [" ".join(f"{number}-{word}" for word in range(9000)) for number in range(30)]
    data = compress(dump(*(page(number, f"T{number}", text) for number, text in enumerate(texts))))
    results = read_bytes(tmp_path, data[: len(data) * 2 // 3])
    documents = [result for result in results if isinstance(result, Document)]
    assert documents or compress is bz2.compress
    assert all(document.content == texts[int(document.fields["page_id"])] for document in documents)
    assert reasons(results) == ["truncated dump"] and isinstance(results[-1], Rejected)


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + dump(page(1, "A", "x")).decode()
    assert reasons(read_bytes(tmp_path, bomb.encode())) == ["hostile XML"]
    assert reasons(read_bytes(tmp_path, b"<mediawiki>" + b"<a>" * 100_000)) == ["hostile XML"]


def test_a_giant_page_is_refused_and_the_next_one_is_read(tmp_path: Path) -> None:
    giant = page(1, "Giant", "word " * (MAX_PAGE_CHARACTERS // 5 + 1))
    results = read_bytes(tmp_path, dump(giant, page(2, "Next", "Small.")))
    assert reasons(results) == ["too large"] and isinstance(results[1], Document)


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        path = tmp_path / "dump.xml"
        path.write_bytes(dump(*(page(index, f"T{index}", "word " * 2000) for index in range(number))))
        tracemalloc.start()
        for _ in read(SourceFile(path, "dump.xml", "", "", "")):
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(10)
    assert peak(200) < 1.5 * peak(20) + 2**20


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("A '''bold''' and ''slanted'' [[Cell (radio)|cell]] in [[LTE]].", "A bold and slanted cell in LTE."),
        ("Rate <math>C = B \\log_2(1 + S/N) < 5</math> holds.", "Rate $C = B \\log_2(1 + S/N) < 5$ holds."),
        ("So\n:<math>a &amp; b</math>,\nthen", "So\n$$a & b$$,\nthen"),
        ('<math display="block">x\n= y</math>', "$$x = y$$"),
        ("{{math|''x''<sub>i</sub> {{=}} 2}} and {{mvar|n}}", "$x_i = 2$ and $n$"),
        ("{{sfrac|1|2}} of 10<sup>−3</sup>", "$\\frac{1}{2}$ of 10^{−3}"),
        ("{{convert|5|km|mi}}, {{convert|5|to|8|km|mi|0}}", "5 km, 5 to 8 km"),
        ("{{val|1.5|e=6|u=Hz}}", "1.5×10^{6} Hz"),
        ("{{nowrap|5G core}} {{lang|de|Funk}} {{abbr|MIMO|multiple input}} {{chem|H|2|O}}", "5G core Funk MIMO H2O"),
        ("{{Infobox radio | name = {{nowrap|X}} | text = [[Y]]}}\nText.", "Text."),
        ("One.<ref name=a>{{cite book|title=T}}</ref> Two.<ref name=a /> Three.", "One. Two. Three."),
        ("[[File:A.png|thumb|A [[mast]] at night]] [[Category:Radio]][[de:Funk]]Text", "Text"),
        ("A [https://a.example/x link] and [https://a.example/y].", "A link and."),
        ("5&nbsp;MHz &lt; 6&nbsp;MHz <!-- hidden -->", "5 MHz < 6 MHz"),
        ("* one\n** two\n# three", "- one\n  - two\n1. three"),
        ('<syntaxhighlight lang="c">\nint a[2] = {{1}};\n</syntaxhighlight>', "```c\nint a[2] = {{1}};\n```"),
        ("<pre>a  b</pre>", "```\na  b\n```"),
        ("<nowiki>[[x]]</nowiki> {{", "[[x]] {{"),
    ],
)
def test_markup_becomes_text(wikitext: str, text: str) -> None:
    assert convert_wikitext(wikitext) == text


def test_a_table_keeps_its_rows() -> None:
    table = '{| class="a"\n|+ Bands\n! Band !! Width\n|-\n| [[n78]]<br>(TDD) || 100&nbsp;MHz\n|-\n| n1\n| 20 MHz\n|}'
    rows = "| Band | Width |\n| --- | --- |\n| n78 (TDD) | 100 MHz |\n| n1 | 20 MHz |"
    assert convert_wikitext(f"Before\n{table}\nAfter") == f"Before\n\nBands\n{rows}\n\nAfter"


def test_sections_that_only_point_elsewhere_are_dropped() -> None:
    text = convert_wikitext(
        "Lead.\n== Use ==\nOf it.\n== See also ==\n* [[X]]\n=== Sub ===\ny\n== Costs ==\nHigh.\n== Empty ==\n"
    )
    assert text == "Lead.\n\n## Use\n\nOf it.\n\n## Costs\n\nHigh."


HOSTILE = ["{{", "[[", "{{a|", "[[a|", "<ref", "<ref>", "<math>", "<!--"]
HOSTILE += ["{|\n", "\n{|\n|", "[http://a ", "<a b='", "{{{a}} "]


@pytest.mark.parametrize("fragment", HOSTILE)
def test_thirty_thousand_open_brackets_end(fragment: str) -> None:
    convert_wikitext(fragment * 30_000)


def test_brackets_nested_without_end_are_cut_out() -> None:
    deep = "{{a|" * 50_000 + "x" + "}}" * 50_000
    assert convert_wikitext(f"Before {deep} after") == "Before after"
    assert convert_wikitext("[[a|b]] {{c}} " * 25_000).startswith("b b b")


PIECES = [
    "{{",
    "}}",
    "[[",
    "]]",
    "{|",
    "|}",
    "|-",
    "||",
    "|",
    "\n",
    "=",
    "== a ==",
    "<ref>",
    "</ref>",
    "<math>",
    "</math>",
]
PIECES += [
    "''",
    "&lt;",
    "<!--",
    "-->",
    "math|",
    "convert|",
    "File:",
    "* ",
    "# ",
    "a",
    " ",
    "<sup>",
    "</sup>",
    "\ue000",
    "{{{",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=60).map("".join))
@settings(deadline=None, max_examples=150)
def test_any_wikitext_becomes_text(wikitext: str) -> None:
    assert isinstance(convert_wikitext(wikitext), str)


@given(data=st.binary(max_size=300), at=st.integers(0, 700))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    whole = dump(page(1, "A", "Text."))
    for damaged in (data, whole[:at] + data + whole[at:], b"BZh9" + data, gzip.compress(whole)[:at] + data):
        read_bytes(folder, damaged)
