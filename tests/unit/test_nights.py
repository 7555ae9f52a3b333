"""How a night begins, is gone on with, and ends; what it removes; what it tells."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from telellm import nights, notify
from telellm.nights import name_night, settle, start_night
from telellm.recipe import Notify, Recipe, Retention, parse
from telellm.registry import production, promote, versions
from telellm.retention import sweep
from telellm.runs import STAGES, find_stage, run_stage, start_run
from telellm.stage import read_notes
from telellm.store import Store, TornOutput
from tests.tiny_nights import adapt, corpus, night

FIRST = datetime(2026, 11, 1, 2, tzinfo=UTC)
RECIPE = """
name: telecom
model: {name: owner/model}
sources:
  one: {category: web, path: raw}
evaluation: {bootstrap_samples: 100}
gate: {minimum_questions: 5}
"""


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A recipe with eight documents."""
    (tmp_path / "raw").mkdir()
    for number in range(8):
        write(tmp_path, number, f"Document {number} says one thing.")
    return parse(RECIPE, folder=tmp_path, changes=[f"sources.one.path={tmp_path / 'raw'}"]).to_yaml()


def write(folder: Path, number: int, content: str) -> None:
    (folder / "raw" / f"{number:02}.txt").write_text(content)


def version_of(store: Store) -> str:
    pointer = production(store, "telecom")
    return pointer.version if pointer else ""


def test_the_first_model_is_compared_with_the_base_and_the_next_with_production(
    store: Store, text: str, tmp_path: Path
) -> None:
    assert night(text, store.uri, FIRST) == "promoted"
    first = version_of(store)
    assert first.startswith("2026-11-01-")
    manifest = store.manifest(f"models/telecom/{first}") or {}
    assert manifest["gate"]["against"] == "base" and manifest["run"] == "telecom-2026-11-01"
    for number in range(8):
        write(tmp_path, number, f"Document {number} now says another thing.")
    assert night(text, store.uri, FIRST + timedelta(days=1)) == "promoted"
    pointer = production(store, "telecom")
    assert pointer is not None and pointer.line == (first, pointer.version)
    assert pointer.moves[-1].by == "nightly, run telecom-2026-11-02"
    assert "answer perplexity gains on production" in pointer.moves[-1].why
    shown = store.manifest(f"models/telecom/{pointer.version}") or {}
    assert (shown["gate"]["against"], shown["gate"]["production"]) == ("production", first)


def test_a_second_start_of_a_night_ends_without_news(directory_store: Store, text: str) -> None:
    assert night(text, directory_store.uri, FIRST) == "promoted"
    before = version_of(directory_store)
    assert night(text, directory_store.uri, FIRST + timedelta(hours=3)) == "nothing new"
    assert night(text, directory_store.uri, FIRST + timedelta(days=1)) == "nothing new"
    assert version_of(directory_store) == before and len(versions(directory_store, "telecom")) == 1


def test_another_recipe_is_news_as_new_documents_are(directory_store: Store, text: str) -> None:
    night(text, directory_store.uri, FIRST)
    other = parse(text, changes=["training.pretrain.learning_rate=1e-6"]).to_yaml()
    assert night(other, directory_store.uri, FIRST + timedelta(days=1)) in ("promoted", "refused")
    elsewhere = parse(other, changes=["cluster.queue=night"]).to_yaml()
    assert night(elsewhere, directory_store.uri, FIRST + timedelta(days=2)) == "nothing new"


def test_a_night_that_died_is_gone_on_with_by_the_next(directory_store: Store, text: str, capfd: Any) -> None:
    dead = start_night(text, directory_store.uri, now=FIRST)
    documents = corpus(dead)
    assert name_night(directory_store, "telecom", date(2026, 11, 2)) == "telecom-2026-11-01"
    capfd.readouterr()
    assert night(text, directory_store.uri, FIRST + timedelta(days=1)) == "promoted"
    assert "telecom-2026-11-01: goes on, compares with the base model" in capfd.readouterr().err
    notes = read_notes(directory_store, "telecom-2026-11-01")
    assert notes["decontaminate"]["output"] == documents
    assert not directory_store.exists("runs/telecom-2026-11-02/recipe.yaml")
    assert name_night(directory_store, "telecom", date(2026, 11, 2)) == "telecom-2026-11-01"
    assert name_night(directory_store, "telecom", date(2026, 11, 3)) == "telecom-2026-11-03"


