"""The components: each imports and calls one stage. Places in the store travel, never the data itself.

Components are lightweight Python (nothing is installed when they run). Those of stages that run as jobs of the cluster
have the image of the launcher, the others that of their stage.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl import HTML, Markdown, Metrics, Output

from telellm import __version__
from telellm.attempts import NODE

REGISTRY = os.environ.get("TELELLM_IMAGE_REGISTRY", "registry.local")
VERSION = os.environ.get("TELELLM_IMAGE_TAG", __version__)

TEMPLATES = "telellm-job-templates"
"""ConfigMap with the administrator's pytorchjob.yaml and shards.yaml; without it, those in the launcher's image."""
STORE_SECRET = "telellm-store"
STORE_KEYS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
"""Secret with the store's address and credentials; AWS_CA_BUNDLE may be in it too."""
ASKS = {"evaluate", "evaluate_production", "evaluate_references", "run_trials"}
"""Components that ask a model."""
OPTIONAL_SECRETS = {
    "telellm-lm": ({"api-key": "OPENAI_API_KEY"}, {"screen", "draft", "distinct", "check", *ASKS}),
    "telellm-reference": ({"api-key": "TELELLM_REFERENCE_KEY"}, {"evaluate_references"}),
    "telellm-benchmarks": (
        {"TELEQNA_PASSWORD": "TELEQNA_PASSWORD"},
        {"decontaminate", "hold_out", "pack", "prepare_trials", *ASKS},
    ),
    "telellm-webhook": ({"TELELLM_WEBHOOK_URL": "TELELLM_WEBHOOK_URL"}, {"start_night", "promote"}),
    "telellm-hub": (
        {"HF_TOKEN": "HF_TOKEN", "HF_ENDPOINT": "HF_ENDPOINT"},
        {"start", "start_night", "begin_study", "evaluate", "evaluate_production", "evaluate_references"},
    ),
}
"""Secret, if there is one → its keys, each with the variable that it becomes, and the components that get it: the keys
of the servers of the language model and of a reference model, the password of archived benchmarks, the webhook that is
told what the gate decided, this site's account at a model hub or its mirror."""
RESOURCES = {
    "launcher": ("500m", "512Mi"),
    "clean": ("2", "8Gi"),
    "deduplicate": ("2", "16Gi"),
    "decontaminate": ("2", "16Gi"),
    "draft": ("2", "4Gi"),
    "distinct": ("2", "8Gi"),
    "tele-eval": ("2", "4Gi"),
    "index": ("2", "4Gi"),
    "pack": ("2", "16Gi"),
    "evaluate": ("4", "32Gi"),
    "report": ("1", "4Gi"),
    "study": ("500m", "4Gi"),
}
"""Image → CPU that a task asks for, and memory that it may use."""
ON_GPU = {"evaluate": 1}
"""Image → GPUs of a task."""
RETRIES = 2
"""A task that fails is started again; a stage goes on where it was, or ends at once where it failed for good."""


def component(image: str) -> Callable[[Callable[..., Any]], Callable[..., dsl.PipelineTask]]:
    """Make a component that runs in an image of `images/`, with the store's credentials and room for a cache.

    Kubeflow's own cache is off: a stage finds by digest what is there, also when the sources or the store changed.
    """

    def make(body: Callable[..., Any]) -> Callable[..., dsl.PipelineTask]:
        base_image = f"{REGISTRY}/telellm/{image}:{VERSION}"
        made = dsl.component(body, base_image=base_image, install_kfp_package=False)

        @wraps(body)
        def task(**inputs: Any) -> dsl.PipelineTask:
            placed = _placed(made(**inputs).set_caching_options(False), image, body.__name__)
            role = inputs.get("role")  # one component scores several models
            return placed.set_display_name(f"{body.__name__}-{role}") if role else placed

        return task

    return make


