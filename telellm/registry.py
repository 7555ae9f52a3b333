"""Registry: the versions of a model, and the one in production.

`models/<name>/<version>/` holds what tells of a version: recipe, report, model card, lineage, the raw files' digests.
Its manifest names the outputs that it needs, the model's weights among them: they stay where their stage put them, and
`retention.py` removes nothing that a version names. So a version costs no second copy of gigabytes.

`models/<name>/production.json` is the version in production and every move before it, in one object: whoever moves the
pointer writes its history with the same conditional write.
"""

import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from telellm import __version__
from telellm.entries import stays_below
from telellm.recipe import Recipe, RecipeError
from telellm.stage import Output, StageFailed, digest_of, read_notes
from telellm.store import Store, TornOutput

VERSION_SCHEMA = 1
STAGE_OF = {"pretrained": "pretrain", "instruct": "instruct"}
"""The model of a run → the stage that makes it."""
NEEDED = ("pretrain", "instruct", "decontaminate", "hold-out", "tele-eval")
"""Steps whose outputs a version keeps, beside those of its scores: models, snapshot, training text, questions."""
REPORT_FILES = ("report.json", "report.html", "model-card.md")
LINEAGE = ("stage", "digest", "content", "code", "version", "sections", "inputs", "in", "out", "drops", "finished_at")
"""What a version's lineage keeps of the manifests of its stages."""


class PointerMoved(RuntimeError):
    """Someone else moved the pointer first."""


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the pointer."""

    version: str
    before: str | None
    action: Literal["promote", "rollback"]
    at: str
    by: str
    why: str


@dataclass(frozen=True)
class Production:
    """What a pointer says."""

    name: str
    moves: tuple[Move, ...]
    data: bytes
    """The object as it was read: what the next move expects."""

    @property
    def version(self) -> str:
        """The version in production."""
        return self.moves[-1].version

    @property
    def line(self) -> tuple[str, ...]:
        """The versions that rollbacks lead to, oldest first, and the one in production last."""
        line: list[str] = []
        for move in self.moves:
            if move.action == "promote":
                line.append(move.version)
            else:
                line = line[: _last(line, move.version) + 1]
        return tuple(line)


def production(store: Store, name: str) -> Production | None:
    """Return what a model's pointer says, or None where nothing was promoted yet."""
    key = f"models/{name}/production.json"
    try:
        data = store.read(key)
    except FileNotFoundError:
        return None
    try:
        pointer = Production(name, tuple(Move(**move) for move in json.loads(data)["moves"]), data)
        whole = pointer.line[-1] == pointer.version and all(map(stays_below, pointer.line))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise TornOutput(f"{store.uri}/{key} is damaged; put an earlier copy of it back")
    return pointer


def in_production(store: Store, name: str) -> Production:
    """Return what a model's pointer says; raises `RecipeError` where nothing was promoted yet."""
    pointer = production(store, name)
    if pointer is None:
        raise RecipeError(f"models: {name} has no version in production\n  {known_models(store)}")
    return pointer


def models(store: Store) -> list[str]:
    """Return the names of the models that have a version or a pointer."""
    return sorted({key.split("/")[1] for key in store.list("models") if key.count("/") >= 2})


def versions(store: Store, name: str) -> list[dict[str, Any]]:
    """Return the manifests of a model's versions, oldest first."""
    places = [key.rpartition("/")[0] for key in store.list(f"models/{name}") if key.endswith("/manifest.json")]
    found = [manifest for place in places if place.count("/") == 2 and (manifest := _version_at(store, place))]
    return sorted(found, key=lambda manifest: (str(manifest["made_at"]), manifest["version"]))


def find_version(store: Store, name: str, version: str) -> dict[str, Any]:
    """Return a version's manifest; raises `RecipeError` with the known ones where there is none."""
    manifest = _version_at(store, f"models/{name}/{version}") if version else None
    if manifest is None:
        known = [found["version"] for found in versions(store, name)]
        hint = f"\n  known versions: {', '.join(known)}" if known else f"\n  {known_models(store)}"
        raise RecipeError(f'models: {name} has no version "{version}"{hint}')
    return manifest