def test_a_night_that_died_once_its_model_was_promoted_only_ends(
    directory_store: Store, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(nights, "close_night", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(nights, "_last", lambda recipe: (_ for _ in ()).throw(KeyboardInterrupt))
        run = start_night(text, directory_store.uri, now=FIRST)
        documents = corpus(run)
        report = adapt(run, documents)
        with pytest.raises(KeyboardInterrupt):
            settle(run, documents, report, FIRST)
    promoted = production(directory_store, "telecom")
    assert night(text, directory_store.uri, FIRST + timedelta(days=1)) == "promoted"
    assert production(directory_store, "telecom") == promoted and len(versions(directory_store, "telecom")) == 1


def test_a_night_that_another_overtakes_does_not_move_production(
    directory_store: Store, text: str, tmp_path: Path
) -> None:
    night(text, directory_store.uri, FIRST)
    first = version_of(directory_store)
    for number in range(8):
        write(tmp_path, number, f"Document {number} now says another thing.")
    slow = start_night(text, directory_store.uri, "slow", now=FIRST + timedelta(days=1))
    documents = corpus(slow)
    report = adapt(slow, documents)
    write(tmp_path, 8, "Yet a newer document.")
    assert night(text, directory_store.uri, FIRST + timedelta(days=1), "quick") == "promoted"
    quick = version_of(directory_store)
    assert settle(slow, documents, report, FIRST + timedelta(days=1)) == "overtaken"
    pointer = production(directory_store, "telecom")
    assert pointer is not None and pointer.line == (first, quick)
    write(tmp_path, 8, "It now says another thing.")
    assert night(text, directory_store.uri, FIRST + timedelta(days=2)) in ("promoted", "refused")
    latest = versions(directory_store, "telecom")[-1]
    assert latest["gate"]["production"] == quick


@pytest.mark.parametrize(("train_from", "same"), [("base", False), ("production", True)])
def test_training_starts_where_the_recipe_says(
    directory_store: Store, text: str, tmp_path: Path, train_from: str, same: bool
) -> None:
    text = parse(text, changes=[f"nightly.train_from={train_from}"]).to_yaml()
    night(text, directory_store.uri, FIRST)
    first = directory_store.manifest(f"models/telecom/{version_of(directory_store)}") or {}
    write(tmp_path, 8, "A new document.")
    night(text, directory_store.uri, FIRST + timedelta(days=1))
    inputs = read_notes(directory_store, "telecom-2026-11-02")["pretrain"]["manifest"]["inputs"]
    assert (inputs.get("model", {}).get("place") == first["trains_on"]) is same
    latest = versions(directory_store, "telecom")[-1]
    assert latest["gate"]["trained_from"] == (first["version"] if same else None)


def test_a_refused_candidate_is_kept_for_the_retention_time_and_then_removed(
    directory_store: Store, text: str, tmp_path: Path
) -> None:
    night(text, directory_store.uri, FIRST)
    good = version_of(directory_store)
    strict = parse(text, changes=["gate.minimum_gain=1000", "retention.refused_days=3"]).to_yaml()
    write(tmp_path, 8, "A new document.")
    assert night(strict, directory_store.uri, FIRST + timedelta(days=1)) == "refused"
    assert version_of(directory_store) == good
    refused = next(m for m in versions(directory_store, "telecom") if m["version"] != good)
    for days, kept in ((4, True), (5, False), (300, False)):
        start_night(strict, directory_store.uri, now=FIRST + timedelta(days=days))
        assert (refused in versions(directory_store, "telecom")) is kept
        assert directory_store.exists(f"models/telecom/{good}/manifest.json")


def test_what_is_no_night_of_this_recipe_is_never_removed(directory_store: Store, text: str, tmp_path: Path) -> None:
    store = directory_store
    store.write("runs/study/recipe.yaml", text.encode())
    place = corpus(f"{store.uri}/runs/study")
    night(text, store.uri, FIRST)
    write(tmp_path, 0, "It now says another thing.")
    for days in range(1, 60, 4):
        night(text, store.uri, FIRST + timedelta(days=days))
    assert store.exists(f"{place}/manifest.json") and store.exists("runs/study/stages/decontaminate.json")
    ingested = read_notes(store, "study")["ingest"]["output"]
    assert store.exists(f"{ingested}/manifest.json")
    assert not store.exists("runs/telecom-2026-11-01/recipe.yaml")


def test_shards_of_an_output_that_is_kept_are_kept(directory_store: Store) -> None:
    store, settings = directory_store, Retention(unused_days=2)  # type: ignore[call-arg]
    manifest = {"files": {"data/a.parquet": {"key": "stages/clean/shards/1/data/a.parquet"}}, "finished_at": "x"}
    manifest |= {"shards": ["stages/clean/shards/1", "stages/clean/shards/2"], "content": "c"}
    store.write_json("stages/clean/whole/manifest.json", manifest)
    store.write_json("runs/other/stages/clean.json", {"output": "stages/clean/whole", "manifest": manifest})
    for number in (1, 2, 3):
        store.write(f"stages/clean/shards/{number}/manifest.json", b"{}")
        store.write(f"stages/clean/shards/{number}/data/a.parquet", b"1")
    for day in (1, 2):
        assert sweep(store, "telecom", settings, date(2026, 11, day)).outputs == 0
    store.write("stages/clean/shards/4/manifest.json", b"{}")
    assert sweep(store, "telecom", settings, date(2026, 11, 3)).outputs == 1
    left = {key.split("/")[3] for key in store.list("stages/clean/shards")}
    assert left == {"1", "2", "4"} and store.exists("stages/clean/whole/manifest.json")


def test_the_outputs_of_every_stage_are_removed_once_they_are_unused(directory_store: Store, recipe: Recipe) -> None:
    store, settings = directory_store, Retention(unused_days=1)  # type: ignore[call-arg]
    stages = [find_stage(name) for name in STAGES]
    places = [stage.place(recipe, "1", {}) if stage.place else f"stages/{stage.name}/1" for stage in stages]
    for place in places:
        store.write(f"{place}/manifest.json", b"{}")
    for day in (1, 2):
        sweep(store, recipe.name, settings, date(2026, 11, day))
    assert {place for place in places if store.exists(f"{place}/manifest.json")} == {"runs/<run>/report"}


def test_what_is_still_being_written_is_not_unused(directory_store: Store) -> None:
    store, settings = directory_store, Retention(unused_days=2)  # type: ignore[call-arg]
    store.write_json("nights/telecom/n.json", {"run": "n", "date": "2026-11-01", "began": "x", "state": "running"})
    for day in range(1, 9):
        store.write(f"runs/n/checkpoints/pretrain-1/step-{day}/part", b"1")
        store.remove(f"runs/n/checkpoints/pretrain-1/step-{day - 1}/part")
        assert sweep(store, "telecom", settings, date(2026, 11, day)).outputs == 0
    for day in (9, 10):
        sweep(store, "telecom", settings, date(2026, 11, day))
    assert not list(store.list("runs/n/checkpoints"))


def old_night(store: Store, run: str, says: str | None = None) -> None:
    about = {"run": run if says is None else says, "date": "2026-01-01", "began": "x", "state": "finished"}
    store.write_json(f"nights/telecom/{run}.json", about)
    store.write(f"runs/{run}/recipe.yaml", b"name: telecom")


@pytest.mark.parametrize("says", ["", ".", "other", "../other"])
def test_a_night_or_version_that_names_another_place_removes_nothing(directory_store: Store, says: str) -> None:
    store = directory_store
    store.write("runs/other/recipe.yaml", b"name: other")
    store.write("models/telecom/v9/report.html", b"kept")
    old_night(store, "telecom-2026-01-01")
    about = {"version": says, "name": "telecom", "made_at": "2026-01-01", "gate": {}, "outputs": {}, "files": {}}
    store.write_json("models/telecom/v1/manifest.json", about)
    before = list(store.list(""))
    with pytest.raises(TornOutput, match=r"models/telecom/v1/manifest\.json is not that of this version"):
        sweep(store, "telecom", Retention(), date(2026, 11, 1))  # type: ignore[call-arg]
    store.delete("models/telecom/v1")
    old_night(store, "telecom-2026-01-02", says)
    with pytest.raises(TornOutput, match=r"telecom-2026-01-02\.json does not say"):
        sweep(store, "telecom", Retention(), date(2026, 11, 1))  # type: ignore[call-arg]
    assert {key for key in before if "/v1/" not in key} <= set(store.list(""))


NOTE = {"output": "stages/clean/1", "manifest": {"files": {}, "shards": ["stages/clean/shards/1"]}}


@pytest.mark.parametrize(
    "damage",
    [
        ("runs/other/stages/clean.json", b'{"output": '),
        ("runs/other/stages/clean.json", b"[1]"),
        ("runs/other/stages/clean.json", b"[" * 100_000),
        ("runs/other/stages/clean.json", json.dumps(NOTE | {"output": "../x"}).encode()),
        ("runs/other/stages/clean.json", json.dumps(NOTE | {"manifest": {"schema": 99, "files": {}}}).encode()),
        ("runs/other/stages/clean.json", json.dumps(NOTE | {"manifest": {"shards": []}}).encode()),
        ("models/other/v1/manifest.json", b'{"outputs": {"pretrain": "stages/clean/1"}}'),
        ("models/telecom/production.json", b'{"moves": []}'),
        ("models/telecom/production.json", b'{"moves": [{"version": "v1"}]}'),
        ("nights/telecom/telecom-2026-01-03.json", b"{}"),
        (
            "nights/telecom/telecom-2026-01-03.json",
            b'{"run": "telecom-2026-01-03", "date": "32.1.26", "began": "", "state": ""}',
        ),
    ],
    ids=lambda damage: f"{damage[0]} {damage[1][:30]!r}",
)
def test_retention_that_meets_what_it_cannot_read_removes_nothing(
    directory_store: Store, damage: tuple[str, bytes]
) -> None:
    store, settings = directory_store, Retention(unused_days=1)  # type: ignore[call-arg]
    for run in ("telecom-2026-01-01", "telecom-2026-01-02"):
        old_night(store, run)
    store.write_json("runs/other/stages/clean.json", NOTE)
    store.write("stages/clean/shards/1/manifest.json", b"{}")
    store.write("stages/clean/shards/2/manifest.json", b"{}")
    store.write(*damage)
    before = list(store.list(""))
    with pytest.raises(TornOutput):
        sweep(store, "telecom", settings, date(2026, 11, 1))
    assert list(store.list("")) == before


def test_a_clock_that_was_ahead_keeps_no_output_for_ever(directory_store: Store) -> None:
    store, settings = directory_store, Retention(unused_days=2)  # type: ignore[call-arg]
    store.write("stages/clean/shards/1/manifest.json", b"{}")
    sweep(store, "telecom", settings, date(2099, 1, 1))
    removed = [sweep(store, "telecom", settings, date(2026, 11, day)).outputs for day in (1, 2, 3)]
    assert removed == [0, 0, 1]


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[dict[str, Any]]]]:
    """Start a webhook that answers with a status, and returns the list of what it was told."""
    servers = []

    def start(status: int = 200) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("TELELLM_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/hook")
        return told

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_webhook_is_told_what_the_gate_decided(
    directory_store: Store, text: str, webhook: Any, tmp_path: Path
) -> None:
    told = webhook()
    night(text, directory_store.uri, FIRST)
    version = version_of(directory_store)
    assert told[0]["event"] == "telellm.gate.promoted" and told[0]["version"] == version and told[0]["before"] is None
    assert told[0]["links"]["report"] == f"{directory_store.uri}/models/telecom/{version}/report.html"
    assert {criterion["name"] for criterion in told[0]["criteria"]} == {"measured", "gain", "loss", "contamination"}
    changes = ["notify.format=slack", "notify.link=https://files.example/telellm", "gate.minimum_gain=1000"]
    write(tmp_path, 8, "A new document.")
    night(parse(text, changes=changes).to_yaml(), directory_store.uri, FIRST + timedelta(days=1))
    assert list(told[1]) == ["text"] and "was refused" in told[1]["text"] and ":x:" in told[1]["text"]
    assert "<https://files.example/telellm/models/telecom/2026-11-02-" in told[1]["text"]


