import time
from collections.abc import Iterator
from typing import Any

import pytest

from telellm.lm import endpoint
from telellm.lm.endpoint import choice_of_first_tokens
from telellm.stage import StageFailed
from tests.language_model_server import Answer, LanguageModelServer, completion


def test_answers_come_in_the_order_of_the_prompts_and_tokens_are_counted(server: LanguageModelServer) -> None:
    def echo(request: dict[str, Any], number: int) -> Answer:
        time.sleep(0.05 if number % 2 else 0)
        return completion(f" {request['messages'][-1]['content']}! ")

    server.answer = echo
    model = server.model()
    prompts = [f"prompt {number}" for number in range(9)]
    assert model.generate(prompts, 5) == [f"{prompt}!" for prompt in prompts]
    assert model.usage == {"prompt_tokens": 63, "completion_tokens": 18}


def test_a_request_carries_system_examples_stop_and_no_chance(server: LanguageModelServer) -> None:
    server.model().generate(["ask"], 5, system="rule", examples=[("a", "b")], stop=["\n"])
    [request] = server.requests
    assert [(m["role"], m["content"]) for m in request["messages"]] == [
        ("system", "rule"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "ask"),
    ]
    assert (request["temperature"], request["max_tokens"], request["stop"]) == (0, 5, ["\n"])


