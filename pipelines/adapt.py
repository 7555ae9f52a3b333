"""Adapt: from documents to a model that knows telecommunications, and a report that says how much better."""

from typing import Any

from kfp import dsl

from pipelines import components as stages
from pipelines.corpus import make_corpus
from pipelines.tele_eval import ask


def adapt_model(run: Any, documents: Any, *, gated: bool = False) -> Any:
    """Ask, train, evaluate and report on a snapshot; `gated`: with the model in production, which the gate may replace.

    The steps stand in the pipeline itself: a pipeline within one costs a pod more.
    """
    questions = ask(run, documents)
    index = stages.index(run=run, documents=documents).output
    training_text = stages.hold_out(run=run, documents=documents, questions=questions)
    unseen = training_text.output  # what was left out of it
    packed = stages.pack(run=run, documents=training_text.output)
    pretrained = stages.pretrain(run=run, packed=packed.output)
    instruct = stages.instruct(run=run, model=pretrained.output)
    scores = {
        role: stages.evaluate(run=run, role=role, questions=questions, held_out=unseen, index=index, **model)
        for role, model in {
            "base": {},
            "pretrained": {"model": pretrained.output},
            "instruct": {"model": instruct.output},
        }.items()
    }
    beside = stages.evaluate_references(run=run, questions=questions, held_out=unseen, index=index).output
    production = ""
    if gated:
        production = stages.evaluate_production(run=run, questions=questions, held_out=unseen, index=index).output
    scored = {role: task.output for role, task in scores.items()}
    return stages.report(run=run, **scored, production=production, references=beside).outputs["Output"]


@dsl.pipeline(
    name="adapt", description="Documents → Tele-Data, Tele-Eval, a pretrained and an instruct model, a report."
)
def adapt(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> str:
    """Adapt the base model; what is already there is not made again.

    Args:
        recipe: The recipe, as text (YAML).
        store: Where everything lies: s3://bucket/prefix; with telellm run also file:///folder.
        name: Name of the run; the same name goes on where it stopped. Empty: the recipe's name.
        model: Base model (s3://bucket/folder or hub name) in place of the recipe's; empty: the recipe's.
        changes: Other changes to the recipe, one a line, such as training.pretrain.method=lora.
    """
    run = stages.start(recipe=recipe, store=store, name=name, model=model, changes=changes)
    documents = make_corpus(run=run.output)
    return adapt_model(run=run.output, documents=documents.output)
