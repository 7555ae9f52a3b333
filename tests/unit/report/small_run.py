"""A run whose stages do nothing heavy but leave what real stages leave: documents, rejects, logs, scores."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from telellm.benchmark.questions import ChoiceQuestion
from telellm.evaluation.forgetting import add_up_general
from telellm.evaluation.multiple_choice import Choices, add_up_choices, describe_choices, orders_of
from telellm.evaluation.results import row as new_row
from telellm.evaluation.results import write_results
from telellm.execution import execute
from telellm.recipe import Recipe, parse
from telellm.records import Document, Question, Rejected
from telellm.references import list_references
from telellm.report.gather import read_rows
from telellm.stage import Context, Output, stage
from telellm.store import Store

SIZES = {"arxiv": (12, 900), "standard": (14, 700), "wiki": (22, 260), "web": (30, 330)}
RULES = {
    "line-ends": 812,
    "links": 240,
    "bracket-citations": 131,
    "addresses": 88,
    "html-tags": 47,
    "closing-sections": 21,
    "cookie-notices": 9,
}
ASKED = ("id", "statement", "answer", "split", "kind")
KINDS = ("definition", "value", "reason", "procedure", "other")
FACTS = (
    ("What does the cyclic prefix of an OFDM symbol absorb?", "The delayed copies of the symbol before it."),
    (
        "How many HARQ processes may run in parallel on one carrier?",
        "Sixteen, so that the sender need not wait for each acknowledgement.",
    ),
    (
        "Why does the scheduler prefer users whose channel is at a peak?",
        "Because at a peak the same power carries more bits, which raises the cell's throughput.",
    ),
    (
        "What does a handset do when the random access response does not arrive in time?",
        "It waits for a random time and repeats the preamble with more power.",
    ),
    ("What is the role of the <b>E2</b> interface & its agents?", "It lets a controller read and steer the node."),
)
RECIPE = """
name: telecom-small
model: {{name: owner/base-135M}}
sources:
  papers: {{category: arxiv, path: raw, licence: CC0-1.0}}
  standards: {{category: standard, path: raw, licence: CC0-1.0}}
  wikipedia: {{category: wiki, path: raw, licence: CC-BY-SA-4.0}}
  pages: {{category: web, path: raw}}
