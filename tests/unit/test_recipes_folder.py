"""Every recipe that comes with telellm is valid."""

from pathlib import Path

import pytest

from telellm.cluster.preflight import refuse_unreachable
from telellm.recipe import load

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path):
    recipe = load(path)
    if recipe.cluster.enabled:
        refuse_unreachable(recipe, "s3://bucket/prefix", in_kubeflow=True)
