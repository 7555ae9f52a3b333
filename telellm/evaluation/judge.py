"""Judge: a language model says whether an answer is correct, given the reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telellm.lm import Choice, LanguageModelClient, open_language_model
from telellm.lm.prompts import load_prompt
from telellm.lm.yes_no import YesNoQuestion, log_odds
from telellm.recipe import LanguageModel, Recipe
from telellm.records import Question

PROMPT = "judge-1"
LEAST_MASS = 0.01
"""If yes and no together are less likely than this, the judge has said something else."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's reply: the probability of yes against no, or None where it said neither."""

    probability: float | None

    @property
    def word(self) -> str:
        """The verdict: yes, no or unparseable."""
        if self.probability is None:
            return "unparseable"
        return "yes" if self.probability >= 0.5 else "no"


def add_verdicts(rows: Sequence[dict[str, Any]], questions: Sequence[Question], recipe: Recipe) -> None:
    """Put into each row what the recipe's judge says of what was generated."""
    model = open_language_model(judge_of(recipe), recipe.model)
    verdicts = judge(model, questions, [str(row["generated"]) for row in rows])
    for row, verdict in zip(rows, verdicts, strict=True):
        row |= {"judge_probability": verdict.probability, "judge_verdict": verdict.word}


def judge_of(recipe: Recipe) -> LanguageModel:
    """Return the model that judges."""
    return recipe.evaluation.judge or recipe.lm


def judge(model: LanguageModelClient, questions: Sequence[Question], answers: Sequence[str]) -> list[Verdict]:
    """Return a verdict for each answer; an empty answer is wrong without asking.

    What the judge says to everything (its lean, measured on the references of the prompt file) is taken off.
    """
    asked = YesNoQuestion(model, load_prompt(Path(__file__).parent / "prompts", PROMPT))
    cases = [
        {"question": question.statement, "reference": question.answer, "answer": text}
        for question, text in zip(questions, answers, strict=True)
        if text.strip()
    ]
    verdicts = iter([read_reply(reply, asked.lean) for reply in asked.ask(cases)] if cases else [])
    return [next(verdicts) if text.strip() else Verdict(0.0) for text in answers]


def read_reply(reply: Choice, lean: float = 0.0) -> Verdict:
    """Return the verdict in a reply; nothing is guessed where yes and no are both negligible. `lean`: log-odds."""
    if not reply.mass >= LEAST_MASS:
        return Verdict(None)
    return Verdict(1 / (1 + math.exp(lean - log_odds(reply))))
