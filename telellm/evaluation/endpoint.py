"""Endpoint: what is measured of a model behind an OpenAI-compatible server.

Its answers are those to the bare question, through the server's chat template, as an instruct model is asked; where the
recipe says that it has none, it completes the plain prompt, as a base model does. Where the server completes text, it
is given the same texts as other models; where it tells the log-likelihoods of a text that it was given, it has the
scores that rest on them too. What a server cannot do is left out, with the reason.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from telellm.benchmark.general_tasks import LONGEST_ANSWER, GeneralQuestions
from telellm.evaluation.answers import first_line
from telellm.evaluation.forgetting import FORGETTING, STOP, chosen_rows, written_rows
from telellm.evaluation.letters import PROMPT as LETTER_PROMPT
from telellm.evaluation.letters import Letters, after_thoughts, ask_letters, unreadable
from telellm.evaluation.literature import LITERATURE, NEXT, completed_rows, next_rows
from telellm.evaluation.local import Asked, Found
from telellm.evaluation.multiple_choice import PROMPT as CHOICE_PROMPT
from telellm.evaluation.perplexity import PROMPT, Likelihood
from telellm.evaluation.results import Row
from telellm.evaluation.texts import GENERAL, Text, text_rows
from telellm.lm.completions import CompletionModel, NotOffered
from telellm.progress import Progress
from telellm.recipe import Evaluation, LanguageModel, ReferenceModel
from telellm.records import Question

COMPLETIONS, CHAT = "completions", "chat"
Lacking = dict[str, str]
"""Beginning of the names of scores that a model does not have → the reason."""


def open_endpoint(name: str, model: ReferenceModel) -> CompletionModel:
    """Return the model behind an endpoint; `name` is its own in the recipe."""
    limits = {"max_concurrency": model.max_concurrency, "timeout_seconds": model.timeout_seconds}
    return CompletionModel(
        LanguageModel.model_validate({"endpoint": model.endpoint, "model": model.model} | limits),
        model.model,
        f"evaluation.reference_models.{name}",
        model.key_variable,
    )


def measure_endpoint(
    client: CompletionModel, asked: Asked, found: Found, settings: Evaluation, progress: Progress, *, chat: bool
) -> Lacking:
    """Add to `found` what can be measured of a model behind an endpoint; returns what cannot, each with the reason.

    `chat`: it answers through its server's chat template.
    """
    lacking: Lacking = {}
    if "answer_perplexity" in settings.metrics:
        with _unless_refused(lacking, "answer_perplexity"):
            progress.start(len(asked.questions), "questions")
            for row, likelihood in zip(found.rows, read_answers(client, asked.questions, progress), strict=True):
                row |= {"nll": likelihood.nll, "tokens": likelihood.tokens}
    for benchmark, questions in asked.benchmarks.items():
        progress.start(len(questions.questions), f"questions of {benchmark}")
        write = partial(client.generate_each if chat else client.complete_each, max_tokens=settings.max_answer_tokens)
        prompt = LETTER_PROMPT if chat else CHOICE_PROMPT
        letters = ask_letters(write, questions.questions, settings.rotations, progress.advance, prompt)
        found.choices[benchmark] = [*letters]
    if asked.general:
        with _unless_refused(lacking, GENERAL):
            found.others += _read_texts(client, GENERAL, asked.general, progress)
    for task, general in asked.tasks.items():
        with _unless_refused(lacking, f"{FORGETTING}.{task}"):
            progress.start(len(general.questions), f"questions of {task}")
            found.others += _ask_general(client, task, general, found, progress, chat=chat)
    _ask_unseen(client, asked, found, lacking, progress)
    if {"semscore", "llm_eval"} & set(settings.metrics):
        first = asked.questions[: settings.max_generated or None]
        progress.start(len(first), "answers")
        texts = answer_served(client, first, settings.max_answer_tokens, progress, chat=chat)
        for row, text in zip(found.rows, texts, strict=False):
            row["generated"] = text
    return lacking


def answer_served(
    client: CompletionModel,
    questions: Sequence[Question],
    max_tokens: int,
    progress: Progress,
    *,
    chat: bool,
    before: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the model's answers; `before`: what stands in front of each question.

    In chat, without what it thinks aloud first; after the plain prompt, the first line.
    """
    asked = list(zip(before or [""] * len(questions), questions, strict=True))
    if chat:
        written = client.generate_each((text + question.statement for text, question in asked), max_tokens)
    else:
        prompts = (text + PROMPT.format(statement=question.statement) for text, question in asked)
        written = client.complete_each(prompts, max_tokens)
    for text in written:
        yield after_thoughts(text) if chat else first_line(text)
        progress.advance(1)


