"""Multiple choice by the letter that a model writes."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.benchmark.questions import ChoiceQuestion
from telellm.evaluation.letters import Letters, ask_letters, read_letter, unreadable
from telellm.evaluation.multiple_choice import add_up_choices, describe_choices
from tests.language_model_server import LanguageModelServer, completion

QUESTION = ChoiceQuestion("q1", "Which cell?", ("one", "two", "three"), 2, False)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("B", 1),
        ("b", 1),
        (" (C) three ", 2),
        ("**A**", 0),
        ("B. two", 1),
        ("B: two", 1),
        ("The correct answer is C.", 2),
        ("Answer: A", 0),
        ("<think>A or B? B.</think>\n\nC", 2),
        ("A neighbour cell", None),
        ("I do not know", None),
        ("D", None),
        ("", None),
        ("It is B", None),
    ],
)
def test_a_letter_is_read_where_the_answer_is_one_and_never_guessed(text: str, place: int | None) -> None:
    assert read_letter(text, 3) == place


@given(st.text(max_size=40), st.integers(2, 26))
def test_whatever_a_model_writes_a_place_is_one_of_the_options(text: str, number: int) -> None:
    assert read_letter(text, number) in {None, *range(number)}


def test_the_options_are_asked_in_every_order_and_a_letter_counts_for_what_stands_there(
    server: LanguageModelServer,
) -> None:
    def knows(request: dict, number: int):  # type: ignore[no-untyped-def,type-arg]
        lines = request["messages"][-1]["content"].splitlines()
        return completion(next(line for line in lines if line.endswith(". three"))[0])

    server.answer = knows
    done: list[int] = []
    [found] = ask_letters(partial(server.model().generate_each, max_tokens=8), [QUESTION], 0, done.append)
    assert found.orders == [[0, 1, 2], [1, 2, 0], [2, 0, 1]] and found.written == (2, 1, 0)
    assert found.correct == 1 and found.correct_by_order == [1, 1, 1] and done == [1]
    assert found.row("quiz")["log_likelihoods"] is None and found.row("quiz")["correct"] == 1
    asked = [request["messages"][0]["content"].partition("\nA. ")[2] for request in server.requests]
    assert sorted(asked) == ["one\nB. two\nC. three", "three\nB. one\nC. two", "two\nB. three\nC. one"]


def test_an_answer_without_a_letter_is_wrong_and_counted() -> None:
    def letters(*written: int | None) -> Letters:
        return Letters(QUESTION, [[0, 1, 2], [1, 2, 0], [2, 0, 1]], [], written)

    asked = [letters(None, None, None), letters(0, None, 0), letters(2, None, None)]
    assert [one.correct for one in asked] == [0, 0.5, 1]
    assert [one.correct_by_order for one in asked] == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert unreadable(asked) == 6
    assert add_up_choices({"quiz": asked})["multiple_choice.quiz.accuracy"]["value"] == 0.5
    about = describe_choices(asked, 0.95)
    assert about["chosen_by_place"] == pytest.approx([2 / 3, 0, 1 / 3])
    assert describe_choices(asked[:1], 0.95)["chosen_by_place"] == [0, 0, 0]
