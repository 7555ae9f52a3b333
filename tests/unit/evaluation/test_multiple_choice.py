"""Choices in several orders: the same as one by one, and right about a model that likes a letter."""

import random
from typing import Any

import pytest
import torch

from telellm.benchmark.questions import ChoiceQuestion, to_choices
from telellm.evaluation.multiple_choice import (
    Choices,
    add_up_choices,
    ask_choices,
    describe_choices,
    noise_floor,
    orders_of,
    prompt,
)
from telellm.lm.models import load_model, load_tokenizer
from tests.tiny_model import make_tiny_model

WORDS = ["slot", "frame", "cell", "carrier", "gNB", "resource block", "reference signal of the neighbour"]


def question(number: int, num_options: int = 4, answer: int = 0) -> ChoiceQuestion:
    draw = random.Random(number)
    options = [f"{draw.choice(WORDS)} {option}" for option in range(num_options)]
    row = {"question": f"What is {draw.choice(WORDS)} {number}?", "options": options, "answer": answer}
    return to_choices(iter([row]), "generic", "quiz").questions[0]


QUESTIONS = [question(number, 2 + number % 4, number % 2) for number in range(12)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    folder = str(make_tiny_model(tmp_path_factory.mktemp("tiny")))
    return load_model(folder), load_tokenizer(folder)


def one_by_one(model: Any, tokenizer: Any, asked: ChoiceQuestion, order: list[int]) -> list[float]:
    scores = []
    before = tokenizer(prompt(asked, order))["input_ids"]
    for letter in "ABCDE"[: len(order)]:
        after = tokenizer(f" {letter}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
        scores.append(sum(float(found[len(before) - 1 + at, token]) for at, token in enumerate(after)))
    return scores


@pytest.mark.parametrize("batch_size", [1, 50])
def test_the_likelihoods_are_those_of_a_loop(tiny: tuple[Any, Any], batch_size: int) -> None:
    model, tokenizer = tiny
    done: list[int] = []
    found = ask_choices(model, tokenizer, QUESTIONS, 0, batch_size, done.append)
    assert sum(done) == len(found) == len(QUESTIONS)
    for asked, choices in zip(QUESTIONS, found, strict=True):
        assert choices.question == asked and len(choices.orders) == len(asked.options)
        for order, scores in zip(choices.orders, choices.log_likelihoods, strict=True):
            assert scores == pytest.approx(one_by_one(model, tokenizer, asked, order), abs=1e-4)


def test_a_question_too_long_for_the_model_is_left_out(tiny: tuple[Any, Any]) -> None:
    long = ChoiceQuestion("quiz_1", "What? " * 300, ("x", "y"), 0, False)
    found = ask_choices(*tiny, [QUESTIONS[0], long, QUESTIONS[1]], 0, 8, lambda number: None)
    assert [choices.question for choices in found] == QUESTIONS[:2]


def test_the_options_stand_in_the_prompt_in_their_order() -> None:
    asked = ChoiceQuestion("quiz_1", "Which?", ("one", "two", "three"), 2, False)
    assert prompt(asked, [1, 2, 0]).endswith("Question: Which?\nA. two\nB. three\nC. one\nAnswer:")
    assert orders_of(asked, 0) == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert orders_of(asked, 2) == [[0, 1, 2], [1, 2, 0]]
    fixed = ChoiceQuestion("quiz_1", "Which?", ("one", "two", "all of the above"), 2, True)
    assert orders_of(fixed, 0) == [[0, 1, 2]]


def simulated(knows: float, likes: list[float], number: int = 400, right_first: bool = True) -> list[Choices]:
    """A model whose liking for the letters is added to what it knows: of a share of questions the right option."""
    draw = random.Random(5)
    found = []
    for index in range(number):
        asked = question(index, 4, 0 if right_first else draw.randrange(4))
        merit = [draw.random() for _ in range(4)]
        wrong = draw.choice([option for option in range(4) if option != asked.answer])
        merit[asked.answer if draw.random() < knows else wrong] += 1
        orders = orders_of(asked, 0)
        scores = [[merit[option] + likes[place] for place, option in enumerate(order)] for order in orders]
        found.append(Choices(asked, orders, [_normal(row) for row in scores]))
    return found


def _normal(scores: list[float]) -> list[float]:
    return torch.tensor(scores, dtype=torch.float64).log_softmax(-1).tolist()


def accuracy(found: list[Choices]) -> float:
    value = add_up_choices({"quiz": found})["multiple_choice.quiz.accuracy"]["value"]
    assert value is not None
    return value


@pytest.mark.parametrize("likes", [[0.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0], [0.0, 0.2, 0.4, 2.0]])
@pytest.mark.parametrize("right_first", [True, False])
def test_rotations_give_a_model_that_likes_a_letter_its_true_accuracy(likes: list[float], right_first: bool) -> None:
    found = simulated(0.6, likes, right_first=right_first)
    true = accuracy(simulated(0.6, [0.0] * 4, right_first=right_first))
    assert 0.55 < true < 0.65
    assert accuracy(found) == true
    in_written_order = sum(choices.correct_by_order[0] for choices in found) / len(found)
    if likes[0] == 5 and right_first:
        assert in_written_order == 1


def test_a_model_that_knows_nothing_but_a_letter_is_at_chance() -> None:
    orders = orders_of(question(1), 0)
    scores = [[-0.1, -3.0, -3.0, -3.0]] * 4
    found = [Choices(question(number), orders, scores) for number in range(10)]
    metrics = add_up_choices({"quiz": found})
    assert metrics["multiple_choice.quiz.accuracy"] == {"value": 0.25, "stderr": 0.0, "n": 10}
    assert metrics["multiple_choice.quiz.one_order"]["value"] == 0.25
    about = describe_choices(found, 0.95)
    assert about["chosen_by_place"] == [1.0, 0.0, 0.0, 0.0]
    assert about["right_by_place"] == [1.0, 0.0, 0.0, 0.0]
    assert about["chance"] == 0.25 and about["orders"] == 40


def test_the_noise_floor_is_what_two_runs_in_other_orders_differ_by() -> None:
    found = simulated(0.6, [0.0, 0.3, 0.6, 0.9], number=300)
    floor = noise_floor(found, 0.95)
    assert floor is not None
    draw = random.Random(7)
    right, differences = [choices.correct_by_order for choices in found], []
    for _ in range(1000):
        pairs = [draw.sample(of_one, 2) for of_one in right]
        differences.append(abs(sum(first - second for first, second in pairs)) / len(found))
    inside = sum(difference <= floor for difference in differences) / len(differences)
    assert 0.92 < inside < 0.98
    assert noise_floor(simulated(1.0, [0.0] * 4, number=5), 0.95) == 0
    alone = [Choices(choices.question, choices.orders[:1], choices.log_likelihoods[:1]) for choices in found]
    assert noise_floor(alone, 0.95) is None


def test_nothing_asked_has_no_score() -> None:
    assert add_up_choices({"quiz": []}) == {}
    assert describe_choices([], 0.95)["asked"] == 0