def _placed(task: dsl.PipelineTask, image: str, name: str) -> dsl.PipelineTask:
    """Say what a task gets on a cluster; a run on this machine takes no notice of it."""
    cpu, memory = RESOURCES[image]
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    if number := ON_GPU.get(image):
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(number)
    if name != "settle_study":  # fails where an arm failed, however often it is asked
        task.set_retry(RETRIES, backoff_duration="10s", backoff_factor=2)
    kubernetes.use_secret_as_env(task, STORE_SECRET, {key: key for key in STORE_KEYS})
    kubernetes.use_secret_as_env(task, STORE_SECRET, {"AWS_CA_BUNDLE": "AWS_CA_BUNDLE"}, optional=True)
    for secret, (keys, components) in OPTIONAL_SECRETS.items():
        if name in components:
            kubernetes.use_secret_as_env(task, secret, keys, optional=True)
    kubernetes.use_field_path_as_env(task, NODE, "metadata.annotations['workflows.argoproj.io/node-name']")
    kubernetes.empty_dir_mount(task, volume_name="cache", mount_path="/cache")
    kubernetes.use_config_map_as_volume(task, "telellm-ca", mount_path="/etc/telellm/ca", optional=True)
    if image in ("launcher", "study"):
        kubernetes.use_config_map_as_volume(task, TEMPLATES, mount_path="/etc/telellm/job-templates", optional=True)
    return task


@component("launcher")
def start(recipe: str, store: str, name: str, model: str, changes: str) -> str:
    """Check the recipe and write it down for the run; returns the run's address."""
    from telellm.runs import start_run

    return start_run(recipe, store, name, model, changes)


@component("launcher")
def start_night(recipe: str, store: str, name: str, model: str, changes: str) -> str:
    """Begin a night, or go on with one that was cut off; returns the run's address."""
    from telellm.nights import start_night

    return start_night(recipe, store, name, model, changes)


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
def decontaminate(run: str, documents: str, steps: Output[Markdown]) -> str:
    """Take out what benchmarks ask: the snapshot of Tele-Data; show what each step kept and left out."""
    from telellm.runs import run_stage
    from telellm.step_table import write_step_table

    place = run_stage("decontaminate", run, documents=documents)
    write_step_table(run, steps.path)
    return place


@component("decontaminate")
def hold_out(run: str, documents: str, questions: str) -> str:
    """Take out the documents of held-out questions and what repeats them: the training text."""
    from telellm.runs import run_stage

    return run_stage("decontaminate", run, label="hold-out", documents=documents, questions=questions)


@component("draft")
def draft(run: str, documents: str) -> str:
    """Let a language model write questions about the documents."""
    from telellm.runs import run_stage

    return run_stage("draft", run, documents=documents)


@component("distinct")
def distinct(run: str, drafts: str) -> str:
    """Keep one of the questions that ask the same."""
    from telellm.runs import run_stage

    return run_stage("distinct", run, drafts=drafts)


@component("tele-eval")
def check(run: str, questions: str, tele_eval: Output[Markdown]) -> str:
    """Let a language model check each question: Tele-Eval; show its kinds and sources, and what was left out."""
    from telellm.question_table import write_question_table
    from telellm.runs import run_stage

    place = run_stage("tele-eval", run, questions=questions)
    write_question_table(run, place, tele_eval.path)
    return place


@component("index")
def index(run: str, documents: str) -> str:
    """Index the snapshot's passages; without retrieval in the recipe, do nothing."""
    from telellm.runs import index_documents

    return index_documents(run, documents)


@component("pack")
def pack(run: str, documents: str) -> str:
    """Tokenise documents and pack them into sequences; in a night, those that are new, if the recipe says so."""
    from telellm.nights import learnt_text
    from telellm.runs import run_stage

    return run_stage("pack", run, documents=documents, learnt=learnt_text(run))


@component("launcher")
def pretrain(run: str, packed: str) -> str:
    """Go on with the pretraining of the base model, or of the one in production, on the corpus."""
    from telellm.nights import first_model
    from telellm.runs import run_stage

    return run_stage("pretrain", run, packed=packed, model=first_model(run))


