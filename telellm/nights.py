"""Nights: what the steps of the pipeline `nightly` do beside its stages.

`nights/<recipe>/<run>.json` says when a night began and how it ended. A night that died is gone on with by the next one
under the dead one's name, so that checkpoints and jobs are found again. `runs/<run>/night.json` holds what the night
compares with: the version in production when it began.
"""

from datetime import UTC, date, datetime
from typing import Any

from telellm import notify, registry
from telellm.failures import tell_of_the_dead
from telellm.progress import Progress
from telellm.recipe import Recipe
from telellm.registry import PointerMoved
from telellm.retention import sweep
from telellm.runs import change, fail, open_run, start_run
from telellm.stage import Output, digest_of
from telellm.store import Store

NEWS = ("model", "tele_eval", "training", "evaluation", "gate", "nightly")
"""Sections of the recipe whose change makes a night worthwhile, as new documents do."""


def name_night(store: Store, name: str, today: date) -> str:
    """Return the name of tonight's run: that of the last one, if it is of the same date or died, or a new one."""
    nights = sorted(_nights(store, name), key=lambda night: str(night["began"]))
    if nights and (nights[-1]["date"] == today.isoformat() or nights[-1]["state"] == "running"):
        return str(nights[-1]["run"])
    return f"{name}-{today.isoformat()}"


def start_night(
    recipe: str, store: str, name: str = "", model: str = "", changes: str = "", now: datetime | None = None
) -> str:
    """Begin a night, or go on with one: remove what is old, and write down with which version it compares.

    Returns the run's address. Ends the process with 1 or 2 and one message when it fails.
    """
    now = now or datetime.now(UTC)
    progress = Progress("start")
    try:
        parsed = change(recipe, model, changes)
        opened = Store.open(store)
        run = name or name_night(opened, parsed.name, now.date())
    except Exception as error:
        fail("start", error, progress)
    address = start_run(recipe, store, run, model, changes)
    try:
        open_night(opened, parsed, run, now, progress)
    except Exception as error:
        fail("start", error, progress)
    return address


def open_night(store: Store, recipe: Recipe, run: str, now: datetime, progress: Progress) -> None:
    """Write down that a run is tonight's, and sweep."""
    record, place = f"nights/{recipe.name}/{run}.json", f"runs/{run}/night.json"
    known, pinned = store.read_json(record), store.read_json(place)
    current = registry.production(store, recipe.name)
    manifest = store.manifest(f"models/{recipe.name}/{current.version}") if current else None
    goes_on = known is not None and known["state"] == "running"
    if known is not None and goes_on:
        # a second start on the same date may join a night that is well
        cut_off = known["date"] != now.date().isoformat()
        if trouble := tell_of_the_dead(store, recipe, run, was_cut_off=cut_off):
            progress.say(trouble)
    if not (goes_on and pinned and manifest and manifest["run"] == run):
        pinned = {
            "date": now.date().isoformat(),
            "production": current.version if current else None,
            "model": manifest["model"] if manifest else "",
            "trains_on": manifest["trains_on"] if manifest else "",
            "learnt": manifest["outputs"].get("hold-out", {}).get("place", "") if manifest else "",
        }
        store.write_json(place, pinned)
    # else: this night died after its model was promoted; it still compares with the version before
    began = known["began"] if known and goes_on else _second(now)
    store.write_json(record, {"run": run, "date": now.date().isoformat(), "began": began, "state": "running"})
    swept = sweep(store, recipe.name, recipe.retention, now.date())
    against = pinned["production"] or "the base model: nothing is in production yet"
    progress.send(state="done", note=f"{run}: {'goes on, ' if goes_on else ''}compares with {against}; {swept}")


def is_new(run: str, documents: str) -> bool:
    """Say whether a snapshot or the recipe differs from the last night's; a night without news ends here."""
    store, name, recipe = open_run(run)
    last = store.read_json(_last(recipe)) or {}
    snapshot = Output.find(store, documents)
    same_settings = last.get("settings") in (None, _settings(recipe))
    new = last.get("content") != snapshot.content or not same_settings
    note = f"{snapshot.num_records:,} documents" if new else f"nothing new since the run {last.get('run')}"
    if not new:
        close_night(store, recipe, name, "nothing new")
    Progress("news").send(state="done", note=note)
    return new


def production_model(run: str) -> str:
    """Return the place of the model that a night compares with; "" for the base model, where nothing was promoted."""
    store, name, _ = open_run(run)
    return str((store.read_json(f"runs/{name}/night.json") or {}).get("model", ""))


def first_model(run: str) -> str:
    """Return the place of the model from which a run's pretraining starts; "" for the base model."""
    store, name, recipe = open_run(run)
    night = store.read_json(f"runs/{name}/night.json") or {}
    return str(night.get("trains_on", "")) if recipe.nightly.train_from == "production" else ""


def learnt_text(run: str) -> str:
    """Return the place of the text that production learnt from; "" where a night reads all of its own."""
    store, name, recipe = open_run(run)
    night = store.read_json(f"runs/{name}/night.json") or {}
    return str(night.get("learnt", "")) if recipe.nightly.train_on == "new" else ""


def settle(run: str, documents: str, report: str, now: datetime | None = None) -> str:
    """Make a night's model a version, and put it into production if the gate let it pass; returns what became of it.

    It is said to the webhook, and the night ends: `promoted`, `refused`, or `overtaken` where another version came into
    production meanwhile. May be done again at any time.
    """
    store, name, recipe = open_run(run)
    progress, at = Progress("promote"), _second(now or datetime.now(UTC))
    night = store.read_json(f"runs/{name}/night.json")
    assert night is not None, "start_night wrote it"
    version = registry.register(store, recipe, name, report, night["date"], at)
    outcome, gate = "refused", version["gate"]
    if gate["promoted"]:
        who = {"by": f"nightly, run {name}", "why": gate["reason"], "at": at}
        try:
            registry.promote(store, recipe.name, version["version"], before=night["production"], **who)
            outcome = "promoted"
        except PointerMoved as moved:
            outcome = "overtaken"
            progress.say(str(moved))
    message = notify.message(recipe.notify, store.uri, version, outcome, night["production"])
    if trouble := notify.send(recipe.notify, message):
        progress.say(trouble)
    if outcome != "overtaken":  # else the next night compares again
        content = Output.find(store, documents).content
        last = {"content": content, "settings": _settings(recipe), "snapshot": documents, "run": name}
        store.write_json(_last(recipe), last)
    close_night(store, recipe, name, outcome)
    progress.send(state="done", note=f"{version['version']}: {outcome}: {gate['reason']}")
    return outcome


def close_night(store: Store, recipe: Recipe, run: str, outcome: str) -> None:
    """Write down how a night ended; a run that is none is left as it is."""
    place = f"nights/{recipe.name}/{run}.json"
    if (record := store.read_json(place)) is not None:
        store.write_json(place, record | {"state": "finished", "outcome": outcome})


def _nights(store: Store, name: str) -> list[dict[str, Any]]:
    return [night for key in store.list(f"nights/{name}") if (night := store.read_json(key))]


def _last(recipe: Recipe) -> str:
    return f"corpora/{recipe.name}/last-night.json"


def _settings(recipe: Recipe) -> str:
    return digest_of(*(recipe.section(section) for section in NEWS))


def _second(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
