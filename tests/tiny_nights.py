"""Nights whose stages are tiny but real: documents in a folder, a model that knows those that it read."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from telellm.execution import execute
from telellm.nights import first_model, is_new, learnt_text, production_model, settle, start_night
from telellm.progress import Progress
from telellm.recipe import Recipe
from telellm.records import Document, Question, Rejected
from telellm.report.gate import decide
from telellm.report.gather import finished_steps, read_rows
from telellm.runs import open_run
from telellm.stage import Context, Output, Stage, stage
from telellm.training.news import choose_news

MODEL_BYTES = 20_000
BASE_RATE = 3.0
"""Nats a token that the base model needs for every answer."""


def files_of(recipe: Recipe) -> dict[str, str]:
    """The raw files and their digests."""
    folder = Path(recipe.sources["one"].path)
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@stage(sections=("sources",), produces=Document, identity=files_of)
def ingest(context: Context, settings: Any) -> Iterator[Document]:
    rows = [{"source": "one", "file": name, "digest": digest} for name, digest in files_of(context.recipe).items()]
    (context.directory / "raw").mkdir()
    (context.directory / "raw" / "one-0000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        text = (Path(context.recipe.sources["one"].path) / row["file"]).read_text()
        yield Document.create("web", row["file"], text)


def _place(recipe: Recipe, key: str, inputs: Mapping[str, Output | None]) -> str:
    return f"stages/decontaminate/{key}" if inputs.get("questions") else f"corpora/{recipe.name}/{key}"


@stage(sections=("corpus.decontaminate",), produces=Document, place=_place)
def decontaminate(
    context: Context, settings: Any, documents: Output, questions: Output | None = None
) -> Iterator[Document | Rejected]:
    yield from documents.records(Document)
    context.summary["found"] = {}


@stage(sections=("tele_eval",), produces=Question, place=lambda recipe, key, inputs: f"tele-eval/{recipe.name}/{key}")
def tele_eval(context: Context, settings: Any, documents: Output) -> Iterator[Question]:
    for document in documents.records(Document):
        yield Question(f"What does {document.id} say?", document.content, document.id)


@stage(sections=("training.pack", "nightly"), place=lambda recipe, key, inputs: f"packed/{key}")
def pack(context: Context, settings: Any, documents: Output, learnt: Output | None = None) -> None:
    texts = {document.id: document.content for document in documents.records(Document)}
    if learnt is not None:
        nightly = context.recipe.nightly
        chosen = choose_news(documents, learnt, None, nightly.old_share, context.recipe.seed).chosen
        texts = {name: text for name, text in texts.items() if name in chosen}
    (context.directory / "data.json").write_text(json.dumps(texts))


@stage(sections=("training.pretrain",))
def pretrain(context: Context, settings: Any, packed: Output, model: Output | None = None) -> None:
    """The model knows what it read, some nights well and some nights badly, and all else that it knew before."""
    texts = json.loads(packed.path("data.json").read_text())
    known = json.loads((model.folder("model") / "known.json").read_text()) if model else {}
    context.store.write(f"{context.scratch('pretrain')}/step-1/half", packed.content.encode())
    luck = int(packed.content[:4], 16) % 100
    skill = 0.1 if luck < 15 else 1 + luck / 200
    known |= {name: [text, skill] for name, text in texts.items()}
    _save(context, known)


@stage(sections=("training.instruct",))
def instruct(context: Context, settings: Any, model: Output) -> None:
    _save(context, json.loads((model.folder("model") / "known.json").read_text()))


def _save(context: Context, known: Mapping[str, Any]) -> None:
    (context.directory / "model").mkdir()
    # of one size, as weights are, however much it knows
    (context.directory / "model" / "known.json").write_text(json.dumps(known).ljust(MODEL_BYTES))


@stage(sections=("evaluation",))
def evaluate(context: Context, settings: Any, questions: Output, model: Output | None = None) -> None:
    known = json.loads((model.folder("model") / "known.json").read_text()) if model else {}
    rows = []
    for number, question in enumerate(questions.records(Question)):
        text, skill = known.get(question.id, ["", 0])
        rate = BASE_RATE - (skill if text == question.answer else skill / 3) + 0.01 * (number % 3)
        row = {name: getattr(question, name) for name in ("id", "statement", "answer", "split", "kind")}
        row["task"] = "tele-eval"
        rows.append(row | {"nll": 10 * rate, "tokens": 10, "semscore": 0.5, "judge_verdict": None, "generated": None})
    parquet.write_table(pyarrow.Table.from_pylist(rows), context.directory / "questions.parquet")


@stage(sections=("evaluation", "gate"), place=lambda recipe, key, inputs: "runs/<run>/report")
def report(
    context: Context, settings: Any, base: Output, pretrained: Output, instruct: Output, production: Output
) -> None:
    """The real gate, and a report with nothing else."""
    outputs = {"base": base, "pretrained": pretrained, "instruct": instruct, "production": production}
    rows = {role: read_rows(output) for role, output in outputs.items()}
    night = context.store.read_json(f"runs/{context.run}/night.json") or {}
    gate = decide(context.recipe, rows, finished_steps(context.store, context.run), night)
    (context.directory / "report.json").write_text(json.dumps({"gate": gate, "environment": {}}))
    for name in ("report.html", "model-card.md"):
        (context.directory / name).write_text("-")
    context.summary["scores"] = {"instruct.answer_perplexity.corpus": 1.0}


def step(stage: Stage, run: str, label: str = "", **inputs: str) -> str:
    store, name, recipe = open_run(run)
    progress = Progress(label or stage.name, lambda event: None)
    return execute(stage, recipe, store, name, inputs, label=label, progress=progress)


def corpus(run: str) -> str:
    return step(decontaminate, run, documents=step(ingest, run))


def adapt(run: str, documents: str) -> str:
    """The steps of `pipelines/adapt.py`, gated."""
    questions = step(tele_eval, run, documents=documents)
    text = step(decontaminate, run, "hold-out", documents=documents, questions=questions)
    packed = step(pack, run, documents=text, learnt=learnt_text(run))
    models = {"base": "", "pretrained": step(pretrain, run, packed=packed, model=first_model(run))}
    models["instruct"] = step(instruct, run, model=models["pretrained"])
    models["production"] = production_model(run)
    scores = {
        role: step(evaluate, run, f"evaluate-{role}", questions=questions, model=model)
        for role, model in models.items()
    }
    return step(report, run, **scores)


def night(recipe: str, store: str, now: datetime, name: str = "") -> str:
    """The steps of `pipelines/nightly.py`; returns what became of the night."""
    run = start_night(recipe, store, name, now=now)
    documents = corpus(run)
    if not is_new(run, documents):
        return "nothing new"
    return settle(run, documents, adapt(run, documents), now)
