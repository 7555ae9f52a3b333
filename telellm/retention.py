"""Retention: what a night removes before it begins, so that the store does not grow for ever.

Kept are the version in production and those before it, every version and night that is young enough, the last night
that ended and one that has not, and every run that is no night of this recipe; with all outputs that one of them names.
What nobody names is marked first, and removed when it is still the same after `retention.unused_days`: what is being
made just now is not named yet.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from telellm.recipe import Retention
from telellm.registry import production, versions
from telellm.reuse import forget_versions
from telellm.stage import digest_of
from telellm.store import MANIFEST, PARALLEL_TRANSFERS, Store


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
    for run in old:
        store.delete(f"runs/{run}")
        store.remove(f"nights/{name}/{run}.json")
        swept.runs += 1
    for version in list(_old_versions(store, name, settings, today)):
        store.delete(f"models/{name}/{version}")
        swept.versions += 1
    swept.outputs = _remove_unused(store, name, settings, today, kept)
    forget_versions(store)
    return swept


def _divide_nights(store: Store, name: str, settings: Retention, today: date) -> tuple[list[str], list[str]]:
    """Return the runs of nights that are kept, and those that are not."""
    nights = [night for key in store.list(f"nights/{name}") if (night := store.read_json(key))]
    nights.sort(key=lambda night: str(night["began"]), reverse=True)
    last = next((night["run"] for night in nights if night["state"] == "finished"), None)
    kept: list[str] = []
    old: list[str] = []
    for night in nights:
        young = _age(night["date"], today) <= settings.runs_days
        keep = young or night["state"] != "finished" or night["run"] == last
        (kept if keep else old).append(str(night["run"]))
    return kept, old


def _old_versions(store: Store, name: str, settings: Retention, today: date) -> Iterator[str]:
    pointer = production(store, name)
    line = list(dict.fromkeys(reversed(pointer.line))) if pointer else []
    kept = set(line[: settings.versions])
    for manifest in versions(store, name):
        if manifest["version"] not in kept and _age(manifest["made_at"][:10], today) > settings.refused_days:
            yield manifest["version"]


def _remove_unused(store: Store, name: str, settings: Retention, today: date, nights: Iterable[str]) -> int:
    """Remove outputs and checkpoints that have been unused for long enough; marks those that are unused now."""
    used = _used(store)
    place = f"retention/{name}.json"
    before, marks, removed = store.read_json(place) or {}, {}, 0
    for folder, keys in _folders(store, name, nights).items():
        if folder in used or any(key in used for key in keys):
            continue
        state = digest_of(keys)
        known = before.get(folder)
        since = known["since"] if known and known["state"] == state else today.isoformat()
        if _age(since, today) >= settings.unused_days:
            store.delete(folder)
            removed += 1
        else:
            marks[folder] = {"since": since, "state": state}
    if marks != before:
        store.write_json(place, marks)
    return removed


def _used(store: Store) -> set[str]:
    """Return every folder and key that a run or a version of any recipe names."""
    notes = [key for key in store.list("runs") if key.split("/")[-2] == "stages"]  # those of a study's arms too
    manifests = [key for key in store.list("models") if key.count("/") == 3 and key.endswith(f"/{MANIFEST}")]
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:  # of a bucket, each takes some milliseconds
        named = [(note["output"], note["manifest"]) for note in pool.map(store.read_json, notes) if note]
        kept = [version["outputs"].values() for version in pool.map(store.read_json, manifests) if version]
        places = {output["place"] for outputs in kept for output in outputs} - {place for place, _ in named}
        named += [
            (place, manifest or {}) for place, manifest in zip(places, pool.map(store.manifest, places), strict=True)
        ]
    return set().union(*(_named(place, manifest) for place, manifest in named))


def _named(place: str, manifest: Mapping[str, Any]) -> set[str]:
    """Return an output's folder, its shards', and the keys of files that lie elsewhere."""
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


def _age(day: str, today: date) -> int:
    return (today - date.fromisoformat(day)) // timedelta(days=1)
