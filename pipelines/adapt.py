"""Adapt: from documents to a model that knows telecommunications, and a report that says how much better."""

from kfp import dsl

from pipelines import components as stages
from pipelines.corpus import make_corpus


@dsl.pipeline(name="adapt-model")
def adapt_model(run: str, documents: str) -> str:
    """Ask, train, evaluate and report on a snapshot."""
    questions = stages.ask(run=run, documents=documents)
    training_text = stages.hold_out(run=run, documents=documents, questions=questions.output)
    packed = stages.pack(run=run, documents=training_text.output)
    pretrained = stages.pretrain(run=run, packed=packed.output)
    instruct = stages.instruct(run=run, model=pretrained.output)
    scores = {
        "base": stages.evaluate(run=run, role="base", questions=questions.output),
        "pretrained": stages.evaluate(run=run, role="pretrained", questions=questions.output, model=pretrained.output),
        "instruct": stages.evaluate(run=run, role="instruct", questions=questions.output, model=instruct.output),
    }
    return stages.report(run=run, **{role: task.output for role, task in scores.items()}).outputs["Output"]


@dsl.pipeline(
    name="adapt", description="Documents → Tele-Data, Tele-Eval, a pretrained and an instruct model, a report."
)
def adapt(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> str:
    """Adapt the base model; what is already there is not made again.

    Args:
        recipe: The recipe, as text (YAML).
        store: Where everything lies: s3://bucket/prefix, or file:///folder on this machine.
        name: Name of the run; the same name goes on where it stopped. Empty: the recipe's name.
        model: Base model (directory or hub name) in place of the recipe's; empty: the recipe's.
        changes: Other changes to the recipe, one a line, such as training.pretrain.method=lora.
    """
    run = stages.start(recipe=recipe, store=store, name=name, model=model, changes=changes)
    documents = make_corpus(run=run.output)
    return adapt_model(run=run.output, documents=documents.output).output
