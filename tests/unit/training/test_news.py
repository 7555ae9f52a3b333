"""Which documents a night reads that goes on from production."""

from pathlib import Path

import pytest

from telellm.recipe import Recipe, parse
from telellm.records import Document
from telellm.stage import Output
from telellm.store import Store
from telellm.training.news import choose_news
from telellm.training.pack import pack
from tests import stages

OLD = [Document(f"web_{number}", "web", f"Page {number} " + "is as it was. " * 20) for number in range(20)]
CHANGED = Document("web_3", "web", "Page 3 has changed. " * 15)
NEW = [CHANGED, Document("web_new", "web", "A page that came. " * 15)]


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Recipe:
    return parse(
        f"""
name: t
model: {{name: {tiny_model}}}
sources: {{a: {{category: web, path: {tmp_path}}}}}
training: {{pack: {{sequence_length: 64}}}}
evaluation: {{general: {{text: ""}}}}
nightly: {{train_from: production, train_on: new, old_share: 0.5}}
"""
    )


def output(documents: list[Document], recipe: Recipe, store: Store) -> Output:
    return Output.find(store, stages.given(documents, recipe, store))


def tonight() -> list[Document]:
    return [*(document for document in OLD if document.id != "web_3"), *NEW]


@pytest.mark.parametrize(("share", "num_old"), [(0, 0), (0.25, 1), (0.5, 2), (0.9, 18), (0.99, 19)])
def test_new_and_changed_documents_are_read_and_as_many_old_ones_as_make_their_share(
    recipe: Recipe, directory_store: Store, share: float, num_old: int
) -> None:
    learnt, documents = output(OLD, recipe, directory_store), output(tonight(), recipe, directory_store)
    news = choose_news(documents, learnt, None, share, 17)
    assert {"web_3", "web_new"} <= news.chosen and news.num_new == 2
    assert news.num_old == num_old == len(news.chosen) - 2
    assert news == choose_news(documents, learnt, None, share, 17)


def test_other_old_documents_are_drawn_after_another_text(recipe: Recipe, directory_store: Store) -> None:
    documents = output(tonight(), recipe, directory_store)
    drawn = [
        choose_news(documents, output(known, recipe, directory_store), None, 0.7, 17).chosen
        for known in (OLD, [*OLD, Document("web_gone", "web", "gone")])
    ]
    assert drawn[0] != drawn[1] and len(drawn[0]) == len(drawn[1])


def test_where_documents_only_went_all_that_are_left_are_read(recipe: Recipe, directory_store: Store) -> None:
    learnt, documents = output(OLD, recipe, directory_store), output(OLD[5:], recipe, directory_store)
    news = choose_news(documents, learnt, None, 0.5, 17)
    assert news.chosen == {document.id for document in OLD[5:]} and news.num_new == 0


def test_only_what_may_be_chosen_is(recipe: Recipe, directory_store: Store) -> None:
    learnt, documents = output(OLD, recipe, directory_store), output(tonight(), recipe, directory_store)
    assert choose_news(documents, learnt, {"web_new", "web_1"}, 0.9, 17).chosen == {"web_new", "web_1"}


def test_packing_takes_the_news_and_says_what_it_knows_already(recipe: Recipe, directory_store: Store) -> None:
    learnt = stages.given(OLD, recipe, directory_store)
    documents = stages.given(tonight(), recipe, directory_store)
    whole = stages.run(pack, recipe, directory_store, documents=documents)
    news = stages.run(pack, recipe, directory_store, documents=documents, learnt=learnt)
    said = news.summary()
    assert (said["new_documents"], said["old_documents"], said["num_documents"]) == (2, 2, 4)
    assert said["num_tokens"] < whole.summary()["num_tokens"] and "new_documents" not in whole.summary()
    assert set(news.manifest["inputs"]) == {"documents", "learnt"}