def read_answers(
    client: CompletionModel, questions: Sequence[Question], progress: Progress, before: Sequence[str] = ()
) -> list[Likelihood]:
    """Return for each question how likely the model finds its reference answer, as `measure_answers` does.

    `before`: what stands in front of each question's prompt. Raises `NotOffered` where the server does not tell.
    """
    texts = before or [""] * len(questions)
    prompts = [
        (text + PROMPT.format(statement=question.statement), [f" {question.answer.strip()}"])
        for question, text in zip(questions, texts, strict=True)
    ]
    return [found for (found,) in _read(client, prompts, progress)]


def unreadable_letters(found: Found, benchmark: str) -> int:
    """Return how many answers to a benchmark's questions held no letter."""
    return unreadable([one for one in found.choices[benchmark] if isinstance(one, Letters)])


@contextmanager
def _unless_refused(lacking: Lacking, *names: str) -> Iterator[None]:
    """Write down why scores are lacking where the server does not do what is asked within."""
    try:
        yield
    except NotOffered as refused:
        lacking |= dict.fromkeys(names, refused.reason)


def _read(
    client: CompletionModel, texts: Sequence[tuple[str, Sequence[str]]], progress: Progress
) -> Iterator[list[Likelihood]]:
    """Yield for each text how likely the model finds each of its endings."""
    if reason := client.no_likelihoods:
        raise NotOffered(reason, reason)
    for found in client.log_likelihoods(texts):
        yield [Likelihood(nll, tokens) for nll, tokens in found]
        progress.advance(1)


def _read_texts(client: CompletionModel, task: str, texts: Sequence[Text], progress: Progress) -> list[Row]:
    progress.start(len(texts), f"texts of {task}")
    found = [likelihood for (likelihood,) in _read(client, [("", [text.content]) for text in texts], progress)]
    return text_rows(task, texts, found)


def _scores(
    client: CompletionModel, texts: Sequence[tuple[str, Sequence[str]]], progress: Progress
) -> list[list[float]]:
    """Return the log-likelihood of each ending of each text (nats)."""
    return [[-ending.nll for ending in endings] for endings in _read(client, texts, progress)]


def _ask_general(
    client: CompletionModel, task: str, asked: GeneralQuestions, found: Found, progress: Progress, *, chat: bool
) -> list[Row]:
    """Return a row for each question of a task; what is written may be asked for in chat, the examples with it."""
    questions = asked.questions
    if not questions[0].options:
        prompts = [question.prompt for question in questions]
        found.through[task] = CHAT if chat and client.no_completions else COMPLETIONS
        if found.through[task] == CHAT:
            written = client.generate_each(prompts, LONGEST_ANSWER, stop=STOP)
        else:
            written = client.complete_each(prompts, LONGEST_ANSWER, stop=STOP)
        return written_rows(task, questions, list(_counted((after_thoughts(text) for text in written), progress)))
    texts = []
    for question in questions:
        before = question.prompt.rstrip()  # blanks at the prompt's end belong to the ending, as in `continued`
        texts.append((before, [f"{question.prompt}{ending}"[len(before) :] for ending in question.endings]))
    return chosen_rows(task, questions, _scores(client, texts, progress))


def _ask_unseen(client: CompletionModel, asked: Asked, found: Found, lacking: Lacking, progress: Progress) -> None:
    unseen = asked.unseen
    if unseen.texts:
        with _unless_refused(lacking, f"{LITERATURE}.perplexity", f"{LITERATURE}.bits_per_byte"):
            found.others += _read_texts(client, LITERATURE, unseen.texts, progress)
    for task, blanks, most, stop in unseen.blanks():
        with _unless_refused(lacking, task):
            if reason := client.no_completions:
                raise NotOffered(reason, reason)
            progress.start(len(blanks), task.rpartition(".")[2])
            completed = client.complete_each([blank.before for blank in blanks], most, stop=stop)
            found.others += completed_rows(task, blanks, list(_counted(completed, progress)))
    if unseen.sentences:
        with _unless_refused(lacking, NEXT):
            progress.start(len(unseen.sentences), "next sentences")
            texts = [(one.before, [f" {option}" for option in one.options]) for one in unseen.sentences]
            found.others += next_rows(unseen.sentences, _scores(client, texts, progress))


def _counted(texts: Iterator[str], progress: Progress) -> Iterator[str]:
    for text in texts:
        yield text
        progress.advance(1)
