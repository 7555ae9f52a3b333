import json
from pathlib import Path

import pytest

from telellm import registry
from telellm.recipe import RecipeError
from telellm.serving.named_models import questions_of, resolve, snapshots
from telellm.store import Store

RUN = """
name: first
model: {name: owner/base}
sources: {one: {category: web, path: raw}}
a_section_of_an_earlier_telellm: {x: 1}
"""


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with a run, a version in production and an earlier one."""
    store.write("runs/first/recipe.yaml", RUN.encode())
    for label, place in {"decontaminate": "corpora/first/1", "pretrain": "stages/pretrain/1"}.items():
        note = {"output": place, "manifest": {"finished_at": "2026-01-01T00:00:00Z"}}
        store.write_json(f"runs/first/stages/{label}.json", note)
    for version in ("v1", "v2"):
        manifest = {"name": "telecom", "version": version, "made_at": version, "run": "first", "files": {}}
        manifest |= {"model": f"stages/instruct/{version}", "gate": {"promoted": True, "reason": ""}}
        manifest["outputs"] = {"decontaminate": {"place": "corpora/first/1"}}
        store.write_json(f"models/telecom/{version}/manifest.json", manifest)
    pointer = {"version": "v2", "before": "v1", "action": "promote", "at": "", "by": "", "why": ""}
    store.write("models/telecom/production.json", json.dumps({"moves": [pointer]}).encode())
    return store


def test_a_run_stands_for_its_models_also_if_an_earlier_telellm_made_it(filled: Store) -> None:
    for text in ("first", f"{filled.uri}/runs/first"):
        found = resolve(text, filled)
        assert [(model.label, model.name, model.chat) for model in found] == [
            ("base", "owner/base", False),
            ("pretrained", f"{filled.uri}/stages/pretrain/1/model", False),
        ]
        assert {(model.run, model.snapshot) for model in found} == {("first", "corpora/first/1")}


def test_a_name_of_the_registry_is_the_version_in_production_and_any_version_can_be_named(filled: Store) -> None:
    (model,) = resolve("telecom", filled)
    assert (model.label, model.name) == ("telecom v2", f"{filled.uri}/stages/instruct/v2/model")
    assert model.chat and model.snapshot == "corpora/first/1"
    (earlier,) = resolve("telecom@v1", filled)
    assert earlier.label == "telecom v1"


def test_a_model_without_a_version_in_production_is_told_with_its_versions(filled: Store) -> None:
    with pytest.raises(RecipeError, match=r"^there is no version v9 of telecom; name one: telecom@v2, telecom@v1$"):
        resolve("telecom@v9", filled)
    filled.remove("models/telecom/production.json")
    with pytest.raises(RecipeError, match=r"^telecom has no version in production; name one: telecom@v2, telecom@v1$"):
        resolve("telecom", filled)


def test_other_names_are_directories_hub_names_addresses_and_endpoints(directory_store: Store, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert resolve(str(tmp_path / "model"), directory_store)[0].name == str((tmp_path / "model").resolve())
    assert resolve("owner/name@v2", directory_store)[0].revision == "v2"
    assert resolve("s3://bucket/models/x", directory_store)[0].name == "s3://bucket/models/x"
    endpoint = resolve("http://localhost:8000/v1#judge", directory_store)[0]
    assert (endpoint.endpoint, endpoint.name) == ("http://localhost:8000/v1", "judge")


def test_a_recipe_without_a_run_is_its_base_model(directory_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("name: other\nmodel: {name: owner/base}\nsources: {one: {category: web, path: raw}}\n")
    assert [model.name for model in resolve(str(path), directory_store)] == ["owner/base"]


def test_an_unknown_name_is_told_with_what_is_there(filled: Store) -> None:
    with pytest.raises(
        RecipeError, match=r'"frist" is neither a model nor a run(?s:.*)models in .*telecom(?s:.*)first'
    ):
        resolve("frist", filled)
    with pytest.raises(RecipeError, match="there is no run other\n  known runs: first"):
        resolve(f"{filled.uri}/runs/other", filled)
    with pytest.raises(RecipeError, match="there is no such file or folder"):
        resolve("/nowhere/at/all", filled)


def test_snapshots_and_questions_are_found_where_runs_left_them(filled: Store) -> None:
    assert list(snapshots(filled)) == [("first", "corpora/first/1")]
    assert questions_of(filled, "runs/first/report") == []
    filled.write_json("runs/first/report/report.json", {"tele_eval": {"examples": [{"statement": "Why?"}]}})
    assert questions_of(filled, "runs/first/report") == [{"statement": "Why?"}]
    assert registry.models(filled) == ["telecom"]


def test_a_reference_model_of_a_run_or_recipe_is_named_after_it(directory_store: Store, tmp_path: Path) -> None:
    text = RUN + (
        "evaluation: {reference_models: {vendor: owner/chat, "
        "served: {model: big, endpoint: 'http://h/v1/', key_variable: OTHER_KEY}}}\n"
    )
    directory_store.write("runs/first/recipe.yaml", text.encode())
    path = tmp_path / "my.yaml"
    path.write_text(text.replace("a_section_of_an_earlier_telellm: {x: 1}\n", ""))
    for owner in ("first", str(path)):
        (vendor,) = resolve(f"{owner}#vendor", directory_store)
        assert (vendor.label, vendor.name, vendor.chat, vendor.endpoint) == ("vendor", "owner/chat", True, "")
        (served,) = resolve(f"{owner}#served", directory_store)
        assert (served.name, served.endpoint, served.key_variable) == ("big", "http://h/v1", "OTHER_KEY")
        with pytest.raises(RecipeError, match="reference models: served, vendor"):
            resolve(f"{owner}#vend", directory_store)
