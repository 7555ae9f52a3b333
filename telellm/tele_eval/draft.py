"""Draft: a language model writes questions about the documents, and rules throw out what is not fit."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from telellm.lm import language_model_digest, open_language_model
from telellm.lm.prompts import Prompt
from telellm.recipe import Draft, Recipe
from telellm.records import Document, Question, Rejected
from telellm.reuse import EndOfItem
from telellm.stage import Context, Shard, stage
from telellm.store import sha256_file
from telellm.tele_eval.facts import Facts
from telellm.tele_eval.question_files import FIELD, find_question_files, read_questions
from telellm.tele_eval.written import Pieces

SHARD_DOCUMENTS = 128
"""Documents of a shard: what is asked again when a worker dies within it."""


class Method(Protocol):
    """A way to make questions of a document: what is asked about, how, and what is read in the answer."""

    prompt: Prompt
    max_tokens: int
    stop: Sequence[str]

    def subjects(self, document: Document) -> Sequence[Any]:
        """Return what of a document is asked about; each is one request."""
        ...

    def fill(self, subject: Any) -> str:
        """Return the request."""
        ...

    def read(self, document: str, subject: Any, text: str) -> Iterator[Question | Rejected]:
        """Yield the questions in the model's answer, and what is not fit, with its reason."""
        ...


METHODS: dict[str, Callable[[Draft, int], Method]] = {"pieces": Pieces, "facts": Facts}


def _identity(recipe: Recipe) -> str:
    return "" if recipe.tele_eval.path else language_model_digest(recipe.lm, recipe.model)


def _divide(context: Context, settings: Draft) -> list[Shard] | None:
    """Return a shard for each file of questions that the recipe names; None: the documents are divided."""
    if not context.recipe.tele_eval.path:
        return None
    files = find_question_files(context.recipe.tele_eval.path)
    return [Shard(f"file-{number:05}", sha256_file(path), path) for number, path in enumerate(files)]


@stage(
    sections=("tele_eval.draft", "tele_eval.path", "lm", "model", "seed"),
    produces=Question,
    per=Document,
    divide=_divide,
    shard_rows=SHARD_DOCUMENTS,
    workers=1,
    identity=_identity,
    reuses=True,
)
def draft(
    context: Context, settings: Draft, documents: Iterator[Document] | Path
) -> Iterator[Question | Rejected | EndOfItem]:
    """Let the model write questions about the documents, in one of two ways, and keep those that keep the rules.

    Requests are in flight over all documents of a shard; about those that did not change, nothing is asked again. Every
    question has its document, clause, kind and evidence; what is rejected keeps its reason. Where the recipe names a
    set of questions, its rows are read instead.
    Source: Tele-LLMs (arXiv 2409.05314), section on Tele-Eval.
    """
    if isinstance(documents, Path):
        yield from _read_set(context, documents)
        return
    recipe = context.recipe
    method = METHODS[settings.method](settings, recipe.seed)
    client = open_language_model(recipe.lm, recipe.model)
    used = Counter(client.usage)
    context.progress.start(context.counts["in"], "documents")
    asked: deque[_Asked | EndOfItem] = deque()
    answers = client.generate_each(
        _requests(context, method, documents, asked),
        method.max_tokens,
        system=method.prompt.system,
        examples=method.prompt.examples,
        stop=method.stop,
    )
    for answer in answers:
        yield from _ends(context, asked)
        about = asked.popleft()
        assert isinstance(about, _Asked)
        for item in method.read(about.document, about.subject, answer):
            context.counts["drafts"] += 1
            yield item
    yield from _ends(context, asked)
    context.counts.update(client.usage - used)
    context.summary |= {
        "model": language_model_digest(recipe.lm, recipe.model),
        "seed": recipe.seed,
        "method": settings.method,
        "prompts": {method.prompt.name: method.prompt.digest},
    }


@dataclass(frozen=True)
class _Asked:
    """What a request was about."""

    document: str
    subject: Any


def _requests(
    context: Context, method: Method, documents: Iterator[Document], asked: deque[_Asked | EndOfItem]
) -> Iterator[str]:
    """Yield what the model is asked, and note in `asked` what about, and where a document ends."""
    for document in documents:
        subjects = method.subjects(document)
        if not subjects:
            context.counts["documents without a subject"] += 1
        for subject in subjects:
            context.counts["requests"] += 1
            asked.append(_Asked(document.id, subject))
            yield method.fill(subject)
        asked.append(EndOfItem())


def _ends(context: Context, asked: deque[_Asked | EndOfItem]) -> Iterator[EndOfItem]:
    """Yield the ends of documents that come before the next answer."""
    while asked and isinstance(end := asked[0], EndOfItem):
        asked.popleft()
        context.progress.advance()
        yield end


def _read_set(context: Context, path: Path) -> Iterator[Question | Rejected]:
    """Yield the rows of a file of questions."""
    context.progress.start(None, "rows")
    for item in read_questions(path, FIELD):
        context.counts["in"] += 1
        context.progress.advance()
        yield item
    context.summary |= {"set": Path(context.recipe.tele_eval.path).name}
