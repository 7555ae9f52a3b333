"""Readers: who is asked a question with passages in front of it, a model of this process or one behind an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from telellm.evaluation.answers import answer, prompt_of
from telellm.evaluation.endpoint import answer_served, read_answers
from telellm.evaluation.likelihood import longest_input
from telellm.evaluation.perplexity import Likelihood, measure_answers
from telellm.lm.completions import CompletionModel
from telellm.lm.models import load_model, load_tokenizer
from telellm.progress import Progress
from telellm.recipe import Evaluation
from telellm.records import Question
from telellm.retrieval.passages import Passage
from telellm.retrieval.prompt import before_question


@dataclass(frozen=True)
class Asked:
    """A question in one condition."""

    question: Question
    condition: str
    passages: Sequence[Passage]

    @property
    def before(self) -> str:
        """What stands in front of the question."""
        return before_question(self.passages)


class Reader(Protocol):
    """A model that is asked questions with passages."""

    reads: bool
    """Whether it tells how likely it finds a reference answer."""

    def fit(self, asked: Asked) -> Asked:
        """Leave out the last passages as long as a prompt is longer than the model reads."""
        ...

    def likelihoods(self, asked: Sequence[Asked]) -> Sequence[Likelihood]:
        """Return for each question how likely the model finds its reference answer."""
        ...

    def answers(self, asked: Sequence[Asked]) -> Sequence[str]:
        """Return what the model answers to each question."""
        ...


class LocalReader:
    """A model of this process."""

    reads = True

    def __init__(self, name: str, revision: str, settings: Evaluation, progress: Progress, *, chat: bool) -> None:
        self.settings, self.progress, self.chat = settings, progress, chat
        self.model, self.tokenizer = load_model(name, revision), load_tokenizer(name, revision)
        self.room = longest_input(self.model) - settings.max_answer_tokens

    def fit(self, asked: Asked) -> Asked:
        """Leave out the last passages as long as the prompt is longer than the model reads."""
        while asked.passages:
            statement = f"{asked.question.statement} {asked.question.answer}"
            text = prompt_of(self.tokenizer, statement, False, asked.before)
            if len(self.tokenizer(text)["input_ids"]) <= self.room:
                return asked
            asked = replace(asked, passages=asked.passages[:-1])
        return asked

    def likelihoods(self, asked: Sequence[Asked]) -> Sequence[Likelihood]:
        """Return what `measure_answers` measures."""
        return measure_answers(
            self.model,
            self.tokenizer,
            [one.question for one in asked],
            self.settings.batch_size,
            self.progress.advance,
            before=[one.before for one in asked],
        )

    def answers(self, asked: Sequence[Asked]) -> Sequence[str]:
        """Return the model's answers, its likeliest token at each step."""
        return answer(
            self.model,
            self.tokenizer,
            [one.question for one in asked],
            chat=self.chat,
            max_tokens=self.settings.max_answer_tokens,
            batch_size=self.settings.batch_size,
            advance=self.progress.advance,
            before=[one.before for one in asked],
        )


class ServedReader:
    """A model behind an endpoint."""

    def __init__(self, client: CompletionModel, settings: Evaluation, progress: Progress, *, chat: bool) -> None:
        self.client, self.settings, self.progress, self.chat = client, settings, progress, chat
        self.reads = not client.no_likelihoods

    def fit(self, asked: Asked) -> Asked:
        """Leave out nothing: how much it reads is the server's matter, which refuses what is longer."""
        return asked

    def likelihoods(self, asked: Sequence[Asked]) -> Sequence[Likelihood]:
        """Return the same, as the server tells it; raises `NotOffered`."""
        questions = [one.question for one in asked]
        return read_answers(self.client, questions, self.progress, before=[one.before for one in asked])

    def answers(self, asked: Sequence[Asked]) -> Sequence[str]:
        """Return its answers, as it is asked without passages."""
        questions, before = [one.question for one in asked], [one.before for one in asked]
        most = self.settings.max_answer_tokens
        return list(answer_served(self.client, questions, most, self.progress, chat=self.chat, before=before))
