import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from hypothesis import given as drawn
from hypothesis import strategies as st

from telellm.corpus.deduplicate import deduplicate, find_copies, sketch
from telellm.recipe import Deduplicate, Recipe, parse
from telellm.records import Document
from telellm.stage import Context, Shard, stage
from telellm.store import Store
from tests.stages import documents, given, rejects, run

SETTINGS = Deduplicate()  # type: ignore[call-arg]
WORDS = [f"word{number}" for number in range(3000)]


def text(seed: int, length: int = 300) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def edited(content: str, num_changes: int) -> str:
    words = content.split()
    for place in random.Random(1).sample(range(len(words)), num_changes):
        words[place] = "changed"
    return " ".join(words)


def similarity(first: str, second: str) -> float:
    one, other = ({tuple(part.split()[i : i + 5]) for i in range(len(part.split()) - 4)} for part in (first, second))
    return len(one & other) / len(one | other)


def kept_ids(items: list[Document]) -> set[str]:
    copies = find_copies([sketch(item, SETTINGS) for item in items], SETTINGS)
    return {item.id for number, item in enumerate(items) if number not in copies}


def test_exact_and_near_copies_go_with_the_id_of_what_stays(recipe: Recipe, directory_store: Store) -> None:
    items = [
        Document.create("web", "mirror", text(1)),
        Document.create("web", "longer", text(2) + " and an ending"),
        Document.create("wiki", "page", text(1)),
        Document.create("web", "shorter", text(2)),
        Document.create("web", "shouting", text(2).upper() + " !"),
        Document.create("web", "other", text(3)),
    ]
    output = run(deduplicate, recipe, directory_store, documents=given(items, recipe, directory_store))
    assert [item.id for item in documents(output)] == ["web_longer", "wiki_page", "web_other"]
    assert [(row["id"], row["reason"], row["detail"]) for row in rejects(output)] == [
        ("web_mirror", "exact copy", "kept: wiki_page"),
        ("web_shorter", "near-duplicate", "kept: web_longer"),
        ("web_shouting", "near-duplicate", "kept: web_longer"),
    ]


def test_a_file_without_a_copy_is_taken_as_it_is(recipe: Recipe, directory_store: Store) -> None:
    def divide(context: Context, settings: int) -> list[Shard]:
        return [Shard(f"s{number}", f"{number}", texts) for number, texts in enumerate(((1, 2), (3, 1), (4, 5)))]

    @stage(sections=("seed",), produces=Document, divide=divide, workers=1)
    def collect(context: Context, settings: int, seeds: tuple[int, ...]) -> Iterator[Document]:
        yield from (Document.create("web", f"{context.shard}-{seed}", text(seed)) for seed in seeds)

    source = run(collect, recipe, directory_store)
    output = run(deduplicate, recipe, directory_store, documents=source.prefix)
    assert [item.id for item in documents(output)] == ["web_s0-1", "web_s0-2", "web_s1-3", "web_s2-4", "web_s2-5"]
    assert [row["detail"] for row in rejects(output)] == ["kept: web_s0-1"]
    same = [name for name in source.names("data/") if output.manifest["files"][name] == source.manifest["files"][name]]
    assert same == ["data/s0-00000.parquet", "data/s2-00000.parquet"]
    assert (output.manifest["in"], output.manifest["out"]) == (6, 5)


def test_the_newer_version_of_a_standard_stays() -> None:
    old = Document.create("standard", "ts-1-v1790", text(1) + " a longer old text", version="17.9.0")
    new = Document.create("standard", "ts-1-v17100", text(1), version="17.10.0")
    unknown = Document.create("standard", "ts-1-draft", text(1) + " an even longer draft of it")
    assert kept_ids([old, unknown, new]) == {new.id}


def test_the_better_edited_source_stays() -> None:
    items = [Document.create(category, "x", text(1)) for category in ("web", "wiki", "arxiv", "standard")]
    for number in range(4):
        assert kept_ids(items[: number + 1]) == {items[number].id}


def test_two_texts_under_one_id_become_one() -> None:
    items = [Document.create("web", "x", text(1)), Document.create("web", "x", text(2, 400))]
    assert find_copies([sketch(item, SETTINGS) for item in items], SETTINGS) == {0: ("same id", "web_x")}


def test_the_threshold_is_the_similarity_of_shingles() -> None:
    for num_changes in (1, 3, 5, 20, 30, 60):
        pair = [Document.create("web", "a", text(1)), Document.create("web", "b", edited(text(1), num_changes))]
        true = similarity(pair[0].content, pair[1].content)
        if abs(true - SETTINGS.similarity) > 0.1:  # Three standard errors of 128 permutations.
            assert len(kept_ids(pair)) == (1 if true > SETTINGS.similarity else 2), true


bases = st.integers(min_value=0, max_value=5).map(text)
contents = st.one_of(
    bases,
    st.tuples(bases, st.integers(min_value=1, max_value=4)).map(lambda pair: edited(*pair)),
    st.text(max_size=30),
)
corpora = st.lists(st.tuples(st.sampled_from(("web", "wiki", "standard")), contents), max_size=12).map(
    lambda rows: [Document.create(category, str(number), content) for number, (category, content) in enumerate(rows)]
)


@drawn(corpora, st.randoms())
def test_what_stays_does_not_depend_on_the_order(items: list[Document], order: random.Random) -> None:
    shuffled = order.sample(items, len(items))
    assert kept_ids(items) == kept_ids(shuffled)


@drawn(corpora)
def test_doing_it_again_changes_nothing(items: list[Document]) -> None:
    once = kept_ids(items)
    assert kept_ids([item for item in items if item.id in once]) == once


@drawn(corpora)
def test_nothing_goes_but_for_something_that_stays(items: list[Document]) -> None:
    copies = find_copies([sketch(item, SETTINGS) for item in items], SETTINGS)
    stays = {item.id for number, item in enumerate(items) if number not in copies}
    assert {kept for _, kept in copies.values()} <= stays
    assert bool(stays) == bool(items)


def test_different_documents_all_stay() -> None:
    items = [Document.create("web", str(number), text(number)) for number in range(300)]
    assert max(similarity(a.content, b.content) for a, b in combinations(items[:20], 2)) < 0.1
    assert len(kept_ids(items)) == 300


def test_samples_lose_one_of_each_pair_in_the_truth(samples: Any) -> None:
    output = run(deduplicate, samples.recipe, samples.store, documents=samples.cleaned.prefix)
    stays = {item.id for item in documents(output)}
    pairs = [(name, entry["duplicate_of"]) for name, entry in samples.truth.items() if entry["duplicate_of"]]
    assert pairs
    assert all(len({name, other} & stays) == 1 for name, other in pairs)
    assert len(rejects(output)) == len(pairs)
    assert "standard_ts-90103-v1800" in stays


def test_the_output_is_the_same_every_time(tmp_path: Path) -> None:
    recipe = parse("name: d\nmodel: {name: o/m}\nsources: {a: {category: web, path: r}}", folder=tmp_path)
    items = [Document.create("web", str(number), edited(text(number % 7), number)) for number in range(40)]
    contents = []
    for folder in ("one", "two"):
        store = Store.open(str(tmp_path / folder))
        contents.append(run(deduplicate, recipe, store, documents=given(items, recipe, store)).content)
    assert contents[0] == contents[1]
