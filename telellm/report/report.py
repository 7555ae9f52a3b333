"""Report: what a run made and whether its model is better, as a page, as JSON and as a model card."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from telellm.listed import read_list
from telellm.recipe import Evaluation, Recipe
from telellm.report import gather, questions
from telellm.report.compare import OWN, compare_models, interval_text
from telellm.report.gate import decide
from telellm.report.metrics import METRICS, NAMED, OTHERS, about, shown, shown_difference
from telellm.report.page import ROOM, page_template
from telellm.report.retrieval import METRICS as RETRIEVAL_METRICS
from telellm.report.retrieval import describe_retrieval
from telellm.report.truth import read_truth, score_decontaminate, score_deduplicate, score_screen, truth_digest
from telellm.stage import Context, Output, stage

TEMPLATES = {"report.html": "report.html.jinja", "model-card.md": "model-card.md.jinja"}


def _identity(recipe: Recipe) -> list[Any]:
    """The page shows the whole recipe, and depends on its templates and on what is known of the documents."""
    templates = [sha256(path.read_bytes()).hexdigest() for path in sorted(ROOM.glob("*.jinja"))]
    return [recipe.to_yaml(), *templates, *truth_digest(recipe.truth)]


@stage(
    sections=("evaluation", "name", "truth"),
    place=lambda recipe, key, inputs: "runs/<run>/report",
    identity=_identity,
)
def report(
    context: Context,
    settings: Evaluation,
    base: Output,
    pretrained: Output | None = None,
    instruct: Output | None = None,
    production: Output | None = None,
    references: Output | None = None,
) -> None:
    """Put together what the stages of the run wrote down, and compare its models.

    `production` is what was measured of the model that a night compares with (on the first night, of the base model):
    the gate decides whether it is replaced. `references` lists the reference models with the places of their scores.
    Writes `report.json`, `report.html`, `questions.html` (each one file, no network) and `model-card.md`. What a run
    does not have is left out.
    """
    scored = {"base": base, "pretrained": pretrained, "instruct": instruct, "production": production}
    outputs = {role: output for role, output in scored.items() if output is not None}
    if references is not None:
        places = read_list(references)
        outputs |= {name: Output.find(context.store, place) for name, place in places.items()}
    context.progress.note("reads what the stages wrote")
    facts = collect(context, settings, outputs)
    context.progress.note("writes the page")
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (context.directory / "report.json").write_text(text, encoding="utf-8")
    for name, template in TEMPLATES.items():
        (context.directory / name).write_text(render(template, facts, context.recipe), encoding="utf-8")
    if facts["tele_eval"]:
        asked = Output.find(context.store, facts["tele_eval"]["place"])
        page = questions.render_page(asked, context.recipe, context.run)
        (context.directory / questions.PAGE).write_text(page, encoding="utf-8")
    context.summary |= {
        "headline": facts["headline"]["sentence"],
        "scores": {
            f"{model['label']}.{metric}": score["value"]
            for model in facts["models"]
            for metric, score in model["metrics"].items()
        },
        "lines": summary_lines(facts),
    }


def collect(context: Context, settings: Evaluation, outputs: Mapping[str, Output]) -> dict[str, Any]:
    """Return everything that the report says, as it is in `report.json`.

    `outputs`: the scores of each model, by its role, or of a reference model by its name.
    """
    recipe = context.recipe
    steps = gather.finished_steps(context.store, context.run)
    rows = {role: gather.read_rows(output) for role, output in outputs.items()}
    gate = None
    if "production" in rows:
        night = context.store.read_json(f"runs/{context.run}/night.json") or {}
        gate = decide(recipe, rows, steps, night)
        if not night.get("production"):  # what it was compared with is the base model
            outputs = {role: output for role, output in outputs.items() if role != "production"}
            del rows["production"]
    comparisons = compare_models(rows, settings)
    by_split = [found for split in ("held-out", "train") for found in compare_models(rows, settings, split)]
    return {
        "schema": 1,
        "run": context.run,
        "store": context.store.uri,
        "headline": headline(comparisons),
        "recipe": recipe.model_dump(mode="json"),
        "environment": gather.describe_environment(),
        "stages": gather.stage_table(steps, recipe),
        "corpus": gather.describe_corpus(steps, recipe),
        "truth": _score_truth(recipe, steps),
        "tele_eval": questions.describe_questions(steps, recipe),
        "training": gather.training_logs(steps),
        "models": [
            json.loads(output.path("scores.json").read_text(encoding="utf-8"))
            | {"label": role}
            | ({"role": role, "name": f"{recipe.name} {gate['production']}"} if role == "production" and gate else {})
            | ({"name": role} if role not in OWN else {})
            for role, output in outputs.items()
        ],
        "retrieval": describe_retrieval(outputs, settings),
        "comparisons": comparisons,
        "comparisons_by_split": by_split,
        "memory_and_transfer": questions.memory_and_transfer(by_split, METRICS),
        "answers": gather.side_by_side(rows),
        "judge": outputs["base"].summary().get("judge"),
        "gate": gate,
    }


def headline(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return whether the adapted model is better than its base, in a title and in the sentence that bears it out."""
    for metric in METRICS:
        for found in comparisons:
            if (found["metric"], found["baseline"], found["candidate"]) == (metric, "base", "pretrained"):
                title = {
                    True: "The adapted model predicts telecom answers better than its base",
                    False: "The adapted model predicts telecom answers worse than its base",
                    None: "No difference between the adapted model and its base is shown",
                }[found["better"]]
                if not metric.startswith("answer_perplexity"):
                    title = title.replace("predicts telecom answers", "answers telecom questions")
                return {"title": title, "sentence": found["verdict"], "better": found["better"], "metric": metric}
    return {
        "title": "Scores of the base model",
        "sentence": "No adapted model was scored.",
        "better": None,
        "metric": "",
    }


