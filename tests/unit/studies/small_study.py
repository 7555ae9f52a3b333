"""A study whose stages are the real ones in all but what they do: that is counted, and takes no time."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from telellm.evaluation.results import row, write_results
from telellm.recipe import parse
from telellm.records import Document, Question
from telellm.runs import start_run
from telellm.stage import Context, Output
from telellm.store import Store
from telellm.studies import work
from tests.stages import given

NUM_QUESTIONS = 24
RECIPE = """
name: small
model: {name: owner/small}
sources: {one: {category: web, path: /raw}}
evaluation: {metrics: [answer_perplexity, general], bootstrap_samples: 200}
training: {instruct: {method: none}}
study:
  factors:
    model: {small: [], large: [model.name=owner/large]}
    method: {full: [], lora: [training.pretrain.method=lora]}
    share: {all: [], half: [training.pack.share=0.5]}
"""


class Bodies:
    """What stands in for the stages' work; says how often each was done, and fails where a test wants it."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.trouble: Callable[[str, Context], None] = lambda stage, context: None

    def run(self, stage: str, context: Context, inputs: Mapping[str, Output | None]) -> None:
        self.trouble(stage, context)
        self.done[stage] += 1
        recipe = context.recipe
        if stage == "evaluate":
            self._evaluate(context, inputs.get("model"), inputs.get("held_out"))
            return
        folder = context.directory / ("data" if stage == "pack" else "model")
        folder.mkdir()
        about = {"pack": recipe.training.pack, "pretrain": recipe.training.pretrain}.get(stage, recipe.training)
        source = [output.content for output in inputs.values() if output]
        (folder / "what.json").write_text(json.dumps([recipe.model.name, about.model_dump(mode="json"), source]))
        if stage == "pretrain":
            lines = [{"step": n, "loss": 3 - n / 10, "lr": 1e-4, "grad": 1.0, "tokens": 100 * n} for n in range(1, 5)]
            (context.directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            about_it = {"steps": 4, "tokens": 400, "seconds": 36.0, "processes": 2, "threads": 1, "device": "CPU"}
            context.summary |= about_it | {"parameters": 1000, "trained_parameters": 1000}

    def _evaluate(self, context: Context, model: Output | None, held_out: Output | None) -> None:
        """Of 3 nats a token, full training spares 1 and low-rank updates 0.6; half the data, three quarters of it.

        Of literature, where what was held out is given, it spares half as much.
        """
        recipe = context.recipe
        gain = 0.0
        if model is not None:
            gain = 1.0 if recipe.training.pretrain.method == "full" else 0.6
            gain *= 0.5 + recipe.training.pack.share / 2
        tokens = 8 if recipe.model.name == "owner/large" else 10
        rows = [
            row(
                task,
                id=f"{'wiki' if number % 2 else 'web'}_{number}",
                statement=f"{task} {number}?",
                answer="the cell is handed over",
                split="train",
                nll=10 * (3 + 0.05 * (number % 7) - gain * sign),
                tokens=tokens,
                bytes=23,
                category="wiki" if number % 2 else "web",
            )
            for task, sign in (("tele-eval", 1), ("general", -0.2), *((("literature", 0.5),) if held_out else ()))
            for number in range(NUM_QUESTIONS)
        ]
        score = {"answer_perplexity.corpus": {"value": 12.5, "stderr": 0.5, "n": NUM_QUESTIONS}}
        write_results(context.directory, rows, {"name": "x", "role": "base", "metrics": score, "by_split": {}})


def begin(folder: Path, recipe: str = RECIPE) -> tuple[Store, str, str, str]:
    """Start a study on a few documents; returns store, address of the run, and places of documents and questions."""
    store = Store.open(str(folder / "store"))
    address = start_run(recipe, store.uri, "s")
    settled = parse(recipe)
    documents = given([Document.create("web", "a", "The cell is handed over.")], settled, store)
    questions = given([Question("What is handed over?", "The cell.", "web_1")], settled, store)
    work.begin_study(address)
    return store, address, documents, questions


def go(address: str, documents: str, questions: str) -> list[str]:
    """Prepare and run all groups one after another, as on one machine."""
    return [work.run_trials(group) for group in work.prepare_trials(address, documents, questions)]