truth: {truth}
evaluation: {{bootstrap_samples: 400, embedder: owner/embedder}}
"""


@stage(sections=("name",), produces=Document)
def ingest(context: Context, settings: Any) -> Iterator[Document | Rejected]:
    for category, (number, words) in SIZES.items():
        for key in range(number + 6):
            yield Document.create(category, str(key), "the channel fades and the link adapts " * (words // 7))
    yield Rejected({"file": "broken.docx"}, "not a Word file")
    yield Rejected({"file": "web/page-3"}, "other language", "de")
    context.counts["in"] = 98


@stage(sections=("name",), produces=Document)
def clean(context: Context, settings: Any, documents: Output) -> Iterator[Document | Rejected]:
    context.counts.update({f"rule {name}": number for name, number in RULES.items()})
    yield from _without(documents, {"web_35": "too short", "web_34": "too short"})


@stage(sections=("name",), produces=Document)
def screen(context: Context, settings: Any, documents: Output) -> Iterator[Document | Rejected]:
    drops = {f"{category}_{SIZES[category][0] + n}": "not telecom" for category in SIZES for n in range(2)}
    yield from _without(documents, drops | {"web_32": "no telecom keywords", "web_33": "no telecom keywords"})


@stage(sections=("name",), produces=Document)
def deduplicate(context: Context, settings: Any, documents: Output) -> Iterator[Document | Rejected]:
    yield from _without(documents, {"web_1": "near-duplicate", "wiki_2": "near-duplicate", "web_3": "exact copy"})


@stage(sections=("name",), produces=Document)
def decontaminate(context: Context, settings: Any, documents: Output) -> Iterator[Document | Rejected]:
    context.summary["found"] = {"benchmark.jsonl": 2}
    yield from _without(documents, {"web_4": "contaminated"})
    yield Rejected({"id": "web_5", "passage": "the channel fades"}, "contaminated passage")


@stage(sections=("name",), produces=Question)
def tele_eval(context: Context, settings: Any, documents: Output) -> Iterator[Question | Rejected]:
    for number, document in enumerate(documents.records(Document)):
        if number >= 60:
            break
        statement, answer = FACTS[number % len(FACTS)]
        split = "held-out" if number % 5 == 4 else "train"
        yield Question(f"{statement} ({number})", answer, document.id, KINDS[number % 5], answer, split)
    yield Rejected(Question("What?", "That.", "web_7"), "answer too short")


@stage(sections=("name",))
def pack(context: Context, settings: Any, documents: Output) -> None:
    (context.directory / "packed").write_text("")
    tokens = {category: number * words * 4 // 3 for category, (number, words) in SIZES.items()}
    context.summary |= {"tokens": tokens, "replay_tokens": 2400, "headline": "45,120 tokens in 176 sequences"}


def train(context: Context, first: float, last: float, number: int) -> None:
    noise = np.random.default_rng(number).normal(0, 0.05, number)
    losses = last + (first - last) * np.exp(-np.arange(number) / number * 4) + noise
    log = [
        {"step": n + 1, "loss": float(loss), "lr": 1e-4, "grad": 0.8, "tokens": 2048 * (n + 1)}
        for n, loss in enumerate(losses)
    ]
    (context.directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    context.summary |= {"steps": number, "tokens": 2048 * number, "tokens_per_second": 312.5, "device": "cpu"}
    context.summary["headline"] = f"loss {losses[0]:.3f} → {losses[-1]:.3f} in {number} steps"


@stage(sections=("name",))
def pretrain(context: Context, settings: Any, packed: Output) -> None:
    train(context, 3.1, 2.3, 48)


@stage(sections=("name",))
def instruct(context: Context, settings: Any, model: Output) -> None:
    train(context, 2.6, 1.9, 12)


@stage(sections=("name",))
def evaluate(context: Context, settings: Any, questions: Output, model: Output | None = None) -> None:
    role = {"pretrain": "pretrained", "instruct": "instruct"}[model.manifest["stage"]] if model else "base"
    rows = measured(list(questions.records(Question)), role)
    write_scores(context.directory, role, rows)
    context.summary["judge"] = {"model": "owner/judge", "prompt": "judge-1"}
    context.summary["headline"] = f"{len(rows)} questions"


def measured(questions: list[Question], role: str) -> list[dict[str, Any]]:
    """What a model of that role scored: the adapted ones predict better, and the judge cannot tell."""
    common, own = np.random.default_rng(1), np.random.default_rng(len(role))
    gain = {"base": 0.0, "pretrained": 0.55, "instruct": 0.45}[role]
    rows = []
    for number, question in enumerate(questions):
        tokens = 10 + number % 17
        rate = 3.0 + common.normal(0, 0.4) - gain + own.normal(0, 0.15)
        answered = number < 24
        row = new_row("tele-eval", **{name: getattr(question, name) for name in ASKED})
        row |= {"nll": rate * tokens, "tokens": tokens}
        if answered:
            said = f"{question.answer} It is what the {role} model says of <script>alert(1)</script> item {number}."
            row |= {"generated": said, "semscore": float(np.clip(0.5 + gain / 3 + own.normal(0, 0.15), -1, 1))}
            row |= {"judge_probability": 0.5, "judge_verdict": ("yes", "no", "unparseable")[int(own.integers(3))]}
        rows.append(row)
    return rows


def chosen(role: str) -> list[Choices]:
    """What a model of that role chose of a quiz: the instruct model likes the first letter."""
    own = np.random.default_rng(len(role))
    found = []
    for number in range(40):
        options = ("three", "four", "a <b>bold</b> one", "all of the above" if number == 7 else "none")
        question = ChoiceQuestion(f"quiz_{number}", f"Which? ({number})", options, number % 4, number == 7)
        orders = orders_of(question, 0)
        merit = own.normal(0, 1, 4)
        merit[question.answer] += {"base": 0.4, "pretrained": 1.4}.get(role, 1.2)
        scores = [[float(merit[option]) + (3 if role == "instruct" and not place else 0)
                   for place, option in enumerate(order)] for order in orders]  # fmt: skip
        found.append(Choices(question, orders, scores))
    return found


def general(role: str) -> list[dict[str, Any]]:
    """What a model of that role chose of a task of general ability: what is trained forgets."""
    wrong = {"base": 10, "pretrained": 20}.get(role, 16)
    about = {"split": "benchmark", "category": "anatomy"}
    return [
        new_row("forgetting.hellaswag", id=f"h_{n}", statement=f"And then? ({n})", correct=float(n >= wrong), **about)
        for n in range(30)
    ]


def write_scores(folder: Path, role: str, rows: list[dict[str, Any]]) -> None:
    from telellm.evaluation.scores import add_up

    quiz = chosen(role)
    whole = [*rows, *(one.row("quiz") for one in quiz)]
    splits = {split: add_up([row for row in rows if row["split"] == split]) for split in ("train", "held-out")}
    scores = {"name": f"telecom-small-{role}", "role": role, "by_split": splits}
    scores |= {"metrics": add_up(rows) | add_up_choices({"quiz": quiz})}
    about = describe_choices(quiz, 0.95) | {"rows": 43, "skipped": {"no options": 2, "asked before": 1}}
    scores["multiple_choice"] = {"quiz": about}
    ability = general(role)
    scores["metrics"] |= add_up_general(ability)
    skipped = {"no <i>such</i> answer": 2}
    about = {"asked": 30, "few_shot": 5, "chance": 0.25, "score": "acc_norm", "rows": 32, "skipped": skipped}
    scores["forgetting"] = {"hellaswag": about}
    write_results(folder, [*whole, *ability], scores)


def small_recipe(folder: Path, truth: bool = True) -> Recipe:
    """The run's recipe, with a truth folder beside it."""
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, Any]] = {}
    for category, (number, _) in SIZES.items():
        for key in range(number + 6):
            known[f"{category}_{key}"] = {"telecom": key < number, "duplicate_of": None}
    known["web_1"]["duplicate_of"] = "web_0"
    known["wiki_2"]["duplicate_of"] = "wiki_1"
    known["wiki_7"]["duplicate_of"] = "wiki_8"
    (folder / "truth" / "all.json").write_text(json.dumps(known))
    (folder / "truth" / "contaminated.json").write_text(json.dumps(["web_4", "web_5", "web_6"]))
    return parse(RECIPE.format(truth="truth" if truth else "''"), folder=folder)