def summary_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return a line a metric for the end of a run: the values, and the difference that says most."""
    lines = []
    for metric in _measured_metrics(facts):
        named = about(metric)
        measured = [model for model in facts["models"] if metric in model["metrics"]]
        values = [f"{model['label']} {shown(metric, model['metrics'][metric]['value'])}" for model in measured]
        if not values or metric == "answer_perplexity.question_mean" or ".bits_per_byte" in metric:
            continue
        own = sum(model["role"] in OWN for model in measured)
        line = f"{named.title:<18} " + ", ".join([" → ".join(values[:own]), *values[own:]])
        for found in facts["comparisons"]:
            is_gain = (found["baseline"], found["candidate"]) == ("base", named.subject)
            if found["metric"] == metric and (is_gain or found["baseline"] not in OWN):
                line += f"  ({found['candidate']} − {found['baseline']} {_difference(found)})"
        lines.append(line)
    if gate := facts["gate"]:
        lines.append(f"{'gate':<18} {'passed' if gate['promoted'] else 'refused'}: {gate['reason']}")
    return lines


def _measured_metrics(facts: Mapping[str, Any]) -> list[str]:
    """Return the metrics that the report shows: Tele-Eval's, and those of other tasks that were measured."""
    found = dict.fromkeys(metric for model in facts["models"] for metric in model["metrics"])
    chosen = [metric for metric in found if metric.startswith(NAMED) and metric.endswith(".accuracy")]
    return [*METRICS, *chosen, *(metric for metric in OTHERS if metric in found)]


def render(template: str, facts: Mapping[str, Any], recipe: Recipe) -> str:
    """Return a template filled in; what comes from documents or models is escaped in HTML."""
    from telellm.report import plots

    return page_template(template).render(
        facts,
        recipe_yaml=recipe.to_yaml(),
        metrics={metric: about(metric) for metric in _measured_metrics(facts)},
        question_metrics=METRICS,
        retrieval_metrics=RETRIEVAL_METRICS,
        shown=shown,
        funnel=gather.funnel(facts["stages"]),
        interval_plot=plots.interval_plot(facts["comparisons"]),
        loss_plots={name: plots.loss_plot(training["log"]) for name, training in facts["training"].items()},
        difference=_difference,
        lacking=_lacking,
    )


def _lacking(model: Mapping[str, Any], metric: str) -> str:
    """Return what stands in place of a score that a model does not have."""
    names = model.get("not_measured", {})
    return "not measurable" if any(f"{metric}.".startswith(f"{name}.") for name in names) else "–"


def _difference(found: Mapping[str, Any]) -> str:
    """Return `−7.10, 95 % interval −9.00 … −5.20, n = 60`."""
    from telellm.report.bootstrap import Difference

    difference = Difference(found["difference"], found["low"], found["high"], found["share_below_zero"], found["n"])
    text = interval_text(found["metric"], difference, found["confidence"])
    return f"{shown_difference(found['metric'], difference.value)}, {text}"


def _score_truth(recipe: Recipe, steps: gather.Steps) -> dict[str, Any] | None:
    truth = read_truth(recipe.truth)
    if truth is None:
        return None
    scorers = {"screen": score_screen, "deduplicate": score_deduplicate, "decontaminate": score_decontaminate}
    return {name: score(truth, steps[name]) for name, score in scorers.items() if name in steps}
