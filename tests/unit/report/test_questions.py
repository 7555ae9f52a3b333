from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from telellm.recipe import LanguageModel, Recipe, parse
from telellm.records import Question
from telellm.report.questions import asking_cost, describe_questions, draw, memory_and_transfer, render_page
from telellm.stage import Output
from telellm.store import Store
from tests.stages import given

HOSTILE = '</p><script>alert(1)</script><img src=http://tracker.example/x.png onerror=alert(2)> & "quoted"'


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def recipe() -> Recipe:
    return parse("name: q\nmodel: {name: owner/model}\nsources: {one: {category: web, path: raw}}\n")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def output_of(questions: list[Question], recipe: Recipe, store: Store) -> Output:
    return Output.find(store, given(questions, recipe, store))


def questions(number: int) -> list[Question]:
    splits = ["train", "train", "held-out"]
    return [
        Question(f"What is N{n}?", f"It is {n}.", f"web_{n}", "value", f"Evidence {n}.", splits[n % 3], "5.1 Names")
        for n in range(number)
    ]


def test_the_page_shows_200_questions_with_evidence_drawn_by_the_seed(recipe: Recipe, store: Store) -> None:
    output = output_of(questions(500), recipe, store)
    page = Page(render_page(output, recipe, "monday"))
    assert page.tags.count("article") == 200 == page.text.count("Evidence ")
    assert "200 of the 500 questions" in page.text and "5.1 Names" in page.text and "held-out" in page.text
    assert draw(output, 17) == draw(output, 17) != draw(output, 18)
    assert len({question.id for question in draw(output, 17)}) == 200


def test_whatever_is_in_a_question_is_text_on_the_page(recipe: Recipe, store: Store) -> None:
    one = Question(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE * 1000, HOSTILE, HOSTILE)
    text = render_page(output_of([one], recipe, store), recipe, HOSTILE)
    page = Page(text)
    assert "script" not in page.tags and "img" not in page.tags
    assert page.references == ["report.html"]
    assert len(text) < 20_000


def test_the_page_has_fewer_questions_where_they_are_very_long(recipe: Recipe, store: Store) -> None:
    long = [Question(f"What is N{n}?", "word " * 2_000, f"web_{n}", evidence="said " * 2_000) for n in range(200)]
    text = render_page(output_of(long, recipe, store), recipe, "monday")
    page = Page(text)
    assert 60 < page.tags.count("article") < 80 and len(text) < 1_200_000
    assert f"{page.tags.count('article')} of the 200 questions" in page.text


def step(**manifest: Any) -> dict[str, Any]:
    return {"out": 0, "drops": {}, "counts": {}} | manifest


def test_the_figures_say_what_was_kept_and_what_every_step_left_out(recipe: Recipe, store: Store) -> None:
    final = output_of(questions(6), recipe, store)
    made = {
        "draft": Output(store, "a", step(out=20, drops={"unparseable": 80}, counts={"requests": 30, "drafts": 100})),
        "distinct": Output(store, "b", step(out=15, drops={"asked before": 5})),
        "tele-eval": Output(store, final.prefix, dict(final.manifest) | {"drops": {"not supported": 9}}),
    }
    found = describe_questions(made, recipe)
    assert found is not None
    assert (found["questions"], found["drafts"], found["kept_share"]) == (6, 100, 0.06)
    assert found["drops"] == {"unparseable": 80, "not supported": 9, "asked before": 5}
    assert [(made["name"], made["out"]) for made in found["steps"]] == [
        ("draft", 20),
        ("distinct", 15),
        ("tele-eval", 6),
    ]
    assert found["documents"] == {"train": 4, "held-out": 2}
    assert {question["split"] for question in found["examples"]} == {"train", "held-out"}
    assert describe_questions({}, recipe) is None


def test_the_cost_is_that_of_the_tokens_at_the_prices_of_the_recipe() -> None:
    manifests = [
        step(counts={"requests": 30, "prompt_tokens": 2_000_000, "completion_tokens": 500_000}),
        step(counts={"asked support-2": 12, "prompt_tokens": 1_000_000, "completion_tokens": 12}),
    ]
    free = asking_cost(manifests, LanguageModel())  # type: ignore[call-arg]
    assert free == {"requests": 42, "tokens_in": 3_000_000, "tokens_out": 500_012, "cost": None}
    paid = asking_cost(manifests, LanguageModel(price_in=0.5, price_out=2))  # type: ignore[call-arg]
    assert paid["cost"] == pytest.approx(0.5 * 3 + 2 * 0.500012)


def test_memory_and_transfer_stand_side_by_side() -> None:
    def found(split: str, metric: str, baseline: str = "base") -> dict[str, Any]:
        return {"split": split, "metric": metric, "baseline": baseline, "candidate": "pretrained", "better": None}

    by_split = [found("held-out", "semscore.mean"), found("train", "semscore.mean"), found("train", "other")]
    [row] = memory_and_transfer([*by_split, found("train", "semscore.mean", "pretrained")], {"semscore.mean"})
    assert row["train"]["split"] == "train" and row["held-out"]["split"] == "held-out"
