"""The whole pipeline from this machine: shards and training as jobs of the cluster, everything in its store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from telellm.recipe import Recipe
from telellm.store import Store
from tests.cluster.cluster import Cluster, losses, note, torn

Adapted = tuple[Store, str, dict[str, set[str]]]


def test_documents_become_a_report_with_two_trainings_of_two_nodes(adapted: Adapted, cluster: Cluster) -> None:
    store, said, trainings = adapted
    assert said.count("started the job cluster-ingest-") == said.count("started the job cluster-clean-") == 1
    assert {name.rpartition("-")[0] for name in trainings} == {"cluster-pretrain", "cluster-instruct"}
    for step in ("pretrain", "instruct"):
        assert note(store, "cluster", step)["manifest"]["summary"]["processes"] == 2
    assert b"answer perplexity" in store.read("runs/cluster/report/report.html").lower()
    assert store.read_json("runs/cluster/report/report.json")["run"] == "cluster"  # type: ignore[index]
    assert torn(store) == []
    assert cluster.is_empty()


@pytest.mark.parametrize("step", ["pretrain", "instruct"])
def test_two_nodes_have_the_losses_of_one_process(
    adapted: Adapted, in_one_process: tuple[Store, str], step: str
) -> None:
    found, expected = losses(adapted[0], "cluster", step), losses(*in_one_process, step)
    assert found == pytest.approx(expected, abs=1e-3)
    assert len(found) == {"pretrain": 110, "instruct": 10}[step]


def test_a_corpus_from_pods_is_the_one_from_this_machine(
    adapted: Adapted, cluster: Cluster, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tmp_path / "local.yaml"
    recipe.write_text(recipe_with("cluster.enabled=false").to_yaml())
    cluster.telellm("run", recipe, "--pipeline", "corpus", "--store", tmp_path / "store").end()
    here = Store.open(str(tmp_path / "store"))
    for step in ("ingest", "clean", "screen", "deduplicate", "decontaminate"):
        manifests = [note(store, "cluster", step)["manifest"] for store in (here, adapted[0])]
        assert manifests[0]["content"] == manifests[1]["content"], step


def test_a_second_run_does_nothing_again(adapted: Adapted, cluster: Cluster, jobs_ever: Callable[[], object]) -> None:
    recipe = cluster.folder / "cluster.yaml"
    said = cluster.telellm("run", recipe, "--pipeline", "adapt", "--store", "s3://telellm/adapted").end()
    assert said.count("done before") == 16, said
    assert "started the job" not in said
    assert not jobs_ever()
