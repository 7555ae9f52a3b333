from hypothesis import given
from hypothesis import strategies as st

from telellm.tele_eval.passages import Passage, beginning, choose_passages, kind_of, paragraphs, sentences

TIMING = "Timing advance is the amount by which a UE sends its uplink frame earlier than it receives the downlink."
TEXT = f"""# Timing

The UE starts the timer T300 when it sends RRCSetupRequest to the gNB. It stops it on reception of RRCSetup. \
After expiry the UE informs upper layers about the failure.

| Timer | Value |
| T300 | 100 ms |

{TIMING} This keeps
the signals of all UEs aligned at the base station.

```
T300 ::= ENUMERATED ms100, ms200 The UE is a device with 4 antennas and a timer of 3 ms.
```

- The list item states that the cell has 4 antennas, but it is a list item.

$$ x = 3 $$

We show in Figure 3 that the gNB with 64 antennas sends 100 Mbit/s to each of 10 users.
"""
LENGTHS = (8, 45)


def test_facts_come_from_prose_and_stand_alone() -> None:
    facts = [passage.fact for passage in choose_passages(TEXT, "a", 10, 80, LENGTHS)]
    assert facts == [
        "The UE starts the timer T300 when it sends RRCSetupRequest to the gNB.",
        "After expiry the UE informs upper layers about the failure.",
        TIMING,
    ]


def test_the_clearest_facts_of_different_paragraphs_come_first() -> None:
    facts = [passage.fact for passage in choose_passages(TEXT, "a", 2, 80, LENGTHS)]
    assert [fact.split()[0] for fact in facts] in (["The", "Timing"], ["After", "Timing"])


def test_a_passage_holds_its_fact_and_its_neighbours_up_to_its_length() -> None:
    wide, narrow = (choose_passages(TEXT, "a", 1, words, LENGTHS)[0] for words in (80, 20))
    assert narrow.fact in narrow.text and len(narrow.text.split()) <= 20
    assert wide.text.count(".") > narrow.text.count(".")


def test_the_choice_is_the_same_for_the_same_key() -> None:
    text = "\n\n".join(f"The cell {n} sends {n} symbols of data with 4 antennas to the UE." for n in range(50))
    assert choose_passages(text, "a", 5, 80, LENGTHS) == choose_passages(text, "a", 5, 80, LENGTHS)
    assert choose_passages(text, "a", 5, 80, LENGTHS) != choose_passages(text, "b", 5, 80, LENGTHS)


def test_the_question_about_a_definition_begins_with_what_it_defines() -> None:
    whole = "A resource block is a group of twelve subcarriers."
    assert beginning(Passage(whole, whole, "definition")) == "What is a resource block"
    assert beginning(Passage(whole, whole, "reason")) == "Why"


def test_wrapped_lines_are_one_paragraph_and_headings_are_not_part_of_it() -> None:
    text = (
        "How two systems fit\n"
        "The receiver of packet audio plays samples at a steady pace\nalthough packets arrive at an unsteady one."
    )
    assert list(paragraphs(text)) == [
        "The receiver of packet audio plays samples at a steady pace although packets arrive at an unsteady one."
    ]


def test_sentences_end_where_a_reader_ends_them() -> None:
    assert sentences("The loss, e.g. Rain fade, is 3.5 dB. See Fig. 3 for more. $a. B$ is a formula. Done.") == [
        "The loss, e.g. Rain fade, is 3.5 dB.",
        "See Fig. 3 for more.",
        "$a. B$ is a formula.",
        "Done.",
    ]


def test_a_passage_knows_its_clause_and_lists_of_references_give_none() -> None:
    text = f"## 5.1 Timing advance\n\n{TIMING}\n\n## References\n\n{TIMING.replace('UE', 'mobile')}"
    assert [passage.clause for passage in choose_passages(text, "a", 5, 80, LENGTHS)] == ["5.1 Timing advance"]


def test_a_fact_has_a_kind() -> None:
    assert kind_of("The simplest form is a set of pairs of names and numbers.") == "other"
    assert kind_of("Since February, the network has offered a slice for meters.") == "other"
    assert kind_of("A resource block is a group of twelve subcarriers.") == "definition"
    assert kind_of("Planners tilt antennas down, because interference grows.") == "reason"
    assert kind_of("The normal prefix lasts 4.7 µs in LTE.") == "value"
    assert kind_of("The AMF forwards the request when the SMF has answered.") == "procedure"
    assert kind_of("Rain matters little below that band.") == "other"


@given(st.text(alphabet="aA. $\\[]()#|\n`19-é", max_size=300), st.integers(1, 5))
def test_any_text_gives_passages_that_it_contains(text: str, number: int) -> None:
    for passage in choose_passages(text, "a", number, 40, (1, 45)):
        assert passage.fact in passage.text