def test_a_webhook_that_fails_ends_no_night(directory_store: Store, text: str, webhook: Any, capfd: Any) -> None:
    webhook(500)
    assert night(text, directory_store.uri, FIRST) == "promoted"
    assert "the webhook of TELELLM_WEBHOOK_URL did not take the message" in capfd.readouterr().err


def fail_in_a_stage(run: str) -> None:
    """A real stage of the night fails: its input is not there."""
    with pytest.raises(SystemExit):
        run_stage("clean", run, documents="stages/ingest/none")


def test_a_night_that_fails_is_told_once_with_step_and_reason(
    directory_store: Store, text: str, webhook: Any, capfd: Any
) -> None:
    told = webhook()
    run = start_night(text, directory_store.uri, now=FIRST)
    fail_in_a_stage(run)
    fail_in_a_stage(run)
    [message] = told
    assert (message["event"], message["step"]) == ("telellm.night.failed", "clean")
    assert message["run"] == "telecom-2026-11-01" and "no finished output is there" in message["reason"]
    assert message["reason"] in capfd.readouterr().err
    start_night(text, directory_store.uri, now=FIRST + timedelta(days=1))
    assert len(told) == 1, "it was told when it failed"
    fail_in_a_stage(run)
    assert len(told) == 2, "the night that goes on failed anew"


