"""Earlier: what runs of the same sources in the store already know."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from telellm.recipe import Optimization, Recipe, RecipeError, parse
from telellm.stage import digest_of, known_runs, read_notes
from telellm.store import Store

MOST_RUNS = 20
"""Runs that are looked at, those of this recipe's name first: notes in a bucket take some milliseconds each."""


@dataclass(frozen=True)
class MeasuredTraining:
    """A training that ended."""

    settings: Optimization
    sequence_length: int
    summary: Mapping[str, Any]
    """Tokens a second, device, processes, parameters."""


@dataclass(frozen=True)
class Earlier:
    """What the newest run that made this corpus knows of it, and how fast any run trained."""

    run: str = ""
    """The run whose corpus this recipe's is; "" where none is known."""
    packed: Mapping[str, Any] | None = None
    """The summary of its step `pack`, where it used the same tokenizer and the same documents, or all of them."""
    same_packing: bool = False
    """Whether its sequences are those that this recipe would make."""
    documents: int = 0
    compressed_bytes: int = 0
    """Of the training text."""
    questions: int = 0
    instruct: Mapping[str, Any] | None = None
    """The summary of its step `instruct`, where this recipe would take the same steps."""
    trainings: tuple[MeasuredTraining, ...] = ()


def find_earlier(recipe: Recipe, store: Store) -> Earlier:
    """Return what the store knows."""
    best = Earlier()
    trainings: list[MeasuredTraining] = []
    for run in islice(_runs(recipe, store), MOST_RUNS):
        other, notes = _recipe_of(store, run), read_notes(store, run)
        if other is None:
            continue
        for label in ("pretrain", "instruct"):
            summary = notes.get(label, {"manifest": {}})["manifest"].get("summary", {})
            if "tokens_per_second" in summary:
                settings = other.section(f"training.{label}")
                length = (other.training.pack if label == "pretrain" else settings).sequence_length
                trainings.append(MeasuredTraining(settings, length, summary))
        if (other.sources, other.corpus) == (recipe.sources, recipe.corpus):
            found = _known(recipe, other, run, {label: note["manifest"] for label, note in notes.items()})
            best = max(best, found, key=_worth)
    return replace(best, trainings=tuple(trainings))


def _worth(known: Earlier) -> tuple[bool, bool, bool]:
    return known.same_packing, known.packed is not None, bool(known.run)


def _runs(recipe: Recipe, store: Store) -> Iterator[str]:
    """Yield the names of runs: the recipe's own, its nights from the newest on, then all others."""
    names = known_runs(store)
    nights = sorted((name for name in names if name.startswith(f"{recipe.name}-")), reverse=True)
    first = [recipe.name] if recipe.name in names else []
    yield from dict.fromkeys([*first, *nights, *sorted(names, reverse=True)])


def _recipe_of(store: Store, run: str) -> Recipe | None:
    try:
        return parse(store.read(f"runs/{run}/recipe.yaml").decode())
    except (RecipeError, FileNotFoundError):  # of an older telellm
        return None


def _known(recipe: Recipe, other: Recipe, run: str, manifests: Mapping[str, Mapping[str, Any]]) -> Earlier:
    text = manifests.get("hold-out") or manifests.get("decontaminate")
    pack = manifests.get("pack")
    if text is None and pack is None:
        return Earlier()
    # a job of the cluster has the model's address in the store
    same_model = PurePosixPath(other.model.name).name == PurePosixPath(recipe.model.name).name
    same_packing = (other.training.pack, other.seed) == (recipe.training.pack, recipe.seed)
    is_whole = other.training.pack.share == 1 and not other.training.pack.categories
    packed = pack["summary"] if pack is not None and same_model and (same_packing or is_whole) else None
    instruct = manifests.get("instruct")
    same_steps = instruct is not None and instruct["sections"]["training.instruct"] == digest_of(
        recipe.training.instruct
    )
    files = (text or {"files": {}})["files"].items()
    return Earlier(
        run=run,
        packed=packed,
        same_packing=packed is not None and same_packing,
        documents=text["out"] if text else 0,
        compressed_bytes=sum(entry["bytes"] for name, entry in files if name.startswith("data/")),
        questions=manifests["tele-eval"]["out"] if "tele-eval" in manifests else 0,
        instruct=instruct["summary"] if instruct is not None and same_steps and same_model else None,
    )