def test_the_key_comes_from_the_environment(server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-test")
    server.model().generate(["ask"], 5)
    assert server.keys == ["Bearer secret-of-the-test"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_broken_server_is_asked_again(server: LanguageModelServer, status: int) -> None:
    server.answer = lambda request, number: (
        (status, {"error": {"message": "later"}}) if number < 4 else completion("now")
    )
    assert server.model().generate(["ask"], 5) == ["now"]
    assert len(server.requests) == 4


def test_a_server_that_stays_broken_fails_the_stage_with_its_address(server: LanguageModelServer) -> None:
    server.answer = lambda request, number: (500, {"error": {"message": "out of memory"}})
    with pytest.raises(StageFailed, match="out of memory") as failure:
        server.model().generate(["ask"], 5)
    assert server.url in str(failure.value)


def test_a_server_that_does_not_answer_in_time_fails_the_stage(
    server: LanguageModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 2)

    def sleep(request: dict[str, Any], number: int) -> Answer:
        time.sleep(0.4)
        return completion("late")

    server.answer = sleep
    with pytest.raises(StageFailed, match=r"no answer within 0\.1 s") as failure:
        server.model(timeout_seconds=0.1).generate(["ask"], 5)
    assert "lm.timeout_seconds" in str(failure.value)


def test_a_server_that_is_not_there_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ATTEMPTS", 2)
    server = LanguageModelServer()
    server.close()
    with pytest.raises(StageFailed, match="cannot be reached") as failure:
        server.model().generate(["ask"], 5)
    assert server.url in str(failure.value) and "lm.endpoint" in str(failure.value)


@pytest.mark.parametrize(("status", "remedy"), [(401, "OPENAI_API_KEY"), (404, "/v1/models")])
def test_a_refusal_says_what_to_do_and_is_not_repeated(server: LanguageModelServer, status: int, remedy: str) -> None:
    server.answer = lambda request, number: (status, {"error": {"message": "no"}})
    with pytest.raises(StageFailed, match=remedy):
        server.model().generate(["ask"], 5)
    assert len(server.requests) == 1


def test_no_more_requests_are_in_flight_than_allowed(server: LanguageModelServer) -> None:
    def slow(request: dict[str, Any], number: int) -> Answer:
        time.sleep(0.03)
        return completion("fine")

    server.answer = slow
    server.model(max_concurrency=3).generate(["ask"] * 15, 5)
    assert server.most_busy == 3


def test_options_get_the_probability_of_the_tokens_they_begin_with(server: LanguageModelServer) -> None:
    server.answer = lambda request, number: completion("Yes", [("Yes", 0.6), (" yes", 0.1), ("No", 0.2), ("The", 0.05)])
    [choice] = server.model().choose(["ask"], ["Yes", "No"])
    assert choice["Yes"] == pytest.approx(0.7 / 0.9)
    assert choice.mass == pytest.approx(0.9)
    assert server.requests[0]["logprobs"] is True


def test_a_server_without_logprobs_is_a_clear_error(server: LanguageModelServer) -> None:
    server.answer = lambda request, number: completion("Yes")
    with pytest.raises(StageFailed, match="no log-probabilities") as failure:
        server.model().choose(["ask"], ["Yes", "No"])
    assert server.url in str(failure.value)


def test_an_option_among_no_tokens_gets_no_more_than_is_left() -> None:
    choice = choice_of_first_tokens([("Yes", 0.9), ("Sure", 0.06)], ["Yes", "No"])
    assert choice["No"] == pytest.approx(0.04 / 0.94)
    assert choice.mass == pytest.approx(0.9)


def test_a_token_that_begins_two_options_counts_for_neither() -> None:
    choice = choice_of_first_tokens([("N", 0.5), ("Yes", 0.3)], ["Never", "No", "Yes"])
    assert choice["Never"] == choice["No"] < choice["Yes"]
    assert choice.mass == pytest.approx(0.3)


def test_answers_are_yielded_in_order_while_few_prompts_are_taken_ahead(server: LanguageModelServer) -> None:
    def echo(request: dict[str, Any], number: int) -> Answer:
        time.sleep(0.02 if number % 3 else 0)
        return completion(request["messages"][-1]["content"])

    server.answer = echo
    taken: list[str] = []

    def prompts() -> Iterator[str]:
        for number in range(200):
            taken.append(f"prompt {number}")
            yield taken[-1]

    answers = server.model(max_concurrency=4).generate_each(prompts(), 5)
    assert [next(answers) for _ in range(10)] == [f"prompt {number}" for number in range(10)]
    assert len(taken) <= 10 + endpoint.AHEAD * 4
    assert list(answers) == [f"prompt {number}" for number in range(10, 200)]
    assert server.most_busy == 4


def test_one_slow_answer_does_not_keep_the_others_from_being_asked(server: LanguageModelServer) -> None:
    asked_meanwhile = []

    def slow_first(request: dict[str, Any], number: int) -> Answer:
        if request["messages"][-1]["content"] == "0":
            time.sleep(0.3)
            asked_meanwhile.append(number_of_requests())
        return completion("fine")

    def number_of_requests() -> int:
        return len(server.requests)

    server.answer = slow_first
    assert list(server.model(max_concurrency=4).generate_each(map(str, range(40)), 5)) == ["fine"] * 40
    assert asked_meanwhile[0] >= endpoint.AHEAD * 4


def test_the_first_refusal_ends_the_requests_that_wait_behind_it(server: LanguageModelServer) -> None:
    def refuse(request: dict[str, Any], number: int) -> Answer:
        if request["messages"][-1]["content"] == "1":
            return 401, {"error": {"message": "no"}}
        time.sleep(0.2)
        return completion("fine")

    server.answer = refuse
    began = time.monotonic()
    with pytest.raises(StageFailed, match="OPENAI_API_KEY"):
        list(server.model(max_concurrency=2).generate_each(map(str, range(500)), 5))
    assert len(server.requests) < 20 and time.monotonic() - began < 20


def test_whoever_stops_listening_stops_the_requests(server: LanguageModelServer) -> None:
    answers = server.model(max_concurrency=2).generate_each(map(str, range(500)), 5)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    asked = len(server.requests)
    time.sleep(0.2)
    assert len(server.requests) <= asked + 2


@pytest.mark.parametrize("logprob", [float("nan"), float("inf"), 1000.0, "x", None, [1]])
def test_a_log_probability_that_is_none_fails_the_stage(server: LanguageModelServer, logprob: Any) -> None:
    content = [{"top_logprobs": [{"token": "yes", "logprob": logprob}]}]
    server.answer = lambda request, number: (200, {"choices": [{"logprobs": {"content": content}}]})
    with pytest.raises(StageFailed, match="not an answer of an OpenAI-compatible server"):
        server.model().choose(["ask"], ["yes", "no"])


@pytest.mark.parametrize("usage", [{"prompt_tokens": float("inf")}, {"prompt_tokens": "many"}, "prompt_tokens"])
def test_a_usage_that_is_none_fails_the_stage(server: LanguageModelServer, usage: Any) -> None:
    status, answer = completion("fine")
    assert isinstance(answer, dict)
    server.answer = lambda request, number: (status, answer | {"usage": usage})
    with pytest.raises(StageFailed, match="not an answer of an OpenAI-compatible server"):
        server.model().generate(["ask"], 5)


@pytest.mark.parametrize("places", [[], [0], [0, 0], [0, 2], [1, 2], [0, 1, 2]])
def test_embeddings_of_another_number_of_texts_fail_the_stage(server: LanguageModelServer, places: list[int]) -> None:
    data = [{"index": place, "embedding": [1.0]} for place in places]
    server.answer = lambda request, number: (200, {"data": data})
    with pytest.raises(StageFailed, match="not an answer of an OpenAI-compatible server"):
        list(server.model().embed([["a", "b"]]))
