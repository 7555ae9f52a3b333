"""References: the models that are scored beside those of the run, and what is fetched for them."""

from collections.abc import Mapping

from telellm.lm.models import find_local
from telellm.plan.shape import Shape, read_shape
from telellm.plan.work import GIB
from telellm.recipe import Recipe, RecipeError


def reference_shapes(recipe: Recipe, base: Shape, notes: list[str]) -> dict[str, Shape | None]:
    """Return the sizes of each reference model; None for one behind an endpoint, whose work is its own."""
    found: dict[str, Shape | None] = {}
    for name, model in recipe.evaluation.reference_models.items():
        if model.endpoint:
            found[name] = None
            continue
        try:
            found[name] = read_shape(model.model, model.revision)
        except RecipeError as error:
            notes.append(f"evaluation.reference_models.{name} is counted as large as the base model: {error}")
            found[name] = base
    return found


def downloads(recipe: Recipe, base: Shape, beside: Mapping[str, Shape | None]) -> dict[str, float]:
    """Return what is fetched from the hub or a bucket into the cache of the machine that needs it, by model (GiB)."""
    models = {"base model": (recipe.model.name, base)}
    for name, model in recipe.evaluation.reference_models.items():
        if (shape := beside[name]) is not None:
            models[name] = (model.model, shape)
    return {name: shape.parameters * shape.dtype_bytes / GIB for name, (place, shape) in models.items() if _far(place)}


def _far(place: str) -> bool:
    try:
        return "://" in place or find_local(place) is None
    except RecipeError:  # it is not here, and nowhere else
        return False
