"""Manifests: what the file says that is written last, beside a stage's output, and how it is said to a person."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from telellm import __version__
from telellm.progress import drops_text
from telellm.recipe import Recipe
from telellm.stage import MANIFEST_VERSION, Context, Output, Stage, code_version, digest_of, peak_rss_mib
from telellm.store import Store


def describe(
    stage: Stage,
    context: Context,
    recipe: Recipe,
    found: Mapping[str, Output | None],
    began: float,
    parts: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    """Return the manifest of an output that is made now, without its files where it has no shards (`parts`)."""
    counts, drops = context.counts, Counter(context.progress.drops)
    files: dict[str, Any] = {}
    rows: dict[str, int] = {}
    peak = peak_rss_mib()
    if parts is not None:
        counts, drops = Counter(context.counts), Counter()
        for part in parts:
            counts.update({"in": part["in"], "out": part["out"]} | part["counts"])
            drops.update(part["drops"])
            _add_summary(context.summary, part.get("summary", {}))
            peak = max(peak, part.get("peak_rss_mib", 0))
            for name, entry in part["files"].items():
                files[name] = entry | {"key": f"{part['place']}/{name}"}
            rows |= part["rows"]
    manifest: dict[str, Any] = {
        "schema": MANIFEST_VERSION,
        "stage": stage.name,
        "code": code_version(stage),
        "version": __version__,
        "digest": context.key,
        "produces": stage.produces.__name__ if stage.produces else None,
        "sections": {section: digest_of(recipe.section(section)) for section in stage.sections},
        "inputs": {name: {"place": o.prefix, "content": o.content} for name, o in found.items() if o},
        "in": counts.pop("in", 0),
        "out": counts.pop("out", 0),
        "counts": dict(counts),
        "drops": dict(drops),
        "summary": context.summary,
        "seconds": round(time.monotonic() - began, 3),
        "peak_rss_mib": peak,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if context.kept:
        manifest["shards"] = context.kept
    if parts is not None:
        manifest |= {"files": files, "rows": rows, "shards": [part["place"] for part in parts]}
        manifest["this_run"] = _made_in(context.run, parts)
        data = sorted((name, entry["sha256"]) for name, entry in files.items() if name.startswith("data/"))
        manifest["content"] = digest_of(data)
    return manifest


def _made_in(run: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of shards that a run made itself and what it counted there; the others were there already."""
    made = [part for part in parts if part.get("run") == run]
    counts = Counter[str]()
    for part in made:
        counts.update(part["counts"])
    return {"shards": len(made), "counts": dict(counts)}


def _add_summary(summary: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add what a shard said: what is counted by name is added up, all else is the same in every shard."""
    for name, value in part.items():
        is_counted = isinstance(value, Mapping) and all(isinstance(number, int) for number in value.values())
        summary[name] = dict(Counter(summary.get(name, {})) + Counter(value)) if is_counted else value


def find_finished(store: Store, prefix: str) -> dict[str, Any] | None:
    """Return the manifest of an output whose files are all there: one that was deleted in part is made again."""
    manifest = store.manifest(prefix)
    if manifest is None:
        return None
    keys = [entry.get("key", f"{prefix}/{name}") for name, entry in manifest["files"].items()]
    if len(keys) <= 4:  # a shard: many of them are looked at side by side
        return manifest if all(map(store.exists, keys)) else None
    return manifest if all(store.each(store.exists, keys)) else None


def finished_note(manifest: Mapping[str, Any]) -> str:
    """Return what a finished stage made: `48 of 60 documents`, `45 questions of 59 documents`, or its own headline."""
    if headline := manifest.get("summary", {}).get("headline"):
        return str(headline)
    made = {"Document": "documents", "Question": "questions"}.get(manifest["produces"] or "", "files")
    read = "documents" if manifest["inputs"] else "files"
    if not manifest["in"]:
        return f"{manifest['out']:,} {made}"
    if made == read:
        return f"{manifest['out']:,} of {manifest['in']:,} {made}"
    return f"{manifest['out']:,} {made} of {manifest['in']:,} {read}"


def nothing_left(label: str, manifest: Mapping[str, Any]) -> str:
    """Return what is said of an output that would be empty: why all of its input was left out."""
    drops = drops_text(manifest["drops"]) or "nothing was rejected: its input was empty"
    return f"{label}: nothing is left of {manifest['in']:,}: {drops}; look at the sources and settings of this stage"
