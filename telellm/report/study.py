"""Study: what the arms of an experiment allow to say, as a page and as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from telellm.listed import read_list
from telellm.recipe import Evaluation, Recipe, vary
from telellm.recipe import Study as StudySettings
from telellm.records import CATEGORIES
from telellm.report import gather, study_plots
from telellm.report.metrics import shown
from telellm.report.page import ROOM, page_template
from telellm.report.study_arms import Arm, Measurement, clause, measure, named, num_shared, sentence, span_text
from telellm.report.study_costs import Steps, cost_of, loss_curve, shared_with, total_cost
from telellm.stage import Context, Output, stage

TEMPLATE = "study.html.jinja"
ROLES = ("instruct", "pretrained", "base")
"""An arm's model is the first of these that it makes, from the recipe's `study.candidate` on."""
FEWEST_QUESTIONS = 5
"""Of a category with fewer, nothing is said."""
Trial = Mapping[str, Any]
"""A trial as it is listed: arm, seed, state, places of its steps; of a failed one also step and reason."""


def _identity(recipe: Recipe) -> list[str]:
    return [recipe.to_yaml(), sha256((ROOM / TEMPLATE).read_bytes()).hexdigest()]


@stage(
    sections=("study", "evaluation", "name"),
    place=lambda recipe, key, inputs: "runs/<run>/report",
    identity=_identity,
)
def study(context: Context, settings: StudySettings, trials: Output) -> None:
    """Compare the arms of a study with its reference arm, and with the base models from which they were made.

    Writes `study.json` and `study.html` (one file, no network). An arm that failed is named with its reason; an arm of
    which some seeds failed is compared by the others.
    """
    listed = read_list(trials)
    context.progress.note("compares the arms")
    facts, found = collect(context, settings, listed)
    (context.directory / "study.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    context.progress.note("writes the page")
    (context.directory / "study.html").write_text(render(facts, found, context.recipe), encoding="utf-8")
    context.counts["out"] = len(facts["arms"])
    context.summary |= {
        "headline": facts["headline"],
        "scores": {
            f"{arm['name']}.{metric}": measured["values"][arm["name"]]["value"]
            for arm in facts["arms"]
            for metric, measured in facts["metrics"].items()
            if arm["name"] in measured["values"]
        },
        "lines": [facts["headline"], *(arm["sentence"] for arm in facts["arms"])],
        "failed": [trial["name"] for trial in listed if trial["state"] != "done"],
    }


def collect(
    context: Context, settings: StudySettings, listed: Sequence[Trial]
) -> tuple[dict[str, Any], dict[str, Measurement]]:
    """Return everything that the report says, as it is in `study.json`, and the measurements by metric."""
    recipe, reference = context.recipe, settings.reference_arm
    by_arm = {name: [trial for trial in listed if trial["arm"] == name] for name in _ordered(listed, reference)}
    steps = {name: [_steps(context, trial) for trial in found] for name, found in by_arm.items()}
    arms = [arm for name in by_arm if (arm := _arm(name, by_arm[name], steps[name], settings)) is not None]
    first = list(dict.fromkeys(filter(None, [settings.gain, settings.forgetting])))
    metrics = list(dict.fromkeys([*first, *settings.metrics]))
    split = None if settings.split == "all" else settings.split
    found = _measure(arms, reference, metrics, recipe.evaluation, split)
    gain = found.get(settings.gain)
    scores = [scored for name in steps for scored in _scores(name, by_arm[name], steps[name])]
    facts: dict[str, Any] = {
        "schema": 1,
        "run": context.run,
        "store": context.store.uri,
        "reference": reference,
        "headline": headline(gain, reference, listed, settings),
        "gain": settings.gain,
        "forgetting": settings.forgetting,
        "others": [metric for metric in metrics if metric not in first],
        "split": settings.split,
        "metrics": {metric: measured.to_json() for metric, measured in found.items()},
        "missing": [metric for metric in metrics if metric not in found],
        "arms": [
            {
                "name": name,
                "changes": recipe.study.all_arms()[name],
                "seeds": [trial["seed"] for trial in by_arm[name] if trial["state"] == "done"],
                "trials": [dict(trial) for trial in by_arm[name]],
                "sentence": _sentence(name, by_arm, reference, found, first),
                "cost": cost_of(steps[name]),
                "shared": shared_with(name, steps),
                "loss": loss_curve(steps[name][0]),
            }
            for name in by_arm
        ],
        "cost": total_cost(each for name in steps for each in steps[name]),
        "curves": curves(recipe, [arm.name for arm in arms]),
        "categories": _by_category(arms, reference, settings, recipe.evaluation, split) if gain else {},
        "scores": scores,
        "environment": gather.describe_environment(),
        "stages": gather.stage_table(gather.finished_steps(context.store, context.run), recipe),
        "recipe": recipe.model_dump(mode="json"),
    }
    return facts, found


def headline(gain: Measurement | None, reference: str, listed: Sequence[Trial], settings: StudySettings) -> str:
    """Return how many arms are better or worse than the reference, or not distinguishable from it."""
    lost = sorted({trial["arm"] for trial in listed if trial["state"] != "done"})
    failed = f" Not every trial came to its end: {', '.join(lost)}." if lost else ""
    if gain is None:
        return f"No arm was measured in {settings.gain}.{failed}"
    if not gain.from_reference:
        return f"There is nothing to compare in {named(gain.metric).title}.{failed}"
    verdicts = [gain.better(name) for name in gain.from_reference]
    parts = [
        f"{verdicts.count(state)} {words}"
        for state, words in ((True, "better"), (False, "worse"), (None, "not distinguishable"))
        if verdicts.count(state)
    ]
    return (
        f"Of {len(verdicts)} arms, compared with {reference} in {named(gain.metric).title}: {', '.join(parts)}.{failed}"
    )


def curves(recipe: Recipe, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return for each field to which arms give different numbers the lines of arms that differ in it alone.

    Each line is `{"same": other changes, "points": [{"arm", "x"}, …]}`, ordered by the field's value.
    """
    arms = {name: changes for name, changes in recipe.study.all_arms().items() if name in set(names)}
    recipes = {name: vary(recipe, changes) for name, changes in arms.items()}
    fields = dict.fromkeys(change.partition("=")[0] for changes in arms.values() for change in changes)
    found = []
    for field in fields:
        lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for name, changes in arms.items():
            value = recipes[name].section(field)
            if isinstance(value, int | float) and not isinstance(value, bool):
                same = tuple(sorted(change for change in changes if change.partition("=")[0] != field))
                lines.setdefault(same, []).append({"arm": name, "x": value})
        drawn = [
            {"same": list(same), "points": sorted(points, key=lambda point: float(point["x"]))}
            for same, points in lines.items()
            if len({point["x"] for point in points}) > 1
        ]
        if drawn:
            found.append({"field": field, "lines": drawn})
    return found


