import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from telellm.corpus.decontaminate import decontaminate
from telellm.overlap import Index, split, words_of
from telellm.recipe import Recipe, RecipeError
from telellm.records import Document, Question
from telellm.stage import StageFailed
from telellm.store import Store
from tests.general_data import write_general_data
from tests.stages import documents, given, rejects, run

QUESTION = "Why does a base station send its synchronisation signals on several beams in turn?"
RecipeWith = Callable[..., Recipe]


def prose(seed: int, num_words: int = 40) -> str:
    return " ".join(random.Random(seed).choices([f"term{number}" for number in range(500)], k=num_words))


def index_of(*texts: str) -> Index:
    return Index.build([("test", text) for text in texts], 8)


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark.jsonl"
    path.write_text(json.dumps({"question": QUESTION, "options": ["To save power", "To cover the cell"], "answer": 1}))
    return path


def test_a_passage_goes_and_the_rest_stays(recipe_with: RecipeWith, directory_store: Store, benchmark: Path) -> None:
    recipe = recipe_with(f"corpus.decontaminate.benchmarks=[{benchmark}]")
    leaked = Document.create("web", "a", f"{prose(1)}\n\nQuiz! {QUESTION.upper()}\n\n{prose(2)}")
    fine = Document.create("web", "b", f"{prose(3)}\n\nWhy does a base station send its signals?")
    output = run(decontaminate, recipe, directory_store, documents=given([leaked, fine], recipe, directory_store))
    cleaned, untouched = documents(output)
    assert cleaned.content == f"{prose(1)}\n\n{prose(2)}"
    assert cleaned.fields["passages_removed"] == 1
    assert untouched == fine
    (reject,) = rejects(output)
    assert reject["reason"] == "contaminated passage"
    assert reject["detail"] == "shares 8 words with benchmark.jsonl"
    assert json.loads(reject["item"])["passage"] == f"Quiz! {QUESTION.upper()}"
    assert output.summary()["found"] == {"benchmark.jsonl": 1}
    assert output.prefix.startswith("corpora/small/")


def test_a_document_that_is_mostly_test_questions_goes_whole(
    recipe_with: RecipeWith, directory_store: Store, benchmark: Path
) -> None:
    recipe = recipe_with(f"corpus.decontaminate.benchmarks=[{benchmark}]")
    leaked = Document.create("web", "a", f"{QUESTION}\n\nA few more words.")
    fine = Document.create("web", "b", prose(1))
    output = run(decontaminate, recipe, directory_store, documents=given([leaked, fine], recipe, directory_store))
    assert documents(output) == [fine]
    assert output.manifest["drops"] == {"contaminated passage": 1, "contaminated": 1}


def test_held_out_documents_and_what_repeats_their_questions_go(recipe: Recipe, directory_store: Store) -> None:
    items = [Document.create("wiki", name, prose(number, 80)) for number, name in enumerate("abc")]
    answer = " ".join(items[1].content.split()[10:20])
    items[2] = items[2].with_content(f"{prose(9)}\n\nIt is {answer} indeed.\n\n{prose(8)}")
    questions = [
        Question("What is it?", answer, "wiki_b", split="held-out"),
        Question("What else?", items[0].content[:60], "wiki_a", split="train"),
    ]
    places = {
        "documents": given(items, recipe, directory_store),
        "questions": given(questions, recipe, directory_store),
    }
    output = run(decontaminate, recipe, directory_store, **places)
    assert [document.id for document in documents(output)] == ["wiki_a", "wiki_c"]
    assert documents(output)[1].content == f"{prose(9)}\n\n{prose(8)}"
    assert output.manifest["drops"] == {"held out": 1, "contaminated passage": 1}
    assert output.summary()["held_out_documents"] == 1


def test_what_repeats_the_evidence_of_a_held_out_question_goes_too(recipe: Recipe, directory_store: Store) -> None:
    items = [Document.create("wiki", name, prose(number, 80)) for number, name in enumerate("ab")]
    evidence = " ".join(items[1].content.split()[10:30])
    items[0] = items[0].with_content(f"{prose(9)}\n\nOnce more: {evidence}\n\n{prose(8)}")
    questions = [Question("What is it?", "Said in other words.", "wiki_b", evidence=evidence, split="held-out")]
    places = {
        "documents": given(items, recipe, directory_store),
        "questions": given(questions, recipe, directory_store),
    }
    [left] = documents(run(decontaminate, recipe, directory_store, **places))
    assert left.content == f"{prose(9)}\n\n{prose(8)}"


