import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.recipe import Draft
from telellm.records import Question, Rejected
from telellm.tele_eval.pieces import Piece
from telellm.tele_eval.written import Item, Pieces, find_span, parse_items

KINDS = ("definition", "value", "procedure", "reason", "formula", "comparison")
TEXT = """The UE starts the timer T300 when it sends RRCSetupRequest. Its value is 400 ms in a cell of medium size.

The loss of a splitter for $n$ homes is $L = 3.5 \\log_2 n$ dB, since each halving costs 3.5 dB."""
PIECE = Piece("3GPP TS 99.001: Timers", "7.1 Timer T300", TEXT)
GOOD = """Kind: procedure
Question: What does the UE do with the timer T300 when it sends RRCSetupRequest?
Answer: The UE starts the timer T300.
Evidence: the UE starts the timer  T300 when it sends “RRCSetupRequest”."""
FORMULA = r"""Kind: formula
Question: How is the loss of a splitter for $n$ homes computed?
Answer: The loss is $L = 3.5 \log_2 n$ dB.
Evidence: The loss of a splitter for $n$ homes is $L = 3.5 \log_2 n$ dB, since each halving costs 3.5 dB.""".replace(
    "\\\\", "\\"
)


def read(text: str, **settings: object) -> list[Question | Rejected]:
    method = Pieces(Draft.model_validate({"minimum_answer_words": 3} | settings), 17)
    return list(method.read("standard_a", PIECE, text))


def reasons(text: str, **settings: object) -> list[str]:
    return [found.reason if isinstance(found, Rejected) else "" for found in read(text, **settings)]


def item(**changes: str) -> str:
    fields = {"Kind": "procedure", "Question": GOOD.split("\n")[1][10:], "Answer": "The UE starts the timer T300."}
    fields |= {"Evidence": "The UE starts the timer T300 when it sends RRCSetupRequest."} | changes
    return "\n".join(f"{name}: {value}" for name, value in fields.items())


def test_items_are_parsed_formulas_and_all() -> None:
    items, broken = parse_items(f"{GOOD.replace('“', '').replace('”', '')}\n\n{FORMULA}\n", KINDS)
    assert broken == [] and [found.kind for found in items] == ["procedure", "formula"]
    assert items[1].answer == r"The loss is $L = 3.5 \log_2 n$ dB.".replace("\\\\", "\\")


def test_the_evidence_is_the_words_of_the_document() -> None:
    [found, formula] = read(f"{GOOD.replace('“', '').replace('”', '')}\n\n{FORMULA}")
    assert isinstance(found, Question) and isinstance(formula, Question)
    assert found.evidence == "The UE starts the timer T300 when it sends RRCSetupRequest."
    assert formula.evidence in TEXT
    assert (found.id, found.clause, found.kind, found.split) == ("standard_a", "7.1 Timer T300", "procedure", "")


@pytest.mark.parametrize(
    "text",
    [
        "Here are your questions!",
        "",
        '[{"question": "What is T300?", "answer": "A timer."}]',
        item(Kind="riddle"),
        item(Evidence=""),
        item().replace("Answer:", "A:"),
        item().replace("Question:", "**Question:**"),
        "\n".join(reversed(item().split("\n"))),
        item(Answer="The UE\x00 starts it."),
        "x" * 200_000,
        "Kind: value\n" * 3,
    ],
)
def test_what_has_another_form_is_unparseable_and_never_guessed(text: str) -> None:
    assert set(reasons(text)) == {"unparseable"}


def test_what_is_kept_of_unparseable_text_is_bounded() -> None:
    [found] = read("x" * 10**6)
    assert isinstance(found, Rejected) and len(str(found.item)) < 3000


def test_nothing_to_ask_is_no_mistake() -> None:
    assert read("NONE") == read(" NONE.\n") == []


def test_a_remark_after_the_last_item_is_no_evidence_and_one_bad_item_spoils_no_other() -> None:
    text = f"{item()}\n\nI hope that this helps!"
    assert reasons(text) == [""]
    assert sorted(reasons(f"{item(Kind='riddle')}\n\n{item()}")) == ["", "unparseable"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Evidence": "The UE stops the timer T300 at once."}, "evidence is not in the document"),
        ({"Evidence": "UE"}, "evidence is not in the document"),
        ({"Answer": "The satellite of the operator turns its antenna to Vienna."}, "answer is not in the document"),
        (
            {"Question": "Which orbit does the satellite of the operator in Vienna take?"},
            "question is not about the document",
        ),
        (
            {"Question": "What does the UE do with the timer T310 when it sends RRCSetupRequest?"},
            "question is not about the document",
        ),
        ({"Question": "What does this document say of the timer T300 and RRCSetupRequest?"}, "leans on its source"),
        ({"Question": "Does the UE start the timer T300 when it sends RRCSetupRequest?"}, "yes or no would answer it"),
        ({"Answer": "It starts"}, "answer too short"),
        ({"Answer": "The UE sends RRCSetupRequest."}, "question gives its answer away"),
        ({"Answer": "The UE starts $T_{300."}, "broken formula"),
    ],
)
def test_what_breaks_a_rule_has_its_reason(changes: dict[str, str], reason: str) -> None:
    assert reasons(item(**changes)) == [reason]


def test_more_items_than_asked_for_are_not_taken() -> None:
    text = "\n\n".join([item()] * 4)
    assert reasons(text, questions_per_piece=2) == ["", "", *["more questions than asked for"] * 2]


def test_a_kind_that_is_not_wanted_is_not_taken() -> None:
    assert reasons(item(), kinds=["value"]) == ["unparseable"]


def test_a_model_is_asked_with_the_heading_the_kinds_and_the_text() -> None:
    method = Pieces(Draft(kinds=["value", "reason"], questions_per_piece=2), 17)  # type: ignore[call-arg]
    asked = method.fill(PIECE)
    assert "at most 2 items of the kinds value, reason" in asked
    assert "3GPP TS 99.001: Timers > 7.1 Timer T300" in asked and TEXT in asked


def test_the_examples_of_the_prompt_have_the_form_that_is_asked_for() -> None:
    prompt = Pieces(Draft(), 17).prompt  # type: ignore[call-arg]
    parsed = [parse_items(answer, KINDS) for _, answer in prompt.examples]
    assert all(not broken for _, broken in parsed) and [len(items) for items, _ in parsed] == [3, 0]
    asked, (items, _) = prompt.examples[0][0], parsed[0]
    assert all(find_span(found.evidence, asked) for found in items)


LINE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=60).filter(
    lambda text: text.strip() and not text.startswith(("Kind:", "Question:", "Answer:", "Evidence:"))
)


@given(st.sampled_from(KINDS), LINE, LINE, LINE)
def test_whatever_is_written_in_the_form_is_read_back(kind: str, question: str, answer: str, evidence: str) -> None:
    text = f"Kind: {kind}\nQuestion: {question}\nAnswer: {answer}\nEvidence: {evidence}"
    assert parse_items(text, KINDS) == (
        [Item(kind, " ".join(question.split()), answer.strip(), evidence.strip())],
        [],
    )


@given(st.text(max_size=300))
def test_any_text_gives_items_or_rejects(text: str) -> None:
    for found in read(text) + read(f"Kind: value\n{text}"):
        assert isinstance(found, Rejected)


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_a_span_is_a_part_of_the_text(before: str, middle: str, after: str) -> None:
    text = f"{before} {middle} {after}"
    span = find_span(middle, text)
    assert span is None or span in text
    if len(middle.split()) >= 3 and middle.isascii() and middle.strip("\"' \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f") == middle:
        assert span is not None and span.split() != []
