import pytest

from telellm.recipe import Draft
from telellm.records import Question, Rejected
from telellm.tele_eval.facts import Facts, gives_reason, miscounts, misses, parse_question
from telellm.tele_eval.passages import Passage

ANSWER = (
    "The S-NSSAI identifies a network slice and is made of a service type of 8 bits and a differentiator of 24 bits."
)
BECAUSE = "Mixers extract SDES packets from compound packets, since they do not forward SR or RR reports."


def read(statement: str, fact: str = ANSWER, kind: str = "value") -> Question | Rejected:
    settings = Draft(method="facts", minimum_answer_words=8, maximum_answer_words=45)  # type: ignore[call-arg]
    [found] = Facts(settings, 17).read("standard_a", Passage(fact, fact, kind, "5.1 Slices"), statement)
    return found


@pytest.mark.parametrize(
    ("written", "question"),
    [
        ("What is a cell?", "What is a cell?"),
        ('Question: "What is a cell?" and more', "What is a cell?"),
        ("**Why does it fade?**", "Why does it fade?"),
        ("A cell is a cell.", ""),
        ("?", ""),
        ("", ""),
    ],
)
def test_a_question_is_found_in_what_a_model_wrote_or_not_at_all(written: str, question: str) -> None:
    assert parse_question(written) == question


def test_a_question_that_keeps_the_rules_has_its_document_clause_kind_and_evidence() -> None:
    statement = "How many bits does the service type of an S-NSSAI have?"
    assert read(statement) == Question(statement, ANSWER, "standard_a", "value", ANSWER, "", "5.1 Slices")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("I cannot say.", "unparseable"),
        ("In Table 2, what is S-NSSAI?", "names a figure or reference"),
        ("Which train leaves Vienna for Salzburg at noon?", "question is not about the answer"),
        ("How does the S-NSSAI identify a network slice?", "question is not about the answer"),
        ("How many gNB and slice are there for the S-NSSAI?", "question is not about the answer"),
    ],
)
def test_what_is_not_fit_has_its_reason(statement: str, reason: str) -> None:
    found = read(statement)
    assert isinstance(found, Rejected) and found.reason == reason


def test_a_question_about_a_definition_asks_for_what_is_defined() -> None:
    fact = "Angola is the home of the top basketball team of its continent and a regular competitor."
    passage = Passage(fact, fact, "definition")
    assert misses("What is the top basketball team of Angola?", passage)
    assert not misses(
        "What is Angola?",
        Passage("Angola is a cell of a mobile network.", "Angola is a cell of a mobile network.", "definition"),
    )


def test_why_asks_for_what_is_explained_and_does_not_tell_the_reason() -> None:
    assert not gives_reason("Why do mixers extract SDES packets from compound packets?", BECAUSE)
    assert gives_reason("Why do mixers not forward SR or RR reports?", BECAUSE)
    assert gives_reason(
        "Why is the frame sent twice?", "Since the frame is sent twice, the receiver can add both copies."
    )
    assert not gives_reason("What do mixers forward?", BECAUSE)


@pytest.mark.parametrize(
    ("statement", "answer", "wrong"),
    [
        ("How many systematic columns does base graph 1 have?", "Base graph 1 has 22 systematic columns.", False),
        ("How many meters does the channel carry?", "A channel at 1510 nm carries management traffic.", True),
        ("How many bits carry 181 bits with CS-1?", "A block carries 181 bits with CS-1.", True),
        ("What spacing in GHz is 100 nm near 1550 nm?", "Near 1550 nm a spacing of 100 GHz is equal to 0.8 nm.", True),
        ("Which homes share one feeder?", "In the village, 32 homes share one feeder.", False),
        ("How many homes share one feeder?", "In the village, thirty homes share one feeder.", True),
    ],
)
def test_a_question_counts_what_its_answer_counts(statement: str, answer: str, wrong: bool) -> None:
    assert miscounts(statement, answer) == wrong
