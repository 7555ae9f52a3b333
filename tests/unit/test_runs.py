"""Runs: where they lie, and what is noted of them."""

import pytest

from telellm import runs
from telellm.recipe import RecipeError, parse
from telellm.stage import Interrupted, StageFailed, read_notes
from telellm.store import InvalidStore, Store, StoreUnavailable, TornOutput
from tests.tiny_model import make_tiny_model

SMALL = "name: small\nmodel: {name: owner/model}\nsources:\n  one: {category: web, path: /raw}\n"


@pytest.fixture
def address(tmp_path):
    return runs.start_run(SMALL, str(tmp_path / "store"), "monday")


def test_a_run_is_found_again_by_its_address(address, tmp_path):
    assert address == f"{(tmp_path / 'store').as_uri()}/runs/monday"
    store, name, recipe = runs.open_run(address)
    assert (store.uri, name, recipe.name) == ((tmp_path / "store").as_uri(), "monday", "small")
    assert "minimum_words: 50" in store.read("runs/monday/recipe.yaml").decode()


def test_a_run_in_a_bucket_is_found_again_by_its_address(bucket_uri):
    address = runs.start_run(SMALL, bucket_uri, "monday")
    assert address == f"{bucket_uri}/runs/monday" and runs.open_run(address)[1] == "monday"


def test_a_run_that_is_not_there_is_told_with_those_that_are(address):
    with pytest.raises(RecipeError, match=r"there is no run tuesday\n  known runs: monday"):
        runs.open_run(address.replace("monday", "tuesday"))
    with pytest.raises(RecipeError, match=r"the address of a run ends in /runs/NAME"):
        runs.open_run("store")


def test_an_unknown_stage_is_told_with_those_that_are():
    with pytest.raises(RecipeError, match=r'"tokenise" is not a stage\n  known stages: ingest, clean'):
        runs.find_stage("tokenise")


def test_a_wrong_recipe_ends_with_2_and_one_message(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TELELLM_DEBUG", raising=False)
    with pytest.raises(SystemExit) as caught:
        runs.start_run("name: [", str(tmp_path), "x")
    assert caught.value.code == 2
    assert capfd.readouterr().err.startswith("error: recipe: not valid YAML")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("a"), 2),
        (InvalidStore("a"), 2),
        (StageFailed("a"), 1),
        (StoreUnavailable("a"), 1),
        (TornOutput("a"), 1),
        (KeyError("a"), 1),
    ],
)
def test_what_the_user_gave_is_2_and_work_that_failed_is_1(error, code):
    assert runs.exit_code(error) == code
    foreseen = not isinstance(error, KeyError)
    assert (runs.message_of(error) == "a") == foreseen
    assert ("run again with --debug" in runs.message_of(error)) != foreseen


