"""Named models: what a person calls a model on the command line, and where it is.

A run or recipe stands for its base, pretrained and instruct model; a name of the registry for the one in production.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from telellm import registry
from telellm.lm.models import find_local
from telellm.recipe import Recipe, RecipeError, load, parse
from telellm.stage import known_runs, read_notes
from telellm.store import Store


@dataclass(frozen=True)
class NamedModel:
    """A model that was named."""

    label: str
    name: str
    """What `telellm.lm` opens; for an endpoint, the model's name there ("": the first that it lists)."""
    revision: str = "main"
    endpoint: str = ""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the endpoint's key."""
    chat: bool = True
    """Whether it answers through its chat template, as in the evaluation of its role."""
    store: str = ""
    """The store that holds its snapshot, …"""
    run: str = ""
    """… the run that made it, …"""
    snapshot: str = ""
    """… and the snapshot's place; "" where it has none."""


def resolve(text: str, store: Store) -> list[NamedModel]:
    """Return the model or models that a text means.

    It may be a directory, a .gguf file, `package:…`, a hub name, an address in a store, the address of a run
    (`STORE/runs/NAME`), a recipe's file, an endpoint's URL (`…/v1`, or `…/v1#MODEL`), or a name in the store: of the
    registry or of a run. After a run's name or a recipe's file, `#NAME` is one of its reference models.
    Raises `RecipeError` with what is known there.
    """
    if text.startswith(("http://", "https://")):
        address, _, name = text.partition("#")
        return [NamedModel(name or address, name, endpoint=address.rstrip("/"))]
    owner, marker, reference = text.partition("#")
    if marker and owner.endswith((".yaml", ".yml")):
        return [_reference(load(Path(owner)), owner, reference)]
    if marker and store.exists(f"runs/{owner}/recipe.yaml"):
        return [_reference(recipe_of_run(store, owner), f"the run {owner}", reference)]
    if text.endswith((".yaml", ".yml")):
        return _of_recipe(load(Path(text)), store)
    address, marker, run = text.rstrip("/").rpartition("/runs/")
    if marker:
        return _of_run(Store.open(address), run)
    if "://" in text:
        return [NamedModel(text.rstrip("/").rpartition("/")[2], text)]
    path = Path(text).expanduser()
    if text.startswith(("package:", "/", "./", "../", "~")) or text.endswith(".gguf") or path.is_dir():
        name = text if text.startswith("package:") else str(path.resolve())
        find_local(name)
        return [NamedModel(Path(text).name.removesuffix(".gguf"), name)]
    name, _, version = text.partition("@")
    if text and store.manifest(f"models/{name}/{version}") if version else registry.production(store, name):
        return [of_registry(store, name, version)]
    if store.exists(f"runs/{text}/recipe.yaml"):
        return _of_run(store, text)
    if "/" in text:
        name, _, revision = text.partition("@")
        return [NamedModel(text, name, revision or "main")]
    if name and (made := [str(one["version"]) for one in reversed(registry.versions(store, name))]):
        said = f"there is no version {version} of {name}" if version else f"{name} has no version in production"
        raise RecipeError(f"{said}; name one: {', '.join(f'{name}@{one}' for one in made[:8])}")
    known = [
        f"  {what} in {store.uri}: {', '.join(names)}"
        for what, names in (("models", registry.models(store)), ("runs", known_runs(store)))
        if names
    ]
    raise RecipeError(
        "\n".join(
            [
                f'"{text}" is neither a model nor a run in {store.uri}',
                *known,
                "  a model is also a directory, owner/name of a hub, package:MODULE/FILE, a .gguf file, s3://…, or the "
                "URL of an endpoint (…/v1)",
            ]
        )
    )


def of_registry(store: Store, name: str, version: str = "") -> NamedModel:
    """Return a version of the registry, by default the one in production."""
    manifest = registry.find_version(store, name, version or registry.in_production(store, name).version)
    return NamedModel(
        f"{name} {manifest['version']}",
        f"{store.uri}/{manifest['model']}/model",
        chat="/instruct/" in f"/{manifest['model']}/",
        store=store.uri,
        run=str(manifest["run"]),
        snapshot=str(manifest["outputs"].get("decontaminate", {}).get("place", "")),
    )


def snapshots(store: Store) -> Iterator[tuple[str, str]]:
    """Yield the runs that have a snapshot, each with its place, the newest first."""
    found = []
    for run in known_runs(store):
        if note := read_notes(store, run).get("decontaminate"):
            found.append((str(note["manifest"]["finished_at"]), run, str(note["output"])))
    for _, run, place in sorted(found, reverse=True):
        yield run, place


def questions_of(store: Store, prefix: str) -> list[dict[str, str]]:
    """Return questions of Tele-Eval that the report at a place shows; none where there is no report."""
    try:
        facts = json.loads(store.read(f"{prefix}/report.json"))
    except FileNotFoundError:
        return []
    return list((facts.get("tele_eval") or {}).get("examples", []))


def _of_recipe(recipe: Recipe, store: Store) -> list[NamedModel]:
    if store.exists(f"runs/{recipe.name}/recipe.yaml"):
        return _of_run(store, recipe.name)
    return [NamedModel("base", recipe.model.name, recipe.model.revision, chat=False)]


def _reference(recipe: Recipe, owner: str, name: str) -> NamedModel:
    models = recipe.evaluation.reference_models
    if name not in models:
        known = ", ".join(sorted(models)) or "none"
        raise RecipeError(f'"{name}" is not a reference model of {owner}\n  reference models: {known}')
    model = models[name]
    served = {"endpoint": model.endpoint.rstrip("/"), "key_variable": model.key_variable} if model.endpoint else {}
    return NamedModel(name, model.model, model.revision, chat=model.chat, **served)


def recipe_of_run(store: Store, run: str) -> Recipe:
    """Return what a run's recipe says of its models and of retrieval, also if an earlier telellm wrote it.

    Raises `RecipeError` where there is no such run.
    """
    try:
        text = store.read(f"runs/{run}/recipe.yaml").decode()
    except FileNotFoundError:
        raise RecipeError(f"{store.uri}: there is no run {run}\n  known runs: {', '.join(known_runs(store))}") from None
    data = yaml.safe_load(text)
    kept = {section: data[section] for section in ("name", "model", "sources", "retrieval") if section in data}
    kept["evaluation"] = {"reference_models": data.get("evaluation", {}).get("reference_models", {})}
    return parse(yaml.safe_dump(kept), source=f"recipe of the run {run}")


def _of_run(store: Store, run: str) -> list[NamedModel]:
    recipe = recipe_of_run(store, run)
    notes = read_notes(store, run)
    snapshot = str(notes["decontaminate"]["output"]) if "decontaminate" in notes else ""
    where = {"store": store.uri, "run": run, "snapshot": snapshot}
    found = [NamedModel("base", recipe.model.name, recipe.model.revision, chat=False, **where)]
    for role, stage in registry.STAGE_OF.items():
        if stage in notes:
            name = f"{store.uri}/{notes[stage]['output']}/model"
            found.append(NamedModel(role, name, chat=role == "instruct", **where))
    return found
