from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from telellm.evaluation.draw import draw
from telellm.records import Question


def question(document: int, number: int, split: str) -> Question:
    return Question(f"Question {number} about {document}?", "Answer.", f"web_{document}", split=split)


QUESTIONS = [question(d, n, "held-out" if d < 4 else "train") for d in range(20) for n in range(d % 5 + 1)]


def test_both_splits_are_asked_evenly() -> None:
    assert Counter(found.split for found in draw(QUESTIONS, 8, seed=1)) == {"train": 4, "held-out": 4}


def test_no_document_is_asked_twice_before_each_is_asked_once() -> None:
    held_out = [found for found in draw(QUESTIONS, 8, seed=1) if found.split == "held-out"]
    assert len({found.id for found in held_out}) == 4


def test_zero_asks_all() -> None:
    assert sorted(map(repr, draw(QUESTIONS, 0, seed=1))) == sorted(map(repr, QUESTIONS))


@given(st.permutations(QUESTIONS), st.integers(1, 70), st.integers(0, 9))
def test_the_draw_depends_on_the_seed_alone(shuffled: list[Question], number: int, seed: int) -> None:
    drawn = draw(shuffled, number, seed)
    assert drawn == draw(QUESTIONS, 0, seed)[:number]


def test_another_seed_draws_others() -> None:
    assert draw(QUESTIONS, 10, seed=1) != draw(QUESTIONS, 10, seed=2)
