from hypothesis import given
from hypothesis import strategies as st

from telellm.records import Document
from telellm.tele_eval.pieces import choose_pieces, cut, is_left_out, pieces, sections, title_of

BODY = (
    "The UE sends its uplink frame earlier by the timing advance, as the gNB commands in each slot of the carrier. " * 3
)
TEXT = f"""# 3GPP TS 99.001: Timing

## 1 Scope

{BODY}

## 5 Timing advance

### 5.1 Commands

{BODY}

```
# not a heading
```

## 6 References

{BODY}
"""
RFC = f"""Network Working Group

1.  Introduction

   {BODY}

5.1  Fixed Header Fields

   {BODY}
   5.2  An indented line is text
"""


def document(text: str, **metadata: str) -> Document:
    return Document.create("standard", "a", text, **metadata)


def test_pieces_are_the_clauses_with_their_headings_and_no_lists_of_references() -> None:
    found = list(pieces(document(TEXT), 300))
    assert [piece.clause for piece in found] == ["1 Scope", "5.1 Commands"]
    assert found[1].heading == "3GPP TS 99.001: Timing > 5.1 Commands"
    assert "# not a heading" in found[-1].text


def test_numbered_lines_are_headings_where_there_is_no_markdown() -> None:
    assert [clause for clause, _ in sections(RFC)] == ["", "1. Introduction", "5.1 Fixed Header Fields"]


def test_the_title_comes_from_the_only_first_heading_or_from_the_metadata() -> None:
    assert title_of(document(TEXT)) == "3GPP TS 99.001: Timing"
    assert title_of(document("# One\n\ntext\n\n# Two\n\ntext", title="The guide")) == "The guide"
    assert title_of(document("text")) == ""


def test_a_long_clause_is_cut_between_paragraphs() -> None:
    text = "\n\n".join(f"Paragraph {number} " + "word " * 40 for number in range(10))
    parts = list(cut(text, 100))
    assert len(parts) == 5 and all(len(part.split()) <= 100 and part.startswith("Paragraph") for part in parts)


def test_some_pieces_are_drawn_by_the_seed_and_stay_in_order() -> None:
    text = "\n\n".join(f"## {number} Clause\n\n{BODY}" for number in range(20))
    chosen = choose_pieces(document(text), 17, 5, 300)
    assert chosen == choose_pieces(document(text), 17, 5, 300) != choose_pieces(document(text), 18, 5, 300)
    numbers = [int(piece.clause.split()[0]) for piece in chosen]
    assert len(numbers) == 5 and numbers == sorted(numbers)
    assert len(choose_pieces(document(text), 17, 0, 300)) == 20


def test_what_states_nothing_is_known_by_its_heading() -> None:
    for heading in ("References", "2 References", "Annex", "A.3 Change history", "Acknowledgments", "List of Acronyms"):
        assert is_left_out(heading) == (heading != "Annex")
    assert not is_left_out("5.4 Notes on timing")


@given(st.text(alphabet="aB1. #`\n\t|$-", max_size=400), st.integers(1, 30))
def test_no_word_of_any_text_is_lost_or_made_up(text: str, num_words: int) -> None:
    for _, section in sections(text):
        assert " ".join(cut(section, num_words)).split() == section.split()
        assert all(len(part.split()) <= num_words for part in cut(section, num_words))
