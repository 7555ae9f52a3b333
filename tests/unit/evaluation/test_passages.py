from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.evaluation.passages import continuations, draw_documents, equations, long_form, spread, terms
from telellm.records import Document

PAPER = Document.create(
    "arxiv",
    "a",
    "# Retransmission with HARQ\n\n"
    "A link adapts to its channel, and what is lost is sent again by hybrid automatic repeat request (HARQ) soon. "
    "HARQ keeps what it has received, so the receiver combines it, and a hybrid automatic repeat request costs little. "
    "The scheduler of the gNB reserves resources for HARQ before data arrive, as every gNB does. It waits.\n\n"
    "The rate of a link with bandwidth $B$ is bounded, where the noise has power $N = k T B$ and all else is known,\n"
    "$$ C = B \\log_2 \\left( 1 + \\frac{S}{N} \\right) . $$\n\n"
    "Both grow, $x \\leq = y$, but $$\\begin{aligned} a &= b \\end{aligned}$$ is set in lines.\n\n"
    "HARQ | the gNB | a row of a table with HARQ in it, which is long enough to stand before something else, HARQ |",
)


def test_terms_are_acronyms_and_their_long_forms_where_prose_leads_up_to_them() -> None:
    found = terms(PAPER, 600, Random(1))
    assert {blank.answer for blank in found} == {"HARQ", "gNB", "hybrid automatic repeat request"}
    for blank in found:
        assert f"{blank.before} {blank.answer}" in PAPER.content and "|" not in blank.before
    assert terms(PAPER.with_content("No term is here, but one HARQ."), 600, Random(1)) == []
    assert found != terms(PAPER, 100, Random(1)) and all(len(b.before) <= 100 for b in terms(PAPER, 100, Random(1)))


@pytest.mark.parametrize(
    ("acronym", "before", "meant"),
    [
        ("HARQ", "sent again by hybrid automatic repeat request", "hybrid automatic repeat request"),
        ("PDSCH", "on the physical downlink shared channel", "physical downlink shared channel"),
        ("LTE-A", "as in long term evolution advanced", "long term evolution advanced"),
        ("MIMO", "which no words here mean", ""),
        ("QoS", "Quality of Service", "Quality of Service"),
    ],
)
def test_a_long_form_is_found_by_the_letters_of_its_acronym(acronym: str, before: str, meant: str) -> None:
    assert long_form(acronym, before) == meant


def test_equations_stop_at_their_first_equals_sign() -> None:
    found = {blank.answer: blank.before for blank in equations(PAPER, 300, Random(1))}
    assert set(found) == {"k T B", r"B \log_2 \left( 1 + \frac{S}{N} \right)"}
    assert found["k T B"].endswith("the noise has power $N =")
    assert found[r"B \log_2 \left( 1 + \frac{S}{N} \right)"].endswith("$$ C =")


def topic(name: str, category: str = "web") -> Document:
    sentences = [f"The {name} number {n} is described here in a few plain words." for n in range(8)]
    return Document.create(
        category, name, f"{'An opening about it stands here, long enough. ' * 3}{' '.join(sentences)}"
    )


def test_the_next_sentence_stands_among_sentences_of_other_documents() -> None:
    documents = [topic(name) for name in ("cell", "beam", "slot", "mast")] + [topic("paper", "arxiv")]
    found = continuations(documents, 300, 4, 20, Random(1))
    assert len(found) == 20 and {one.id for one in found} == {document.id for document in documents}
    by_id = {document.id: document.content for document in documents}
    for one in found:
        assert f"{one.before} {one.options[one.answer]}" in by_id[one.id]
        assert len(set(one.options)) == 4 and sum(option in by_id[one.id] for option in one.options) == 1
        if one.category == "web":  # there are enough of the same category
            assert not any("paper" in option for option in one.options)
    assert found == continuations(documents, 300, 4, 20, Random(1))
    assert continuations(documents[:1], 300, 4, 20, Random(1)) == []


def test_documents_are_drawn_evenly_over_the_categories() -> None:
    documents = [topic(f"w{n}") for n in range(40)] + [topic(f"p{n}", "arxiv") for n in range(3)]
    drawn = draw_documents(iter(documents), 6, lambda name: name[::-1])
    assert sorted(document.category for document in drawn) == ["arxiv"] * 3 + ["web"] * 3
    assert drawn == draw_documents(iter(documents[::-1]), 6, lambda name: name[::-1])
    assert len(draw_documents(iter(documents), 0, lambda name: name)) == 43


def test_items_are_taken_in_turn() -> None:
    assert spread([[1, 2, 3], [], [4], [5, 6]], 4) == [1, 4, 5, 2]
    assert spread([[1], [2]], 0) == []


@given(st.text(alphabet="AB ab.$=()|\n\\-#1", max_size=400))
def test_any_text_is_read(content: str) -> None:
    document = Document.create("web", "a", content)
    for blank in [*terms(document, 100, Random(1)), *equations(document, 100, Random(1))]:
        assert blank.answer in content
    assert continuations([document], 100, 2, 5, Random(1)) == []
