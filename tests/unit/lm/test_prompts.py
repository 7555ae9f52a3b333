from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import telellm.corpus.screen
import telellm.tele_eval.tele_eval
from telellm.lm.prompts import load_prompt, parse_prompt
from telellm.recipe import RecipeError

TEXT = """[system]
Be brief.

[user]
Is {text} a fruit?

[assistant]
No

[user]
Is {text} a tree?

[yes]
text: An oak: a tree

[no]
text: A cow
"""


def test_a_prompt_file_has_a_system_message_examples_a_template_and_references() -> None:
    prompt = parse_prompt("tree-1", TEXT)
    assert prompt.system == "Be brief."
    assert prompt.examples == (("Is {text} a fruit?", "No"),)
    assert prompt.template == "Is {text} a tree?"
    assert prompt.references == (({"text": "An oak: a tree"}, True), ({"text": "A cow"}, False))


@given(st.text())
def test_a_text_is_filled_in_as_it_is(text: str) -> None:
    assert parse_prompt("tree-1", TEXT).fill({"text": text}) == f"Is {text} a tree?"


def test_the_digest_changes_with_the_file() -> None:
    assert parse_prompt("a-1", TEXT).digest != parse_prompt("a-1", TEXT + " ").digest


def test_turns_that_do_not_alternate_are_refused() -> None:
    with pytest.raises(ValueError, match="take turns"):
        parse_prompt("a-1", "[user]\none\n[user]\ntwo\n")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "tree-1.txt").write_text(TEXT)
    (tmp_path / "words.txt").write_text("no prompt")
    with pytest.raises(RecipeError, match=r'"tree-2" is not a prompt\n  known prompts: tree-1$'):
        load_prompt(tmp_path, "tree-2")


@pytest.mark.parametrize("folder", [telellm.corpus.screen.PROMPTS, telellm.tele_eval.tele_eval.PROMPTS])
def test_every_shipped_prompt_is_whole_and_calibrated_evenly(folder: Path) -> None:
    names = [path.stem for path in folder.glob("*-[0-9]*.txt")]
    assert names
    for name in names:
        prompt = load_prompt(folder, name)
        assert sum(is_yes for _, is_yes in prompt.references) * 2 == len(prompt.references)
        for values, _ in prompt.references:
            assert "{" not in prompt.fill(values)
