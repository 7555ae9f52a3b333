from collections.abc import Sequence

import pytest

from telellm.evaluation.judge import judge, read_reply
from telellm.lm import Choice, open_language_model
from telellm.lm.client import LanguageModelClient
from telellm.recipe import LanguageModel, Model
from telellm.records import Question
from tests.tiny_model import make_tiny_model

QUESTION = Question("What is a slot?", "A part of a frame.", "web_1")


def reply(yes: float, mass: float = 0.9) -> Choice:
    return Choice({"Yes": yes, "No": 1 - yes}, mass)


def test_a_reply_that_is_neither_yes_nor_no_is_unparseable() -> None:
    assert read_reply(reply(0.99, mass=1e-4)).word == "unparseable"
    assert read_reply(reply(0.99, mass=float("nan"))).word == "unparseable"


@pytest.mark.parametrize(
    ("yes", "lean", "word"), [(0.8, 0.0, "yes"), (0.2, 0.0, "no"), (0.8, 3.0, "no"), (0.2, -3.0, "yes")]
)
def test_what_the_judge_says_to_everything_is_taken_off(yes: float, lean: float, word: str) -> None:
    assert read_reply(reply(yes), lean).word == word


def test_an_empty_answer_is_wrong_and_the_others_keep_their_order(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    model: LanguageModelClient = open_language_model(LanguageModel.model_validate({}), Model(name=str(folder)))
    answers = ["A part of a frame.", " ", "The scheduler allocates resource blocks."]
    verdicts = judge(model, [QUESTION] * 3, answers)
    assert verdicts[1].probability == 0.0
    alone: Sequence[float | None] = [judge(model, [QUESTION], [text])[0].probability for text in answers]
    assert [v.probability for v in verdicts] == [p if p is None else pytest.approx(p, abs=1e-3) for p in alone]
