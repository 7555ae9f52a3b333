"""Truth: how often screening, deduplication and decontamination were right, where a folder says what is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telellm.recipe import RecipeError
from telellm.stage import Output
from telellm.store import sha256_file

CONTAMINATED = "contaminated.json"


@dataclass(frozen=True)
class Truth:
    """What a person knows about the documents."""

    telecom: Mapping[str, bool]
    duplicates: Mapping[str, str]
    """The id of a copy → the id of the document that it repeats."""
    contaminated: frozenset[str]


def truth_files(folder: str) -> list[Path]:
    """Return the JSON files of a truth folder; raises `RecipeError` where there is no such folder."""
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise RecipeError(f"truth: {folder} is not a folder")
    return sorted(Path(folder).glob("*.json"))


def truth_digest(folder: str) -> list[str]:
    """Return what changes when a truth file does."""
    return [sha256_file(path) for path in truth_files(folder)]


def read_truth(folder: str) -> Truth | None:
    """Read a folder of `{"<id>": {"telecom": …, "duplicate_of": …}}`; None where the recipe names none."""
    documents: dict[str, dict[str, Any]] = {}
    contaminated: list[str] = []
    for path in (files := truth_files(folder)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecipeError(f"truth: {path} is not JSON: {error}") from None
        if path.name == CONTAMINATED:
            contaminated = list(content)
        else:
            documents |= content
    if not files:
        return None
    return Truth(
        {name: bool(entry["telecom"]) for name, entry in documents.items() if "telecom" in entry},
        {name: str(entry["duplicate_of"]) for name, entry in documents.items() if entry.get("duplicate_of")},
        frozenset(contaminated),
    )


def score_screen(truth: Truth, output: Output) -> dict[str, Any]:
    """Count over the documents of the truth that reached the stage; kept is positive."""
    kept, removed = ids(output, "data/"), ids(output, "rejects/")
    wanted = {name for name, telecom in truth.telecom.items() if telecom}
    known = set(truth.telecom)
    hits, false, missed = kept & wanted, (kept & known) - wanted, removed & wanted
    wrong = {"kept though not telecom": sorted(false), "rejected though telecom": sorted(missed)}
    return _score(len(hits), len(false), len(missed)) | {"n": len((kept | removed) & known), "wrong": wrong}


def score_deduplicate(truth: Truth, output: Output) -> dict[str, Any]:
    """Count over the pairs of copies that reached the stage: one is found when exactly one of the two is removed."""
    kept, removed = ids(output, "data/"), ids(output, "rejects/")
    reached = kept | removed
    pairs = [(copy, other) for copy, other in truth.duplicates.items() if {copy, other} <= reached]
    found = [pair for pair in pairs if len(removed.intersection(pair)) == 1]
    missed = [" = ".join(pair) for pair in pairs if pair not in found]
    members = set(truth.duplicates) | set(truth.duplicates.values())
    false = removed & set(truth.telecom) - members
    wrong = {"removed though no copy": sorted(false), "pairs not found": missed}
    return _score(len(found), len(false), len(missed)) | {"n": len(pairs), "wrong": wrong}


def score_decontaminate(truth: Truth, output: Output) -> dict[str, Any]:
    """Count the documents of which a passage or all was removed, over those that reached the stage."""
    found = ids(output, "rejects/") & set(truth.telecom)
    reached = ids(output, "data/") | ids(output, "rejects/")
    wanted = truth.contaminated & reached
    false, missed = found - truth.contaminated, wanted - found
    wrong = {"removed though clean": sorted(false), "not found": sorted(missed)}
    return _score(len(found & wanted), len(false), len(missed)) | {"n": len(wanted), "wrong": wrong}


def ids(output: Output, folder: str) -> set[str]:
    """Return the ids of an output's records (`data/`) or rejects (`rejects/`)."""
    import pyarrow.parquet as parquet

    found: set[str] = set()
    for name in output.names(folder):
        found.update(parquet.read_table(output.path(name), columns=["id"])["id"].to_pylist())
    return found


def _score(hits: int, false: int, missed: int) -> dict[str, Any]:
    return {
        "precision": hits / (hits + false) if hits + false else None,
        "recall": hits / (hits + missed) if hits + missed else None,
        "right": hits,
        "false": false,
        "missed": missed,
    }