def test_a_failure_that_could_not_be_told_is_told_by_the_next_night(
    directory_store: Store, text: str, webhook: Any
) -> None:
    run = start_night(text, directory_store.uri, now=FIRST)
    fail_in_a_stage(run)
    told = webhook()
    slack = parse(text, changes=["notify.format=slack"]).to_yaml()
    assert night(slack, directory_store.uri, FIRST + timedelta(days=1)) == "promoted"
    assert "the night telecom-2026-11-01 of telecom failed (clean)" in told[0]["text"]
    assert len(told) == 2 and "is in production" in told[1]["text"]


def test_a_night_that_was_killed_is_told_of_by_the_next(directory_store: Store, text: str, webhook: Any) -> None:
    told = webhook()
    corpus(start_night(text, directory_store.uri, now=FIRST))
    start_night(text, directory_store.uri, now=FIRST + timedelta(hours=1))
    assert not told, "a second start on the same date may join a night that is well"
    start_night(text, directory_store.uri, now=FIRST + timedelta(days=1))
    assert told[0]["event"] == "telellm.night.failed" and "cut off without a word" in told[0]["reason"]
    # both ended in one second
    assert told[0]["step"] in ("after ingest", "after decontaminate") and len(told) == 1


def test_a_run_that_is_no_night_tells_nobody(directory_store: Store, text: str, webhook: Any) -> None:
    told = webhook()
    fail_in_a_stage(start_run(text, directory_store.uri, "by-hand"))
    assert not told and not directory_store.exists("runs/by-hand/failure.json")


