"""Distinct: of questions that ask the same, anywhere in the set, one is kept; and each gets its split."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telellm.lm.embedding import embed, embedder_digest
from telellm.parquet import read_records
from telellm.recipe import Distinct, LanguageModel, Recipe
from telellm.records import Question, Rejected
from telellm.stage import Context, Output, stage
from telellm.tele_eval.similar import Questions, same_by_meaning, same_by_words

if TYPE_CHECKING:
    import numpy

PREFERENCE = {"standard": 0, "arxiv": 1, "wiki": 2, "web": 3}
"""Of questions that ask the same, the one about the better edited source is kept."""


def _identity(recipe: Recipe) -> str:
    settings = recipe.tele_eval.distinct
    wanted = settings.embedder and not recipe.tele_eval.path
    return embedder_digest(settings.embedder, settings.embedder_endpoint) if wanted else ""


@stage(
    sections=("tele_eval.distinct", "tele_eval.held_out_share", "tele_eval.path", "seed"),
    produces=Question,
    identity=_identity,
    by_file=True,
)
def distinct(
    context: Context, settings: Distinct, drafts: Output
) -> Iterator[tuple[str, Iterator[Question | Rejected]]]:
    """Keep one of the questions that ask the same, and say which documents are held out.

    The questions of a file stay together, so that later only new ones are asked about. The set is read three times; in
    memory are only the numbers of words, or the embeddings. A question about a document of the training text is kept
    before one about a document that is held out: what training states somewhere does not measure transfer. A set that
    the recipe names loses only questions in the same words.
    """
    recipe = context.recipe
    ranks, lots = [], []
    questions = Questions()
    for question in context.progress.track(drafts.records(Question), drafts.num_records, "questions"):
        split = question.split or split_of(question.id, recipe.seed, recipe.tele_eval.held_out_share)
        category = PREFERENCE.get(question.id.partition("_")[0], len(PREFERENCE))
        ranks.append(10 * (split != "train") + category)
        lots.append(sha256(f"{question.id}\n{question.statement}\n{question.answer}".encode()).digest()[:8])
        questions.add(question.statement)
    order = sorted(range(len(ranks)), key=lambda number: (ranks[number], lots[number], number))
    context.progress.note("compares")
    if settings.embedder and not recipe.tele_eval.path:
        repeated = same_by_meaning(questions, _vectors(context, settings, drafts), order, settings.similarity)
    else:
        repeated = same_by_words(questions, order, 1.0 if recipe.tele_eval.path else settings.similarity)
    kept = _statements(drafts, set(repeated.values()))
    held_out = set[str]()

    def divide(path: Path, first: int) -> Iterator[Question | Rejected]:
        for number, question in enumerate(read_records(path, Question), first):
            if number in repeated:
                yield Rejected(question, "asked before", kept[repeated[number]])
                continue
            split = question.split or split_of(question.id, recipe.seed, recipe.tele_eval.held_out_share)
            held_out.update({question.id} if split == "held-out" else ())
            yield replace(question, split=split)

    first = 0
    for name in drafts.names("data/"):
        yield name, divide(drafts.path(name), first)
        first += drafts.manifest["rows"][name]
    context.summary |= {"held_out_documents": len(held_out), "seed": recipe.seed}


def split_of(document: str, seed: int, held_out_share: float) -> str:
    """Return `held-out` for a share of documents and `train` for the others, by their id and the seed alone."""
    drawn = int(sha256(f"{seed} {document}".encode()).hexdigest()[:13], 16) / 16**13
    return "held-out" if drawn < held_out_share else "train"


def _vectors(context: Context, settings: Distinct, drafts: Output) -> "numpy.ndarray[Any, numpy.dtype[Any]]":
    """Return the questions' embeddings, in half precision."""
    import numpy

    server = LanguageModel.model_validate(
        context.recipe.lm.model_dump() | {"model": settings.embedder, "endpoint": settings.embedder_endpoint}
    )
    found = numpy.zeros((0, 0), dtype=numpy.float16)
    context.progress.start(drafts.num_records, "questions embedded")
    done = 0
    for rows in embed((question.statement for question in drafts.records(Question)), settings.embedder, server):
        if not done:
            found = numpy.zeros((drafts.num_records, rows.shape[1]), dtype=numpy.float16)
        found[done : done + len(rows)] = rows
        done += len(rows)
        context.progress.advance(len(rows))
    return found


def _statements(drafts: Output, wanted: set[int]) -> dict[int, str]:
    """Return the statement and the document of some questions, by number."""
    return {
        number: f"{question.id}: {question.statement}"
        for number, question in enumerate(drafts.records(Question))
        if number in wanted
    }
