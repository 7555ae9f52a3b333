"""Checks: what can be known to fail before anything runs; each names the field and the remedy."""

from collections.abc import Iterator
from pathlib import Path

from telellm.lm.models import find_local, model_directory
from telellm.recipe import Recipe, RecipeError, vary


def check(recipe: Recipe) -> None:
    """Raise `RecipeError` with every mistake of a recipe that this machine can see: missing folders, files, models.

    The arms of its study are looked at too.
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
            find_local(model)
        except RecipeError as error:
            mistakes.append(f"{field}: {str(error).removeprefix('model: ')}")
    return mistakes


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
