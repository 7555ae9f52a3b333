from typing import Any

import pytest

from telellm.recipe import Evaluation
from telellm.report.bootstrap import Difference
from telellm.report.compare import compare_models, verdict

SETTINGS = Evaluation.model_validate({"bootstrap_samples": 300})


def row(number: int, nll: float | None = 10.0, verdict: str | None = None, split: str = "train") -> dict[str, Any]:
    base = {"id": f"web_{number}", "statement": "Why?", "split": split, "semscore": None, "judge_verdict": verdict}
    return base | {"task": "tele-eval", "nll": nll, "tokens": 5}


def test_a_verdict_says_better_only_where_the_interval_excludes_zero() -> None:
    lower = Difference(-2.0, -3.0, -1.0, 1.0, 40)
    open_one = Difference(-2.0, -4.5, 0.5, 0.9, 40)
    said = verdict("answer_perplexity.corpus", "base", "pretrained", lower, 0.95)
    assert "pretrained model predicts the reference answers better than the base" in said
    assert "95 % interval −3.00 … −1.00, n = 40" in said
    assert verdict("answer_perplexity.corpus", "base", "pretrained", open_one, 0.95).startswith("No difference")
    assert "farther from the reference" in verdict("semscore.mean", "base", "instruct", lower, 0.95)


def test_few_questions_say_nothing_even_where_all_of_them_go_the_same_way() -> None:
    base, better = [row(n) for n in range(10)], [row(n, nll=9.0 - n / 10) for n in range(10)]
    few = compare_models({"base": base[:9], "pretrained": better[:9]}, SETTINGS)[0]
    assert few["high"] < 0 and few["better"] is None
    assert few["verdict"].startswith(
        "Too few are compared to tell pretrained and base model apart (answer perplexity −"
    )
    enough = compare_models({"base": base, "pretrained": better}, SETTINGS)[0]
    assert enough["better"] is True and enough["n"] == 10


def test_only_questions_that_both_models_answered_are_compared() -> None:
    base = [row(n, verdict="yes") for n in range(6)]
    instruct = [row(n, nll=8.0, verdict="no" if n < 4 else "unparseable") for n in range(1, 9)]
    found = {entry["metric"]: entry for entry in compare_models({"base": base, "instruct": instruct}, SETTINGS)}
    assert found["answer_perplexity.corpus"]["n"] == 5
    assert found["llm_eval.accuracy"]["n"] == 3
    assert found["llm_eval.accuracy"]["difference"] == -1
    assert "semscore.mean" not in found


def test_the_splits_are_compared_apart() -> None:
    base = [row(n, split="held-out" if n % 2 else "train") for n in range(22)]
    better = [row(n, nll=5.0 if n % 2 else 10.0, split="held-out" if n % 2 else "train") for n in range(22)]
    rows = {"base": base, "pretrained": better}
    assert compare_models(rows, SETTINGS, "held-out")[0]["better"] is True
    assert compare_models(rows, SETTINGS, "train")[0]["better"] is None


def test_a_benchmark_is_compared_over_its_own_questions() -> None:
    def chose(number: int, correct: float, benchmark: str = "quiz") -> dict[str, Any]:
        row = {"id": f"{benchmark}_{number}", "statement": "Which?", "split": "benchmark"}
        return row | {"task": f"multiple_choice.{benchmark}", "correct": correct}

    rows = {
        "base": [row(1), *(chose(number, 0.0) for number in range(17)), chose(1, 1.0, "other-quiz")],
        "pretrained": [
            row(1),
            *(chose(number, float(number > 3)) for number in range(16)),
            chose(1, 1.0, "other-quiz"),
        ],
    }
    found = {entry["metric"]: entry for entry in compare_models(rows, SETTINGS)}
    quiz = found["multiple_choice.quiz.accuracy"]
    assert (quiz["n"], quiz["difference"], quiz["better"]) == (16, 0.75, True)
    assert (
        "pretrained model chooses the right option of quiz more often than the base (quiz accuracy +0.750"
        in (quiz["verdict"])
    )
    assert found["multiple_choice.other-quiz.accuracy"]["n"] == 1
    assert not [entry for entry in compare_models(rows, SETTINGS, "train") if "choice" in entry["metric"]]


def test_general_ability_is_compared_over_the_questions_of_its_task() -> None:
    def answered(number: int, correct: float, task: str = "gsm8k") -> dict[str, Any]:
        row = {"id": f"{task}_{number}", "statement": "How many?", "split": "benchmark"}
        return row | {"task": f"forgetting.{task}", "correct": correct}

    rows = {
        "base": [row(1), *(answered(number, float(number > 3)) for number in range(18)), answered(1, 1.0, "mmlu")],
        "pretrained": [row(1), *(answered(number, 0.0) for number in range(18)), answered(1, 1.0, "mmlu")],
    }
    found = {entry["metric"]: entry for entry in compare_models(rows, SETTINGS)}
    lost = found["forgetting.gsm8k.accuracy"]
    assert (lost["n"], lost["better"]) == (18, False) and lost["difference"] == pytest.approx(-7 / 9)
    assert (
        "answers questions of gsm8k rightly less often than the base (general ability, gsm8k −0.778" in lost["verdict"]
    )
    assert found["forgetting.mmlu.accuracy"]["n"] == 1
