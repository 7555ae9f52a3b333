"""Checks: what can be known to fail before anything runs; each names the field and the remedy."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from telellm.benchmark.files import find_files
from telellm.benchmark.general_tasks import read_general_task
from telellm.benchmark.questions import read_choices, read_texts
from telellm.corpus.clean import select_rules
from telellm.lm.models import find_local, model_directory
from telellm.plan.shape import hub_config
from telellm.recipe import Recipe, RecipeError, vary
from telellm.text_files import text_files


def check(recipe: Recipe) -> None:
    """Raise `RecipeError` with every mistake of a recipe that this machine can see.

    That is what is missing (folders, files, models), and what is there and is not what the recipe says it is: a
    benchmark of another format would be found out only when hours of the corpus are made. Buckets and the hub are not
    asked. The arms of its study are looked at too.
    """
    mistakes = _mistakes(recipe)
    for arm, changes in recipe.study.all_arms().items():
        mistakes += [f"study, arm {arm}: {said}" for said in _mistakes(vary(recipe, changes)) if said not in mistakes]
    if mistakes:
        raise RecipeError("\n".join(mistakes))


def _mistakes(recipe: Recipe) -> list[str]:
    mistakes = []
    for name, source in recipe.sources.items():
        mistakes += _missing(f"sources.{name}.path", source.path)
    mistakes += _missing("truth", recipe.truth)
    mistakes += _missing("training.pack.replay", recipe.training.pack.replay)
    mistakes += _missing("training.instruct.data", recipe.training.instruct.data)
    for path in recipe.corpus.decontaminate.benchmarks:
        mistakes += _missing("corpus.decontaminate.benchmarks", path)
    for benchmark in recipe.evaluation.multiple_choice:
        mistakes += _missing(f"evaluation.multiple_choice: {benchmark.name}", benchmark.path)
    for task in recipe.evaluation.forgetting:
        mistakes += _missing(f"evaluation.forgetting: {task.task}", task.path)
    if not recipe.evaluation.general.text.startswith("package:"):
        mistakes += _missing("evaluation.general.text", recipe.evaluation.general.text)
    for field, (model, _) in models_of(recipe).items():
        try:
            found = find_local(model)
            if field == "model.name" and found and found.is_dir() and not (found / "config.json").is_file():
                mistakes.append(f"{field}: {found}: no model is there (config.json is missing)")
        except RecipeError as error:
            mistakes.append(f"{field}: {str(error).removeprefix('model: ')}")
    return mistakes + _unreadable(recipe)


def _unreadable(recipe: Recipe) -> list[str]:
    """Return what the stages' own readers say of the files of this machine that are there."""
    evaluation, replay = recipe.evaluation, recipe.training.pack.replay
    general = evaluation.general.text if "general" in evaluation.metrics else ""
    reads: list[tuple[str, Callable[[], object]]] = [
        *((path, partial(_read_first, path)) for path in recipe.corpus.decontaminate.benchmarks),
        *((benchmark.path, partial(read_choices, benchmark, seed=0)) for benchmark in evaluation.multiple_choice),
        *((task.path, partial(read_general_task, task, seed=0)) for task in evaluation.forgetting),
        (replay, partial(text_files, replay, "training.pack.replay")),
        (general, partial(text_files, general, "evaluation.general.text")),
    ]
    mistakes = []
    # elsewhere, or named as missing already: not read
    here = [read for path, read in reads if path.startswith("package:") or (path and Path(path).exists())]
    rules: Callable[[], object] = partial(select_rules, recipe.corpus.clean.rules)
    for read in (rules, *here):
        try:
            read()
        except RecipeError as error:
            mistakes.append(str(error))
    return mistakes


def _read_first(path: str) -> None:
    field = "corpus.decontaminate.benchmarks"
    for file in find_files(path, field):
        next(read_texts(file, field), None)


def find_away(recipe: Recipe) -> Iterator[str]:
    """Yield the models that are asked first and that neither this machine nor the hub has, each with its field.

    Only told, no mistake: finished work is not done again, and asks no model.
    """
    for field, (name, revision) in models_of(recipe).items():
        if field not in ("model.name", "lm.model") or "://" in name or find_local(name) is not None:
            continue
        try:
            hub_config(name, revision)
        except RecipeError as error:
            yield f"{field}: {str(error).removeprefix('model: ')}"


def models_of(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Return the models that a recipe uses in processes of its own: field → name and revision."""
    evaluation, instruct = recipe.evaluation, recipe.training.instruct
    models = {
        "model.name": (recipe.model.name, recipe.model.revision),
        "evaluation.embedder": (evaluation.embedder, "main"),
    }
    if not recipe.lm.endpoint:
        models["lm.model"] = (recipe.lm.model, recipe.lm.revision)
    if instruct.method == "chat-vector":
        models["training.instruct.vendor"] = (instruct.vendor, instruct.vendor_revision)
    if evaluation.judge and not evaluation.judge.endpoint:
        models["evaluation.judge.model"] = (evaluation.judge.model, evaluation.judge.revision)
    for name, reference in evaluation.reference_models.items():
        if not reference.endpoint:
            models[f"evaluation.reference_models.{name}"] = (reference.model, reference.revision)
    return {field: (name, revision) for field, (name, revision) in models.items() if name}


def fetch_models(recipe: Recipe) -> Iterator[str]:
    """Bring every model of a recipe to this machine, each once; yields a line for each: field and folder.

    What the hub or a bucket has is put into the cache, where runs find it without a network. Raises `RecipeError`.
    """
    for field, (name, revision) in models_of(recipe).items():
        try:
            yield f"{field:<36} {model_directory(name, revision)}"
        except RecipeError as error:
            raise RecipeError(f"{field}: {str(error).removeprefix('model: ')}") from None


def _missing(field: str, path: str) -> list[str]:
    if not path or "://" in path or Path(path).exists():
        return []
    parent = next(p for p in Path(path).parents if p.is_dir())
    known = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))[:12]
    return [f"{field}: {path} does not exist\n  {parent} holds: {', '.join(known) or 'nothing'}"]
