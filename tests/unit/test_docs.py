"""What the documents say is what the code does."""

import re
import runpy
from pathlib import Path

from telellm import cli, runs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_page_of_recipes_is_current() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_recipes.py"))["render"]()
    assert (ROOT / "docs" / "recipes.md").read_text() == written, "run: make docs"


def test_the_readme_has_every_stage_in_the_order_of_the_pipeline() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE) == list(runs.STAGES)
    assert set(cli.STAGES) == set(runs.STAGES)


def test_the_readme_names_commands_and_files_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)\b", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE) or target == "lint", target
    for path in re.findall(r"\]\(([a-z][^):#]*)\)", README):
        assert (ROOT / path).exists(), path


def test_the_readme_lists_every_pipeline() -> None:
    assert all(name in README for name in cli.PIPELINES)
