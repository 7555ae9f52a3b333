"""Study: the arms of an experiment on one corpus and the same questions, and a report that compares them."""

from kfp import dsl

from pipelines import components as stages
from pipelines.corpus import make_corpus
from pipelines.tele_eval import ask

SIDE_BY_SIDE = 4
"""Groups of trials at once on a cluster; their jobs wait for room by themselves. On one machine it is one."""


@dsl.pipeline(name="study", description="Arms of an experiment, each a change to the recipe, trained and compared.")
def study(recipe: str, store: str, name: str = "", model: str = "", changes: str = "") -> str:
    """Train every arm of the recipe's study with every seed, within its budget, and compare them.

    Args:
        recipe: The recipe, as text (YAML); its section study says what the arms are.
        store: Where everything lies: s3://bucket/prefix; with telellm run also file:///folder.
        name: Name of the run; the same name goes on where it stopped. Empty: the recipe's name.
        model: Base model (s3://bucket/folder or hub name) in place of the recipe's; empty: the recipe's.
        changes: Other changes to the recipe, one a line, such as study.budget_gpu_hours=100.
    """
    started = stages.start(recipe=recipe, store=store, name=name, model=model, changes=changes)
    run = stages.begin_study(run=started.output).output
    documents = make_corpus(run=run)
    questions = ask(run, documents.output)
    text = stages.hold_out(run=run, documents=documents.output, questions=questions)
    groups = stages.prepare_trials(run=run, documents=text.output, questions=questions)
    with dsl.ParallelFor(groups.output, name="arms", parallelism=SIDE_BY_SIDE) as group:
        done = stages.run_trials(group=group)
    report = stages.report_study(run=run, outcomes=dsl.Collected(done.output)).outputs["Output"]
    return stages.settle_study(run=run, report=report).output