def test_samples_lose_only_what_the_truth_names(samples: Any) -> None:
    output = run(decontaminate, samples.recipe, samples.store, documents=samples.cleaned.prefix)
    assert {row["id"] for row in rejects(output)} == set(samples.contaminated)
    assert output.summary()["found"].keys() == {"benchmark.jsonl", "general text"}
    whole = {row["id"] for row in rejects(output) if row["reason"] == "contaminated"}
    touched = {item.id for item in documents(output) if "passages_removed" in item.fields}
    assert touched | whole == set(samples.contaminated)
    assert whole == {name for name, known in samples.truth.items() if not known["telecom"]}  # the general text


def test_general_text_is_looked_for_too_where_it_is_measured(
    recipe_with: RecipeWith, directory_store: Store, tmp_path: Path
) -> None:
    (tmp_path / "general").mkdir()
    (tmp_path / "general/a.txt").write_text(prose(1))
    recipe = recipe_with(
        f"evaluation.general.text={tmp_path / 'general'}",
    )
    items = [Document.create("web", str(n), f"{prose(n, 30)}\n\n{prose(n + 10)}\n\n{prose(n + 20)}") for n in range(5)]
    output = run(decontaminate, recipe, directory_store, documents=given(items, recipe, directory_store))
    assert output.summary()["found"] == {"general text": 1}
    recipe = recipe_with("evaluation.metrics=[semscore]", f"evaluation.general.text={tmp_path / 'general'}")
    output = run(decontaminate, recipe, directory_store, documents=given(items, recipe, directory_store))
    assert output.summary()["found"] == {}  # what is not measured is not looked for


def test_a_run_over_two_passages_takes_both() -> None:
    words = prose(1, 16).split()
    index = index_of(" ".join(words))
    text = f"{prose(2)}\n\nSee {' '.join(words[:6])}\n\n{' '.join(words[6:12])} here.\n\n{prose(3)}"
    kept, removed = split(text, index)
    assert kept == f"{prose(2)}\n\n{prose(3)}"
    assert [passage for passage, _ in removed] == [f"See {' '.join(words[:6])}", f"{' '.join(words[6:12])} here."]


def test_of_a_long_passage_only_the_line_goes() -> None:
    rows = [f"| {number} | {prose(number, 20)} |" for number in range(40)]
    kept, removed = split("\n".join(rows), index_of(prose(7, 20)))
    assert kept == "\n".join(rows[:7] + rows[8:])
    assert removed == [(rows[7], "test")]


@pytest.mark.parametrize(
    "variant",
    [
        "WHY DOES A BASE STATION SEND ITS SYNCHRONISATION SIGNALS",
        "why *does* a **base** _station_ send: its synchronisation-signals",
        "Why does a base\nstation send its   synchronisation signals",
        "Why does a base station send its synchronisation ｓｉｇｎａｌｓ",
        "…«Why does a base station send its synchronisation signals»…",
    ],
)
def test_another_way_of_writing_is_found(variant: str) -> None:
    assert split(variant, index_of(QUESTION))[1]


def test_words_in_other_scripts_are_found() -> None:
    text = "Die Übergröße der Straße heißt für uns ein Maß an Güte; ΔΣ und İstanbul kommen vor."
    assert split(text.upper(), index_of(text))[1]
    assert split("Прежде. " + text, index_of(text))[1][0][0].startswith("Прежде")


def test_seven_shared_words_are_no_match() -> None:
    words = QUESTION.split()
    assert not split(" ".join(words[:7]), index_of(QUESTION))[1]
    assert not split(" ".join([*words[:7], "other", *words[7:13]]), index_of(QUESTION))[1]


