"""What is said of arms is what the intervals allow: simulated arms whose truth is known."""

import math

import numpy as np
import pytest

from telellm.evaluation.results import row
from telellm.recipe import Evaluation
from telellm.report.study_arms import Arm, Interval, measure, num_shared, sentence, span_text

SETTINGS = Evaluation(bootstrap_samples=400)


def rows(rates, *, tokens=10, task="tele-eval", split="train", category="web", answer="abcdefghij"):
    """One row a question; `rates` are nats a token."""
    return [
        {"task": task, "id": f"{category}_{number}", "statement": f"{number}?", "split": split, "answer": answer}
        | {
            "nll": float(rate) * tokens,
            "tokens": tokens,
            "bytes": 10,
            "semscore": float(rate) / 10,
            "judge_verdict": None,
        }
        for number, rate in enumerate(rates)
    ]


def arm(name, rates, *seeds, base=4.0, **more):
    """An arm whose model has these rates, and others with more seeds."""
    models = [rows(each, **more) for each in (rates, *seeds)]
    return Arm(name, models, [rows(np.full(len(rates), base), **more)] * len(models))


def simulated(generator, number, effect, noise=0.3):
    """Questions of which some are harder than others, answered by two models that differ by `effect`."""
    hard = generator.normal(2, 0.5, number)
    return hard + generator.normal(0, noise, number), hard + effect + generator.normal(0, noise, number)


def test_an_arm_that_is_worse_on_every_question_is_told_so_and_a_copy_is_not():
    generator = np.random.default_rng(0)
    first, second = simulated(generator, 60, 0.4)
    arms = [arm("full", first), arm("copy", first), arm("lora", second)]
    found = measure(arms, "full", "answer_perplexity.corpus", SETTINGS)
    assert found is not None and (found.n, found.seeds, found.comparisons) == (60, 1, 2)
    assert (found.better("copy"), found.better("lora")) == (None, False)
    assert found.values["full"].value == pytest.approx(math.exp(first.mean()))
    assert found.from_base["full"].value == pytest.approx(math.exp(first.mean()) - math.exp(4))
    seeds = {"full": 1, "copy": 1, "lora": 1}
    assert sentence("copy", "full", found, seeds) == (
        "copy is not distinguishable from full in answer perplexity: difference 0.00 (97.5 % 0.00 … 0.00), n = 60, "
        "1 seed."
    )
    said = sentence("lora", "full", found, seeds)
    assert said.startswith("lora predicts the reference answers worse than full: difference +")
    assert sentence("full", "full", found, seeds).startswith("full is the reference arm: answer perplexity ")


def test_intervals_of_many_comparisons_hold_together():
    """Ten arms that are all alike: taken one by one, some of them seem different far too often."""
    generator = np.random.default_rng(1)
    together = one_by_one = 0
    for _ in range(8):
        hard = generator.normal(2, 0.5, 30)
        arms = [arm(f"a{number}", hard + generator.normal(0, 0.3, 30)) for number in range(10)]
        found = measure(arms, "a0", "semscore.mean", SETTINGS)
        alone = [measure([arms[0], other], "a0", "semscore.mean", SETTINGS) for other in arms[1:]]
        assert found is not None and found.samples > SETTINGS.bootstrap_samples
        together += any(found.better(name) is not None for name in found.from_reference)
        one_by_one += any(
            each is not None and not each.from_reference[other.name].includes_zero
            for each, other in zip(alone, arms[1:], strict=True)
        )
    assert together <= 1 < one_by_one


def test_more_comparisons_make_wider_intervals():
    first, second = simulated(np.random.default_rng(2), 50, 0.1)
    arms = [arm("a", first), arm("b", second)]
    widths = []
    for number in (1, 5, 50):
        found = measure(arms, "a", "semscore.mean", SETTINGS, num_metrics=number)
        assert found is not None and found.comparisons == number
        interval = found.from_reference["b"]
        assert interval.low is not None and interval.high is not None
        widths.append(interval.high - interval.low)
        assert interval.confidence == pytest.approx(1 - 0.05 / number)
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_seeds_that_differ_widen_the_interval_of_their_arm():
    generator = np.random.default_rng(3)
    hard = generator.normal(2, 0.2, 80)
    steady = arm("steady", hard, hard, hard)
    shaky = arm("shaky", hard - 0.4, hard, hard + 0.4)
    found = measure([steady, shaky], "steady", "answer_perplexity.corpus", SETTINGS)
    assert found is not None and found.seeds == 3
    width = {name: each.high - each.low for name, each in found.values.items()}
    assert width["shaky"] > 2 * width["steady"]
    assert found.better("shaky") is None
    one = measure([arm("steady", hard), arm("shaky", hard - 0.4)], "steady", "answer_perplexity.corpus", SETTINGS)
    assert one is not None and one.better("shaky") is True
    assert "3 seeds" in sentence("shaky", "steady", found, {"steady": 3, "shaky": 3})


