"""Nightly: all of it, every night, up to production; when the sources brought nothing new, it says so and ends."""

from kfp import dsl

from pipelines import components as stages
from pipelines.adapt import adapt_model
from pipelines.corpus import make_corpus


@dsl.pipeline(name="nightly", description="All of it, every night, up to production: ends early without news.")
def nightly(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> None:
    """Adapt a model to tonight's documents, if there is news, and put it into production if it is better.

    Args:
        recipe: The recipe, as text (YAML).
        store: Where everything lies: s3://bucket/prefix; with telellm run also file:///folder.
        name: Name of the run; the same name goes on where it stopped. Empty: recipe and date, or the night cut off.
        model: Base model (s3://bucket/folder or hub name) in place of the recipe's; empty: the recipe's.
        changes: Other changes to the recipe, one a line, such as training.pretrain.method=lora.
    """
    run = stages.start_night(recipe=recipe, store=store, name=name, model=model, changes=changes)
    documents = make_corpus(run=run.output)
    news = stages.look_for_news(run=run.output, documents=documents.output)
    with dsl.If(news.output == "yes", name="something-new"):
        report = adapt_model(run=run.output, documents=documents.output, gated=True)
        stages.promote(run=run.output, documents=documents.output, report=report)
