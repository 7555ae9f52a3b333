import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telellm.recipe import Check, RecipeError
from telellm.records import Document, Question
from telellm.stage import Output
from telellm.store import Store
from telellm.tele_eval.distinct import distinct
from telellm.tele_eval.draft import draft
from telellm.tele_eval.tele_eval import doubts, tele_eval
from tests.language_model_server import Answer, LanguageModelServer, completion
from tests.stages import given, rejects, run
from tests.unit.tele_eval.conftest import recipe
from tests.unit.tele_eval.test_draft import documents, write_item

QUESTIONS = [
    Question(
        f"What is the gain of antenna A{number}?",
        f"It is {number} dBi.",
        f"web_{number}",
        "value",
        f"Evidence {number}",
    )
    for number in range(6)
]
THRESHOLDS = [f"tele_eval.check.{name}_threshold=0.4" for name in ("self_contained", "support", "correct")]
ASKED = {"self-contained": "stands in an exam", "support": "Statement:", "correct": "answer exactly this question"}


def doubt(server: LanguageModelServer, **refused: str) -> None:
    """Let the server say no to some questions, by what it is asked, and be right about the references."""
    said_no = {ASKED[what]: words for what, words in refused.items()}

    def answer(request: dict[str, Any], number: int) -> Answer:
        asked = request["messages"][-1]["content"]
        is_no = any(what in asked and words in asked for what, words in said_no.items())
        yes = 0.1 if is_no else 0.9
        return completion("Yes", [("Yes", yes), ("No", 1 - yes)])

    server.answer = answer


def check(server: LanguageModelServer, store: Store, *changes: str) -> Output:
    made = recipe(server, *changes)
    return run(tele_eval, made, store, questions=given(QUESTIONS, made, store))


def number_asked(server: LanguageModelServer, what: str, word: str = "antenna A") -> int:
    return sum(
        ASKED[what] in request["messages"][-1]["content"]
        and ("dBi" in request["messages"][-1]["content"] or word in request["messages"][-1]["content"])
        for request in server.requests
    )


def test_the_model_is_asked_the_cheapest_first_and_about_what_is_left(
    server: LanguageModelServer, store: Store
) -> None:
    # lean of the references: as all are answered yes, it is taken off, and what is answered alike is at one half
    doubt(server, **{"self-contained": "antenna A1", "support": "It is 2 dBi", "correct": "antenna A3"})
    output = check(server, store, *THRESHOLDS)
    assert [question.id for question in output.records(Question)] == ["web_0", "web_4", "web_5"]
    assert output.manifest["drops"] == {"not self-contained": 1, "not supported": 1, "not correct": 1}
    assert [number_asked(server, what) for what in ASKED] == [6, 5, 4]
    assert output.manifest["counts"]["asked support-2"] == 5
    assert {reject["reason"]: reject["id"] for reject in rejects(output)} == {
        "not self-contained": "web_1",
        "not supported": "web_2",
        "not correct": "web_3",
    }
    assert output.prefix.startswith("tele-eval/q/")
    assert output.manifest["counts"]["completion_tokens"] == 2 * len(server.requests)


def test_a_threshold_of_zero_asks_nothing(server: LanguageModelServer, store: Store) -> None:
    none = [f"tele_eval.check.{name}_threshold=0" for name in ("self_contained", "support", "correct")]
    assert list(check(server, store, *none).records(Question)) == QUESTIONS
    doubt(server, support="It is 2 dBi")
    output = check(server, store, *none, "tele_eval.check.support_threshold=0.4")
    assert output.num_records == 5 and number_asked(server, "support") == 6 and number_asked(server, "correct") == 0


def test_a_set_that_is_there_already_is_not_asked_about(
    server: LanguageModelServer, store: Store, tmp_path: Path
) -> None:
    assert list(check(server, store, f"tele_eval.path={tmp_path}").records(Question)) == QUESTIONS
    assert server.requests == []


def test_each_doubt_has_references_for_yes_and_for_no_as_many_of_both() -> None:
    for one in doubts(Check()):  # type: ignore[call-arg]
        answers = [is_yes for _, is_yes in one.prompt.references]
        assert answers.count(True) == answers.count(False) == 3
        for values, _ in one.prompt.references:
            one.prompt.fill(values)


def test_an_unknown_prompt_is_refused_with_the_known_ones(server: LanguageModelServer, store: Store) -> None:
    with pytest.raises(RecipeError, match="support-2"):
        check(server, store, "tele_eval.check.support_prompt=support-9")


def test_the_night_after_only_what_is_new_is_asked_and_the_set_is_that_of_a_fresh_build(
    server: LanguageModelServer, store: Store, tmp_path: Path
) -> None:
    """Documents come, change and go in a file that is cut in three; one of them has nothing to ask about."""

    def answer(request: dict[str, Any], number: int) -> Answer:
        asked = request["messages"][-1]["content"]
        if any(words in asked for words in ASKED.values()):
            yes = 0.1 if "counter N17 of the gNB count?" in asked else 0.9
            return completion("Yes", [("Yes", yes), ("No", 1 - yes)])
        return completion(write_item(request))

    server.answer = answer
    made = recipe(server, "tele_eval.distinct.embedder=", *THRESHOLDS)

    def build(numbers: list[int], place: Store) -> tuple[list[Output], list[str]]:
        items = [replace(each, id=f"standard_{at}") for at, each in enumerate(documents(1300)) if at in numbers]
        items.insert(40, Document.create("standard", "s040a", "Nothing."))
        server.requests.clear()
        outputs = [run(draft, made, place, documents=given(items, made, place))]
        for step in (distinct, tele_eval):
            outputs.append(run(step, made, place, **{step.inputs[0]: outputs[-1].prefix}))
        found = {name for request in server.requests for name in re.findall(r"counter (N\d+) ", str(request))}
        return outputs, sorted(found)

    first = [number for number in range(300) if number % 50 != 7]
    build(first, store)
    second = [*(number for number in range(300) if number not in (0, 128, 200)), 1200]
    outputs, asked = build(second, store)
    assert asked == sorted(f"N{number}" for number in {1200, *second} - set(first))
    fresh, _ = build(second, Store.open(str(tmp_path / "fresh")))
    for ours, theirs in zip(outputs, fresh, strict=True):
        files = [{n: e["sha256"] for n, e in output.manifest["files"].items()} for output in (ours, theirs)]
        assert files[0] == files[1] and ours.manifest["drops"] == theirs.manifest["drops"]
    assert outputs[1].num_records == 298 and outputs[2].num_records == 297
    assert len(outputs[0].names("data/")) == 3
