import json
from collections.abc import Callable

import pyarrow.parquet as parquet
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from telellm.corpus.clean import clean, repeated_share, word_count
from telellm.recipe import Recipe, RecipeError
from telellm.records import Document
from telellm.store import Store
from tests.stages import documents, given, rejects, run

PROSE = " ".join(f"In slot {number} the cell sends its broadcast channel on beam {number}." for number in range(9))
RecipeWith = Callable[..., Recipe]


def test_a_document_is_cleaned_and_the_rules_are_counted(recipe_with: RecipeWith, directory_store: Store) -> None:
    recipe = recipe_with("corpus.clean.sample_share=1")
    dirty = Document.create("wiki", "a", f"{PROSE} It fades [3].\n\n## References\n\n[3] A book.")
    fine = Document.create("wiki", "b", PROSE)
    output = run(clean, recipe, directory_store, documents=given([dirty, fine], recipe, directory_store))
    assert documents(output) == [dirty.with_content(f"{PROSE} It fades."), fine]
    counts = output.manifest["counts"]
    assert counts["rule bracket-citations"] == counts["rule closing-sections"] == 1
    assert json.loads(documents(output)[0].metadata)["sha256"] != json.loads(dirty.metadata)["sha256"]


def test_texts_before_and_after_are_kept_for_a_person(recipe_with: RecipeWith, directory_store: Store) -> None:
    recipe = recipe_with("corpus.clean.sample_share=1")
    dirty = Document.create("wiki", "a", f"{PROSE} It fades [3].")
    output = run(clean, recipe, directory_store, documents=given([dirty], recipe, directory_store))
    (name,) = output.names("samples/")
    (sample,) = parquet.read_table(output.path(name)).to_pylist()
    assert sample["before"] == dirty.content
    assert sample["after"] == f"{PROSE} It fades."
    assert set(json.loads(sample["rules"])) == {"bracket-citations", "space-before-stop"}


def test_what_is_short_after_cleaning_is_rejected(recipe: Recipe, directory_store: Store) -> None:
    short = Document.create("web", "short", "Status: on air.\n\n## References\n\n" + PROSE)
    long = Document.create("web", "long", PROSE)
    output = run(clean, recipe, directory_store, documents=given([short, long], recipe, directory_store))
    assert [(row["id"], row["reason"], row["detail"]) for row in rejects(output)] == [
        ("web_short", "too short", "3 words")
    ]


def test_a_repetitive_page_is_rejected_and_a_repetitive_specification_is_not(
    recipe: Recipe, directory_store: Store
) -> None:
    again = "\n".join([PROSE, *["Read more about our offers for small and large companies."] * 12])
    pages = [Document.create(category, "a", again) for category in ("web", "standard")]
    output = run(clean, recipe, directory_store, documents=given(pages, recipe, directory_store))
    assert [document.id for document in documents(output)] == ["standard_a"]
    assert rejects(output)[0]["reason"] == "repetitive"


def test_only_the_rules_that_are_asked_for_apply(recipe_with: RecipeWith, directory_store: Store) -> None:
    recipe = recipe_with("corpus.clean.rules=[spaces]")
    dirty = Document.create("wiki", "a", f"{PROSE}\tIt fades [3].")
    output = run(clean, recipe, directory_store, documents=given([dirty], recipe, directory_store))
    assert documents(output)[0].content == f"{PROSE} It fades [3]."


def test_an_unknown_rule_is_named(recipe_with: RecipeWith, directory_store: Store) -> None:
    recipe = recipe_with("corpus.clean.rules=[spices]")
    place = given([Document.create("wiki", "a", PROSE)], recipe, directory_store)
    with pytest.raises(RecipeError, match=r'"spices" is not a rule\n  known rules: .*spaces'):
        run(clean, recipe, directory_store, documents=place)


@drawn(st.lists(st.text(alphabet="ab \n", max_size=8), max_size=8))
def test_the_repeated_share_is_that_of_lines_seen_before(lines: list[str]) -> None:
    whole = "\n".join(lines)
    kept = [line.strip() for line in whole.split("\n") if line.strip()]
    seen: set[str] = set()
    repeated = sum(len(line) for line in kept if line in seen or seen.add(line))  # type: ignore[func-returns-value]
    assert repeated_share(whole) == pytest.approx(repeated / max(1, sum(map(len, kept))))


def test_words_are_counted_without_punctuation() -> None:
    assert word_count("The X2-AP, at 3.5 GHz — and |---| $x_1$") == 7
