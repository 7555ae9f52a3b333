"""How stages are run: skipped, run again, divided, and what is said when they fail."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import RecipeError, parse
from telellm.records import Document, Rejected
from telellm.stage import Output, Shard, StageFailed, digest_of, stage
from telellm.store import Store, StoreUnavailable, TornOutput

LOG = "TELELLM_TEST_LOG"
SMALL = "name: small\nmodel: {name: owner/model}\nsources:\n  one: {category: web, path: raw}\n"


def note(text):
    """Write down that something ran, from whatever process."""
    if path := os.environ.get(LOG):
        with Path(path).open("a") as log:
            log.write(text + "\n")


def divide(context, settings):
    return [Shard(f"s{number:02}", digest_of(number), number) for number in range(settings.shard_files)]


@stage(sections=("corpus.ingest",), produces=Document, divide=divide)
def collect(context, settings, number):
    """Make ten documents a shard; every fifth is rejected."""
    note(f"collect {number}")
    context.counts["in"] = 10
    for index in range(10):
        if index % 5 == 4:
            yield Rejected({"file": f"{number}-{index}"}, "empty" if number % 2 else "broken", "a detail")
        else:
            yield Document.create("web", f"{number:02}-{index}", f"text {index} of {settings.languages[0]}")


@stage(sections=("corpus.clean",), per=Document, produces=Document)
def shorten(context, settings, documents):
    """Keep the first words of each document."""
    note("shorten")
    for document in documents:
        if document.id in settings.rules:
            raise RuntimeError(f"cannot read {document.id}")
        if settings.minimum_words > 1000:
            yield Rejected(document, "too short")
        else:
            yield document.with_content(document.content[: max(4, settings.minimum_words)])


@stage(sections=("corpus.clean",), per=Document, produces=Document, shard_rows=3, workers=1)
def think(context, settings, documents):
    """Do dear work on a few documents at a time."""
    for document in documents:
        note(f"think {document.id}")
        if document.id in settings.rules:
            raise RuntimeError(f"cannot read {document.id}")
        yield document


@stage(sections=("corpus.deduplicate",), produces=Document)
def unite(context, settings, documents, questions=None):
    """Keep one document of each text."""
    note("unite")
    seen = set()
    for document in documents.records(Document):
        if document.content in seen:
            yield Rejected(document, "copy")
        else:
            seen.add(document.content)
            yield document
    context.summary["headline"] = f"{len(seen)} texts"


@stage(sections=("corpus.ingest",), produces=Document, divide=divide, place=lambda recipe, key, _: f"corpora/{key}")
def publish(context, settings, number):
    """Make one document a shard, in a place of its own."""
    yield Document.create("web", str(number), f"text {number}")


@stage(sections=("training.pack",))
def pack(context, settings, documents):
    """Write files, not records."""
    (context.directory / "model").mkdir()
    (context.directory / "model" / "config.json").write_text(json.dumps([d.id for d in documents.records(Document)]))
    context.summary["tokens"] = 12


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Return what ran since the last look."""
    path = tmp_path / "log"
    monkeypatch.setenv(LOG, str(path))

    def look():
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(lines)

    return look


@pytest.fixture
def run(directory_store, recipe_with):
    """Run a stage on the store in a folder, with changes of the recipe."""

    def run_one(stage, *changes, label="", shards=None, progress=None, **inputs):
        recipe = recipe_with("corpus.ingest.shard_files=4", *changes)
        return execute(
            stage, recipe, directory_store, "one", inputs, label=label, shards=shards, progress=progress or quiet(stage)
        )

    return run_one


def quiet(stage):
    return Progress(stage.name, lambda event: None)


def content(store, place):
    return Output.find(store, place).content


def test_dear_work_is_divided_within_a_file_and_only_the_shard_that_failed_is_done_again(run, log, directory_store):
    united = run(unite, documents=run(collect))
    items = list(Output.find(directory_store, united).records(Document))
    assert len(Output.find(directory_store, united).names("data/")) == 1
    with pytest.raises(StageFailed, match=items[4].id):
        run(think, f"corpus.clean.rules=[{items[4].id}]", documents=united)
    log()
    place = run(think, documents=united)
    thought = log()
    assert thought == [f"think {item.id}" for item in items]  # other settings: nothing of that is used again
    assert list(Output.find(directory_store, place).records(Document)) == items
    with pytest.raises(StageFailed, match=items[4].id):
        run(think, f"corpus.clean.rules=[{items[4].id}]", documents=united)
    assert log() == [f"think {item.id}" for item in items[3:5]]


