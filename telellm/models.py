"""Models: what `telellm models` shows of versions and of the one in production."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from telellm.recipe import RecipeError
from telellm.registry import Production, find_version, known_models, missing, production, versions
from telellm.store import Store


def describe_models(store: Store, names: Iterable[str]) -> Iterator[str]:
    """Yield a line a version, the newest first: what became of it, when it was made, what the gate said."""
    for name in names:
        pointer = production(store, name)
        found = versions(store, name)
        if not found and pointer is None:
            raise RecipeError(f"models: there is no model {name}\n  {known_models(store)}")
        for manifest in reversed(found):
            yield (
                f"{name:<20} {manifest['version']:<20} {_state(manifest, pointer):<14} {manifest['made_at']}  "
                f"{manifest['gate']['reason']}"
            )
        if pointer is not None and pointer.version not in {manifest["version"] for manifest in found}:
            yield f"{name:<20} {pointer.version:<20} {'production':<14} its version is gone: roll back"


def describe_version(store: Store, name: str, version: str = "") -> Iterator[str]:
    """Yield what there is to say of a version, by default the one in production, and the moves of the pointer."""
    pointer = production(store, name)
    if not version and pointer is None:
        made = [str(manifest["version"]) for manifest in reversed(versions(store, name))]
        if not made:
            raise RecipeError(f"models: there is no model {name}\n  {known_models(store)}")
        raise RecipeError(
            f"models: {name} has no version in production; name a version\n  its versions: {', '.join(made)}"
        )
    manifest = find_version(store, name, version or (pointer.version if pointer else ""))
    place = f"{store.uri}/models/{name}/{manifest['version']}"
    snapshot = manifest["outputs"].get("decontaminate", {}).get("place", "none of its own")
    broken = list(missing(store, manifest))
    yield f"{name} {manifest['version']}: {_state(manifest, pointer)}"
    for label, said in {
        "made": f"{manifest['made_at']} by the run {manifest['run']}",
        "model": f"{store.uri}/{manifest['model']}/model",
        "snapshot": snapshot,
        "lineage": f"{place}/lineage.json" + (f": {len(broken)} missing, first: {broken[0]}" if broken else " (whole)"),
        "report": f"{place}/report.html",
    }.items():
        yield f"  {label:<12} {said}"
    for criterion in manifest["gate"]["criteria"]:
        yield f"  {'passed' if criterion['passed'] else 'NOT PASSED':<12} {criterion['said']}"
    for move in reversed(pointer.moves if pointer else ()):
        yield f"  {move.at} {move.action:<8} {move.before or 'none'} → {move.version}, by {move.by}: {move.why}"


def _state(manifest: Mapping[str, Any], pointer: Production | None) -> str:
    version = manifest["version"]
    if pointer is not None and pointer.version == version:
        return "production"
    if pointer is not None and version in pointer.line:
        return "earlier"
    if pointer is not None and any(move.version == version for move in pointer.moves):
        return "rolled back"
    return "passed" if manifest["gate"]["promoted"] else "refused"
