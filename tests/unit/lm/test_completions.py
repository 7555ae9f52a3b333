"""Plain text is completed and read by a server that does it; one that does not is told from one that fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from telellm.lm.completions import NO_LIKELIHOODS, CompletionModel, NotOffered
from telellm.recipe import LanguageModel
from telellm.stage import StageFailed
from tests.completion_server import TinyServed
from tests.language_model_server import LanguageModelServer
from tests.tiny_model import TEXT, make_tiny_model


@pytest.fixture
def server() -> Iterator[LanguageModelServer]:
    running = LanguageModelServer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def client(server: LanguageModelServer) -> CompletionModel:
    return CompletionModel(LanguageModel.model_validate({"endpoint": server.url}), "served", "the.section")


def test_an_ending_has_the_likelihood_of_its_own_tokens(server: LanguageModelServer, tiny: Path) -> None:
    served = TinyServed(tiny)
    server.answer = served.answer
    model = client(server)
    assert model.no_completions == model.no_likelihoods == ""
    before, endings = TEXT[0][:30], [TEXT[0][30:60], " z"]
    (found, (whole,)) = model.log_likelihoods([(before, endings), ("", [TEXT[1]])])
    for ending, (nll, tokens) in zip(endings, found, strict=True):
        ids = served.tokenizer(before + ending)["input_ids"]
        begin = len(served.tokenizer(before)["input_ids"])
        rates = served.model(torch.tensor([ids])).logits.detach()[0].log_softmax(-1)
        expected = -sum(float(rates[at - 1, ids[at]]) for at in range(begin, len(ids)))
        assert (nll, tokens) == (pytest.approx(expected, rel=1e-4), len(ids) - begin)
    assert whole[1] == len(served.tokenizer(TEXT[1])["input_ids"]) - 1, "the first token has no likelihood"
    assert model.usage["prompt_tokens"] > 0


def test_a_completion_ends_before_what_ends_it(server: LanguageModelServer) -> None:
    server.answer = lambda request, number: (200, {"choices": [{"text": " 7 pens.\n\nQuestion: more"}], "usage": {}})
    assert list(client(server).complete_each(["Answer:"], 9, stop=["Question:"])) == ["7 pens."]
    assert server.requests[0]["stop"] == ["Question:"] and server.requests[0]["temperature"] == 0


def test_a_server_that_ignores_echo_gives_no_likelihoods(server: LanguageModelServer, tiny: Path) -> None:
    server.answer = TinyServed(tiny, echoes=False).answer
    model = client(server)
    assert (model.no_completions, model.no_likelihoods) == ("", NO_LIKELIHOODS)
    with pytest.raises(NotOffered):
        list(model.log_likelihoods([("a", [" b"])]))


def test_what_a_server_refuses_is_told_in_its_words_once(server: LanguageModelServer) -> None:
    server.answer = lambda request, number: (400, {"error": {"message": "echo is not supported"}})
    model = client(server)
    assert "echo and logprobs" in model.no_likelihoods and "echo is not supported" in model.no_likelihoods
    assert "completes no plain text" in model.no_completions
    asked = len(server.requests)
    assert model.no_likelihoods and model.no_completions and len(server.requests) == asked == 2


def test_a_server_that_refuses_the_key_has_failed(server: LanguageModelServer) -> None:
    server.answer = lambda request, number: (401, {"error": {"message": "no"}})
    with pytest.raises(StageFailed, match="the server refuses the key") as failed:
        client(server).no_likelihoods  # noqa: B018
    assert not isinstance(failed.value, NotOffered)


@pytest.mark.parametrize(
    ("number", "scores"),
    [(2, [None, float("nan")]), (2, [None, 5.0]), (2, [None, "x"]), (0, []), (-1, [None, -1.0]), (2, {"a": 1})],
)
def test_a_likelihood_that_is_none_fails_the_stage(server: LanguageModelServer, number: int, scores: object) -> None:
    answer = {"choices": [{"text": "", "logprobs": {"token_logprobs": scores}}], "usage": {"prompt_tokens": number}}
    server.answer = lambda request, count: (200, answer)
    model = CompletionModel(server.model().settings, "served")
    with pytest.raises(StageFailed, match="not an answer of an OpenAI-compatible server"):
        list(model.log_likelihoods([("", [" a cell"])]))