@component("launcher")
def instruct(run: str, model: str) -> str:
    """Tune the pretrained model on conversations."""
    from telellm.runs import run_stage

    return run_stage("instruct", run, model=model)


@component("evaluate")
def evaluate(run: str, role: str, questions: str, model: str = "", held_out: str = "", index: str = "") -> str:
    """Score a model on Tele-Eval and on unseen text; without a model, the base model; with an index, open book too."""
    from telellm.runs import run_stage, unseen_text

    unseen = unseen_text(run, held_out)
    given = {"questions": questions, "model": model, "held_out": unseen, "index": index}
    return run_stage("evaluate", run, label=f"evaluate-{role}", **given)


@component("evaluate")
def evaluate_production(run: str, questions: str, held_out: str = "", index: str = "") -> str:
    """Score the model in production on tonight's questions; before there is one, the base model."""
    from telellm.nights import production_model
    from telellm.runs import run_stage, unseen_text

    unseen, model = unseen_text(run, held_out), production_model(run)
    given = {"questions": questions, "model": model, "held_out": unseen, "index": index}
    return run_stage("evaluate", run, label="evaluate-production", **given)


@component("evaluate")
def evaluate_references(run: str, questions: str, held_out: str = "", index: str = "") -> str:
    """Score the recipe's reference models, one after another, such as the vendor's instruct model."""
    from telellm.references import evaluate_references

    return evaluate_references(run, questions, held_out, index)


@component("report")
def report(
    run: str,
    base: str,
    pretrained: str,
    instruct: str,
    production: str,
    references: str,
    report: Output[HTML],
    questions: Output[HTML],
    model_card: Output[Markdown],
    scores: Output[Metrics],
) -> str:
    """Compare the models, ask the gate where there is production, and show report, questions and model card."""
    from telellm.runs import run_stage, show_report

    adapted = {"pretrained": pretrained, "instruct": instruct}
    place = run_stage("report", run, base=base, **adapted, production=production, references=references)
    for name, value in show_report(run, place, report.path, questions.path, model_card.path).items():
        scores.log_metric(name, value)
    return place


@component("launcher")
def look_for_news(run: str, documents: str) -> str:
    """Say whether the snapshot differs from the one that the last night trained on: yes or no."""
    from telellm.nights import is_new

    return "yes" if is_new(run, documents) else "no"


@component("launcher")
def promote(run: str, documents: str, report: str) -> str:
    """Make the model a version, and put it into production if the gate let it pass."""
    from telellm.nights import settle

    return settle(run, documents, report)


@component("pack")
def begin_study(run: str) -> str:
    """Check the budget of a study, and write down the recipe of each trial: an arm with a seed."""
    from telellm.studies.work import begin_study

    return begin_study(run)


@component("study")
def prepare_trials(run: str, documents: str, questions: str) -> list[str]:
    """Make what several trials share; returns them in groups of which each can be done beside the others."""
    from telellm.studies.work import prepare_trials

    return prepare_trials(run, documents, questions)


@component("study")
def run_trials(group: str) -> str:
    """Train and score the trials of a group, one after another; one that fails does not end the study."""
    from telellm.studies.work import run_trials

    return run_trials(group)


@component("study")
def report_study(run: str, outcomes: list[str], report: Output[HTML], scores: Output[Metrics]) -> str:
    """Compare the arms, and show the report in Kubeflow."""
    from telellm.runs import run_stage, show_study
    from telellm.studies.work import list_trials

    place = run_stage("study", run, trials=list_trials(run))
    for name, value in show_study(run, place, report.path).items():
        scores.log_metric(name, value)
    return place


@component("study")
def settle_study(run: str, report: str) -> str:
    """End with an error where a trial did not come to its end; the report is there by then."""
    from telellm.studies.work import settle_study

    settle_study(run)
    return report
