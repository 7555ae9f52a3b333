import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telellm.evaluation.evaluate import evaluate
from telellm.evaluation.literature import (
    choose_next,
    complete,
    edit_distance,
    held_out_documents,
    judge_equation,
    judge_term,
    mean_by_document,
    plain_latex,
    read_unseen,
)
from telellm.evaluation.passages import Next
from telellm.execution import execute
from telellm.lm.models import load_model, load_tokenizer
from telellm.recipe import Recipe, parse
from telellm.records import Document, Question, Rejected
from telellm.stage import Context, Output, stage
from telellm.store import Store
from tests.tiny_model import TEXT, make_tiny_model
from tests.unit.evaluation.test_passages import PAPER, topic

RECIPE = """
name: small
model: {{name: {model}}}
sources: {{one: {{category: web, path: raw}}}}
evaluation: {{metrics: [answer_perplexity, literature], literature: {{max_characters: 300, max_sentences: 5}}}}
"""


@stage(sections=("name",), produces=Question)
def tele_eval(context: Context, settings: Any) -> Iterator[Question]:
    for number in range(3):
        yield Question(f"What is {number}?", f"The number {number}.", f"web_{number}")


@stage(sections=("name",), produces=Document)
def hold_out(context: Context, settings: Any) -> Iterator[Document | Rejected]:
    yield topic("trained")
    for document in (PAPER, topic("cell"), topic("beam")):
        yield Rejected(document, "held out")
    yield Rejected(topic("leak"), "contaminated")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def recipe(tiny: Path) -> Recipe:
    return parse(RECIPE.format(model=tiny))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("store")))


def test_literature_is_of_the_documents_that_were_held_out_alone(recipe: Recipe, store: Store) -> None:
    output = Output.find(store, execute(hold_out, recipe, store, "run-1", {}))
    assert {document.id for document in held_out_documents(output)} == {"arxiv_a", "web_cell", "web_beam"}
    unseen = read_unseen(output, recipe.evaluation.literature, 17)
    assert {text.id for text in unseen.texts} == {"arxiv_a", "web_cell", "web_beam"}
    assert len(unseen) == 3 + 3 + 2 + 5
    assert (
        unseen
        == read_unseen(output, recipe.evaluation.literature, 17)
        != read_unseen(output, recipe.evaluation.literature, 18)
    )


def test_every_task_has_its_scores_and_its_rows(recipe: Recipe, store: Store) -> None:
    inputs = {
        "questions": execute(tele_eval, recipe, store, "run-1", {}),
        "held_out": execute(hold_out, recipe, store, "run-1", {}),
    }
    output = Output.find(store, execute(evaluate, recipe, store, "run-1", inputs))
    metrics = json.loads(output.path("scores.json").read_text())["metrics"]
    assert {name for name in metrics if name.startswith("literature.")} == {
        "literature.perplexity",
        "literature.perplexity.arxiv",
        "literature.perplexity.web",
        "literature.bits_per_byte",
        "literature.bits_per_byte.arxiv",
        "literature.bits_per_byte.web",
        "literature.terms.exact",
        "literature.terms.edit_distance",
        "literature.equations.exact",
        "literature.equations.edit_distance",
    } | ({"literature.next_sentence.accuracy"} & metrics.keys())
    assert (metrics["literature.perplexity"]["n"], metrics["literature.perplexity.web"]["n"]) == (3, 2)
    assert (metrics["literature.terms.exact"]["n"], metrics["literature.equations.exact"]["n"]) == (3, 2)
    rows = parquet.read_table(output.path("questions.parquet")).to_pylist()
    blanks = [row for row in rows if row["task"] in ("literature.terms", "literature.equations")]
    assert all(row["generated"] is not None and 0 <= row["edit_distance"] <= 1 for row in blanks)
    assert {row["split"] for row in rows if row["task"].startswith("literature")} == {"held-out"}
    without = Output.find(store, execute(evaluate, recipe, store, "run-1", {"questions": inputs["questions"]}))
    assert not [name for name in without.summary()["scores"] if name.startswith("literature")]


def test_the_error_of_what_documents_have_several_of_is_that_over_documents() -> None:
    alike = [{"id": f"web_{document}", "correct": float(document)} for document in (0, 1) for _ in range(50)]
    score = mean_by_document(alike, "correct")
    assert (score["value"], score["n"]) == (0.5, 100) and score["stderr"] == pytest.approx(0.5)
    assert mean_by_document(alike[:50], "correct")["stderr"] is None, "one document alone"
    apart = [row | {"id": f"web_{number}"} for number, row in enumerate(alike)]
    assert mean_by_document(apart, "correct")["stderr"] == pytest.approx(0.05, rel=0.02)


def test_a_completion_is_the_likeliest_token_at_each_step_whatever_it_is_asked_with(tiny: Path) -> None:
    model, tokenizer = load_model(str(tiny)), load_tokenizer(str(tiny))
    texts = [TEXT[0], TEXT[1][:20], "A slot"]
    together = complete(model, tokenizer, texts, 5, 3, (), lambda number: None)
    assert together == complete(model, tokenizer, texts, 5, 1, (), lambda number: None)
    ids = torch.tensor([tokenizer(texts[2])["input_ids"]])
    for _ in range(5):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        if ids[0, -1] == tokenizer.eos_token_id:
            break
    assert together[2] == tokenizer.decode(ids[0, -5:], skip_special_tokens=True).strip()


def test_the_next_sentence_is_the_likeliest_a_byte(tiny: Path) -> None:
    model, tokenizer = load_model(str(tiny)), load_tokenizer(str(tiny))
    asked = Next("web_a", "web", TEXT[0], ("A slot follows it.", "The frame has ten of them in all."), 1)
    (row,) = choose_next(model, tokenizer, [asked], 4, lambda number: None)
    rates = [score / len(text) for score, text in zip(row["log_likelihoods"][0], row["options"], strict=True)]
    assert row["correct"] == float(rates[1] > rates[0]) and row["answer"] == asked.options[1]
    tokens = tokenizer(TEXT[0])["input_ids"]
    ending = tokenizer(" A slot follows it.", add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([tokens + ending])).logits.detach()[0].log_softmax(-1)
    expected = sum(float(logits[len(tokens) - 1 + at, token]) for at, token in enumerate(ending))
    assert row["log_likelihoods"][0][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "exact", "distance"),
    [("HARQ process", 1, 0.0), ("harq, then", 1, 0.0), ("HARQs", 0, 0.2), ("(HARC)", 0, 0.25), ("", 0, 1.0)],
)
def test_a_term_is_exact_where_the_completion_begins_with_it(text: str, exact: int, distance: float) -> None:
    assert judge_term(text, "HARQ") == (exact, pytest.approx(distance))


def test_equations_are_compared_without_what_changes_only_how_they_look() -> None:
    assert plain_latex(r"B \log_{2} \left( 1 + x \right)\, .") == r"B\log_2(1+x)"
    assert judge_equation(r"k\,T\,B.", "k T B") == (1.0, 0.0)
    assert judge_equation(r"\leftarrow x", r"\rightarrow x")[0] == 0.0
    exact, distance = judge_equation("k T", "k T B")
    assert exact == 0.0 and distance == pytest.approx(1 / 3)


@given(st.text(max_size=30), st.text(max_size=30))
def test_edit_distance_is_a_distance(first: str, second: str) -> None:
    distance = edit_distance(first, second)
    assert 0 <= distance <= 1 and (distance == 0) == (first == second)
    assert distance == edit_distance(second, first)
    assert edit_distance("kitten", "sitting") == pytest.approx(3 / 7)
