"""Production files: the model in production as a folder, for a server that reads no store."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from telellm import registry
from telellm.serving.named_models import questions_of
from telellm.stage import Output
from telellm.store import Store, TornOutput, sha256_file

WAIT_SECONDS = 10.0
VERSION, QUESTION, MODEL = "version.json", "question.json", "model"


def fetch(store: Store, name: str, target: Path, wait: bool, say: Callable[[str], None]) -> str:
    """Put the model in production into `target/model`, each file checked by its digest; returns the version.

    Beside it lie `version.json` and `question.json`, a question of the version's Tele-Eval. What is there already and
    whole stays. `wait`: until something is in production.
    """
    while wait and registry.production(store, name) is None:
        say(f"{name} has no version in production yet; looks again in {WAIT_SECONDS:g} s")
        time.sleep(WAIT_SECONDS)
    pointer = registry.in_production(store, name)
    manifest = registry.find_version(store, name, pointer.version)
    output = Output.find(store, manifest["model"])
    if output.content != manifest["content"]:
        raise TornOutput(f"models: {name} {pointer.version}: {output.prefix} holds another model; roll back")
    wanted = {file: output.manifest["files"][file] for file in output.names(f"{MODEL}/")}
    target.mkdir(parents=True, exist_ok=True)
    (target / VERSION).unlink(missing_ok=True)
    for path in [path for path in (target / MODEL).rglob("*") if path.is_file()]:
        if path.relative_to(target).as_posix() not in wanted:
            path.unlink()
    for number, (file, entry) in enumerate(wanted.items(), 1):
        path = target / file
        if path.is_file() and sha256_file(path) == entry["sha256"]:
            continue
        say(f"{pointer.version}: {file} ({number} of {len(wanted)}, {entry['bytes'] / 2**20:,.0f} MiB)")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        store.download(entry.get("key", f"{output.prefix}/{file}"), part)
        if sha256_file(part) != entry["sha256"]:
            part.unlink()
            raise TornOutput(f"{store.uri}/{output.prefix}/{file} is not the file that its manifest names; roll back")
        shutil.move(part, path)
    questions = questions_of(store, f"models/{name}/{pointer.version}")
    asked = {field: questions[0][field] for field in ("statement", "answer")} if questions else {}
    (target / QUESTION).write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")
    about = {"name": name, "version": pointer.version, "content": output.content}
    (target / VERSION).write_text(json.dumps(about), encoding="utf-8")
    return pointer.version
