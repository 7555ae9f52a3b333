"""A model behind a server that completes text has what the same model has in this process; any other, what it can."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from telellm.benchmark.general_tasks import read_general_task
from telellm.benchmark.questions import ChoiceQuestion, ChoiceQuestions
from telellm.evaluation.endpoint import measure_endpoint, open_endpoint
from telellm.evaluation.literature import Unseen
from telellm.evaluation.local import Asked, Found, measure_local
from telellm.evaluation.passages import Blank, Next
from telellm.evaluation.texts import Text
from telellm.progress import Progress
from telellm.recipe import Evaluation, GeneralTask, ReferenceModel
from telellm.records import Question
from tests.completion_server import TinyServed
from tests.general_data import write_general_data
from tests.language_model_server import LanguageModelServer
from tests.tiny_model import TEXT, make_tiny_model

SETTINGS = Evaluation(metrics=["answer_perplexity", "general", "literature"])
SENTENCES = ("A slot follows it.", "The frame has ten of them in all.")
LIKELIHOODS = {
    *("answer_perplexity", "general", "forgetting.mmlu", "forgetting.hellaswag"),
    *("literature.perplexity", "literature.bits_per_byte", "literature.next_sentence"),
}
"""What rests on them."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    data = write_general_data(tmp_path_factory.mktemp("data"))
    tasks = [
        GeneralTask(task="mmlu", path=str(data / "mmlu"), max_questions=3),
        GeneralTask(task="hellaswag", path=str(data / "hellaswag"), max_questions=2),
        GeneralTask(task="gsm8k", path=str(data / "gsm8k"), few_shot=0),
    ]
    text = Text("web_1", "web", TEXT[0], "held-out")
    unseen = Unseen(
        [text],
        [Blank("web_1", "web", TEXT[0][:40], "neighbour")],
        [Blank("web_1", "web", "It holds that $x =", "y + 1")],
        [Next("web_1", "web", TEXT[0], SENTENCES, 1)],
    )
    return Asked(
        [Question(f"What is cell {number}?", f"The neighbour {number}.", "web_1") for number in range(3)],
        {},
        [Text("a.md", "general", TEXT[1], "general")],
        unseen,
        {task.task: read_general_task(task, 17) for task in tasks},
    )


@pytest.fixture
def server() -> Iterator[LanguageModelServer]:
    running = LanguageModelServer()
    yield running
    running.close()


def empty(asked: Asked) -> Found:
    return Found([{"nll": None, "tokens": None, "generated": None} for _ in asked.questions])


def measure(
    server: LanguageModelServer, asked: Asked, settings: Evaluation = SETTINGS, *, chat: bool = True
) -> tuple[Found, Mapping[str, str]]:
    found = empty(asked)
    client = open_endpoint("served", ReferenceModel(model="tiny", endpoint=server.url))
    lacking = measure_endpoint(client, asked, found, settings, Progress("-", lambda event: None), chat=chat)
    assert client.usage["prompt_tokens"] > 0 and client.usage["completion_tokens"] > 0
    return found, lacking


def by_task(found: Found) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found.others:
        rows.setdefault(row["task"], []).append(row)
    return rows