def test_only_questions_that_every_arm_answered_count():
    first, second = simulated(np.random.default_rng(4), 30, 0.2)
    shorter = Arm("b", [rows(second)[5:]], [rows(np.full(30, 4.0))])
    found = measure([arm("a", first), shorter], "a", "semscore.mean", SETTINGS)
    assert found is not None and found.n == 25
    assert num_shared([arm("a", first), shorter], "general.perplexity") == 0
    assert measure([arm("a", first)], "a", "general.perplexity", SETTINGS) is None


def test_splits_and_categories_are_measured_apart():
    first = np.full(12, 2.0)
    mixed = Arm("a", [[*rows(first, split="held-out"), *rows(first[:4], category="arxiv")]], [[]])
    mixed = Arm("a", mixed.models, mixed.models)
    for chosen, number in (({}, 16), ({"split": "held-out"}, 12), ({"category": "arxiv"}, 4)):
        found = measure([mixed], "a", "semscore.mean", SETTINGS, **chosen)
        assert found is not None and found.n == number


def test_perplexities_of_different_tokenizers_give_way_to_bits_a_byte():
    rates = np.linspace(1, 3, 20)
    arms = [arm("small", rates, tokens=10), arm("large", rates * 10 / 7, tokens=7)]
    found = measure(arms, "small", "answer_perplexity.corpus", SETTINGS)
    assert found is not None and found.metric == "answer.bits_per_byte"
    assert found.from_reference["large"].value == pytest.approx(0)
    assert found.values["small"].value == pytest.approx(rates.mean() / math.log(2))
    assert "bits a byte of the reference answers" in sentence("large", "small", found, {"small": 1, "large": 1})
    alike = measure([arm("a", rates), arm("b", rates)], "a", "answer_perplexity.corpus", SETTINGS)
    assert alike is not None and alike.metric == "answer_perplexity.corpus"
    general = [arm("a", rates, task="general"), arm("b", rates, task="general", tokens=7)]
    found = measure(general, "a", "general.perplexity", SETTINGS)
    assert found is not None and found.metric == "general.bits_per_byte"


@pytest.mark.parametrize(("number", "tells"), [(1, False), (9, False), (10, True)])
def test_few_questions_say_nothing_though_all_go_one_way(number, tells):
    found = measure([arm("a", [2.0] * number), arm("b", [1.0] * number)], "a", "answer_perplexity.corpus", SETTINGS)
    assert found is not None and found.better("b") is (True if tells else None)
    said = sentence("b", "a", found, {"a": 1, "b": 1})
    assert ("cannot be told from a by so few (difference −4.67" in said) is not tells


def test_a_value_that_is_no_number_decides_nothing():
    rates = [2.0, 2.0, 2.0]
    found = measure([arm("a", rates), arm("b", [2.0, math.inf, 2.0])], "a", "answer_perplexity.corpus", SETTINGS)
    assert found is not None and found.better("b") is not True
    assert Interval(1, math.nan, math.nan, 0.95).includes_zero


def test_without_its_reference_an_arm_is_only_described():
    found = measure([arm("b", [1.0, 2.0])], "a", "semscore.mean", SETTINGS)
    assert found is not None and not found.from_reference
    assert sentence("b", "a", found, {"b": 1}).startswith("b has no reference to be compared with: SemScore")
    assert span_text("semscore.mean", found.values["b"], signed=False).startswith("0.150 (95 % 0.1")


def test_documents_are_drawn_with_all_that_is_asked_of_each():
    """Fifty terms of each of four documents, completed alike: they say no more than one of each would."""
    names = ("reference", "other")

    def terms(name: str, num_terms: int) -> Arm:
        asked = [
            row("literature.terms", id=f"web_{document}", statement=f"{document} {number}", correct=float(correct))
            for document, correct in enumerate((1, 0, 0, 1) if name == "other" else (0, 0, 0, 1))
            for number in range(num_terms)
        ]
        return Arm(name, [asked], [asked])

    found = [
        measure([terms(name, number) for name in names], "reference", "literature.terms.exact", SETTINGS)
        for number in (1, 50)
    ]
    assert found[0] is not None and found[0].n == 4 and found[0] == found[1]
    assert found[0].from_reference["other"].value == 0.25 and found[0].better("other") is None
    alone = [Arm(name, [asked[:3]], [asked[:3]]) for name in names for asked in terms(name, 5).models]
    one = measure(alone, "reference", "literature.terms.exact", SETTINGS)
    assert one is not None and one.n == 1 and one.from_reference["other"].low is None
