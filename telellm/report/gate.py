"""Gate: whether a night's model is better than the one in production by what the recipe asks for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from telellm.recipe import Evaluation, GateReference, Recipe
from telellm.report.compare import compare_pair
from telellm.report.metrics import Row, about, shown, shown_difference
from telellm.stage import Output

Criterion = dict[str, Any]
"""`name`, `passed`, `said` (a sentence), and the figures: `metric`, `value`, `low`, `high`, `limit`, `n`."""


def decide(
    recipe: Recipe, rows: Mapping[str, Sequence[Row]], steps: Mapping[str, Output], night: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the gate's decision: `promoted`, `reason`, the criteria with their figures, and what was compared.

    `rows` holds what was measured of `base`, the candidate, `production` (the base model on the first night), and of
    reference models by their names; `night` is what the night wrote down when it began.
    """
    settings = recipe.gate
    candidate, against = settings.candidate, "production" if night.get("production") else "base"
    evaluation = recipe.evaluation.model_copy(update={"confidence": settings.confidence})
    baselines = dict.fromkeys([against, "base"])
    criteria = [_measured(recipe, rows, baselines), _gain(recipe, rows, against, evaluation)]
    for metric in settings.losses:
        criteria += [_loss(recipe, rows, baseline, metric, evaluation) for baseline in baselines]
    if settings.reference is not None:
        criteria.append(_against_reference(recipe, rows, settings.reference, evaluation))
    criteria.append(_contamination(steps, candidate))
    failed = [criterion for criterion in criteria if not criterion["passed"]]
    return {
        "promoted": not failed,
        "reason": "; ".join(criterion["said"] for criterion in failed) or criteria[1]["said"],
        "candidate": candidate,
        "against": against,
        "production": night.get("production"),
        "trained_from": night.get("production") if recipe.nightly.train_from == "production" else None,
        "criteria": criteria,
    }


def _measured(recipe: Recipe, rows: Mapping[str, Sequence[Row]], baselines: Mapping[str, None]) -> Criterion:
    """No score that the gate reads is missing, and each rests on enough questions."""
    settings = recipe.gate
    lacking, least = [], math.inf
    for metric in (settings.metric, *settings.losses):
        split = settings.split if metric == settings.metric else "all"
        for baseline in baselines:
            found = _pair(recipe, rows, baseline, metric, recipe.evaluation, split)
            if found is None or not math.isfinite(found["difference"]):
                lacking.append(f"{about(metric).title} of {settings.candidate} or {baseline} model")
            elif metric == settings.metric:
                least = min(least, found["n"])
    if lacking:
        said = f"a score is missing: {', '.join(dict.fromkeys(lacking))}"
    else:
        said = f"every score is there; {about(settings.metric).title} rests on {least:,} questions"
    enough = not lacking and least >= settings.minimum_questions
    if not lacking and not enough:
        said = f"too few questions: {least:,} of at least {settings.minimum_questions:,}"
    value = None if lacking else least
    return {"name": "measured", "passed": enough, "said": said, "value": value, "limit": settings.minimum_questions}


def _gain(recipe: Recipe, rows: Mapping[str, Sequence[Row]], against: str, evaluation: Evaluation) -> Criterion:
    """The whole interval of the gain lies above the least gain that is asked for."""
    settings = recipe.gate
    metric, named = settings.metric, about(settings.metric)
    found = _pair(recipe, rows, against, metric, evaluation, settings.split)
    criterion = {"name": "gain", "metric": metric, "against": against, "limit": settings.minimum_gain}
    if found is None or found["low"] is None:
        return criterion | _lacking(f"{named.title} cannot be compared with {against}")
    figures = _figures(found, -1 if named.lower_is_better else 1)
    passed = figures["low"] > settings.minimum_gain  # of what is no number, nothing is greater
    said = (
        f"{named.title} {'gains' if passed else 'does not surely gain'} on {against}: "
        f"{_signed(metric, figures['value'])}, {_interval(metric, figures, evaluation)}"
    )
    if settings.minimum_gain:
        said += f"; more than {shown(metric, settings.minimum_gain)} is asked for"
    return criterion | figures | {"passed": passed, "said": said}


