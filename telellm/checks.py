"""Checks: what can be known to fail before anything runs; each names the field and the remedy."""

from pathlib import Path

from telellm.lm.models import find_local
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
    models = {"model.name": recipe.model.name, "evaluation.embedder": recipe.evaluation.embedder}
    if not recipe.lm.endpoint:
        models["lm.model"] = recipe.lm.model
    if recipe.training.instruct.method == "chat-vector":
        models["training.instruct.vendor"] = recipe.training.instruct.vendor
    if recipe.evaluation.judge and not recipe.evaluation.judge.endpoint:
        models["evaluation.judge.model"] = recipe.evaluation.judge.model
    for name, reference in recipe.evaluation.reference_models.items():
        if not reference.endpoint:
            models[f"evaluation.reference_models.{name}"] = reference.model
    for field, model in models.items():
        if model:
            try:
                find_local(model)
            except RecipeError as error:
                mistakes.append(f"{field}: {str(error).removeprefix('model: ')}")
    return mistakes


def _missing(field: str, path: str) -> list[str]:
    if not path or "://" in path or Path(path).exists():
        return []
    parent = next(p for p in Path(path).parents if p.is_dir())
    known = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))[:12]
    return [f"{field}: {path} does not exist\n  {parent} holds: {', '.join(known) or 'nothing'}"]
