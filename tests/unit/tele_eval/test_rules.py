import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.tele_eval.rules import (
    REASONS,
    content_words,
    leans,
    objection,
    overlap,
    repeats_itself,
)

LENGTHS = (5, 40)
ANSWER = (
    "The S-NSSAI identifies a network slice and is made of a service type of 8 bits and a differentiator of 24 bits."
)
LEANS = ("leans on its source", "names a figure or reference")
LEANING = [
    "in this paper",
    "in the paper",
    "in this section",
    "in the previous section",
    "in Section 3",
    "in section IV",
    "in clause 5.3.2",
    "in Annex B",
    "in the proposed scheme",
    "in our proposed scheme",
    "by the author",
    "by the authors",
    "according to the passage",
    "according to the text",
    "based on the information above",
    "in the passage",
    "in the given text",
    "in the fact",
    "as mentioned above",
    "as described in the document",
    "as shown in Figure 3",
    "shown in Fig. 2",
    "in Table 2",
    "in Tab. 4",
    "in the table",
    "in the following figure",
    "in equation (5)",
    "in Eq. (5)",
    "as in [12]",
    "in [3, 5-7]",
    "by Algorithm 1",
    "when we assume perfect timing",
    "in our system",
    "described below",
    "in the above example",
    "in the present document",
    "in this specification",
    "in this study",
    "by Smith et al.",
    r"in \cite{smith}",
    "in this article",
    "in the excerpt",
]
STANDING = [
    "What is the size of the slice differentiator in the S-NSSAI?",
    "How many bits does the service type of an S-NSSAI have?",
    "Why does the UE restart the timer T310 in the connected state?",
    "Which of the two HARQ types adds redundancy in LTE?",
    "What does table-based precoding need in 5G NR?",
    "How does a routing table in a router choose the next hop?",
    "How does the gNB treat a UE when it loses the uplink timing?",
]


@given(
    st.sampled_from(LEANING),
    st.sampled_from(["What is the size of the S-NSSAI service type {}?", "{}, what is the S-NSSAI service type?"]),
    st.sampled_from([str, str.upper, str.capitalize]),
)
def test_a_question_that_leans_on_its_source_never_passes(phrase: str, frame: str, change) -> None:  # type: ignore[no-untyped-def]
    written = phrase if "\\" in phrase or "IV" in phrase or "Annex" in phrase else change(phrase)
    assert objection(frame.format(written), ANSWER, LENGTHS) in (*LEANS, "no question")
    assert leans(f"The S-NSSAI identifies a network slice {written}.")


@pytest.mark.parametrize("phrase", LEANING)
def test_a_question_at_whose_end_stands_a_reference_is_named_as_leaning(phrase: str) -> None:
    assert objection(f"What is the S-NSSAI service type {phrase}?", ANSWER, LENGTHS) in LEANS


@pytest.mark.parametrize("phrase", LEANING)
def test_an_answer_that_leans_on_its_source_never_passes(phrase: str) -> None:
    answer = f"The service type has 8 bits and the differentiator has 24 bits {phrase}."
    assert objection("What is the S-NSSAI made of in a network slice?", answer, LENGTHS) in LEANS


@pytest.mark.parametrize("statement", STANDING)
def test_a_question_that_stands_alone_does_not_lean(statement: str) -> None:
    assert objection(statement, ANSWER, LENGTHS) not in LEANS


@pytest.mark.parametrize(
    "sentence",
    [
        "It is sent in every slot of the carrier.",
        "This increases the throughput of the cell considerably.",
        "However, the gNB releases the connection after ten seconds.",
        "For example, the timer T310 expires after one second.",
        "The former is used in the downlink of New Radio.",
        "With h = 30 m the tilt of the antenna is 6.4 degrees.",
        "Because of this, the UE starts the timer again at once.",
        "When they arrive, the scheduler allocates a resource block.",
        "The glint of light off water is a commonplace effect of this.",
    ],
)
def test_a_sentence_that_goes_on_from_another_is_no_fact(sentence: str) -> None:
    assert leans(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "The S-CSCF replies 401 Unauthorized when it has no valid registration.",
        "A gateway that loses its clock stops the radio before it disturbs its neighbours.",
        "Release 17 adds 1024QAM in the downlink of FR1.",
        "A device of class I may transmit with 33 dBm.",
    ],
)
def test_a_sentence_that_stands_alone_may_be_a_fact(sentence: str) -> None:
    assert not leans(sentence)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("The S-NSSAI has 32 bits.", "no question"),
        ("S-NSSAI service type bits?", "no question"),
        ("What is the S-NSSAI? How long is its service type?", "several questions in one"),
        ("What is the S-NSSAI service type, and how long is the differentiator?", "several questions in one"),
        ("What is the main purpose?", "question is vague"),
        ("What is the answer to the question?", "question is vague"),
        ("Why is the system important?", "question is vague"),
        ("What is the service type of the service type in the S-NSSAI slice?", "question repeats itself"),
        (
            "Does the S-NSSAI identify a network slice, a service type of 8 bits and a differentiator of 24 bits?",
            "yes or no would answer it",
        ),
        (
            "What S-NSSAI identifies a network slice with a service type of 8 bits and a differentiator of 24 bits?",
            "question gives its answer away",
        ),
        ("What does Table 3 say of the S-NSSAI?", "names a figure or reference"),
        ("How is the S-NSSAI $s = 8 + 24 computed?", "broken formula"),
        ("How many bits does the service type of an S-NSSAI have?", ""),
        ("How many bits a slice?", "question is vague"),
        ("What is an S-NSSAI?", ""),
    ],
)
def test_each_rule_has_its_reason(statement: str, reason: str) -> None:
    assert objection(statement, ANSWER, LENGTHS) == reason


def test_answers_that_are_too_short_or_too_long_are_rejected() -> None:
    question = "How many bits does the service type of an S-NSSAI have?"
    assert objection(question, "S-NSSAI service type bits.", LENGTHS) == "answer too short"
    assert objection(question, "The S-NSSAI service type has bits " * 10, LENGTHS) == "answer too long"


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_gets_a_known_verdict(statement: str, answer: str) -> None:
    assert objection(statement, answer, LENGTHS) in ("", *REASONS)


@given(st.text(max_size=100))
def test_a_text_contains_itself(text: str) -> None:
    assert overlap(text, text) == (1.0 if content_words(text) else 0.0)


def test_overlap_is_the_share_of_content_words() -> None:
    assert overlap("The timer expires after seconds.", "A timer of ten seconds") == pytest.approx(2 / 3)


def test_words_said_twice_side_by_side_are_noticed() -> None:
    assert repeats_itself("What is the end stop and the end stop?")
    assert not repeats_itself("What is a carrier that carries control data?")
