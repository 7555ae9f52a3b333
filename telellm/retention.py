"""Retention: what a night removes before it begins, so that the store does not grow for ever.

Kept are the version in production and those before it, every version and night that is young enough, the last night
that ended and one that has not, and every run that is no night of this recipe; with all outputs that one of them names.
What nobody names is marked first, and removed when it is still the same after `retention.unused_days`: what is being
made just now is not named yet.

Everything that says what is kept is read before anything is removed, and nothing is where one of these is damaged or of
a form that this version does not know: `TornOutput` names it. What is removed is named by its place in the store, never
by what an object says of itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import PurePosixPath
from typing import Any

from telellm.entries import stays_below
from telellm.recipe import Retention
from telellm.registry import production, versions
from telellm.reuse import forget_versions
from telellm.stage import MANIFEST_VERSION, digest_of, read_note
from telellm.store import MANIFEST, Store, TornOutput


@dataclass
class Swept:
    """What was removed."""

    runs: int = 0
    versions: int = 0
    outputs: int = 0

    def __str__(self) -> str:
        """`3 runs, 1 versions and 12 outputs are removed`."""
        return f"{self.runs} runs, {self.versions} versions and {self.outputs} outputs are removed"


def sweep(store: Store, name: str, settings: Retention, today: date) -> Swept:
    """Remove what retention allows of the nights, versions and outputs of a recipe; may be cut off anywhere."""
    swept = Swept()
    kept, old = _divide_nights(store, name, settings, today)
    outdated = list(_old_versions(store, name, settings, today))
    used = _used(store, {*(f"runs/{run}" for run in old), *(f"models/{name}/{version}" for version in outdated)})
    for run in old:
        store.delete(f"runs/{run}")
        store.remove(f"nights/{name}/{run}.json")
        swept.runs += 1
    for version in outdated:
        store.delete(f"models/{name}/{version}")
        swept.versions += 1
    swept.outputs = _remove_unused(store, name, settings, today, kept, used)
    forget_versions(store)
    return swept


def _divide_nights(store: Store, name: str, settings: Retention, today: date) -> tuple[list[str], list[str]]:
    """Return the runs of nights that are kept, and those that are not."""
    nights = []
    for key in store.list(f"nights/{name}"):
        night = store.read_json(key)
        if night is None:
            continue
        run = PurePosixPath(key).stem
        if night.get("run") != run or not {"began", "state", "date"} <= set(night) or not stays_below(run):
            raise TornOutput(f"{store.uri}/{key} does not say what became of the night {run}; remove it or put it back")
        nights.append(night)
    nights.sort(key=lambda night: str(night["began"]), reverse=True)
    last = next((night["run"] for night in nights if night["state"] == "finished"), None)
    kept: list[str] = []
    old: list[str] = []
    for night in nights:
        young = _age(night["date"], today, f"nights/{name}/{night['run']}.json") <= settings.runs_days
        keep = young or night["state"] != "finished" or night["run"] == last
        (kept if keep else old).append(str(night["run"]))
    return kept, old


def _old_versions(store: Store, name: str, settings: Retention, today: date) -> Iterator[str]:
    pointer = production(store, name)
    line = list(dict.fromkeys(reversed(pointer.line))) if pointer else []
    kept = set(line[: settings.versions])
    for manifest in versions(store, name):
        version = str(manifest["version"])
        age = _age(str(manifest["made_at"])[:10], today, f"models/{name}/{version}/{MANIFEST}")
        if version not in kept and age > settings.refused_days:
            yield version


def _remove_unused(
    store: Store, name: str, settings: Retention, today: date, nights: Iterable[str], used: Set[str]
) -> int:
    """Remove outputs and checkpoints that have been unused for long enough; marks those that are unused now."""
    place = f"retention/{name}.json"
    before, marks, removed = store.read_json(place) or {}, {}, 0
    for folder, keys in _folders(store, name, nights).items():
        if folder in used or any(key in used for key in keys):
            continue
        state = digest_of(keys)
        known = before.get(folder)
        since = known.get("since") if isinstance(known, dict) and known.get("state") == state else today.isoformat()
        since = min(str(since), today.isoformat())  # a clock that was ahead left a day to come
        if _age(since, today, place) >= settings.unused_days:
            store.delete(folder)
            removed += 1
        else:
            marks[folder] = {"since": since, "state": state}
    if marks != before:
        store.write_json(place, marks)
    return removed


def _used(store: Store, gone: Set[str]) -> set[str]:
    """Return every folder and key that a run or a version of any recipe names, without those that are to be removed.

    Raises `TornOutput` where one of these is damaged.
    """
    notes = [key for key in store.list("runs") if key.split("/")[-2] == "stages"]  # those of a study's arms too
    notes = [key for key in notes if "/".join(key.split("/")[:2]) not in gone]
    manifests = [key for key in store.list("models") if key.count("/") == 3 and key.endswith(f"/{MANIFEST}")]
    manifests = [key for key in manifests if key.removesuffix(f"/{MANIFEST}") not in gone]
    read = store.each(lambda key: read_note(store, key), notes)
    named = [(str(note["output"]), note["manifest"]) for note in read if note]
    kept = zip(manifests, store.each(store.read_json, manifests), strict=True)
    places = {place for key, version in kept if version for place in _outputs_of(store, key, version)}
    others = sorted(places - {place for place, _ in named})
    named += [
        (place, manifest or {}) for place, manifest in zip(others, store.each(store.manifest, others), strict=True)
    ]
    return set().union(*(_named(place, manifest) for place, manifest in named))


def _outputs_of(store: Store, key: str, version: Mapping[str, Any]) -> list[str]:
    """Return the places of the outputs that a version names."""
    try:
        return [str(output["place"]) for output in version["outputs"].values()]
    except (AttributeError, KeyError, TypeError):
        raise TornOutput(f"{store.uri}/{key} does not say which outputs it needs; put it back, or remove it") from None


def _named(place: str, manifest: Mapping[str, Any]) -> set[str]:
    """Return an output's folder, its shards', and the keys of files that lie elsewhere."""
    if manifest.get("schema", MANIFEST_VERSION) != MANIFEST_VERSION:
        raise TornOutput(
            f"the manifest of {place} is of another form ({manifest['schema']}) than this version of telellm knows "
            f"({MANIFEST_VERSION}), so nothing is removed; run the version that wrote it"
        )
    if manifest and "files" not in manifest:
        raise TornOutput(f"the manifest of {place} names no files, so nothing is removed; make that output again")
    elsewhere = {entry["key"] for entry in manifest.get("files", {}).values() if "key" in entry}
    return {place, *manifest.get("shards", ()), *elsewhere}


def _folders(store: Store, name: str, nights: Iterable[str]) -> dict[str, list[str]]:
    """Return the folders of outputs, shards and checkpoints that this recipe's nights may remove, with their keys."""
    found: dict[str, list[str]] = defaultdict(list)
    checkpoints = [f"runs/{run}/checkpoints" for run in nights]
    for prefix in ("stages", "packed", f"corpora/{name}", f"tele-eval/{name}", *checkpoints):
        depth = prefix.count("/") + 2
        for key in store.list(prefix):
            parts = key.split("/")
            # stages/<stage>/<digest>/… and stages/<stage>/shards/<digest>/…, elsewhere <prefix>/<digest>/…
            length = (4 if parts[2] == "shards" else 3) if prefix == "stages" else depth
            if len(parts) > length:
                found["/".join(parts[:length])].append(key)
    return dict(found)


def _age(day: object, today: date, where: str) -> int:
    """Return how old a day is (days; below 0 where a clock was ahead); raises `TornOutput` where it is none."""
    try:
        return (today - date.fromisoformat(str(day))) // timedelta(days=1)
    except ValueError:
        raise TornOutput(f"{where}: {str(day)[:40]!r} is no day (YYYY-MM-DD); put it back, or remove it") from None
