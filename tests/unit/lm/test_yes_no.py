import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from telellm.lm import Choice
from telellm.lm.prompts import parse_prompt
from telellm.lm.yes_no import YesNoQuestion

PROMPT = """[user]
{text}

[yes]
text: 3

[yes]
text: 1

[no]
text: -3

[no]
text: -1
"""


@dataclass
class LeaningModel:
    """A model whose log-odds of yes are the number that it reads, plus what it always adds."""

    lean: float
    usage: Counter[str] = field(default_factory=Counter)

    def generate(self, prompts: Sequence[str], max_tokens: int, **rest: object) -> list[str]:
        raise AssertionError("a yes/no question is not answered in words")

    def choose(self, prompts: Sequence[str], options: Sequence[str], **rest: object) -> list[Choice]:
        yes = [1 / (1 + math.exp(-(float(prompt) + self.lean))) for prompt in prompts]
        return [Choice({options[0]: p, options[1]: 1 - p}, 1.0) for p in yes]


@pytest.mark.parametrize("lean", [-2.5, 0.0, 4.0])
def test_what_a_model_says_to_everything_is_taken_off(lean: float) -> None:
    question = YesNoQuestion(LeaningModel(lean), parse_prompt("n-1", PROMPT))
    assert question.lean == pytest.approx(lean)
    expected = [1 / (1 + math.exp(-x)) for x in (-1, 0, 2)]
    assert question.probabilities([{"text": "-1"}, {"text": "0"}, {"text": "2"}]) == pytest.approx(expected)


def test_a_prompt_without_references_is_not_calibrated() -> None:
    question = YesNoQuestion(LeaningModel(3.0), parse_prompt("n-1", "[user]\n{text}\n"))
    assert question.probabilities([{"text": "-3"}]) == pytest.approx([0.5])
