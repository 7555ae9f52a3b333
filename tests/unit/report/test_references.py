"""What the report says of the models beside those of a run."""

import json
from typing import Any

import pytest

from telellm.execution import execute
from telellm.report.report import report
from telellm.stage import Output
from telellm.store import Store
from tests.unit.report.small_run import make_references, make_run, small_recipe


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    folder = tmp_path_factory.mktemp("run")
    recipe, store = small_recipe(folder), Store.open(str(folder / "store"))
    inputs = make_run(recipe, store, "run-1")
    inputs["references"] = make_references(store, inputs)
    return Output.find(store, execute(report, recipe, store, "run-1", inputs))


@pytest.fixture(scope="module")
def facts(output: Output) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.path("report.json").read_text())
    return found


def test_each_reference_model_has_a_row_by_its_name(facts: dict[str, Any]) -> None:
    assert [(model["role"], model["name"], model["model"]) for model in facts["models"][3:]] == [
        ("reference", "vendor", "owner/vendor"),
        ("reference", "served", "owner/served"),
    ]


def test_the_adapted_model_is_compared_with_each_in_what_both_have(facts: dict[str, Any]) -> None:
    found = {
        (one["baseline"], one["metric"]): one["candidate"]
        for one in facts["comparisons"]
        if one["baseline"] in ("vendor", "served")
    }
    assert set(found.values()) == {"instruct"}
    shared = {"semscore.mean", "llm_eval.accuracy", "multiple_choice.quiz.accuracy"}
    assert {metric for name, metric in found if name == "served"} == shared
    assert {metric for name, metric in found if name == "vendor"} > {*shared, "answer_perplexity.corpus"}


def test_what_cannot_be_measured_is_said_and_not_left_blank(output: Output) -> None:
    page, card = output.path("report.html").read_text(), output.path("model-card.md").read_text()
    said = "Not measurable of served: literature terms: no completions; answer perplexity: no log-likelihoods."
    assert said in page and "served read 12,345 tokens at its endpoint and wrote 678." in page
    assert page.count("<small>not measurable</small>") == 2 * 3  # of all questions, and of each split
    assert "Not measurable of vendor" not in page and "reference: owner/served at http://h/v1" in page
    assert "by the letter that it writes; 3 unreadable" in page and "<b>Reference models</b> are asked" in page
    row = next(line for line in card.splitlines() if line.startswith("| served"))
    assert row.startswith("| served (reference: owner/served) | not measurable | not measurable | 0.")


def test_the_end_of_a_run_names_them_beside_the_runs_models(output: Output) -> None:
    lines = output.summary()["lines"]
    [line] = [line for line in lines if line.startswith("SemScore")]
    assert "→ instruct 0." in line and ", vendor 0." in line and ", served 0." in line
    assert "(instruct − vendor +" in line
    assert {"vendor.semscore.mean", "served.semscore.mean"} <= set(output.summary()["scores"])