def render(facts: Mapping[str, Any], found: Mapping[str, Measurement], recipe: Recipe) -> str:
    """Return the page; what comes from documents or models is escaped."""
    gain, forgetting = found.get(facts["gain"]), found.get(facts["forgetting"])
    return page_template(TEMPLATE).render(
        facts,
        first={metric: each for metric, each in found.items() if metric not in facts["others"]},
        found=found,
        gain_measured=gain,
        named=named,
        shown=shown,
        span=span_text,
        plane=study_plots.gain_against_forgetting(gain, forgetting) if gain and forgetting else None,
        differences={metric: study_plots.differences(each) for metric, each in found.items()},
        curve_plots=[study_plots.curve(each, drawn) for drawn in facts["curves"] for each in ([gain] if gain else [])],
        loss_plot=study_plots.losses({arm["name"]: arm["loss"] for arm in facts["arms"]}),
        recipe_yaml=recipe.to_yaml(),
    )


def _ordered(listed: Sequence[Trial], reference: str) -> list[str]:
    names = dict.fromkeys(trial["arm"] for trial in listed)
    return sorted(names, key=lambda name: name != reference)


def _steps(context: Context, trial: Trial) -> dict[str, Output]:
    return {label: Output.find(context.store, place) for label, place in trial["steps"].items()}


def _arm(name: str, trials: Sequence[Trial], steps: Sequence[Steps], settings: StudySettings) -> Arm | None:
    """Return what was measured of an arm's models, or None where no seed came to its end."""
    roles = ROLES[ROLES.index(settings.candidate) :]
    models, bases = [], []
    for trial, done in zip(trials, steps, strict=True):
        if trial["state"] == "done":
            label = next(f"evaluate-{role}" for role in roles if f"evaluate-{role}" in done)
            models.append(gather.read_rows(done[label]))
            bases.append(gather.read_rows(done["evaluate-base"]))
    return Arm(name, models, bases) if models else None


def _measure(
    arms: Sequence[Arm], reference: str, metrics: Sequence[str], evaluation: Evaluation, split: str | None
) -> dict[str, Measurement]:
    """Measure each metric; those that no arm has are left out, and are not among the intervals that are corrected."""
    there = [metric for metric in metrics if num_shared(arms, metric, split)]
    found = {
        metric: measure(arms, reference, metric, evaluation, num_metrics=len(there), split=split) for metric in there
    }
    return {metric: each for metric, each in found.items() if each is not None}


def _sentence(
    name: str,
    by_arm: Mapping[str, Sequence[Trial]],
    reference: str,
    found: Mapping[str, Measurement],
    metrics: Sequence[str],
) -> str:
    done = {arm: sum(trial["state"] == "done" for trial in trials) for arm, trials in by_arm.items()}
    lost = [trial for trial in by_arm[name] if trial["state"] != "done"]
    there = [found[metric] for metric in metrics if metric in found and name in found[metric].values]
    clauses = [clause(name, reference, other) for other in there[1:]]
    said = ["; ".join([sentence(name, reference, there[0], done).rstrip("."), *clauses]) + "."] if there else []
    for trial in lost:
        if trial["state"] == "failed":
            reason = str(trial["reason"]).strip().splitlines() or ["without a word"]
            said.append(f"{trial['name']} failed at {trial['step']}: {reason[0]}")
        else:
            said.append(f"{trial['name']} was cut off; run the study again.")
    return " ".join(said) or f"Nothing was measured of {name}."


def _scores(name: str, trials: Sequence[Trial], steps: Sequence[Steps]) -> list[dict[str, Any]]:
    """Return what each model of an arm scored, as `scores.json` has it."""
    return [
        {"arm": name, "seed": trial["seed"], "role": label.removeprefix("evaluate-"), "metrics": scored["metrics"]}
        for trial, done in zip(trials, steps, strict=True)
        for label, output in done.items()
        if label.startswith("evaluate-")
        for scored in [json.loads(output.path("scores.json").read_text(encoding="utf-8"))]
    ]


def _by_category(
    arms: Sequence[Arm], reference: str, settings: StudySettings, evaluation: Evaluation, split: str | None
) -> dict[str, Any]:
    """Return the measurement of the gain metric on the questions of each category of documents."""
    categories = sorted({str(row["id"]).partition("_")[0] for arm in arms for rows in arm.models for row in rows})
    known = [category for category in CATEGORIES if category in categories]
    found = {
        category: measure(arms, reference, settings.gain, evaluation, split=split, category=category)
        for category in known
    }
    return {name: each.to_json() for name, each in found.items() if each is not None and each.n >= FEWEST_QUESTIONS}
