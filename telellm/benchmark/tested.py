"""Tested: every text that a recipe's models are tested on, for the scan of what they are trained on."""

from collections.abc import Iterator
from pathlib import Path

from telellm.benchmark.general_tasks import general_digest, general_texts
from telellm.benchmark.questions import all_files, read_texts, reader_digest
from telellm.recipe import Recipe
from telellm.store import sha256_file
from telellm.text_files import read_texts as read_plain_texts
from telellm.text_files import text_digests, text_files

BENCHMARKS = "corpus.decontaminate.benchmarks"
GENERAL = "evaluation.general.text"


def read_tested(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield (source, text) pairs: questions of benchmarks and of general tasks, and general text.

    What is scored is among them without being named under `corpus.decontaminate`.
    """
    evaluation = recipe.evaluation
    for path, variable in all_files(recipe.corpus.decontaminate.benchmarks, evaluation.multiple_choice, BENCHMARKS):
        yield from ((path.name, text) for text in read_texts(path, BENCHMARKS, variable))
    for task in evaluation.forgetting:
        yield from ((task.task, text) for text in general_texts(task))
    if general := _general_text(recipe):
        store, names = text_files(general, GENERAL)
        yield from (("general text", text) for name in names for text in read_plain_texts(store, name))


def tested_digest(recipe: Recipe) -> list[str]:
    """Return what changes when one of these texts, or the way in which they are read and compared, does."""
    evaluation = recipe.evaluation
    files = [
        path for path, _ in all_files(recipe.corpus.decontaminate.benchmarks, evaluation.multiple_choice, BENCHMARKS)
    ]
    digests = [*map(sha256_file, files), *text_digests(_general_text(recipe), GENERAL)]
    digests += [digest for task in evaluation.forgetting for digest in general_digest(task)]
    room = Path(__file__).parents[1]
    code = [sha256_file(room / name) for name in ("overlap.py", "benchmark/tested.py", "text_files.py")]
    return [*reader_digest(), *code, *digests] if digests else []


def _general_text(recipe: Recipe) -> str:
    return recipe.evaluation.general.text if "general" in recipe.evaluation.metrics else ""
