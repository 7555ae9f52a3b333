import json
from html.parser import HTMLParser
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import yaml

import telellm
from telellm.execution import execute
from telellm.recipe import Recipe, RecipeError
from telellm.report.gather import describe_environment
from telellm.report.questions import PAGE
from telellm.report.report import report
from telellm.stage import Output
from telellm.store import Store
from tests.unit.report.small_run import make_run, small_recipe

Run = tuple[Recipe, Store, dict[str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    recipe, store = small_recipe(folder), Store.open(str(folder / "store"))
    return recipe, store, make_run(recipe, store, "run-1")


@pytest.fixture(scope="module")
def output(finished: Run) -> Output:
    recipe, store, inputs = finished
    return Output.find(store, execute(report, recipe, store, "run-1", inputs))


@pytest.fixture(scope="module")
def facts(output: Output) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.path("report.json").read_text())
    return found


class Page(HTMLParser):
    """Collects what a page refers to, its headings and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_report_has_every_part_that_others_read(facts: dict[str, Any]) -> None:
    assert {"run", "recipe", "environment", "stages", "corpus", "tele_eval", "models", "comparisons", "gate"} <= set(
        facts
    )
    assert [model["role"] for model in facts["models"]] == ["base", "pretrained", "instruct"]
    for model in facts["models"]:
        for metric in (
            "answer_perplexity.corpus",
            "answer_perplexity.question_mean",
            "semscore.mean",
            "llm_eval.accuracy",
            "multiple_choice.quiz.accuracy",
            "forgetting.hellaswag.accuracy",
        ):
            assert set(model["metrics"][metric]) == {"value", "stderr", "n"}
    assert facts["gate"] is None


def test_stages_stand_in_the_order_of_the_pipeline_with_what_they_left_out(facts: dict[str, Any]) -> None:
    names = [stage["name"] for stage in facts["stages"]]
    assert names[:9] == [
        *("ingest", "clean", "screen", "deduplicate", "decontaminate"),
        *("tele-eval", "pack", "pretrain", "instruct"),
    ]
    screen = facts["stages"][2]
    assert screen["drops"] == {"not telecom": 8, "no telecom keywords": 2}
    assert screen["drops_by_category"]["no telecom keywords"] == {"web": 2}
    assert {"seconds", "peak_rss_mib", "in", "out"} <= set(screen)


def test_the_corpus_is_counted_by_category(facts: dict[str, Any]) -> None:
    categories = facts["corpus"]["categories"]
    assert {name: entry["documents"] for name, entry in categories.items()} == {
        "arxiv": 16,
        "standard": 18,
        "wiki": 25,
        "web": 27,
    }
    assert categories["arxiv"]["words"] == 16 * 128 * 7
    assert facts["corpus"]["tokens"] == sum(entry["tokens"] for entry in categories.values())
    assert facts["corpus"]["rules"]["links"] == 240


def test_stages_are_scored_against_the_truth(facts: dict[str, Any]) -> None:
    truth = facts["truth"]
    kept_wrongly = truth["screen"]["wrong"]["kept though not telecom"]
    assert len(kept_wrongly) == truth["screen"]["false"] == 12
    assert truth["screen"]["precision"] == pytest.approx(78 / 90)
    assert truth["screen"]["recall"] == 1
    assert (truth["deduplicate"]["right"], truth["deduplicate"]["n"]) == (2, 3)
    assert truth["deduplicate"]["wrong"] == {
        "removed though no copy": ["web_3"],
        "pairs not found": ["wiki_7 = wiki_8"],
    }
    assert truth["decontaminate"]["recall"] == pytest.approx(2 / 3)


def test_models_are_compared_in_pairs(facts: dict[str, Any], output: Output) -> None:
    pairs = {(entry["baseline"], entry["candidate"]) for entry in facts["comparisons"]}
    assert pairs == {("base", "pretrained"), ("base", "instruct"), ("pretrained", "instruct")}
    assert facts["headline"]["better"] is True
    assert "better than its base" in facts["headline"]["title"]
    assert output.summary()["headline"] == facts["headline"]["sentence"]
    assert output.summary()["scores"]["base.answer_perplexity.corpus"] == pytest.approx(20, abs=3)
    assert any(line.startswith("answer perplexity") and "→ pretrained" in line for line in output.summary()["lines"])


def test_the_page_opens_without_a_network_and_runs_nothing(output: Output) -> None:
    text = output.path("report.html").read_text()
    page = Page(text)
    assert len(text) < 1_000_000
    assert page.references and all(reference.startswith("#") or reference == PAGE for reference in page.references)
    assert PAGE in page.references and PAGE in output.names()
    assert "script" not in page.tags and "&lt;script&gt;alert(1)" in text
    assert page.tags.count("svg") == 6 + 2


def test_every_section_that_the_page_links_to_is_there(output: Output) -> None:
    text = output.path("report.html").read_text()
    assert all(f'id="{reference[1:]}"' in text for reference in Page(text).references if reference != PAGE)


def test_the_model_card_begins_with_its_front_matter(output: Output) -> None:
    card = output.path("model-card.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "owner/base-135M"
    assert front["language"] == ["en"]
    lines = card.splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("| model |"))
    assert lines[table - 1] == "" and lines[table + 1].startswith("|---|")
    assert [line.split("|")[1].strip() for line in lines[table + 2 : table + 5]] == ["base", "pretrained", "instruct"]


def test_a_report_lies_in_its_own_run_and_is_made_again_when_the_recipe_changes(finished: Run, output: Output) -> None:
    recipe, store, inputs = finished
    assert output.prefix == "runs/run-1/report"
    changed = recipe.model_copy(update={"lm": recipe.lm.model_copy(update={"batch_size": 3})})
    execute(report, changed, store, "run-1", inputs)
    again = json.loads(Output.find(store, output.prefix).path("report.json").read_text())
    assert again["recipe"]["lm"]["batch_size"] == 3
    assert execute(report, recipe, store, "run-2", inputs) == "runs/run-2/report"
    execute(report, recipe, store, "run-1", inputs)


def test_a_run_without_truth_training_or_adapted_models_has_a_report(finished: Run, tmp_path: Path) -> None:
    _, store, inputs = finished
    recipe = small_recipe(tmp_path, truth=False)
    found = Output.find(store, execute(report, recipe, store, "run-3", {"base": inputs["base"]}))
    facts = json.loads(found.path("report.json").read_text())
    assert facts["truth"] is None and facts["corpus"] is None and facts["comparisons"] == []
    page = Page(found.path("report.html").read_text())
    assert "svg" not in page.tags and "#training" not in page.references


def test_a_truth_that_is_not_there_is_the_users_mistake(finished: Run) -> None:
    recipe, store, inputs = finished
    with pytest.raises(RecipeError, match="is not a folder"):
        execute(report, recipe.model_copy(update={"truth": "/nowhere/truth"}), store, "run-4", inputs)


def test_general_ability_is_shown_with_what_was_lost(facts: dict[str, Any], output: Output) -> None:
    text = output.path("report.html").read_text()
    assert "General ability</h3>" in text and "acc_norm, 5 examples" in text
    assert "no &lt;i&gt;such&lt;/i&gt; answer 2" in text
    lost = "The pretrained model answers questions of hellaswag rightly less often than the base"
    assert any(found["verdict"].startswith(lost) for found in facts["comparisons"]) and lost in text
    line = next(line for line in output.summary()["lines"] if line.startswith("general ability, hellaswag"))
    assert "base 0.667 → pretrained 0.333 → instruct 0.467" in line and "pretrained − base −0.333" in line
    assert "| general ability, hellaswag |" in output.path("model-card.md").read_text()


def test_multiple_choice_is_shown_with_what_its_accuracy_means(facts: dict[str, Any], output: Output) -> None:
    text = output.path("report.html").read_text()
    assert "Multiple choice" in text and "no options 2" in text and "Noise of the order" in text
    assert "Difference in quiz accuracy" in text
    instruct = facts["models"][2]
    about = instruct["multiple_choice"]["quiz"]
    assert about["chosen_by_place"][0] > 0.8 and about["fixed_order"] == 1
    accuracy, one_order = (instruct["metrics"][f"multiple_choice.quiz.{name}"] for name in ("accuracy", "one_order"))
    assert accuracy["value"] > one_order["value"] + 0.2
    assert any(line.startswith("quiz accuracy") for line in output.summary()["lines"])
    assert "| quiz accuracy |" in output.path("model-card.md").read_text()


def test_the_version_of_telellm_is_known_where_it_is_no_package_as_in_its_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("telellm.report.gather.version", version)
    assert describe_environment()["packages"] == {"telellm": telellm.__version__}