@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_a_chain_of_stages_runs_once_and_is_skipped_after_that(kind, request, tmp_path, recipe_with, log):
    store = Store.open(request.getfixturevalue("bucket_uri") if kind == "bucket" else str(tmp_path / "store"))
    recipe = recipe_with("corpus.ingest.shard_files=3")
    seen = []
    for _ in range(2):
        progress = Progress("test", seen.append)
        collected = execute(collect, recipe, store, "one", {}, progress=progress)
        shortened = execute(shorten, recipe, store, "one", {"documents": collected}, progress=progress)
        united = execute(unite, recipe, store, "one", {"documents": shortened}, progress=progress)
    assert log() == ["collect 0", "collect 1", "collect 2", "shorten", "shorten", "shorten", "unite"]
    assert [event["state"] for event in seen if event["state"] != "running"] == ["done"] * 3 + ["skipped"] * 3
    output = Output.find(store, united)
    assert [document.content for document in output.records(Document)] == [
        f"text {n} of en" for n in (0, 1, 2, 3, 5, 6, 7, 8)
    ]
    assert (output.manifest["in"], output.manifest["out"], output.manifest["drops"]) == (24, 8, {"copy": 16})
    assert store.read_json("runs/one/stages/unite.json")["output"] == united


def test_the_manifest_says_what_it_is_made_of_and_how(run, directory_store):
    collected = run(collect)
    manifest = Output.find(directory_store, run(shorten, documents=collected)).manifest
    assert manifest["stage"] == "shorten" and manifest["produces"] == "Document"
    assert manifest["inputs"] == {"documents": {"place": collected, "content": content(directory_store, collected)}}
    assert (manifest["in"], manifest["out"]) == (32, 32) and list(manifest["sections"]) == ["corpus.clean"]
    assert manifest["code"] and manifest["version"] and manifest["seconds"] >= 0 and manifest["peak_rss_mib"] > 10
    for entry in manifest["files"].values():
        assert entry["bytes"] > 0 and len(entry["sha256"]) == 64


def test_a_changed_setting_runs_its_stage_and_no_other(run, log):
    collected = run(collect)
    first = run(shorten, documents=collected)
    log()
    assert run(collect, "corpus.clean.minimum_words=3") == collected
    assert run(shorten, "corpus.clean.minimum_words=6", documents=collected) != first
    assert log() == ["shorten"] * 4


def test_a_changed_input_redoes_only_the_shards_that_changed(run, log):
    first = run(shorten, documents=run(collect))
    log()
    second = run(shorten, documents=run(collect, "corpus.ingest.shard_files=5"))
    assert second != first
    assert log() == [f"collect {n}" for n in range(5)] + ["shorten"]


def test_an_upstream_stage_that_ran_again_to_the_same_content_does_not_run_the_next(run, log, directory_store):
    collected = run(collect)
    first = run(unite, documents=run(shorten, documents=collected))
    log()
    again = run(shorten, "corpus.clean.sample_share=0.5", documents=collected)
    assert log() == ["shorten"] * 4
    assert run(unite, documents=again) == first and log() == []


def test_a_changed_identity_runs_the_stage_again(run, log):
    for digest, ran in (("a", True), ("a", False), ("b", True)):
        run(dataclasses.replace(collect, identity=lambda recipe, digest=digest: digest))
        assert bool(log()) == ran


def test_changed_code_runs_the_stage_again(tmp_path, monkeypatch, run):
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "from telellm.records import Document\nfrom telellm.stage import Shard, stage\n"
        "@stage(sections=('corpus.clean',), produces=Document, workers=1,\n"
        "       divide=lambda context, settings: [Shard('one', '1', None)])\n"
        "def changing(context, settings, _):\n    yield Document.create('web', 'a', 'VERSION')\n"
    )
    (tmp_path / "a_room_that_changes.py").write_text(text)
    module = importlib.import_module("a_room_that_changes")
    first = run(module.changing)
    assert run(module.changing) == first
    (tmp_path / "a_room_that_changes.py").write_text(text.replace("VERSION", "VERSION 2"))
    assert run(importlib.reload(module).changing) != first


