"""What the gate lets pass, and what it says of what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telellm.execution import execute
from telellm.recipe import Recipe
from telellm.report.gate import decide
from telellm.report.report import report
from telellm.stage import Output
from telellm.store import Store
from tests.unit.report.small_run import make_run, small_recipe

NIGHT = {"production": "2026-11-01-aa"}


def scored(rate: float, semscore: float | None = 0.5, number: int = 40) -> list[dict[str, Any]]:
    """What was measured of a model on some questions: nats a token, and SemScore."""
    return [
        {
            "task": "tele-eval",
            "id": f"web_{n}",
            "statement": "?",
            "split": "held-out" if n % 4 == 0 else "train",
            "tokens": 10,
        }
        | {"nll": 10 * (rate + 0.02 * (n % 7)), "semscore": semscore, "judge_verdict": None}
        for n in range(number)
    ]


def steps(store: Store, packed: str = "text", scanned: str = "asked", asked: str = "asked") -> dict[str, Output]:
    """The steps that tell what was scanned for which questions, and what was trained on."""

    def output(content: str, found: int = 0, **inputs: str) -> Output:
        manifest = {"content": content, "summary": {"found": {"benchmark": found}} if found else {}}
        return Output(store, "-", manifest | {"inputs": {name: {"content": value} for name, value in inputs.items()}})

    return {
        "decontaminate": output("snapshot", 3),
        "hold-out": output("text", 2, documents="snapshot", questions=scanned),
        "pack": output("packed", documents=packed),
        "evaluate-instruct": output("scores", questions=asked),
    }


Judge = Callable[..., dict[str, Any]]


@pytest.fixture
def judge(recipe_with: Callable[..., Recipe], directory_store: Store) -> Judge:
    """Ask the gate: rates of base, production and candidate; SemScores; changes to the recipe."""

    def ask(
        candidate: float, *changes: str, production: float = 2.0, semscores: Any = (0.5, 0.5, 0.5), **how: Any
    ) -> dict[str, Any]:
        number = how.pop("number", 40)
        night = how.pop("night", NIGHT)
        vendor = how.pop("vendor", None)
        rows = {
            role: scored(rate, semscore, number)
            for role, rate, semscore in zip(
                ("base", "production", "instruct"), (3.0, production, candidate), semscores, strict=True
            )
        }
        if vendor is not None:
            rows["vendor"] = scored(1.0, vendor, number)
        return decide(
            recipe_with("evaluation.bootstrap_samples=200", *changes), rows, steps(directory_store, **how), night
        )

    return ask


def failed(decision: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(c["name"], c.get("against")) for c in decision["criteria"] if not c["passed"]]


def test_a_better_model_passes_with_every_criterion_and_its_figures(judge: Judge) -> None:
    decision = judge(1.5)
    assert decision["promoted"] and not failed(decision)
    assert [c["name"] for c in decision["criteria"]] == ["measured", "gain", "loss", "loss", "contamination"]
    gain = decision["criteria"][1]
    assert gain["against"] == "production" and 0 < gain["low"] < gain["value"] < gain["high"] and gain["n"] == 40
    assert decision["reason"] == gain["said"]
    assert "answer perplexity gains on production: +" in gain["said"] and "95 % interval +" in gain["said"]
    assert decision["criteria"][-1]["said"].endswith("5 passages were found and taken out")
    assert json.loads(json.dumps(decision)) == decision


@pytest.mark.parametrize(("candidate", "passes"), [(1.9, True), (2.0, False), (2.5, False)])
def test_only_a_gain_whose_whole_interval_lies_above_zero_passes(judge: Judge, candidate: float, passes: bool) -> None:
    decision = judge(candidate)
    assert decision["promoted"] is passes
    assert failed(decision) == ([] if passes else [("gain", "production")])


def test_more_than_zero_may_be_asked_for(judge: Judge) -> None:
    gain = judge(1.9)["criteria"][1]["value"]
    assert judge(1.9, f"gate.minimum_gain={gain / 2}")["promoted"]
    refused = judge(1.9, f"gate.minimum_gain={gain * 1.01}")
    assert not refused["promoted"] and "is asked for" in refused["reason"]


def test_a_score_where_more_is_better_gains_upwards(judge: Judge) -> None:
    changes = ("gate.metric=semscore.mean", "gate.losses={answer_perplexity.corpus: 0.1}")
    assert judge(2.0, *changes, semscores=(0.4, 0.5, 0.6))["promoted"]
    assert failed(judge(2.0, *changes, semscores=(0.4, 0.5, 0.5))) == [("gain", "production")]
    assert failed(judge(2.1, *changes, semscores=(0.4, 0.5, 0.6))) == [("loss", "production")]


def test_before_there_is_production_the_base_model_is_to_be_beaten(judge: Judge) -> None:
    decision = judge(2.5, production=3.0, night={"production": None})
    assert decision["promoted"] and decision["against"] == "base" and decision["production"] is None
    assert [c.get("against") for c in decision["criteria"]] == [None, "base", "base", None]
    assert failed(judge(3.1, production=3.0, night={})) == [("gain", "base")]


def test_losses_are_bounded_against_production_and_against_the_base_model(judge: Judge) -> None:
    assert failed(judge(1.5, semscores=(0.5, 0.6, 0.5))) == [("loss", "production")]
    assert failed(judge(1.5, semscores=(0.6, 0.5, 0.5))) == [("loss", "base")]
    assert judge(1.5, "gate.losses={semscore.mean: 0.2}", semscores=(0.6, 0.6, 0.5))["promoted"]
    assert judge(1.5, "gate.losses={}", semscores=(0.9, 0.9, 0.1))["promoted"]


def test_a_score_that_is_missing_refuses_and_is_named(judge: Judge) -> None:
    for semscores in ((0.5, 0.5, None), (0.5, None, 0.5), (None, 0.5, 0.5)):
        decision = judge(1.5, semscores=semscores)
        assert not decision["promoted"] and "a score is missing: SemScore of instruct or" in decision["reason"]
    assert not judge(1.5, "gate.losses={llm_eval.accuracy: 0.1}")["promoted"]


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_what_is_no_number_does_not_pass(judge: Judge, rate: float) -> None:
    assert not judge(rate)["promoted"]
    assert not judge(1.5, production=rate)["promoted"]


def test_too_few_questions_decide_nothing(judge: Judge) -> None:
    assert "too few questions: 12 of at least 30" in judge(1.5, number=12)["reason"]
    assert judge(1.5, "gate.minimum_questions=12", number=12)["promoted"]
    assert "too few questions: 10 of" in judge(1.5, "gate.split=held-out")["reason"]
    assert not judge(1.5, "gate.minimum_questions=2", number=1)["promoted"]


VENDOR = "evaluation.reference_models.vendor=owner/vendor-instruct"
DEMAND = "gate.reference={{name: vendor, metric: semscore.mean, at_least: {}}}"


@pytest.mark.parametrize(
    ("vendor", "at_least", "passes"), [(0.4, 0, True), (0.5, 0, True), (0.6, 0, False), (0.6, -0.2, True)]
)
def test_the_gate_may_ask_that_a_reference_model_is_not_better(
    judge: Judge, vendor: float, at_least: float, passes: bool
) -> None:
    decision = judge(1.5, VENDOR, DEMAND.format(at_least), vendor=vendor)
    assert decision["promoted"] is passes
    assert failed(decision) == ([] if passes else [("reference", "vendor")])
    criterion = next(c for c in decision["criteria"] if c["name"] == "reference")
    assert criterion["low"] <= criterion["value"] <= criterion["high"] and criterion["n"] == 40
    assert criterion["value"] == pytest.approx(0.5 - vendor)
    assert "against vendor, 95 % interval" in criterion["said"]


def test_a_score_that_the_reference_model_lacks_refuses(judge: Judge) -> None:
    decision = judge(1.5, VENDOR, DEMAND.format(0))
    assert failed(decision) == [("reference", "vendor")]
    assert decision["reason"] == "SemScore cannot be compared with vendor"
    assert not judge(1.5, VENDOR, "gate.reference={name: vendor, metric: llm_eval.accuracy}", vendor=0.4)["promoted"]


def test_a_reference_model_is_judged_on_enough_questions(judge: Judge) -> None:
    decision = judge(1.5, VENDOR, DEMAND.format(0), "gate.split=held-out", "gate.minimum_questions=41", vendor=0.4)
    assert ("reference", "vendor") in failed(decision) and "on at least 41 questions" in decision["reason"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"packed": "another"}, "the text that was packed is not the one that was scanned"),
        ({"scanned": "others"}, "the training text was scanned for other questions than those that were asked"),
    ],
)
def test_training_text_that_was_not_scanned_for_these_questions_is_contaminated(
    judge: Judge, how: dict[str, str], said: str
) -> None:
    decision = judge(1.5, **how)
    assert failed(decision) == [("contamination", None)] and decision["reason"] == said


def test_the_decision_is_in_the_report_the_page_and_the_card(tmp_path: Path) -> None:
    recipe, store = small_recipe(tmp_path), Store.open(str(tmp_path / "store"))
    inputs = make_run(recipe, store, "night")
    store.write_json("runs/night/night.json", NIGHT)
    found = Output.find(store, execute(report, recipe, store, "night", inputs | {"production": inputs["pretrained"]}))
    facts = json.loads(found.path("report.json").read_text())
    assert facts["gate"]["promoted"] is False and facts["gate"]["production"] == NIGHT["production"]
    assert facts["models"][-1]["role"] == "production"
    assert {"production"} <= {comparison["baseline"] for comparison in facts["comparisons"]}
    page, card = found.path("report.html").read_text(), found.path("model-card.md").read_text()
    assert 'id="gate"' in page and "stays out of production" in page and "2026-11-01-aa" in page
    assert "## Gate" in card and "- Not passed: the training text was not scanned" in card
    assert any(line.startswith("gate               refused: ") for line in found.summary()["lines"])

    store.write_json("runs/first/night.json", {"production": None})
    again = make_run(recipe, store, "first")
    found = Output.find(store, execute(report, recipe, store, "first", again | {"production": again["base"]}))
    facts = json.loads(found.path("report.json").read_text())
    assert facts["gate"]["against"] == "base" and [m["role"] for m in facts["models"]][-1] == "instruct"
