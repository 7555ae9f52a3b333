"""Yes or no: a question put to a language model, with what it says to everything taken off.

Small models lean towards one answer whatever they read. As in Zhao et al. 2021 (Calibrate Before Use) and Zhou et al.
2024 (Batch Calibration), the lean is measured and subtracted; here on reference cases of the prompt file, as many with
the answer yes as no, because a text without content is rightly answered no. A model without a lean is left as it is.
"""

import math
from collections.abc import Mapping, Sequence

from telellm.lm.client import LanguageModelClient
from telellm.lm.prompts import Prompt

YES, NO = "Yes", "No"
SMALLEST = 1e-9


class YesNoQuestion:
    """A prompt that a model answers with yes or no."""

    def __init__(self, client: LanguageModelClient, prompt: Prompt) -> None:
        self.client = client
        self.prompt = prompt
        self.lean = 0.0
        """Log-odds of yes that are subtracted: the middle between what the yes and the no references get."""
        if prompt.references:
            odds = self._log_odds([values for values, _ in prompt.references])
            groups = [
                [value for value, (_, is_yes) in zip(odds, prompt.references, strict=True) if is_yes == wanted]
                for wanted in (True, False)
            ]
            self.lean = sum(sum(group) / len(group) for group in groups) / 2

    def probabilities(self, cases: Sequence[Mapping[str, str]]) -> list[float]:
        """Return the calibrated probability of yes for each case (values of the template's names)."""
        return [1 / (1 + math.exp(self.lean - odds)) for odds in self._log_odds(cases)]

    def _log_odds(self, cases: Sequence[Mapping[str, str]]) -> list[float]:
        choices = self.client.choose(
            [self.prompt.fill(values) for values in cases],
            (YES, NO),
            system=self.prompt.system,
            examples=self.prompt.examples,
        )
        return [math.log(max(c[YES], SMALLEST)) - math.log(max(c[NO], SMALLEST)) for c in choices]
