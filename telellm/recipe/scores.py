"""Scores: those that the gate or a study names must be scores that the recipe's evaluation has."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from telellm.recipe.evaluation import METRICS
from telellm.recipe.messages import alternatives, short

if TYPE_CHECKING:
    from telellm.recipe import Recipe


def unknown_scores(recipe: "Recipe") -> Iterator[str]:
    """Yield what the gate or a study asks for that the evaluation does not know."""
    yield from _unknown_in_study(recipe)
    known, models, reference = recipe.evaluation.scores, recipe.evaluation.reference_models, recipe.gate.reference
    asked = [("metric", recipe.gate.metric), *(("losses", name) for name in recipe.gate.losses)]
    if reference is not None:
        asked.append(("reference.metric", reference.metric))
    for field, name in asked:
        if name not in known:
            yield f'gate.{field}: "{short(name)}" is not a score of this recipe{alternatives(name, known, "scores")}'
    if reference is not None and reference.name not in models:
        yield (
            f'gate.reference.name: "{short(reference.name)}" is no model of evaluation.reference_models'
            f"{alternatives(reference.name, list(models), 'models')}"
        )


def _unknown_in_study(recipe: "Recipe") -> Iterator[str]:
    study, known, measured = recipe.study, recipe.evaluation.scores, recipe.evaluation.metrics
    if not study.all_arms():
        return
    asked = [("gain", study.gain), ("forgetting", study.forgetting), *(("metrics", name) for name in study.metrics)]
    for field, name in asked:
        kind = name.partition(".")[0]
        if name and name not in known:
            yield f'study.{field}: "{short(name)}" is not a score of this recipe{alternatives(name, known, "scores")}'
        elif field == "metrics" and kind in METRICS and kind not in measured:
            yield f"study.metrics: {name} is not measured; add {kind} to evaluation.metrics"
