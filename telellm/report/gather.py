"""Gather: what the stages of a run wrote down about themselves and their outputs."""

import json
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from telellm import __version__
from telellm.recipe import Recipe
from telellm.records import CATEGORIES
from telellm.stage import Output, read_notes, workspace
from telellm.store import Store

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "datasets",
    "sentence-transformers",
    "pyarrow",
    "numpy",
    "kfp",
)
CORPUS_STAGES = ("ingest", "clean", "screen", "deduplicate", "decontaminate", "hold-out")
ORDER = (*CORPUS_STAGES[:-1], "draft", "distinct", "tele-eval", "index", "hold-out", "pack", "pretrain", "instruct")
"""The steps of a run as they follow one another; others come after them by time."""
NUM_ANSWERS = 8
RULE = "rule "
Steps = Mapping[str, Output]


def finished_steps(store: Store, run: str) -> dict[str, Output]:
    """Return the label of each finished step of a run → its output, in the order of the pipeline."""
    steps = {label: Output(store, note["output"], note["manifest"]) for label, note in read_notes(store, run).items()}
    steps.pop("report", None)

    def rank(label: str) -> tuple[int, str]:
        return ORDER.index(label) if label in ORDER else len(ORDER), str(steps[label].manifest["finished_at"])

    return {label: steps[label] for label in sorted(steps, key=rank)}


def stage_table(steps: Steps, recipe: Recipe) -> list[dict[str, Any]]:
    """Return for each step its time, memory, items in and out, and what it left out by reason and category."""
    return [
        {
            "name": label,
            "seconds": output.manifest["seconds"],
            "peak_rss_mib": output.manifest["peak_rss_mib"],
            "in": output.manifest["in"],
            "out": output.manifest["out"],
            "drops": dict(output.manifest["drops"]),
            "drops_by_category": drops_by_category(output, recipe),
            "headline": output.summary().get("headline", ""),
            "output": output.prefix,
            "finished_at": output.manifest["finished_at"],
        }
        for label, output in steps.items()
    ]


def drops_by_category(output: Output, recipe: Recipe) -> dict[str, dict[str, int]]:
    """Count rejects: reason → category of the source → number."""
    import pyarrow.parquet as parquet

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name in output.names("rejects/"):
        shard_source = Path(name).stem.rpartition("-")[0]
        table = parquet.read_table(output.path(name), columns=["reason", "id"])
        for reason, identity in zip(table["reason"].to_pylist(), table["id"].to_pylist(), strict=True):
            category = identity.partition("_")[0]
            if category not in CATEGORIES:  # a file that never became a document
                category = recipe.sources[shard_source].category if shard_source in recipe.sources else "other"
            counts[reason][category] += 1
    return {reason: dict(counter.most_common()) for reason, counter in sorted(counts.items())}


def describe_corpus(steps: Steps, recipe: Recipe) -> dict[str, Any] | None:
    """Return documents and words of the snapshot, and tokens of the training text, by category."""
    if "decontaminate" not in steps:
        return None
    snapshot = steps["decontaminate"]
    documents, words = _documents_and_words(snapshot)
    packing = steps["pack"].summary() if "pack" in steps else {}
    tokens = packing.get("tokens")
    cleaning = steps["clean"].manifest["counts"] if "clean" in steps else {}
    rules = {name.removeprefix(RULE): number for name, number in cleaning.items() if name.startswith(RULE)}
    licences: dict[str, set[str]] = defaultdict(set)
    for source in recipe.sources.values():
        licences[source.category].add(source.licence or "not stated")
    return {
        "snapshot": snapshot.prefix,
        "documents": sum(documents.values()),
        "words": sum(words.values()),
        "tokens": sum(tokens.values()) if tokens else None,
        "replay_tokens": packing.get("replay_tokens"),
        "categories": {
            name: {
                "documents": documents[name],
                "words": words[name],
                "tokens": tokens.get(name, 0) if tokens else None,
                "licences": sorted(licences[name]),
            }
            for name in CATEGORIES
            if documents[name]
        },
        "rules": dict(sorted(rules.items(), key=lambda rule: -rule[1])),
        "contamination": snapshot.summary().get("found", {}),
    }


def funnel(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages of the corpus with how many documents went on from each."""
    by_name = {stage["name"]: stage for stage in stages}
    return [dict(by_name[name]) for name in CORPUS_STAGES if name in by_name]


def training_logs(steps: Steps) -> dict[str, dict[str, Any]]:
    """Return for each training stage what it says of itself, and its log."""
    logs = {}
    for name in ("pretrain", "instruct"):
        if name in steps and "log.jsonl" in steps[name].manifest["files"]:
            lines = steps[name].path("log.jsonl").read_text(encoding="utf-8").splitlines()
            logs[name] = steps[name].summary() | {"log": [json.loads(line) for line in lines if line.strip()]}
    return logs


def read_rows(output: Output) -> list[dict[str, Any]]:
    """Return what was measured on each question."""
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = parquet.read_table(output.path("questions.parquet")).to_pylist()
    return rows


def side_by_side(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the first questions that every model answered in words, with all answers; the draw's order, no choice."""
    answered = {
        role: {(row["id"], row["statement"]): row for row in found if row["generated"] is not None}
        for role, found in rows.items()
    }
    answered = {role: found for role, found in answered.items() if found}
    shared = [key for key in next(iter(answered.values()), {}) if all(key in found for found in answered.values())]
    return [
        {name: next(iter(answered.values()))[key][name] for name in ("id", "statement", "answer", "split", "kind")}
        | {"answers": {role: _answer(found[key]) for role, found in answered.items()}}
        for key in shared[:NUM_ANSWERS]
    ]


def describe_environment() -> dict[str, Any]:
    """Return Python, packages, processor, memory and GPUs of the machine that makes the report."""
    packages = {"telellm": __version__}  # an image holds its code, and no package of it
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": workspace(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "gpus": [_first(str(card), "Model") for card in cards],
        "packages": packages,
    }


def _documents_and_words(snapshot: Output) -> tuple[Counter[str], Counter[str]]:
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    documents, words = Counter[str](), Counter[str]()
    for name in snapshot.names("data/"):
        with parquet.ParquetFile(snapshot.path(name)) as file:
            for batch in file.iter_batches(batch_size=256, columns=["category", "content"]):
                numbers = compute.count_substring_regex(batch["content"], r"\S+").to_pylist()
                for category, number in zip(batch["category"].to_pylist(), numbers, strict=True):
                    documents[category] += 1
                    words[category] += number
    return documents, words


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": row["generated"], "semscore": row["semscore"], "judge_verdict": row["judge_verdict"]}


def _first(path: str, field: str) -> str:
    """Return the first value of a field in a file of `field: value` lines; empty where there is none."""
    try:
        lines: Iterable[str] = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