@drawn(st.lists(st.sampled_from("abcd"), max_size=40), st.lists(st.sampled_from("abcd"), max_size=20))
def test_a_match_is_a_run_of_the_same_words(text: list[str], question: list[str]) -> None:
    index = Index.build([("test", " ".join(question))], 4)
    known = {tuple(question[i : i + 4]) for i in range(len(question) - 3)}
    expected = [i for i in range(len(text) - 3) if tuple(text[i : i + 4]) in known]
    assert [number for number, _ in index.find(text)] == expected


@drawn(st.lists(st.one_of(st.text(max_size=30), st.sampled_from([QUESTION, "\n\n", "\n \n", "\n"])), max_size=12))
def test_words_are_either_kept_or_removed(parts: list[str]) -> None:
    text = "".join(parts)
    index = index_of(QUESTION)
    kept, removed = split(text, index)
    if removed:
        assert sorted(words_of(" ".join([kept, *(passage for passage, _ in removed)]))) == sorted(words_of(text))
    else:
        assert kept == text
    assert not split(kept, index)[1] or removed == []  # What is left holds no run, unless two ends meet.


def test_hashes_are_the_same_in_every_process() -> None:
    code = f"from telellm.overlap import Index; print(Index.build([('a', {QUESTION!r})], 8).hashes.tolist())"
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert outputs == {f"{index_of(QUESTION).hashes.tolist()}\n"}


def test_benchmarks_may_lie_in_a_store(store: Store, recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    question = "Which node of the core network anchors the user plane of every session today"
    store.write("benchmarks/one.jsonl", json.dumps({"question": question}).encode())
    place = given([Document.create("web", "1", f"{question}. And more text.")], recipe_with(), store)
    for benchmark in (f"{store.uri}/benchmarks", f"{store.uri}/benchmarks/one.jsonl"):
        changed = recipe_with(f"corpus.decontaminate.benchmarks=['{benchmark}']", "corpus.decontaminate.ngram_words=8")
        with pytest.raises(StageFailed, match="contaminated"):
            run(decontaminate, changed, store, documents=place)
    with pytest.raises(RecipeError, match=r"nothing: no .json, .jsonl, .parquet or .zip file is there"):
        run(
            decontaminate,
            recipe_with(f"corpus.decontaminate.benchmarks=['{store.uri}/nothing']"),
            store,
            documents=place,
        )


def test_what_general_ability_is_scored_on_is_a_benchmark_too(
    store: Store, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    data = write_general_data(tmp_path / "data")
    for path in data.glob("hellaswag/**/*.parquet"):
        store.upload(f"benchmarks/{path.relative_to(data)}", path)
    changes = (f"evaluation.forgetting=[{{task: hellaswag, path: '{store.uri}/benchmarks/hellaswag'}}]",)
    recipe = recipe_with(*changes, "corpus.decontaminate.ngram_words=8")
    leak = "Rowing: A man sits in a boat. He rows across the lake."
    leaked = Document.create("web", "a", f"{prose(1)}\n\n{leak}\n\n{prose(2)}")
    output = run(decontaminate, recipe, store, documents=given([leaked], recipe, store))
    assert [document.content for document in documents(output)] == [f"{prose(1)}\n\n{prose(2)}"]
    assert output.summary()["found"] == {"hellaswag": 1}


def test_what_multiple_choice_is_scored_on_is_a_benchmark_without_being_named_twice(
    recipe_with: RecipeWith, directory_store: Store, benchmark: Path
) -> None:
    named = recipe_with(f"corpus.decontaminate.benchmarks=[{benchmark}]")
    scored = recipe_with(f"evaluation.multiple_choice=[{{name: quiz, path: {benchmark}}}]")
    leaked = Document.create("web", "a", f"{prose(1)}\n\nQuiz! {QUESTION}\n\n{prose(2)}")
    place = given([leaked], named, directory_store)
    outputs = [run(decontaminate, recipe, directory_store, documents=place) for recipe in (named, scored)]
    assert [document.content for document in documents(outputs[1])] == [f"{prose(1)}\n\n{prose(2)}"]
    assert outputs[0].content == outputs[1].content
    before = outputs[1].prefix
    benchmark.write_text(json.dumps({"question": "Why is another question asked here, with as many words as before?"}))
    after = run(decontaminate, scored, directory_store, documents=place)
    assert after.prefix != before and documents(after) == [leaked]