def make_run(recipe: Recipe, store: Store, run: str) -> dict[str, str]:
    """Run all stages before the report; returns the report's inputs."""
    documents = execute(ingest, recipe, store, run, {})
    for step in (clean, screen, deduplicate, decontaminate):
        documents = execute(step, recipe, store, run, {"documents": documents})
    questions = execute(tele_eval, recipe, store, run, {"documents": documents})
    packed = execute(pack, recipe, store, run, {"documents": documents})
    pretrained = execute(pretrain, recipe, store, run, {"packed": packed})
    tuned = execute(instruct, recipe, store, run, {"model": pretrained})
    models = {"base": "", "pretrained": pretrained, "instruct": tuned}
    return {
        role: execute(evaluate, recipe, store, run, {"questions": questions, "model": model}, label=f"evaluate-{role}")
        for role, model in models.items()
    }


def make_references(store: Store, inputs: dict[str, str]) -> str:
    """Add reference models to a run: one in a folder, which is worse, and one behind an endpoint."""
    base = Output.find(store, inputs["base"])
    places = {}
    for name in ("vendor", "served"):
        rows = read_rows(base)
        scores = json.loads(base.path("scores.json").read_text()) | {"name": name, "role": "reference"}
        scores |= {"model": f"owner/{name}", "endpoint": "", "not_measured": {}}
        if name == "served":
            written = [row for row in rows if row["task"].startswith(("tele-eval", "multiple_choice."))]
            rows = [row | {"nll": None, "tokens": None, "log_likelihoods": None} for row in written]
            scores["endpoint"], scores["not_measured"] = "http://h/v1", {"answer_perplexity": "no log-likelihoods"}
            scores["not_measured"]["literature.terms"] = "no completions"
            scores["usage"] = {"prompt_tokens": 12345, "completion_tokens": 678}
            scores["multiple_choice"]["quiz"]["unreadable"] = 3
            for found in (scores["metrics"], *scores["by_split"].values()):
                for metric in [metric for metric in found if metric.startswith("answer_perplexity")]:
                    del found[metric]
        with TemporaryDirectory() as folder:
            write_results(Path(folder), rows, scores)
            places[name] = f"stages/evaluate/{name}"
            store.commit(places[name], Path(folder), {"stage": "evaluate", "content": name, "out": len(rows)})
    return list_references(store, places)


def _without(documents: Output, drops: dict[str, str]) -> Iterator[Document | Rejected]:
    for document in documents.records(Document):
        reason = drops.get(document.id)
        yield Rejected(document, reason) if reason else document
