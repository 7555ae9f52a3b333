from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telellm.evaluation.texts import Text, cut, measure_texts, read_general, text_rows
from telellm.lm.models import load_model, load_tokenizer
from telellm.recipe import General, RecipeError
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def whole(text: str) -> Text:
    return Text("a", "general", text, "general")


def test_texts_are_drawn_by_lot_and_come_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("The glacier moves.")
    (tmp_path / "empty.txt").write_text(" \n")
    parquet.write_table(pyarrow.table({"text": [f"row {number}" for number in range(30)]}), tmp_path / "b.parquet")
    everything = read_general(General(text=str(tmp_path), max_documents=0), 17)
    assert len({text.id for text in everything}) == 31 and "b.parquet#7" in {text.id for text in everything}
    drawn = read_general(General(text=str(tmp_path), max_documents=9), 17)
    assert drawn == everything[:9]
    assert read_general(General(text=str(tmp_path), max_documents=9), 18) != drawn
    with pytest.raises(RecipeError, match=r"evaluation.general.text: .*: there is no such folder"):
        read_general(General(text=str(tmp_path / "none")), 17)


def test_the_text_that_came_with_telellm_is_read_where_the_recipe_names_none() -> None:
    assert len(read_general(General(), 17)) == 21


@given(st.text(), st.integers(100, 200))
def test_a_text_is_cut_between_words(content: str, characters: int) -> None:
    found = cut(content * 9, characters)
    assert len(found) <= characters and (content * 9).strip().startswith(found)
    assert cut("three words " * 50, 110) == ("three words " * 50)[:107]


def test_the_likelihood_of_a_text_is_that_of_its_tokens_after_the_token_between_documents(tiny: Path) -> None:
    model, tokenizer = load_model(str(tiny)), load_tokenizer(str(tiny))
    text = "The gNB hands the user equipment over."
    (found,) = measure_texts(model, tokenizer, [whole(text)], 8, lambda number: None)
    tokens = tokenizer(text)["input_ids"]
    logits = model(torch.tensor([[tokenizer.eos_token_id, *tokens]])).logits[0, :-1].log_softmax(-1)
    expected = -float(logits.detach().gather(-1, torch.tensor(tokens)[:, None]).sum())
    assert found.tokens == len(tokens) and found.nll == pytest.approx(expected, rel=1e-5)


def test_a_text_longer_than_the_model_reads_is_read_in_windows(tiny: Path) -> None:
    model, tokenizer = load_model(str(tiny)), load_tokenizer(str(tiny))
    long = whole("The scheduler allocates resource blocks in each slot of a carrier. " * 30)
    done: list[int] = []
    found, empty = measure_texts(model, tokenizer, [long, whole("")], 8, done.append)
    assert found.tokens == len(tokenizer(long.content)["input_ids"]) > 2 * 256
    assert empty.tokens == 0 and sum(done) in (1, 2)
    (row,) = text_rows("general", [long, whole("")], [found, empty])
    assert (row["task"], row["tokens"], row["bytes"]) == ("general", found.tokens, len(long.content))
    assert row["statement"] == long.content[:160]
