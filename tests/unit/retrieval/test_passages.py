from hypothesis import given
from hypothesis import strategies as st

from telellm.records import Document
from telellm.retrieval.passages import divide

TEXT = """# 3GPP TS 38.999: Cells

Opening words of the page.

## 5 Procedures

### 5.1 Access

A handset sends a preamble. It waits for a response.

It repeats the preamble with more power.

```
# no heading
a = 1
```

### 5.2 Paging

The network pages a handset.
"""


def made(content: str, **fields: object) -> Document:
    return Document.create("standard", "38999", content, **fields)


def test_a_passage_names_its_document_its_clause_and_its_address() -> None:
    document = made(TEXT, title="Cells", source_url="https://example.org/38999")
    first, second, third = divide(document, 100)
    assert (first.document, first.title, first.url) == ("standard_38999", "Cells", "https://example.org/38999")
    assert (first.clause, first.text) == ("", "Opening words of the page.")
    assert second.clause == "5 Procedures › 5.1 Access"
    assert "# no heading" in second.text and second.text.startswith("A handset")
    assert (third.clause, third.text) == ("5 Procedures › 5.2 Paging", "The network pages a handset.")
    assert third.source == "Cells, 5 Procedures › 5.2 Paging"


def test_paragraphs_are_joined_as_long_as_they_fit() -> None:
    texts = [passage.text for passage in divide(made("one two three\n\nfour five\n\nsix seven eight nine"), 5)]
    assert texts == ["one two three\n\nfour five", "six seven eight nine"]


def test_a_long_paragraph_is_cut_between_sentences_and_one_without_them_between_words() -> None:
    texts = [passage.text for passage in divide(made("One two three. Four five six. Seven."), 4)]
    assert texts == ["One two three.", "Four five six. Seven."]
    assert [passage.text for passage in divide(made("a b c d e"), 2)] == ["a b", "c d", "e"]


def test_a_document_without_a_title_is_cited_by_its_id() -> None:
    (passage,) = divide(made("words"), 9)
    assert passage.source == "standard_38999"


@given(st.text(alphabet="ab #`\n.|", max_size=400), st.integers(1, 9))
def test_every_word_outside_of_headings_is_in_one_passage(content: str, num_words: int) -> None:
    found = [word for passage in divide(made(content), num_words) for word in passage.text.split()]
    headings = [word for passage in divide(made(content), num_words) for word in passage.clause.split()]
    words = made(content).content.split()
    assert set(found) <= set(words)
    assert all(len(passage.text.split()) <= num_words for passage in divide(made(content), num_words))
    if not any(line.lstrip().startswith("#") for line in content.split("\n")):
        assert found == words and not headings