def test_workers_give_the_same_content_as_one_process(tmp_path, recipe_with):
    found = []
    for workers in (1, 2, 4):
        store = Store.open(str(tmp_path / f"store-{workers}"))
        many = dataclasses.replace(collect, workers=workers)
        place = execute(many, recipe_with("corpus.ingest.shard_files=7"), store, "one", {}, progress=quiet(collect))
        manifest = Output.find(store, place).manifest
        found.append((place, manifest["content"], manifest["out"], manifest["drops"]))
    assert found[0] == found[1] == found[2]
    assert found[0][2:] == (56, {"broken": 8, "empty": 6})


def test_shards_of_two_pods_and_the_rest_give_the_same_as_one_run(run, log, tmp_path, recipe_with):
    whole = Store.open(str(tmp_path / "whole"))
    expected = execute(collect, recipe_with("corpus.ingest.shard_files=4"), whole, "one", {}, progress=quiet(collect))
    log()
    assert run(collect, shards=(0, 2)) == ""
    assert log() == ["collect 0", "collect 2"]
    assert run(collect, shards=(1, 2)) == ""
    assert log() == ["collect 1", "collect 3"]
    assert run(collect) == expected and log() == []
    assert content(Store.open(str(tmp_path / "store")), expected) == content(whole, expected)


def test_a_stage_without_shards_refuses_a_part(run):
    collected = run(collect)
    with pytest.raises(RecipeError, match="stage unite has no shards"):
        run(unite, shards=(0, 2), documents=collected)


def test_a_shard_that_fails_is_named_and_the_others_are_kept(run, log):
    collected = run(collect)
    log()
    with pytest.raises(StageFailed, match=r"^shorten, shard s02-00000: RuntimeError: cannot read web_02-3$"):
        run(shorten, "corpus.clean.rules=[web_02-3]", documents=collected)
    assert "shorten" in log()
    with pytest.raises(StageFailed, match="shard s02-00000"):
        run(shorten, "corpus.clean.rules=[web_02-3]", documents=collected)
    assert len(log()) <= 2


def test_an_empty_result_fails_with_what_was_rejected(run):
    collected = run(collect)
    with pytest.raises(StageFailed, match=r"shorten: nothing is left of 32: rejected 32 \(too short 32\); look at the"):
        run(shorten, "corpus.clean.minimum_words=5000", documents=collected)


def test_rejects_can_be_read_with_their_reasons(run, directory_store):
    output = Output.find(directory_store, run(collect))
    rows = [
        row for name in output.names("rejects/") for row in pyarrow.parquet.read_table(output.path(name)).to_pylist()
    ]
    assert sorted((row["reason"], row["id"]) for row in rows) == sorted(
        ("empty" if shard % 2 else "broken", f"{shard}-{index}") for shard in range(4) for index in (4, 9)
    )
    assert output.manifest["drops"] == {"broken": 4, "empty": 4}
    assert json.loads(rows[0]["item"])["file"] == rows[0]["id"]


def test_a_shard_whose_file_was_deleted_is_made_again(run, log, directory_store):
    collected = run(collect)
    before = content(directory_store, collected)
    entry = Output.find(directory_store, collected).manifest["files"]["data/s01-00000.parquet"]
    (directory_store.root / entry["key"]).unlink()
    log()
    assert run(collect) == collected and log() == ["collect 1"]
    assert content(directory_store, collected) == before


