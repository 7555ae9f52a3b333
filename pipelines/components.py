"""The components: each imports and calls one stage. Places in the store travel, never the data itself.

Components are lightweight Python (nothing is installed when they run). Those of stages that run as jobs of the cluster
have the image of the launcher, the others that of their stage.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from kfp import dsl
from kfp.dsl import HTML, Markdown, Metrics, Output

REGISTRY = os.environ.get("TELELLM_IMAGE_REGISTRY", "registry.local")
VERSION = os.environ.get("TELELLM_IMAGE_TAG", "0.1.0")


def component(image: str) -> Callable[[Callable[..., Any]], Callable[..., dsl.PipelineTask]]:
    """Make a component that runs in a stage's image.

    Kubeflow's own cache is off: a stage finds by digest what is there, also when the sources or the store changed.
    """

    def make(body: Callable[..., Any]) -> Callable[..., dsl.PipelineTask]:
        base_image = f"{REGISTRY}/telellm/{image}:{VERSION}"
        made = dsl.component(body, base_image=base_image, install_kfp_package=False)

        @wraps(body)
        def task(**inputs: Any) -> dsl.PipelineTask:
            return made(**inputs).set_caching_options(False)

        return task

    return make


@component("launcher")
def start(recipe: str, store: str, name: str, model: str, changes: str) -> str:
    """Check the recipe and write it down for the run; returns the run's address."""
    from telellm.runs import start_run

    return start_run(recipe, store, name, model, changes)


@component("launcher")
def ingest(run: str) -> str:
    """Read the sources into documents."""
    from telellm.runs import run_stage

    return run_stage("ingest", run)


@component("launcher")
def clean(run: str, documents: str) -> str:
    """Take out of the text what is not prose, formula, table or code."""
    from telellm.runs import run_stage

    return run_stage("clean", run, documents=documents)


@component("launcher")
def screen(run: str, documents: str) -> str:
    """Keep what a language model judges to be about telecommunications."""
    from telellm.runs import run_stage

    return run_stage("screen", run, documents=documents)


@component("deduplicate")
def deduplicate(run: str, documents: str) -> str:
    """Keep one of each group of copies."""
    from telellm.runs import run_stage

    return run_stage("deduplicate", run, documents=documents)


@component("decontaminate")
def decontaminate(run: str, documents: str) -> str:
    """Take out what benchmarks ask: the snapshot of Tele-Data."""
    from telellm.runs import run_stage

    return run_stage("decontaminate", run, documents=documents)


@component("decontaminate")
def hold_out(run: str, documents: str, questions: str) -> str:
    """Take out the documents of held-out questions and what repeats them: the training text."""
    from telellm.runs import run_stage

    return run_stage("decontaminate", run, label="hold-out", documents=documents, questions=questions)


@component("tele-eval")
def ask(run: str, documents: str) -> str:
    """Let a language model write and check questions about the documents: Tele-Eval."""
    from telellm.runs import run_stage

    return run_stage("tele-eval", run, documents=documents)


@component("pack")
def pack(run: str, documents: str) -> str:
    """Tokenise documents and pack them into sequences."""
    from telellm.runs import run_stage

    return run_stage("pack", run, documents=documents)


@component("launcher")
def pretrain(run: str, packed: str) -> str:
    """Go on with the base model's pretraining on the corpus."""
    from telellm.runs import run_stage

    return run_stage("pretrain", run, packed=packed)


@component("launcher")
def instruct(run: str, model: str) -> str:
    """Tune the pretrained model on conversations."""
    from telellm.runs import run_stage

    return run_stage("instruct", run, model=model)


@component("evaluate")
def evaluate(run: str, role: str, questions: str, model: str = "") -> str:
    """Score a model on Tele-Eval; without a model, the base model."""
    from telellm.runs import run_stage

    return run_stage("evaluate", run, label=f"evaluate-{role}", questions=questions, model=model)


@component("report")
def report(
    run: str,
    base: str,
    pretrained: str,
    instruct: str,
    page: Output[HTML],
    card: Output[Markdown],
    scores: Output[Metrics],
) -> str:
    """Compare the models, write report.html, report.json and the model card, and show them in Kubeflow."""
    from telellm.runs import run_stage, show_report

    place = run_stage("report", run, base=base, pretrained=pretrained, instruct=instruct)
    for name, value in show_report(run, place, page.path, card.path).items():
        scores.log_metric(name, value)
    return place


@component("launcher")
def look_for_news(run: str, documents: str) -> str:
    """Say whether the snapshot differs from the one that the last night trained on: yes or no."""
    from telellm.runs import is_new

    return "yes" if is_new(run, documents) else "no"


@component("report")
def remember(run: str, documents: str, report: str) -> str:
    """Note that this night is done with this snapshot."""
    from telellm.runs import remember_snapshot

    return remember_snapshot(run, documents)