def _loss(
    recipe: Recipe, rows: Mapping[str, Sequence[Row]], baseline: str, metric: str, evaluation: Evaluation
) -> Criterion:
    """A score is not worse than a baseline's by more than the recipe allows."""
    limit, named = recipe.gate.losses[metric], about(metric)
    found = _pair(recipe, rows, baseline, metric, evaluation, "all")
    criterion = {"name": "loss", "metric": metric, "against": baseline, "limit": limit}
    if found is None:
        return criterion | _lacking(f"{named.title} was not measured")
    figures = _figures(found, 1 if named.lower_is_better else -1)
    loss = figures["value"]
    passed = loss <= limit
    said = (
        f"{named.title} {_signed(metric, -loss)} against {baseline}: a loss of "
        f"{shown(metric, limit)} is {'the most' if not passed else 'not exceeded'}"
    )
    return criterion | figures | {"passed": passed, "said": said}


def _against_reference(
    recipe: Recipe, rows: Mapping[str, Sequence[Row]], reference: GateReference, evaluation: Evaluation
) -> Criterion:
    """The whole interval of the gain over a reference model reaches what is asked for."""
    name, metric, named = reference.name, reference.metric, about(reference.metric)
    found = _pair(recipe, rows, name, metric, evaluation, "all")
    criterion = {"name": "reference", "metric": metric, "against": name, "limit": reference.at_least}
    if found is None or found["low"] is None:
        return criterion | _lacking(f"{named.title} cannot be compared with {name}")
    figures = _figures(found, -1 if named.lower_is_better else 1)
    enough = found["n"] >= recipe.gate.minimum_questions
    passed = enough and figures["low"] >= reference.at_least  # of what is no number, nothing is greater
    said = (
        f"{named.title} {_signed(metric, figures['value'])} against {name}, {_interval(metric, figures, evaluation)}: "
        f"at least {_signed(metric, reference.at_least)} is asked for"
    )
    if not enough:
        said += f", on at least {recipe.gate.minimum_questions:,} questions"
    return criterion | figures | {"passed": passed, "said": said}


def _lacking(said: str) -> Criterion:
    """What a criterion says that has no figures: it is not passed."""
    return dict.fromkeys(("value", "low", "high", "n")) | {"passed": False, "said": said}


def _figures(found: Mapping[str, Any], sign: int) -> dict[str, Any]:
    """Return a difference and its interval, if it has one, the other way round where `sign` is -1."""
    bounds = [None, None] if found["low"] is None else sorted((sign * found["low"], sign * found["high"]))
    return {"value": sign * found["difference"], "low": bounds[0], "high": bounds[1], "n": found["n"]}


def _interval(metric: str, figures: Mapping[str, Any], evaluation: Evaluation) -> str:
    low, high = _signed(metric, figures["low"]), _signed(metric, figures["high"])
    return f"{evaluation.confidence * 100:g} % interval {low} … {high}, n = {figures['n']:,}"


def _contamination(steps: Mapping[str, Output], candidate: str) -> Criterion:
    """The text that was trained on is that from which benchmarks and these very questions were taken out."""
    packed, scanned, scored = steps.get("pack"), steps.get("hold-out"), steps.get(f"evaluate-{candidate}")
    taken_out = sum(
        sum(steps[label].summary().get("found", {}).values())
        for label in ("decontaminate", "hold-out")
        if label in steps
    )
    if "decontaminate" not in steps or scanned is None or packed is None or scored is None:
        trouble = "the training text was not scanned for what the model is tested on"
    elif _input(packed, "documents") != scanned.content:
        trouble = "the text that was packed is not the one that was scanned"
    elif _input(scanned, "questions") != _input(scored, "questions"):
        trouble = "the training text was scanned for other questions than those that were asked"
    else:
        trouble = ""
    said = trouble or f"no contamination is left in the training text: {taken_out:,} passages were found and taken out"
    return {"name": "contamination", "passed": not trouble, "said": said, "value": taken_out, "limit": None}


def _pair(
    recipe: Recipe, rows: Mapping[str, Sequence[Row]], baseline: str, metric: str, evaluation: Evaluation, split: str
) -> dict[str, Any] | None:
    return compare_pair(
        (baseline, rows.get(baseline, ())),
        (recipe.gate.candidate, rows.get(recipe.gate.candidate, ())),
        metric,
        evaluation,
        None if split == "all" else split,
    )


def _input(output: Output, name: str) -> str | None:
    return dict(output.manifest["inputs"].get(name) or {}).get("content")


def _signed(metric: str, value: float) -> str:
    return shown_difference(metric, value)