@pytest.mark.parametrize("kind", ["directory", "bucket"])
@pytest.mark.parametrize("deleted", ["everything", "its manifest", "one of its files"])
def test_an_output_that_was_deleted_is_made_again_and_what_follows_is_not(
    kind, deleted, request, tmp_path, recipe_with, log
):
    """As an end of old runs in the store does it; a run that went on without it would fail later."""
    store = Store.open(request.getfixturevalue("bucket_uri") if kind == "bucket" else str(tmp_path / "store"))
    recipe = recipe_with("corpus.ingest.shard_files=2")

    def chain():
        collected = execute(collect, recipe, store, "one", {}, progress=quiet(collect))
        united = execute(unite, recipe, store, "one", {"documents": collected}, progress=quiet(unite))
        return united, execute(pack, recipe, store, "one", {"documents": united}, progress=quiet(pack))

    united, packed = chain()
    before = content(store, united)
    log()
    keys = list(store.list(united))
    manifest, *files = sorted(keys, key=lambda key: not key.endswith("/manifest.json"))
    for key in {"everything": keys, "its manifest": [manifest], "one of its files": files[:1]}[deleted]:
        store.remove(key)
    assert chain() == (united, packed)
    assert log() == ["unite"]
    assert content(store, united) == before


def test_a_file_that_was_changed_is_not_read(run, directory_store):
    collected = run(collect)
    entry = Output.find(directory_store, collected).manifest["files"]["data/s01-00000.parquet"]
    with (directory_store.root / entry["key"]).open("r+b") as file:
        file.seek(20)
        file.write(b"torn")
    with pytest.raises(TornOutput, match=r"s01-00000.parquet is not the file that its manifest names"):
        run(unite, documents=collected)
    with pytest.raises(TornOutput, match=r"s01-00000.parquet is not the file that its manifest names"):
        run(shorten, documents=collected)


def test_an_input_that_is_not_there_is_the_users_mistake(run):
    with pytest.raises(RecipeError, match="stage shorten: input documents is missing; it needs: documents"):
        run(shorten)
    with pytest.raises(RecipeError, match="stages/nowhere: no finished output is there"):
        run(shorten, documents="stages/nowhere")


def test_an_output_with_a_place_of_its_own_is_whole_there(run, directory_store):
    place = run(publish)
    assert place.startswith("corpora/")
    output = Output.find(directory_store, place)
    assert all("key" not in entry for entry in output.manifest["files"].values())
    assert sorted(p.name for p in (directory_store.root / place / "data").iterdir()) == [
        f"s{number:02}-00000.parquet" for number in range(4)
    ]
    assert [document.id for document in output.records(Document)] == ["web_0", "web_1", "web_2", "web_3"]


@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_a_folder_that_a_stage_wrote_is_a_local_folder_for_the_next(kind, request, tmp_path, recipe):
    store = Store.open(request.getfixturevalue("bucket_uri") if kind == "bucket" else str(tmp_path / "store"))
    collected = execute(publish, recipe, store, "one", {}, progress=quiet(publish))
    packed = Output.find(store, execute(pack, recipe, store, "one", {"documents": collected}, progress=quiet(pack)))
    assert len(json.loads((packed.folder("model") / "config.json").read_text())) == 64
    assert packed.summary() == {"tokens": 12}
    with pytest.raises(RecipeError, match="this output has no folder weights/"):
        packed.folder("weights")


def test_a_step_has_its_own_label_within_a_run(run, directory_store):
    collected = run(collect)
    run(unite, label="hold-out", documents=collected)
    assert list(directory_store.list("runs/one/stages")) == [
        "runs/one/stages/collect.json",
        "runs/one/stages/hold-out.json",
    ]


def test_the_store_that_goes_away_keeps_its_own_words(run, directory_store, monkeypatch):
    collected = run(collect)
    (directory_store.root / "stages" / "shorten").write_text("a file where a folder belongs")
    with pytest.raises((StageFailed, StoreUnavailable, OSError)) as caught:
        run(shorten, documents=collected)
    assert "shorten" in str(caught.value)


