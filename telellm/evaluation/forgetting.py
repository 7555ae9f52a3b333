"""Forgetting: what is left of general ability, by tasks of lm-eval whose data lie in a directory.

The prompts are lm-eval's, and so are the scores: the option of greatest log-likelihood, as it is (MMLU) or divided by
the option's length in characters (HellaSwag, ARC), and of GSM8K the number after `####` that a model writes.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from telellm.benchmark.general_rows import GeneralQuestion
from telellm.benchmark.general_tasks import LONGEST_ANSWER, TASKS, GeneralQuestions
from telellm.evaluation.likelihood import Continued, log_likelihoods, longest_input
from telellm.evaluation.literature import complete
from telellm.evaluation.multiple_choice import SPLIT, TIE, share
from telellm.evaluation.results import Row, row
from telellm.evaluation.scores import Score, mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORGETTING = "forgetting"
STOP = ("Question:", "</s>", "<|im_end|>")
"""Where a written answer ends."""
RESULT = re.compile(r"#### (-?[0-9.,]+)")
NO_RESULT = "[invalid]"


def ask_general(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: str,
    asked: GeneralQuestions,
    batch_size: int,
    advance: Callable[[int], None],
) -> list[Row]:
    """Return a row for each question of a task; every model goes on with plain text, whatever template it has."""
    questions = asked.questions
    if not questions[0].options:
        most = min(LONGEST_ANSWER, longest_input(model) // 2)  # the prompt needs room too
        prompts = [question.prompt for question in questions]
        return written_rows(task, questions, complete(model, tokenizer, prompts, most, batch_size, STOP, advance))
    groups = [continued(tokenizer, question, longest_input(model)) for question in questions]
    found = log_likelihoods(model, int(tokenizer.pad_token_id or 0), groups, batch_size, advance)
    return chosen_rows(task, questions, [[score for endings in group for score in endings] for group in found])


def written_rows(task: str, questions: Sequence[GeneralQuestion], texts: Sequence[str]) -> list[Row]:
    """Return a row for each question, given what was written."""
    return [
        _row(task, question, generated=text, correct=judge_result(text, question.solution))
        for question, text in zip(questions, texts, strict=True)
    ]


def chosen_rows(task: str, questions: Sequence[GeneralQuestion], found: Sequence[list[float]]) -> list[Row]:
    """Return a row for each question, given the log-likelihood of each of its endings (nats)."""
    rows = []
    for question, scores in zip(questions, found, strict=True):
        sizes = [len(option) if TASKS[task].by_length else 1 for option in question.options]
        rates = [score / size for score, size in zip(scores, sizes, strict=True)]
        likelihoods = {"orders": [list(range(len(scores)))], "log_likelihoods": [scores]}
        correct = share(rates, question.answer, TIE / max(sizes))
        rows.append(_row(task, question, options=list(question.options), correct=correct, **likelihoods))
    return rows


def continued(tokenizer: "PreTrainedTokenizerBase", question: GeneralQuestion, longest: int) -> list[Continued]:
    """Return a question's prompt with its endings as tokens, encoded and cut as lm-eval does.

    Blanks at the prompt's end belong to the ending; both are encoded together, and what comes after as many tokens as
    the prompt has is the ending. Of what is too long for the model, the beginning is left out.
    """
    text = question.prompt.rstrip()
    before: list[int] = tokenizer(text)["input_ids"]
    wholes: list[list[int]] = tokenizer([f"{question.prompt}{ending}" for ending in question.endings])["input_ids"]
    endings = [tokens[len(before) :] or tokens[-1:] for tokens in wholes]
    endings = [ending[-longest:] for ending in endings]
    if len(before) + max(map(len, endings)) <= longest + 1:
        return [Continued(before, endings)]
    return [Continued(before[-(longest + 1 - len(ending)) :], [ending]) for ending in endings]


def judge_result(text: str, solution: str) -> float:
    """Return whether the first number after `####` in a text is that of the solution: lm-eval's strict match."""
    found = RESULT.search(text)
    return float(_plain(found[1] if found else NO_RESULT) == _plain(solution))


def _plain(result: str) -> str:
    """Return a result without what stands before `####`, thousands' commas, dollar signs and a final full stop."""
    result = re.sub(r"(?s).*#### ", "", re.sub(r"[,$]", "", result.strip()))
    return re.sub(r"\.$", "", result).lower()


def add_up_general(rows: Sequence[Row]) -> dict[str, Score]:
    """Return the accuracy of each task."""
    by_task: dict[str, list[float]] = {}
    for one in rows:
        if one["task"].startswith(f"{FORGETTING}."):
            by_task.setdefault(one["task"], []).append(one["correct"])
    return {f"{task}.accuracy": mean(np.array(correct)) for task, correct in by_task.items()}


def describe_general(asked: Mapping[str, GeneralQuestions], metrics: Container[str]) -> dict[str, dict[str, Any]]:
    """Return what helps to read the accuracy of each task that has one: chance, examples, rows that ask nothing."""
    return {
        task: {
            "asked": len(found.questions),
            "few_shot": found.few_shot,
            "chance": float(np.mean([1 / len(one.options) if one.options else 0 for one in found.questions])),
            "score": "strict match" if not found.questions[0].options else _score(task),
            "rows": found.num_rows,
            "skipped": dict(found.skipped.most_common()),
        }
        for task, found in asked.items()
        if f"{FORGETTING}.{task}.accuracy" in metrics
    }


def _score(task: str) -> str:
    return "acc_norm" if TASKS[task].by_length else "acc"


def _row(task: str, question: GeneralQuestion, **measured: Any) -> Row:
    return row(
        f"{FORGETTING}.{task}",
        id=question.id,
        statement=question.statement,
        answer=question.right,
        split=SPLIT,
        category=question.subject or None,
        **measured,
    )