def test_steps_are_listed_in_the_order_in_which_they_ended(address, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    for label, at in (
        ("clean", "2026-11-01T01:00:00Z"),
        ("ask", "2026-11-01T02:00:00Z"),
        ("ingest", "2026-11-01T00:00:00Z"),
    ):
        store.write_json(f"runs/monday/stages/{label}.json", {"output": "x", "manifest": {"finished_at": at}})
    assert list(read_notes(store, "monday")) == ["ingest", "clean", "ask"]


def test_what_only_this_machine_has_is_put_into_the_store_for_the_jobs(tmp_path):
    model = make_tiny_model(tmp_path / "tiny")
    (tmp_path / "talk.jsonl").write_text('{"messages": []}\n')
    store = Store.open(str(tmp_path / "store"))
    changes = [f"model.name={model}", f"training.instruct.data={tmp_path / 'talk.jsonl'}"]
    shared = runs.share(parse(SMALL, changes=changes), store)
    assert shared.model.name.startswith(f"{store.uri}/base-models/")
    assert shared.training.instruct.data.startswith(f"{store.uri}/conversations/")
    assert runs.share(shared, store) == shared
    vector = ["training.instruct.method=chat-vector", f"training.instruct.vendor={model}"]
    shared = runs.share(parse(SMALL, changes=[*changes, *vector]), store)
    assert shared.training.instruct.vendor == shared.model.name
    kept = parse(SMALL, changes=[*changes, "cluster.stages=[ingest]"])
    assert runs.share(kept, store) == kept


def test_in_a_training_job_what_something_outside_ended_asks_to_be_started_again(monkeypatch):
    gone, away = Interrupted("a peer is gone"), StoreUnavailable("away", passing=True)
    assert [runs.exit_code(error) for error in (gone, away)] == [1, 1]
    monkeypatch.setenv("PET_NNODES", "2")
    assert [runs.exit_code(error) for error in (gone, away)] == [138, 138]
    assert [runs.exit_code(error) for error in (StageFailed("x"), RecipeError("x"))] == [1, 2]


@pytest.mark.parametrize(
    ("stages", "stage", "lacks", "is_job"),
    [
        ("[ingest, pretrain]", "pretrain", ("pyarrow",), True),
        ("[ingest, draft]", "draft", ("kubernetes",), False),
        ("[ingest]", "report", ("kubernetes",), False),
        ("[pack, evaluate]", "evaluate", (), True),  # the image of a study
    ],
)
def test_in_kubeflow_the_image_of_a_step_says_whether_a_job_does_its_work(monkeypatch, stages, stage, lacks, is_job):
    in_a_pod_of_kubeflow(monkeypatch, lacks)
    recipe = parse(SMALL, changes=["cluster.enabled=true", f"cluster.stages={stages}"])
    assert runs._is_job(stage, recipe) == is_job


def test_the_launchers_image_says_what_it_cannot_do(monkeypatch, address, capfd):
    in_a_pod_of_kubeflow(monkeypatch, ("pyarrow",))
    store, _, recipe = runs.open_run(address)
    changed = parse(recipe.to_yaml(), changes=["cluster.enabled=true", "cluster.stages=[ingest, clean, screen]"])
    store.write("runs/monday/recipe.yaml", changed.to_yaml().encode())
    with pytest.raises(SystemExit) as caught:
        runs.run_stage("pretrain", address, packed="stages/pack/x")
    assert caught.value.code == 2
    assert "cluster.stages: lacks pretrain: in Kubeflow its step has the launcher's image" in capfd.readouterr().err


def in_a_pod_of_kubeflow(monkeypatch, lacks):
    """A pod with a token, whose image lacks some packages."""
    for module in ("telellm.runs", "telellm.cluster.preflight"):
        monkeypatch.setattr(f"{module}.in_cluster", lambda: True)
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None if name in lacks else object())


def test_each_page_of_a_report_is_shown_by_itself_without_links_that_lead_nowhere(address, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "made").mkdir()
    (tmp_path / "made/report.html").write_text('<a href="questions.html">Read</a> <a href="#gate">gate</a> Größe')
    (tmp_path / "made/model-card.md").write_text("# Card")
    manifest = {"stage": "report", "summary": {"scores": {"base.x": 1.5, "base.y": float("nan"), "base.z": None}}}
    store.commit("runs/monday/report", tmp_path / "made", manifest)
    shown = {name: tmp_path / "shown" / name for name in ("page", "questions", "card")}
    scores = runs.show_report(address, "runs/monday/report", *map(str, shown.values()))
    assert scores == {"base.x": 1.5} and not shown["questions"].exists(), "a run without questions has no such page"
    assert "questions.html" not in shown["page"].read_text() and "see the artifacts" in shown["page"].read_text()
    assert 'href="#gate"' in shown["page"].read_text() and "Größe" in shown["page"].read_text()
    (tmp_path / "made/questions.html").write_text('<a href="report.html">Back</a> Why?')
    store.commit("runs/monday/report", tmp_path / "made", manifest)
    runs.show_report(address, "runs/monday/report", *map(str, shown.values()))
    assert "Why?" in shown["questions"].read_text() and "href" not in shown["questions"].read_text()