def test_a_night_without_news_tells_nobody(directory_store: Store, text: str, webhook: Any) -> None:
    night(text, directory_store.uri, FIRST)
    told = webhook()
    assert night(text, directory_store.uri, FIRST + timedelta(days=1)) == "nothing new"
    assert not told


def test_only_the_web_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Notify()  # type: ignore[call-arg]
    monkeypatch.delenv("TELELLM_WEBHOOK_URL", raising=False)
    assert notify.send(settings, {}) == ""
    monkeypatch.setenv("TELELLM_WEBHOOK_URL", f"file://{tmp_path}/x")
    assert notify.send(settings, {}) == "TELELLM_WEBHOOK_URL is not the URL of a webhook (https://…)"


def test_a_version_that_retention_would_remove_is_kept_while_a_rollback_may_lead_to_it(
    directory_store: Store, text: str, tmp_path: Path
) -> None:
    text = parse(text, changes=["retention.versions=2", "retention.refused_days=0", "retention.runs_days=0"]).to_yaml()
    made = []
    for day in range(4):
        for number in range(8):
            write(tmp_path, number, f"Document {number} says something on day {day}.")
        night(text, directory_store.uri, FIRST + timedelta(days=day))
        made.append(version_of(directory_store))
    start_night(text, directory_store.uri, now=FIRST + timedelta(days=40))
    pointer = production(directory_store, "telecom")
    assert pointer is not None
    kept = [manifest["version"] for manifest in versions(directory_store, "telecom")]
    assert kept == list(dict.fromkeys(pointer.line))[-2:]
    with pytest.raises(Exception, match="has no version"):
        promote(directory_store, "telecom", made[0], before=pointer.version, by="x", why="y", at="z")
