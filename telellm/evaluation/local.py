"""Local: what is measured of a model in this process; it is in memory only here."""

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from telellm.benchmark.general_tasks import GeneralQuestions
from telellm.benchmark.questions import ChoiceQuestions
from telellm.evaluation.answers import answer
from telellm.evaluation.forgetting import ask_general
from telellm.evaluation.literature import NOTHING, Unseen, ask_unseen
from telellm.evaluation.multiple_choice import Choices, ask_choices
from telellm.evaluation.perplexity import measure_answers
from telellm.evaluation.results import Row
from telellm.evaluation.texts import GENERAL, Text, measure_texts, text_rows
from telellm.lm.models import load_model, load_tokenizer
from telellm.progress import Progress
from telellm.recipe import Evaluation
from telellm.records import Question


@dataclass(frozen=True)
class Asked:
    """What every model of a recipe is asked."""

    questions: Sequence[Question]
    benchmarks: Mapping[str, ChoiceQuestions]
    general: Sequence[Text] = ()
    unseen: Unseen = NOTHING
    tasks: Mapping[str, GeneralQuestions] = field(default_factory=dict)
    """Of general ability, by their names."""


@dataclass
class Found:
    """What was measured of one model."""

    rows: list[Row]
    """Those of Tele-Eval, in the order of its questions."""
    choices: dict[str, list[Choices]] = field(default_factory=dict)
    others: list[Row] = field(default_factory=list)
    """Rows of the other tasks."""
    not_measured: Counter[str] = field(default_factory=Counter)
    """What could not be measured of this model, and of how many questions."""
    through: dict[str, str] = field(default_factory=dict)
    """Task of general ability → how an endpoint was asked for what it writes: completions or chat."""


def measure_local(
    name: str, revision: str, asked: Asked, found: Found, settings: Evaluation, chat: bool, progress: Progress
) -> None:
    """Add to `found` what is measured of a model's directory; `chat`: it answers through its chat template."""
    model = load_model(name, revision)
    tokenizer = load_tokenizer(name, revision)
    size = settings.batch_size
    if "answer_perplexity" in settings.metrics:
        progress.start(len(asked.questions), "questions")
        likelihoods = measure_answers(model, tokenizer, asked.questions, size, progress.advance)
        for row, likelihood in zip(found.rows, likelihoods, strict=True):
            row |= {"nll": likelihood.nll, "tokens": likelihood.tokens}
    for benchmark, questions in asked.benchmarks.items():
        progress.start(len(questions.questions), f"questions of {benchmark}")
        chosen = ask_choices(model, tokenizer, questions.questions, settings.rotations, size, progress.advance)
        found.choices[benchmark] = chosen
        found.not_measured[f"multiple_choice.{benchmark}"] += len(questions.questions) - len(chosen)
    if asked.general:
        progress.start(len(asked.general), "general texts")
        read = measure_texts(model, tokenizer, asked.general, size, progress.advance)
        found.others += text_rows(GENERAL, asked.general, read)
    for task, general in asked.tasks.items():
        progress.start(len(general.questions), f"questions of {task}")
        found.others += ask_general(model, tokenizer, task, general, size, progress.advance)
    if asked.unseen:
        found.others += ask_unseen(model, tokenizer, asked.unseen, size, progress)
    if {"semscore", "llm_eval"} & set(settings.metrics):
        first = asked.questions[: settings.max_generated or None]
        progress.start(len(first), "answers")
        texts = answer(
            model,
            tokenizer,
            first,
            chat=chat,
            max_tokens=settings.max_answer_tokens,
            batch_size=size,
            advance=progress.advance,
        )
        for row, text in zip(found.rows, texts, strict=False):
            row["generated"] = text
    del model
    gc.collect()
