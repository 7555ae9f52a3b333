"""Letters: multiple choice as a chat model behind an endpoint answers it, in writing.

It is asked in the same orders as other models. Where these have likelihoods of all letters, it has one letter in each
order, or one that cannot be read: that is counted, and never guessed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

from telellm.benchmark.questions import ChoiceQuestion
from telellm.evaluation.multiple_choice import Choices, options_text, orders_of
from telellm.evaluation.results import Row

PROMPT = (
    "The following is a multiple choice question about telecommunications and networking. "
    "Answer with the letter of the right option and nothing else.\nQuestion: {statement}\n{options}"
)
LETTER = re.compile(
    r"(?:(?:the )?(?:right |correct |best )?(?:answer|option)(?: is)?[\s:]*)?"
    r"[(\[*\s]*([A-Z])(?:[*\s]*$|[*\s]*[.):,\]\n])",
    re.IGNORECASE,
)
"""A letter by itself, or with what is often put around it."""


@dataclass(frozen=True, slots=True)
class Letters(Choices):
    """Which option a model wrote the letter of, in each order in which it was asked; there are no likelihoods."""

    written: tuple[int | None, ...] = ()
    """For each order, the place of the letter; None where none could be read."""

    @property
    def totals(self) -> list[float]:
        """The share of the orders in which each option was chosen."""
        totals = [0.0] * len(self.question.options)
        for order, place in zip(self.orders, self.written, strict=True):
            if place is not None:
                totals[order[place]] += 1 / len(self.orders)
        return totals

    @property
    def correct(self) -> float:
        """Whether the right option was chosen most often; a part of 1 where several were, 0 where no letter is read."""
        return super(Letters, self).correct if any(self.totals) else 0.0  # slots make the class anew: no bare super()

    @property
    def correct_by_order(self) -> list[float]:
        """The same for each order by itself."""
        answer = self.question.answer
        return [
            float(place is not None and order[place] == answer)
            for order, place in zip(self.orders, self.written, strict=True)
        ]

    @property
    def places(self) -> list[int]:
        """The places whose letters were written."""
        return [place for place in self.written if place is not None]

    def row(self, benchmark: str) -> Row:
        """Return the question as a row of the results, without likelihoods."""
        return Choices.row(self, benchmark) | {"log_likelihoods": None}


def ask_letters(
    write: Callable[[Iterator[str]], Iterator[str]],
    questions: Sequence[ChoiceQuestion],
    rotations: int,
    advance: Callable[[int], None],
    prompt: str = PROMPT,
) -> list[Letters]:
    """Return which letters a model writes.

    `write` yields what it says to each prompt, in order; `rotations`: orders of the options, 0 for as many as there
    are; `prompt` has places for `statement` and `options`.
    """
    asked = [Letters(question, orders_of(question, rotations), []) for question in questions]
    prompts = (
        prompt.format(statement=one.question.statement, options=options_text(one.question, order))
        for one in asked
        for order in one.orders
    )
    answers = write(prompts)
    found = []
    for one in asked:
        written = tuple(read_letter(next(answers), len(one.question.options)) for _ in one.orders)
        found.append(replace(one, written=written))
        advance(1)
    return found


def read_letter(text: str, number: int) -> int | None:
    """Return the place of the letter that an answer gives, among so many options; None where it gives none.

    What a model thinks aloud before (`<think>…</think>`) is left out.
    """
    match = LETTER.match(after_thoughts(text))
    place = ascii_uppercase.find(match[1].upper()) if match else -1
    return place if 0 <= place < number else None


def after_thoughts(text: str) -> str:
    """Return an answer without what a model thinks aloud before it."""
    return text.rpartition("</think>")[2].strip()


def unreadable(letters: Sequence[Letters]) -> int:
    """Return in how many orders no letter could be read."""
    return sum(place is None for one in letters for place in one.written)
