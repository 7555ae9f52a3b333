"""What a night costs that brings nothing new, and one that brings a hundredth, against building the corpus anew.

    python benchmarks/nightly.py [--numbers 10000 100000] [--trusted] [--scattered] [--folder FOLDER]

The documents are text files of some 250 words each, in folders of a thousand, all different, as `sources` with a
category that is screened; the new ones have names in a row after the others, as papers by number have, or lie among
them, as new versions of specifications do (`--scattered`). A server on this
machine answers every question at once, so what is measured is the platform's own work, from the night's start to the
question whether there is news: ingest, clean, screen, deduplicate, decontaminate. Seconds are the processor's, of all
processes but the server's: they do not depend on who else uses the machine. Memory is the largest resident size of any
process.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import record

STAGES = ("ingest", "clean", "screen", "deduplicate", "decontaminate")
FIRST = datetime(2026, 11, 1, 2, tzinfo=UTC)
RECIPE = """
name: benchmark
model: {{name: owner/model}}
lm: {{endpoint: {endpoint}, model: teacher}}
sources:
  pages: {{category: web, path: {raw}}}
corpus:
  screen: {{trusted: {trusted}}}
evaluation: {{general: {{text: ""}}}}
"""
WORDS = [f"word{number}" for number in range(5000)]
TERMS = ["handover", "LTE", "5G", "base station", "OFDM", "spectrum", "antenna", "gNB", "beamforming", "radio"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--trusted", action="store_true", help="no document is asked about: a large corpus takes long")
    parser.add_argument("--scattered", action="store_true", help="the new documents' names lie among the others")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("--night", nargs=3, metavar=("RECIPE", "STORE", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.night:
        print(json.dumps(night(Path(options.night[0]).read_text(), options.night[1], int(options.night[2]))))
        return
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    endpoint = server.stdout.readline().strip()
    try:
        found = {number: measure(number, endpoint, options) for number in options.numbers}
    finally:
        server.kill()
    rows = [("documents", "build", "unchanged", "1 % new", "of a build", "MiB unchanged", "MiB new", "MiB build")]
    for number, figures in found.items():
        build, same, new = (figures[name] for name in ("build", "unchanged", "new"))
        seconds = [f"{part['cpu_seconds']:.1f} s" for part in (build, same, new)]
        share = f"{figures['new_share']:.1%}"
        rows.append((f"{number:,}", *seconds, share, *(str(part["peak_rss_mib"]) for part in (same, new, build))))
    print(record.table(rows))
    record.write(
        "-".join(["nightly", *["trusted"] * options.trusted, *["scattered"] * options.scattered]),
        {"documents": {str(number): figures for number, figures in found.items()}},
    )


def measure(number: int, endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """Build a corpus of so many documents, then a night without news, and one with a hundredth of new documents."""
    work = Path(tempfile.mkdtemp(prefix="telellm-nightly-", dir=options.folder))
    try:
        chance = random.Random(number)
        for each in range(number):
            write(work / "raw", each, chance)
        recipe = work / "recipe.yaml"
        recipe.write_text(RECIPE.format(endpoint=endpoint, raw=work / "raw", trusted=["web"] * options.trusted))
        figures: dict[str, Any] = {}
        for turn, name in enumerate(("build", "unchanged", "new")):
            if name == "new":
                beside = chance.sample(range(number), number // 100) if options.scattered else []
                for each in beside or range(number, number + number // 100):
                    write(work / "raw", each, chance, version="-2" * options.scattered)
            command = [sys.executable, __file__, "--night", str(recipe), str(work / "store"), str(turn)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[name] = json.loads(done.stdout.splitlines()[-1])
        figures["new_share"] = figures["new"]["cpu_seconds"] / figures["build"]["cpu_seconds"]
        return figures
    finally:
        shutil.rmtree(work)


def write(folder: Path, number: int, chance: random.Random, version: str = "") -> None:
    """Write one document."""
    path = folder / f"{number // 1000:04}" / f"{number:07}{version}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    sentences = []
    for _ in range(25):
        words = [*chance.choices(WORDS, k=8), chance.choice(TERMS)]
        sentences.append(f"The {' '.join(words)}.")
    path.write_text(" ".join(sentences))


def night(recipe: str, store: str, number: int) -> dict[str, Any]:
    """Take the steps of a night until it is known whether there is news; returns what they cost."""
    from telellm.nights import _last, _settings, is_new, start_night
    from telellm.runs import open_run, run_stage
    from telellm.stage import Output

    seconds: dict[str, float] = {}
    began = time.monotonic()
    before = cpu_seconds()
    run = start_night(recipe, store, now=FIRST + timedelta(days=number))
    seconds["start-night"] = cpu_seconds() - before
    documents = ""
    for stage in STAGES:
        before = cpu_seconds()
        documents = run_stage(stage, run, **({"documents": documents} if documents else {}))
        seconds[stage] = cpu_seconds() - before
    before = cpu_seconds()
    new = is_new(run, documents)
    seconds["look-for-news"] = cpu_seconds() - before
    assert new == (number != 1), "a night without news is one, and a build is none"
    opened, name, parsed = open_run(run)
    content = Output.find(opened, documents).content
    opened.write_json(_last(parsed), {"content": content, "settings": _settings(parsed), "run": name})
    counts = {stage: _notes(opened, name, stage) for stage in STAGES}
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024
    return {
        "cpu_seconds": round(sum(seconds.values()), 2),
        "wall_seconds": round(time.monotonic() - began, 1),
        "peak_rss_mib": peak,
        "stages": {name: round(value, 2) for name, value in seconds.items()},
        "counts": counts,
    }


def _notes(store: Any, run: str, stage: str) -> dict[str, int]:
    manifest = store.read_json(f"runs/{run}/stages/{stage}.json")["manifest"]
    return {name: manifest[name] for name in ("in", "out")} | {
        name: number for name, number in manifest["counts"].items() if name in ("reused", "asked")
    }


def cpu_seconds() -> float:
    """Return the processor's seconds of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


SERVER = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.language_model_server import LanguageModelServer, completion
server = LanguageModelServer()
def answer(request, number):
    server.requests.clear(), server.keys.clear()
    return completion("Yes", [("Yes", 0.9), ("No", 0.1)])
server.answer = answer
print(server.url, flush=True)
time.sleep(10**6)
"""


if __name__ == "__main__":
    main()
