"""Multiple choice: which option a model finds likeliest, asked in several orders of the options.

A model that likes a letter whatever stands behind it seems to know more or less than it does, and published sets have
more right answers in some places than in others. So each question is asked in every rotation of its options; what a
letter is liked for itself then counts for each option alike and falls out of the sum.
Source: Zheng et al., Large Language Models Are Not Robust Multiple Choice Selectors (arXiv 2309.03882), cyclic
permutations.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np

from telellm.benchmark.questions import ChoiceQuestion
from telellm.evaluation.likelihood import Continued, log_likelihoods, longest_input
from telellm.evaluation.results import Row, row
from telellm.evaluation.scores import Score, mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT = (
    "The following is a multiple choice question about telecommunications and networking.\n"
    "Question: {statement}\n{options}\nAnswer:"
)
TIE = 1e-5
"""Options whose likelihoods differ by less (nats) share the choice."""
SPLIT = "benchmark"
"""The split of these questions in the results: they are of no document."""


@dataclass(frozen=True, slots=True)
class Choices:
    """How likely a model finds each option of a question in each order in which it was asked."""

    question: ChoiceQuestion
    orders: list[list[int]]
    """For each order, the number of the option in each place."""
    log_likelihoods: list[list[float]]
    """For each order, that of the letter in each place (nats)."""

    @property
    def totals(self) -> list[float]:
        """The mean log-likelihood of each option over the orders."""
        totals = [0.0] * len(self.question.options)
        for order, scores in zip(self.orders, self.log_likelihoods, strict=True):
            for option, score in zip(order, scores, strict=True):
                totals[option] += score / len(self.orders)
        return totals

    @property
    def correct(self) -> float:
        """Whether the likeliest option over all orders is the right one; a part of 1 where several are as likely."""
        return share(self.totals, self.question.answer)

    @property
    def correct_by_order(self) -> list[float]:
        """The same for each order by itself: what a single run would have counted."""
        answer = self.question.answer
        return [
            share(scores, order.index(answer)) for order, scores in zip(self.orders, self.log_likelihoods, strict=True)
        ]

    @property
    def places(self) -> list[int]:
        """The place that is chosen in each order."""
        return [scores.index(max(scores)) for scores in self.log_likelihoods]

    def row(self, benchmark: str) -> Row:
        """Return the question as a row of the results."""
        question = self.question
        return row(
            f"multiple_choice.{benchmark}",
            id=question.id,
            statement=question.statement,
            answer=question.options[question.answer],
            split=SPLIT,
            options=list(question.options),
            orders=self.orders,
            log_likelihoods=self.log_likelihoods,
            correct=self.correct,
            correct_by_order=self.correct_by_order,
        )


def ask_choices(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[ChoiceQuestion],
    rotations: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> list[Choices]:
    """Return how likely the model finds each option of each question; a question too long for it is left out.

    The options stand in the prompt with letters before them; a letter's log-likelihood after `Answer:` is its
    option's. `rotations`: orders of the options, 0 for as many as there are.
    """
    letters = _letters(tokenizer)
    longest = longest_input(model)
    orders = [orders_of(question, rotations) for question in questions]
    prompts = [prompt(question, order) for question, some in zip(questions, orders, strict=True) for order in some]
    texts = iter(tokenizer(prompts)["input_ids"] if prompts else [])
    groups = [
        [Continued(next(texts), letters[: len(question.options)]) for _ in some]
        for question, some in zip(questions, orders, strict=True)
    ]
    fitting = [
        number
        for number, group in enumerate(groups)
        if max(len(one.text) + len(one.endings[-1]) for one in group) <= longest
    ]
    padding = int(tokenizer.pad_token_id or 0)
    found = log_likelihoods(model, padding, [groups[number] for number in fitting], batch_size, advance)
    return [Choices(questions[number], orders[number], scores) for number, scores in zip(fitting, found, strict=True)]


def orders_of(question: ChoiceQuestion, rotations: int) -> list[list[int]]:
    """Return the orders in which a question is asked: rotations of its options, the first as it is written.

    Options that speak of the others by their places are asked as they stand.
    """
    number = len(question.options)
    most = 1 if question.fixed else min(rotations or number, number)
    return [[(start + place) % number for place in range(number)] for start in range(most)]


def prompt(question: ChoiceQuestion, order: Sequence[int]) -> str:
    """Return the question with its options in an order."""
    return PROMPT.format(statement=question.statement, options=options_text(question, order))


def options_text(question: ChoiceQuestion, order: Sequence[int]) -> str:
    """Return a question's options in an order, a line each, with letters."""
    lines = (f"{letter}. {question.options[option]}" for letter, option in zip(ascii_uppercase, order, strict=False))
    return "\n".join(lines)


def add_up_choices(choices: Mapping[str, Sequence[Choices]]) -> dict[str, Score]:
    """Return the metrics of each benchmark.

    `accuracy`: by the likelihoods over all orders. `one_order`: what a single order gives, on average over them.
    """
    metrics: dict[str, Score] = {}
    for name, found in choices.items():
        if found:
            metrics[f"multiple_choice.{name}.accuracy"] = mean(np.array([one.correct for one in found]))
            in_one = [float(np.mean(one.correct_by_order)) for one in found]
            metrics[f"multiple_choice.{name}.one_order"] = mean(np.array(in_one))
    return metrics


def describe_choices(choices: Sequence[Choices], confidence: float) -> dict[str, Any]:
    """Return what helps to read a benchmark's accuracy: chance, the places, and the noise of the order itself."""
    number = len(choices)
    chosen, right = Counter[int](), Counter[int]()
    for one in choices:
        chosen.update(one.places)
        right[one.question.answer] += 1
    most = max((len(one.question.options) for one in choices), default=0)
    return {
        "asked": number,
        "fixed_order": sum(one.question.fixed for one in choices),
        "orders": sum(len(one.orders) for one in choices),
        "chance": sum(1 / len(one.question.options) for one in choices) / number if number else None,
        "chosen_by_place": [chosen[place] / max(1, chosen.total()) for place in range(most)],
        "right_by_place": [right[place] / number for place in range(most)],
        "noise_floor": noise_floor(choices, confidence),
    }


def noise_floor(choices: Sequence[Choices], confidence: float) -> float | None:
    """Return the difference in accuracy that the order of the options alone makes (A/A).

    Two runs of the same model, each with an order of its own for every question, differ by less than this in
    `confidence` of all cases. The difference of one question in two different orders has mean 0 and twice the
    variance of what is right between its orders; those of all questions add up (central limit theorem).
    """
    several = [one.correct_by_order for one in choices if len(one.orders) > 1]
    if not several:
        return None
    variance = sum(2 * float(np.var(right, ddof=1)) for right in several) / len(choices) ** 2
    return NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)


def share(scores: Sequence[float], right: int, tie: float = TIE) -> float:
    """Return 1 where the right option has the greatest score, a part of it where several have it, else 0."""
    best = max(scores)
    likeliest = [place for place, score in enumerate(scores) if best - score < tie]
    return 1 / len(likeliest) if right in likeliest else 0.0


def _letters(tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Return the tokens of each letter as they follow the prompt."""
    before: list[int] = tokenizer("x\nAnswer:")["input_ids"]
    found = []
    for letter in ascii_uppercase:
        whole: list[int] = tokenizer(f"x\nAnswer: {letter}")["input_ids"]
        alone: list[int] = tokenizer(f" {letter}", add_special_tokens=False)["input_ids"]
        found.append(whole[len(before) :] if whole[: len(before)] == before and len(whole) > len(before) else alone)
    return found
