"""A store, a server that speaks the protocol of language models, and a recipe that asks it."""

from pathlib import Path

import pytest

from telellm.recipe import Recipe, parse
from telellm.store import Store
from tests.language_model_server import LanguageModelServer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def recipe(server: LanguageModelServer, *changes: str) -> Recipe:
    text = f"name: q\nmodel: {{name: owner/model}}\nlm: {{model: served, endpoint: '{server.url}'}}\n"
    return parse(text + "sources: {one: {category: standard, path: raw}}\n", changes=changes)
