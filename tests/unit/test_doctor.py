"""The doctor's lines: a store that works, and each thing that is wrong with one."""

import pytest

from telellm.doctor import check_references, check_servers, check_store, diagnose, require
from telellm.progress import Progress
from telellm.recipe import RecipeError
from telellm.store import Store
from tests.language_model_server import LanguageModelServer


def test_a_bucket_is_written_read_and_deleted_in_one_and_in_parts(bucket_uri):
    found = list(check_store(bucket_uri))
    assert [(check.name, check.state) for check in found] == [
        ("dns", "ok"),
        ("store", "ok"),
        ("store objects", "ok"),
        ("store multipart", "ok"),
        ("store conditions", "ok"),
    ]
    assert list(Store.open(bucket_uri).list("checks")) == []


def test_a_folder_is_a_store_too(tmp_path):
    assert [check.state for check in check_store(str(tmp_path / "store"))] == ["ok", "ok"]


def test_what_is_wrong_is_said_with_its_remedy(bucket_uri, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    last = list(check_store(bucket_uri))[-1]
    assert last.state == "failed" and "check AWS_SECRET_ACCESS_KEY" in last.said
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")
    (only,) = check_store(bucket_uri)
    assert str(only).startswith("failed   dns") and "check AWS_ENDPOINT_URL" in str(only)


def test_without_a_cluster_only_the_store_is_checked(recipe_with, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    uri = str(tmp_path / "store")
    assert {check.name for check in diagnose(recipe_with(), uri)} == {"store", "store objects"}
    last = list(diagnose(recipe_with("cluster.enabled=true"), uri))[-1]
    assert last.state == "failed" and "set KUBECONFIG" in last.said


def test_what_no_pod_can_reach_is_refused_before_anything_is_asked(recipe_with, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    with pytest.raises(RecipeError) as caught:
        require(recipe_with("cluster.enabled=true"), store, Progress("start", lambda event: None))
    said = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in said] == ["store", "sources.one.path", "lm.endpoint"]
    assert "name a bucket" in said[0] and "leave ingest out of cluster.stages" in said[1]


def test_reference_models_are_looked_for_here_and_at_their_servers(recipe_with, tmp_path):
    server = LanguageModelServer()  # it has no list of models
    try:
        recipe = recipe_with(
            "evaluation.reference_models.gone=/nowhere",
            "evaluation.reference_models.hub=owner/chat",
            f"evaluation.reference_models.served={{model: big, endpoint: '{server.url}'}}",
        )
        found = list(check_references(recipe))
    finally:
        server.close()
    assert [check.state for check in found] == ["failed", "ok", "warning"]
    assert found[0].said.startswith("evaluation.reference_models.gone: ") and "fetched" in found[1].said
    assert "evaluation.reference_models.served.endpoint: " in found[2].said and "answers 501" in found[2].said
    (away,) = list(
        check_references(recipe_with(f"evaluation.reference_models.x={{model: m, endpoint: '{server.url}'}}"))
    )
    assert away.state == "warning" and "gives no list of models here" in away.said


def test_the_servers_of_models_that_are_asked_are_looked_for(recipe_with):
    assert list(check_servers(recipe_with())) == []
    away = recipe_with("lm.endpoint=http://127.0.0.1:9/v1", "evaluation.judge={endpoint: 'http://127.0.0.1:9/v1'}")
    assert [check.said.split(":")[0] for check in check_servers(away)] == ["lm.endpoint", "evaluation.judge.endpoint"]
    assert {check.state for check in check_servers(away)} == {"warning"}
