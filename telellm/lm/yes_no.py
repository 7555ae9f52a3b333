"""Yes or no: a question put to a language model, with what it says to everything taken off.

Small models lean towards one answer whatever they read. As in Zhao et al. 2021 (Calibrate Before Use) and Zhou et al.
2024 (Batch Calibration), the lean is measured and subtracted; here on reference cases of the prompt file, as many with
the answer yes as no, because a text without content is rightly answered no. A model without a lean is left as it is.
"""

import math
from collections.abc import Mapping, Sequence

from telellm.lm.client import Choice, LanguageModelClient
from telellm.lm.prompts import Prompt

YES, NO = "Yes", "No"
SMALLEST = 1e-9


class YesNoQuestion:
    """A prompt that a model answers with yes or no."""

    def __init__(self, client: LanguageModelClient, prompt: Prompt) -> None:
        self.client = client
        self.prompt = prompt
        self._lean: float | None = None if prompt.references else 0.0

    @property
    def lean(self) -> float:
        """Log-odds of yes that are subtracted: the middle between what the yes and the no references get."""
        if self._lean is None:
            self.ask([])
        return self._lean or 0.0

    def ask(self, cases: Sequence[Mapping[str, str]]) -> list[Choice]:
        """Return the reply to each case (values of the template's names), as the model gives it.

        The references are asked together with the first cases: at an endpoint, waiting for them alone is a pause.
        """
        references = self.prompt.references if self._lean is None else ()
        asked = [*(values for values, _ in references), *cases]
        replies = self.client.choose(
            [self.prompt.fill(values) for values in asked],
            (YES, NO),
            system=self.prompt.system,
            examples=self.prompt.examples,
        )
        if references:
            odds: dict[bool, list[float]] = {wanted: [] for wanted in (True, False)}
            for reply, (_, is_yes) in zip(replies, references, strict=False):
                odds[is_yes].append(log_odds(reply))
            self._lean = sum(sum(group) / len(group) for group in odds.values()) / 2
        return replies[len(references) :]

    def probabilities(self, cases: Sequence[Mapping[str, str]]) -> list[float]:
        """Return the calibrated probability of yes for each case (values of the template's names)."""
        return [1 / (1 + math.exp(self.lean - log_odds(reply))) for reply in self.ask(cases)]


def log_odds(reply: Choice) -> float:
    """Return the log-odds of yes against no."""
    return math.log(max(reply[YES], SMALLEST)) - math.log(max(reply[NO], SMALLEST))