def _version_at(store: Store, place: str) -> dict[str, Any] | None:
    """Return the manifest of the version at a place; raises `TornOutput` where it is that of something else."""
    manifest = store.manifest(place)
    if manifest is not None:
        _, name, version = place.split("/", 2)
        wanted = {"name": name, "version": version}
        known = all(manifest.get(field, value) == value for field, value in wanted.items())
        if not known or not {"version", "made_at", "gate", "outputs"} <= set(manifest):
            raise TornOutput(
                f"{store.uri}/{place}/manifest.json is not that of this version; put it back, or remove it"
            )
    return manifest


def register(store: Store, recipe: Recipe, run: str, report: str, date: str, at: str) -> dict[str, Any]:
    """Make the model of a finished run a version; returns its manifest. A version that is there stays as it is.

    `report` is the place of the run's report, with the gate's decision; `date` is that of the night (YYYY-MM-DD). A
    version is named after the date and the digests of model and report: the same work makes the same version.
    """
    notes = {label: Output(store, note["output"], note["manifest"]) for label, note in read_notes(store, run).items()}
    told = Output.find(store, report)
    facts = json.loads(told.path("report.json").read_text(encoding="utf-8"))
    model = notes.get(STAGE_OF[recipe.gate.candidate])
    if model is None or not facts["gate"]:
        raise StageFailed(f"registry: the run {run} has no {recipe.gate.candidate} model that the gate has judged")
    version = f"{date}-{digest_of(model.content, told.manifest['digest'])[:8]}"
    place = f"models/{recipe.name}/{version}"
    if (known := store.manifest(place)) is not None:
        return known
    needed = {label: output for label, output in notes.items() if label in NEEDED or label.startswith("evaluate-")}
    manifest = {
        "schema": VERSION_SCHEMA,
        "name": recipe.name,
        "version": version,
        "made_at": at,
        "run": run,
        "content": model.content,
        "model": model.prefix,
        "trains_on": notes["pretrain"].prefix if "pretrain" in notes else model.prefix,
        "outputs": {label: {"place": output.prefix, "content": output.content} for label, output in needed.items()},
        "gate": facts["gate"],
        "scores": told.summary().get("scores", {}),
    }
    with tempfile.TemporaryDirectory(prefix="telellm-version-") as folder:
        for name in REPORT_FILES:
            shutil.copyfile(told.path(name), Path(folder) / name)
        (Path(folder) / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        (Path(folder) / "raw-files.jsonl.gz").write_bytes(_raw_files(notes.get("ingest")))
        lineage = _lineage(recipe, run, notes, facts) | {"scores": manifest["scores"]}
        (Path(folder) / "lineage.json").write_text(json.dumps(lineage, indent=1, ensure_ascii=False), encoding="utf-8")
        return store.commit(place, Path(folder), manifest)


def promote(store: Store, name: str, version: str, *, before: str | None, by: str, why: str, at: str) -> Production:
    """Put a version into production, if `before` is in production still (None: nothing is); returns the new pointer.

    What is in production already stays, without a move. Raises `RecipeError` for a version that is not there or that
    the gate refused, `TornOutput` for one whose model is not whole, `PointerMoved` where another move came first.
    """
    manifest = find_version(store, name, version)
    if not manifest["gate"]["promoted"]:
        raise RecipeError(
            f"models: {name} {version}: the gate refused it, so it never becomes production: "
            f"{manifest['gate']['reason']}"
        )
    if trouble := list(missing(store, manifest)):
        raise TornOutput(f"models: {name} {version} is not whole: {trouble[0]}; promote another version")
    return _move(store, manifest, production(store, name), Move(version, before, "promote", at, by, why))


def rollback(store: Store, name: str, to: str = "", *, by: str, why: str, at: str) -> Production:
    """Put the version before back into production, or an earlier one (`to`); returns the new pointer.

    Raises `RecipeError` where there is none, `PointerMoved` where another move came first.
    """
    current = in_production(store, name)
    earlier = current.line[:-1]
    if not earlier:
        raise RecipeError(f"models: {name}: there is no version before {current.version} to go back to")
    if to and to not in earlier:
        raise RecipeError(
            f'models: {name}: "{to}" was not in production before {current.version}\n'
            f"  earlier versions: {', '.join(dict.fromkeys(reversed(earlier)))}"
        )
    version = to or earlier[-1]
    if (manifest := store.manifest(f"models/{name}/{version}")) is None:
        raise RecipeError(
            f"models: {name} {version}: retention removed it; more are kept with retention.versions in the recipe"
        )
    return _move(store, manifest, current, Move(version, current.version, "rollback", at, by, why))


def missing(store: Store, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not there of a version and of the outputs that it names; nothing where its lineage is whole."""
    place = f"models/{manifest['name']}/{manifest['version']}"
    for file in manifest["files"]:
        if not store.exists(f"{place}/{file}"):
            yield f"{place}/{file} is gone"
    for label, output in manifest["outputs"].items():
        found = store.manifest(output["place"])
        if found is None or found["content"] != output["content"]:
            yield f"{label}: {output['place']} is {'gone' if found is None else 'another one'}"
            continue
        for file, entry in found["files"].items():
            if not store.exists(entry.get("key", f"{output['place']}/{file}")):
                yield f"{label}: {output['place']}/{file} is gone"


def _move(store: Store, manifest: Mapping[str, Any], current: Production | None, move: Move) -> Production:
    name, key = manifest["name"], f"models/{manifest['name']}/production.json"
    if current is not None and current.version == move.version:
        return current
    moves = (*(current.moves if current else ()), move)
    pointer = {
        **asdict(move),
        "name": name,
        "model": f"{store.uri}/{manifest['model']}/model",
        "moves": [asdict(each) for each in moves],
    }
    data = json.dumps(pointer, indent=1, ensure_ascii=False).encode()
    expected = current.data if current else None
    if (current.version if current else None) == move.before and store.swap(key, expected, data):
        return Production(name, moves, data)
    now = production(store, name)
    if now is not None and now.version == move.version:  # another try of the same night
        return now
    raise PointerMoved(
        f"models: {name}: {now.version if now else 'nothing'} is in production, and no longer "
        f"{move.before or 'nothing'}: {move.version} was not compared with it and stays where it is"
    )


def _lineage(recipe: Recipe, run: str, notes: Mapping[str, Output], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a version was made of and by what: everything by its digest."""
    cluster = recipe.cluster
    return {
        "schema": VERSION_SCHEMA,
        "run": run,
        "recipe": digest_of(recipe),
        "base_model": {"name": recipe.model.name, "revision": recipe.model.revision},
        "trained_from": facts["gate"].get("trained_from"),
        "telellm": __version__,
        "images": f"{cluster.registry}/telellm/<stage>:{cluster.tag or __version__}" if cluster.enabled else None,
        "environment": facts["environment"],
        "stages": {
            label: {"output": output.prefix} | {field: output.manifest.get(field) for field in LINEAGE}
            for label, output in notes.items()
        },
    }


def _raw_files(ingest: Output | None) -> bytes:
    """Return the raw files' names and digests, a line of JSON each, compressed."""
    paths = [ingest.path(name) for name in ingest.names("raw/")] if ingest else []
    return gzip.compress(b"".join(path.read_bytes() for path in paths), mtime=0)


def known_models(store: Store) -> str:
    """Return a hint for a message: the names of the models that there are."""
    return f"known models: {', '.join(models(store)) or 'none'}"


def _last(line: list[str], version: str) -> int:
    return len(line) - 1 - line[::-1].index(version)
