"""Tele-Eval: a snapshot, and questions about its documents."""

from typing import Any

from kfp import dsl

from pipelines import components as stages
from pipelines.corpus import make_corpus


def ask(run: Any, documents: Any) -> Any:
    """Write questions about a snapshot, keep one of those that ask the same, and check what is left."""
    drafts = stages.draft(run=run, documents=documents)
    questions = stages.distinct(run=run, drafts=drafts.output)
    return stages.check(run=run, questions=questions.output).outputs["Output"]


@dsl.pipeline(name="tele-eval", description="Open questions and answers about the documents of a snapshot.")
def tele_eval(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> str:
    """Make Tele-Eval; a snapshot that is already there is not made again.

    Args:
        recipe: The recipe, as text (YAML).
        store: Where everything lies: s3://bucket/prefix; with telellm run also file:///folder.
        name: Name of the run; the same name goes on where it stopped. Empty: the recipe's name.
        model: Base model (s3://bucket/folder or hub name) in place of the recipe's; empty: the recipe's.
        changes: Other changes to the recipe, one a line, such as training.pretrain.method=lora.
    """
    run = stages.start(recipe=recipe, store=store, name=name, model=model, changes=changes)
    documents = make_corpus(run=run.output)
    return ask(run.output, documents.output)
