from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from transformers import AutoTokenizer

from telellm.execution import execute
from telellm.recipe import Corpus, Pack, Recipe, RecipeError, parse
from telellm.records import Document
from telellm.stage import Context, Output, stage
from telellm.store import Store
from telellm.training.pack import choose, pack

TEXTS = {
    f"{category}_{number}": f"Document {number} of {category}: " + "the cell is handed over. " * (number * 3)
    for category in ("arxiv", "standard", "web")
    for number in range(1, 8)
}


@stage(sections=("corpus",), produces=Document)
def twenty_one(context: Context, settings: Corpus) -> Iterator[Document]:
    for name, text in TEXTS.items():
        yield Document(name, name.split("_")[0], text)


def recipe(model: Path, folder: Path, **pack_settings: Any) -> Recipe:
    settings = {"sequence_length": 64} | pack_settings
    text = f"""
name: t
model: {{name: {model}}}
sources: {{a: {{category: web, path: {folder}}}}}
training: {{pack: {settings}}}
"""
    return parse(text)


def packed(model: Path, folder: Path, **settings: Any) -> Output:
    store, settled = Store.open(str(folder / "store")), recipe(model, folder, **settings)
    documents = execute(twenty_one, settled, store, "run-1", {})
    return Output.find(store, execute(pack, settled, store, "run-1", {"documents": documents}))


def rows(output: Output) -> list[dict[str, list[int]]]:
    return [row for name in output.names("data/") for row in parquet.read_table(output.path(name)).to_pylist()]


def documents_of(output: Output, end: int) -> list[list[int]]:
    tokens = [token for row in rows(output) for token in row["tokens"]]
    found: list[list[int]] = [[]]
    for token in tokens:
        found[-1].append(token)
        if token == end:
            found.append([])
    assert found.pop() == []
    return found


def test_every_document_is_there_once_with_its_end_in_a_mixed_order(tiny_model: Path, tmp_path: Path) -> None:
    output = packed(tiny_model, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS.values()]
    found = documents_of(output, tokenizer.eos_token_id)
    assert sorted(found) == sorted(expected)
    assert found != expected
    summary = output.summary()
    assert output.prefix.startswith("packed/")
    assert summary["num_tokens"] == sum(map(len, expected)) == sum(summary["tokens"].values())
    assert set(summary["tokens"]) == {"arxiv", "standard", "web"}
    assert all(len(row["tokens"]) == 64 == sum(row["lengths"]) for row in rows(output)[:-1])
    assert output.names() == ["data/part-00000.parquet"]
    assert summary["num_sequences"] == len(rows(output)) == output.num_records


def test_replay_is_its_share_of_all_tokens(tiny_model: Path, tmp_path: Path) -> None:
    replay = tmp_path / "replay"
    replay.mkdir()
    (replay / "one.md").write_text("Bread needs flour and water. " * 4)
    (replay / "two.txt").write_text("A train leaves the station at noon. " * 3)
    summary = packed(tiny_model, tmp_path, replay=str(replay), replay_share=0.25).summary()
    assert summary["replay_tokens"] / summary["num_tokens"] == pytest.approx(0.25, abs=1e-3)
    assert "replay" not in summary["tokens"]
    small = packed(tiny_model, tmp_path, replay=str(replay), replay_share=0.01).summary()
    assert small["replay_tokens"] / small["num_tokens"] == pytest.approx(0.01, abs=1e-3)
    with pytest.raises(RecipeError, match="leaves no place"):
        packed(tiny_model, tmp_path, replay=str(replay), replay_share=1)


def test_replay_text_loses_what_the_model_is_tested_on(tiny_model: Path, tmp_path: Path) -> None:
    replay, general = tmp_path / "replay", tmp_path / "general"
    replay.mkdir()
    general.mkdir()
    tested = "The glacier moves a little every day while nobody looks at it."
    (general / "a.md").write_text(tested)
    (replay / "one.md").write_text(f"Bread needs flour and water and a little salt.\n\n{tested}")
    settled = recipe(tiny_model, tmp_path, replay=str(replay), replay_share=0.5)
    evaluation = settled.evaluation.model_copy(
        update={"general": settled.evaluation.general.model_copy(update={"text": str(general)})}
    )
    store, settled = Store.open(str(tmp_path / "store")), settled.model_copy(update={"evaluation": evaluation})
    documents = execute(twenty_one, settled, store, "run-1", {})
    output = Output.find(store, execute(pack, settled, store, "run-1", {"documents": documents}))
    assert output.manifest["counts"]["replay passages taken out"] == 1
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = tokenizer.decode([token for row in rows(output) for token in row["tokens"]])
    assert "Bread needs flour" in text and "glacier" not in text


def test_the_same_recipe_packs_the_same_and_another_seed_another_order(tiny_model: Path, tmp_path: Path) -> None:
    contents = {packed(tiny_model, tmp_path / name, replay_share=0).content for name in ("once", "again")}
    assert len(contents) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_smaller_share_is_part_of_a_larger_one_in_every_category(seed: int, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    documents = Output.find(store, execute(twenty_one, recipe(tmp_path, tmp_path), store, "run-1", {}))
    lengths = {
        category: {name: len(text) for name, text in TEXTS.items() if name.startswith(category)}
        for category in ("arxiv", "standard", "web")
    }
    before: set[str] = set()
    for share in (0.01, 0.1, 0.3, 0.5, 0.8, 0.99):
        chosen = choose(documents, Pack(share=share), seed)
        assert chosen is not None and before <= chosen
        before = chosen
        for texts in lengths.values():
            taken = sum(length for name, length in texts.items() if name in chosen)
            assert taken, "a category is never lost"
            if share >= 0.3:
                assert abs(taken - share * sum(texts.values())) <= max(texts.values()) / 2
    assert before <= set(TEXTS)
    assert choose(documents, Pack(share=0.5), seed) != choose(documents, Pack(share=0.5), seed + 100)


def test_one_category_alone_is_packed(tiny_model: Path, tmp_path: Path) -> None:
    output = packed(tiny_model, tmp_path, categories=["standard"])
    assert set(output.summary()["tokens"]) == {"standard"} and output.summary()["num_documents"] == 7
    with pytest.raises(RecipeError, match=r"training\.pack\.categories: no document is of wiki"):
        packed(tiny_model, tmp_path, categories=["wiki"])
