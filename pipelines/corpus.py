"""Corpus: documents from the recipe's sources → a snapshot of Tele-Data."""

from typing import Any

from kfp import dsl

from pipelines import components as stages


def make_corpus(run: Any) -> Any:
    """Turn the sources of a run into a snapshot: one task to open, which Kubeflow never takes from its cache."""
    return curate(run=run).set_caching_options(False)


@dsl.pipeline(name="make-corpus")
def curate(run: str) -> str:
    """Turn the sources of a run into a snapshot."""
    documents = stages.ingest(run=run)
    documents = stages.clean(run=run, documents=documents.output)
    documents = stages.screen(run=run, documents=documents.output)
    documents = stages.deduplicate(run=run, documents=documents.output)
    return stages.decontaminate(run=run, documents=documents.output).outputs["Output"]


@dsl.pipeline(name="corpus", description="Documents from the recipe's sources → a snapshot of Tele-Data.")
def corpus(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> str:
    """Make a snapshot of Tele-Data.

    Args:
        recipe: The recipe, as text (YAML).
        store: Where everything lies: s3://bucket/prefix; with telellm run also file:///folder.
        name: Name of the run; the same name goes on where it stopped. Empty: the recipe's name.
        model: Base model (s3://bucket/folder or hub name) in place of the recipe's; empty: the recipe's.
        changes: Other changes to the recipe, one a line, such as training.pretrain.method=lora.
    """
    run = stages.start(recipe=recipe, store=store, name=name, model=model, changes=changes)
    return make_corpus(run=run.output).output