FLAT = """
import resource, sys
from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import parse
from telellm.records import Document
from telellm.stage import Shard, stage
from telellm.store import Store

NUMBER = int(sys.argv[2])

@stage(sections=("corpus.ingest",), produces=Document, workers=1, identity=lambda recipe: NUMBER,
       divide=lambda context, settings: [Shard("one", "1", None)])
def make(context, settings, _):
    for number in range(NUMBER):
        yield Document.create("web", str(number), f"{number} telecom " * 1500)

@stage(sections=("corpus.clean",), produces=Document, per=Document, workers=1)
def copy(context, settings, documents):
    yield from documents

@stage(sections=("corpus.deduplicate",), produces=Document)
def whole(context, settings, documents):
    yield from documents.records(Document)

recipe, store = parse(sys.argv[3]), Store.open(sys.argv[1])
place = execute(make, recipe, store, "one", {}, progress=Progress("make", lambda event: None))
for step in (copy, whole):
    place = execute(step, recipe, store, "one", {"documents": place}, progress=Progress("x", lambda event: None))
print([int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_when_the_input_grows_ten_times(tmp_path):
    (tmp_path / "flat.py").write_text(FLAT)
    peaks = []
    for number in (500, 5_000):  # 10 MB and 100 MB of text
        command = [sys.executable, str(tmp_path / "flat.py"), str(tmp_path / "store"), str(number), SMALL]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout))
    assert peaks[1] < peaks[0] + 60, peaks


@stage(sections=("sources", "training.pack"), produces=Document)
def name_sources(context, settings):
    """Make a document a source."""
    for name in settings:
        yield Document.create("web", name, "text")


def test_where_files_lie_on_a_machine_is_no_part_of_a_digest(tmp_path, directory_store):
    text = SMALL + "training: {pack: {replay: general}}\n"
    places = {
        execute(
            name_sources,
            parse(text, folder=tmp_path / folder),
            directory_store,
            "run",
            {},
            progress=quiet(name_sources),
        )
        for folder in ("here", "there")
    }
    assert len(places) == 1
    other = parse(text.replace("path: raw", "path: cooked"), folder=tmp_path)
    assert execute(name_sources, other, directory_store, "run", {}, progress=quiet(name_sources)) not in places


def by_others(stage, recipe, store, run="others"):
    """Return what has a stage's work done as pods do it: each takes a part of the shards, or the whole."""

    def elsewhere(key, num_shards):
        asked.append((key, num_shards))
        parts = [(part, 2) for part in range(2)] if num_shards else [None]
        for part in parts:
            quiet = Progress(stage.name, lambda event: None)
            execute(stage, recipe, store, run, {}, shards=part, progress=quiet, expected_key=key)

    asked = []
    return elsewhere, asked


@stage(sections=("corpus.clean",), produces=Document)
def three(context, settings):
    """Make three documents, whole."""
    note("three")
    yield from (Document.create("web", str(number), f"text {number}") for number in range(3))


@pytest.mark.parametrize(("stage", "num_shards"), [(collect, 4), (three, 0)])
def test_work_that_others_do_is_the_same_output(stage, num_shards, tmp_path, monkeypatch):
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    recipe = parse(SMALL, changes=["corpus.ingest.shard_files=4"])
    here, there = Store.open(str(tmp_path / "here")), Store.open(str(tmp_path / "there"))
    silent = Progress(stage.name, lambda event: None)
    elsewhere, asked = by_others(stage, recipe, there)
    first = execute(stage, recipe, here, "run", {}, progress=silent)
    again = execute(stage, recipe, there, "run", {}, progress=silent, elsewhere=elsewhere)
    assert first == again and Output.find(here, first).content == Output.find(there, again).content
    assert [number for _, number in asked] == [num_shards]
    execute(stage, recipe, there, "run", {}, progress=silent, elsewhere=elsewhere)
    assert len(asked) == 1, "what is there is not asked for again"


def test_work_that_others_left_undone_is_not_taken_for_done(tmp_path):
    recipe, store = parse(SMALL), Store.open(str(tmp_path / "store"))
    with pytest.raises(StageFailed, match=r"64 of 64 shards are not in the store"):
        execute(collect, recipe, store, "run", {}, elsewhere=lambda key, number: None)
    with pytest.raises(StageFailed, match=r"the job ended well, but .* has no output"):
        execute(three, recipe, store, "run", {}, elsewhere=lambda key, number: None)


def test_another_version_than_was_asked_for_does_nothing(tmp_path):
    recipe, store = parse(SMALL), Store.open(str(tmp_path / "store"))
    with pytest.raises(RecipeError, match=r"stage three: telellm .* makes .* here, but abc was asked for"):
        execute(three, recipe, store, "run", {}, expected_key="abc")
    assert list(store.list("")) == []
