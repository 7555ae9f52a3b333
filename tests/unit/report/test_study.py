"""The report of a study: a table, plots and a sentence for each arm, from what its trials left."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from telellm.recipe import parse
from telellm.report.study import curves
from telellm.runs import run_stage, show_study
from telellm.stage import Output
from telellm.store import Store
from telellm.studies import work
from tests.unit.studies.conftest import bodies  # noqa: F401
from tests.unit.studies.small_study import RECIPE, Bodies, begin, go


@pytest.fixture
def made(bodies: Bodies, tmp_path: Path) -> tuple[Store, str, Mapping[str, Any], str]:  # noqa: F811
    """A finished study: store, place of its report, study.json, study.html."""
    store, address, documents, questions = begin(tmp_path)
    go(address, documents, questions)
    place = run_stage("study", address, trials=work.list_trials(address))
    report = Output.find(store, place)
    facts = json.loads(report.path("study.json").read_text())
    return store, place, facts, report.path("study.html").read_text()


def arm(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    (found,) = [arm for arm in facts["arms"] if arm["name"] == name]
    return dict(found)


def test_each_arm_has_a_sentence_that_its_interval_bears_out(made: tuple[Any, ...]) -> None:
    store, place, facts, _ = made
    assert place == "runs/s/report"
    assert facts["reference"] == "small-full-all" == facts["arms"][0]["name"]
    assert arm(facts, "small-lora-all")["sentence"].startswith(
        "small-lora-all predicts the reference answers worse than small-full-all: difference +"
    )
    assert "in general text, bits a byte better" in arm(facts, "small-lora-all")["sentence"]
    measured = facts["metrics"]["answer_perplexity.corpus"]
    assert measured["comparisons"] == 14
    for name, interval in measured["from_reference"].items():
        said, sentence = interval["low"] <= 0 <= interval["high"], arm(facts, name)["sentence"]
        assert said == ("is not distinguishable from" in sentence), sentence
        assert interval["low"] <= interval["value"] <= interval["high"]
    summary = Output.find(store, place).summary()
    assert summary["lines"][1:] == [each["sentence"] for each in facts["arms"]]
    assert summary["scores"]["small-full-all.answer_perplexity.corpus"] == pytest.approx(
        measured["values"]["small-full-all"]["value"]
    )


def test_models_of_two_tokenizers_are_compared_by_byte(made: tuple[Any, ...]) -> None:
    _, _, facts, page = made
    assert facts["metrics"]["answer_perplexity.corpus"]["metric"] == "answer.bits_per_byte"
    assert facts["metrics"]["general.perplexity"]["metric"] == "general.bits_per_byte"
    assert "tokenizers differ" in page
    measured = facts["metrics"]["answer_perplexity.corpus"]["from_reference"]
    assert measured["large-full-all"]["value"] == pytest.approx(0)


def test_costs_are_measured_and_what_is_shared_is_counted_once(made: tuple[Any, ...]) -> None:
    _, _, facts, _ = made
    cost = arm(facts, "small-lora-half")["cost"]
    assert cost["processor_hours"] == pytest.approx(36 * 2 / 3600) and cost["gpu_hours"] == 0
    assert cost["tokens"] == 400
    assert facts["cost"]["tokens"] == 8 * 400
    of_all = sum(each["cost"]["evaluation_hours"] for each in facts["arms"])
    assert 0 < facts["cost"]["evaluation_hours"] < of_all, "two base models, not eight"


def test_arms_that_differ_in_one_number_alone_are_joined(made: tuple[Any, ...]) -> None:
    _, _, facts, _ = made
    (found,) = facts["curves"]
    assert found["field"] == "training.pack.share" and len(found["lines"]) == 4
    for line in found["lines"]:
        assert [point["x"] for point in line["points"]] == [0.5, 1]
        assert len({point["arm"].rpartition("-")[0] for point in line["points"]}) == 1
    text = RECIPE.partition("study:")[0] + (
        "study: {arms: {full: [], r8: [training.pretrain.method=lora, training.lora.rank=8], "
        "r64: [training.pretrain.method=lora, training.lora.rank=64]}}"
    )
    (ranks,) = curves(parse(text), ["full", "r8", "r64"])
    assert [point["arm"] for point in ranks["lines"][0]["points"]] == ["r8", "r64"]


def test_questions_of_each_category_are_compared_too(made: tuple[Any, ...]) -> None:
    _, _, facts, page = made
    assert {name: each["n"] for name, each in facts["categories"].items()} == {"wiki": 12, "web": 12}
    assert "By category" in page


def test_literature_is_compared_like_any_other_metric(bodies: Bodies, tmp_path: Path) -> None:  # noqa: F811
    recipe = RECIPE.replace("[answer_perplexity, general]", "[answer_perplexity, general, literature]")
    recipe += "  metrics: [literature.perplexity, literature.perplexity.wiki, literature.terms.exact]\n"
    store, address, documents, questions = begin(tmp_path, recipe)
    go(address, documents, questions)
    report = Output.find(store, run_stage("study", address, trials=work.list_trials(address)))
    facts, page = json.loads(report.path("study.json").read_text()), report.path("study.html").read_text()
    assert facts["missing"] == ["literature.terms.exact"] and "literature.terms.exact</p>" in page.replace(
        ".</p>", "</p>"
    )
    # the arms' tokenizers differ, so bits a byte are compared, of each category too
    measured = facts["metrics"]["literature.perplexity.wiki"]
    assert (measured["metric"], measured["n"]) == ("literature.bits_per_byte.wiki", 12)
    assert measured["comparisons"] == 4 * 7, "the intervals of all four metrics hold together"
    of_lora = measured["from_reference"]["small-lora-all"]
    assert 0 < of_lora["low"] <= of_lora["value"] <= of_lora["high"]
    assert measured["from_base"]["small-full-all"]["high"] < 0
    assert facts["metrics"]["literature.perplexity"]["n"] == 24
    others = page[page.index("Other measures") : page.index("Gain against forgetting")]
    assert "literature, bits a byte, wiki" in others and others.count("small-lora-all") == 2


def test_the_page_has_its_drawings_and_needs_no_network(made: tuple[Any, ...]) -> None:
    _, _, facts, page = made
    labels = re.findall(r'aria-label="([^"]+)"', page)
    assert labels[0] == "Gain against forgetting" and "Training loss" in labels
    assert sum(label.startswith("Differences in") for label in labels) == 2
    assert any(label.endswith("over training.pack.share") for label in labels)
    assert not re.search(r'(?:src|href)="http|@import|url\(', page)
    assert all(each["name"] in page for each in facts["arms"])
    assert "nan" not in re.findall(r'(?:cx|cy|x1|y1|points)="[^"]*nan', page)


def test_kubeflow_is_shown_the_page_and_every_arms_score(made: tuple[Any, ...], tmp_path: Path) -> None:
    store, place, _, page = made
    scores = show_study(f"{store.uri}/runs/s", place, str(tmp_path / "out" / "page.html"))
    assert (tmp_path / "out" / "page.html").read_text() == page
    assert "large-lora-half.general.perplexity" in scores


def test_a_study_of_which_nothing_came_to_its_end_has_a_report_that_says_so(tmp_path: Path) -> None:
    store, address, _, _ = begin(tmp_path)
    place = run_stage("study", address, trials=work.list_trials(address))
    facts = json.loads(Output.find(store, place).path("study.json").read_text())
    assert facts["headline"].startswith("No arm was measured in answer_perplexity.corpus. Not every trial came to")
    assert arm(facts, "small-full-all")["sentence"] == "small-full-all-17 was cut off; run the study again."
