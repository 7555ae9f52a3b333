"""Failures: a night that fails says so: which step, and why; a night that was killed is told of by the next.

`runs/<run>/failure.json` says what failed last. Where this process may not reach the webhook (on a cluster, only the
first and the last step of a night know its address), the next night tells.
"""

from datetime import UTC, datetime
from typing import Any

from telellm import notify
from telellm.recipe import Recipe
from telellm.stage import read_notes
from telellm.store import Store


def record_failure(store: Store, recipe: Recipe, run: str, step: str, reason: str) -> str:
    """Write down that a step of a night failed, and tell the webhook once; a run that is no night is left alone.

    Returns what went wrong with telling, "" where nothing did.
    """
    if store.read_json(f"nights/{recipe.name}/{run}.json") is None:
        return ""
    known = store.read_json(_place(run)) or {}
    failure = {"step": step, "reason": reason, "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    told = bool(known.get("told") and (known["step"], known["reason"]) == (step, reason))  # a retry says it again
    trouble = "" if told else _tell(store, recipe, run, failure)
    told = told or (not trouble and notify.is_wanted(recipe.notify))
    store.write_json(_place(run), failure | {"told": told})
    return trouble


def tell_of_the_dead(store: Store, recipe: Recipe, run: str, was_cut_off: bool) -> str:
    """Tell of a night that is gone on with, if nobody did; `was_cut_off`: it ended without a word where none is there.

    Returns what went wrong with telling, "" where nothing did.
    """
    failure = store.read_json(_place(run))
    if failure is None and was_cut_off:
        last = next(reversed(read_notes(store, run)), "")
        failure = {"step": f"after {last}" if last else "start", "reason": "the night was cut off without a word"}
    if failure is None:
        return ""
    trouble = "" if failure.get("told") else _tell(store, recipe, run, failure)
    store.remove(_place(run))  # tonight's own failures are new ones
    return trouble


def _tell(store: Store, recipe: Recipe, run: str, failure: dict[str, Any]) -> str:
    content = notify.failure(recipe.notify, store.uri, recipe.name, run, failure["step"], failure["reason"])
    return notify.send(recipe.notify, content)


def _place(run: str) -> str:
    return f"runs/{run}/failure.json"
