from pathlib import Path

import pytest

from telellm.recipe import RecipeError
from telellm.training.texts import read_conversations


@pytest.mark.parametrize("line", ["no json", "[]", '{"messages": []}', '{"messages": [{"role": "user"}]}'])
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(f'{{"messages": [{{"role": "user", "content": "x"}}]}}\n\n{line}\n')
    with pytest.raises(RecipeError, match="line 3"):
        read_conversations(str(path))


def test_a_missing_conversation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        read_conversations(str(tmp_path / "none.jsonl"))
    with pytest.raises(RecipeError, match="no such file"):
        read_conversations("")