def test_a_server_that_tells_likelihoods_has_every_score_that_the_model_has_here(
    server: LanguageModelServer, tiny: Path, asked: Asked
) -> None:
    server.answer = TinyServed(tiny).answer
    found, lacking = measure(server, asked)
    here = empty(asked)
    measure_local(str(tiny), "main", asked, here, SETTINGS, chat=False, progress=Progress("-", lambda event: None))
    assert lacking == {} and found.through == {"gsm8k": "completions"}
    for row, same in zip(found.rows, here.rows, strict=True):
        assert (row["nll"], row["tokens"]) == (pytest.approx(same["nll"], rel=1e-4), same["tokens"])
    there, local = by_task(found), by_task(here)
    assert there.keys() == local.keys() and {task: len(rows) for task, rows in there.items()} == {
        task: len(rows) for task, rows in local.items()
    }
    for task in ("forgetting.mmlu", "forgetting.hellaswag", "literature.next_sentence"):
        for row, same in zip(there[task], local[task], strict=True):
            assert row["log_likelihoods"][0] == pytest.approx(same["log_likelihoods"][0], rel=1e-4)
            assert (row["id"], row["correct"]) == (same["id"], same["correct"])
    for task in ("literature.terms", "literature.equations"):
        assert there[task] == local[task]
    for row, same in zip(there["forgetting.gsm8k"], local["forgetting.gsm8k"], strict=True):
        assert row["generated"].startswith(same["generated"][:100]), "the server may write more of it"
    # without a token before it, a text's first one has no likelihood
    assert there["general"][0]["tokens"] == local["general"][0]["tokens"] - 1


def test_a_server_that_completes_and_tells_nothing_has_what_is_written(
    server: LanguageModelServer, tiny: Path, asked: Asked
) -> None:
    server.answer = TinyServed(tiny, echoes=False).answer
    found, lacking = measure(server, asked)
    assert set(lacking) == LIKELIHOODS and len(set(lacking.values())) == 1
    assert set(by_task(found)) == {"forgetting.gsm8k", "literature.terms", "literature.equations"}
    assert found.through == {"gsm8k": "completions"} and all(row["nll"] is None for row in found.rows)


def test_a_server_of_chat_alone_is_asked_for_results_in_chat(
    server: LanguageModelServer, tiny: Path, asked: Asked
) -> None:
    server.answer = TinyServed(tiny, completes=False).answer
    found, lacking = measure(server, asked)
    assert set(lacking) == LIKELIHOODS | {"literature.terms", "literature.equations"}
    assert found.through == {"gsm8k": "chat"} and set(by_task(found)) == {"forgetting.gsm8k"}
    (asked_in_chat, *_) = [request for request in server.requests if "messages" in request]
    (turn,) = asked_in_chat["messages"]
    assert turn["content"] in {question.prompt for question in asked.tasks["gsm8k"].questions}


def test_a_base_model_behind_a_server_completes_the_plain_prompt(
    server: LanguageModelServer, tiny: Path, asked: Asked
) -> None:
    """As a server of a model without a chat template does, which refuses to chat."""
    served = TinyServed(tiny)
    refusal = {"error": {"message": "there is no chat template"}}
    server.answer = lambda request, number: (400, refusal) if "messages" in request else served.answer(request, number)
    quiz = ChoiceQuestions([ChoiceQuestion("q1", "Which cell?", ("one", "two"), 1, False)], Counter(), 1)
    settings = SETTINGS.model_copy(update={"metrics": ["semscore"], "max_answer_tokens": 6})
    told = Asked(asked.questions, {"quiz": quiz})
    found, lacking = measure(server, told, settings, chat=False)
    here = empty(told)
    measure_local(str(tiny), "main", told, here, settings, chat=False, progress=Progress("-", lambda event: None))
    assert lacking == {} and not any("messages" in request for request in server.requests)
    assert [row["generated"] for row in found.rows] == [row["generated"] for row in here.rows]
    assert all(row["generated"] for row in found.rows) and len(found.choices["quiz"][0].orders) == 2


def test_a_task_that_the_server_refuses_is_left_out_and_the_others_are_asked(
    server: LanguageModelServer, tiny: Path, asked: Asked
) -> None:
    """As where its examples are longer than what the server reads."""
    served = TinyServed(tiny)

    def answer(request: dict[str, Any], number: int) -> Any:
        if "Ann has" in request.get("prompt", ""):
            return 400, {"error": {"message": "maximum context length is 64 tokens"}}
        return served.answer(request, number)

    server.answer = answer
    found, lacking = measure(server, asked)
    assert lacking.keys() == {"forgetting.gsm8k"} and "maximum context length" in lacking["forgetting.gsm8k"]
    assert "forgetting.mmlu" in by_task(found)
