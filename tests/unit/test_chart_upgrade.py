"""From an earlier chart to this one: no object goes, and nothing changes that Kubernetes lets nobody change.

The earlier chart comes from the history: the newest tag `v*` before this commit, or `FIRST`.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_chart import MATRIX, ROOT, Object, chart, helm_template, pytestmark

__all__ = ["chart", "pytestmark"]
FIRST = "ad4dbc9"
"""The commit whose chart is upgraded while no release is tagged."""
OF_ONE_REVISION = {"Job", "Pod"}
"""Kinds whose objects each release makes anew."""
FIXED = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
    "PersistentVolumeClaim": ("accessModes", "resources", "storageClassName"),
    "Service": ("clusterIP",),
}
"""Kind → fields of its spec that an API server refuses to change."""


@pytest.fixture(scope="module")
def earlier_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of the release before this one, with its own pipelines."""
    git = ["git", "-C", str(ROOT)]
    tag = [*git, "describe", "--tags", "--match=v*", "--abbrev=0", "HEAD^"]
    reference = subprocess.run(tag, capture_output=True, text=True).stdout.strip() or FIRST
    archive = subprocess.run([*git, "archive", reference, "helm/telellm", "telellm", "pipelines"], capture_output=True)
    if archive.returncode:
        pytest.skip(f"this checkout has no history: {archive.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as members:
        members.extractall(folder)
    found = folder / "helm" / "telellm"
    command = [sys.executable, "-m", "telellm.cli", "compile", "--out", str(found / "files" / "pipelines")]
    there = os.environ | {"PYTHONPATH": str(folder)}
    made = subprocess.run(command, cwd=folder, env=there, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return found


def objects(chart: Path, name: str, *changes: str) -> dict[tuple[str, str], Object]:
    text = helm_template(chart, name, *changes).stdout
    found = [o for o in yaml.load_all(text, yaml.CSafeLoader) if o and o["kind"] not in OF_ONE_REVISION]
    return {(o["kind"], o["metadata"]["name"]): o for o in found}


def fixed(found: Object) -> dict[str, Any]:
    """Return what of an object must stay as it is."""
    spec = found.get("spec") or {}
    kept = {field: spec.get(field) for field in FIXED.get(found["kind"], ())}
    if found["kind"] == "CustomResourceDefinition":
        kept = {"scope": spec["scope"], "stored": [v["name"] for v in spec["versions"] if v["storage"]]}
    return kept | {field: found.get(field) for field in ("apiVersion", "roleRef", "type", "immutable")}


@pytest.mark.parametrize("name", ["", "all-on", "values-small"])
def test_an_upgrade_takes_no_object_away_and_changes_none_that_cannot_be(
    chart: Path, earlier_chart: Path, name: str
) -> None:
    assert not name or MATRIX[name].is_file()
    earlier, later = objects(earlier_chart, name), objects(chart, name)
    assert set(earlier) <= set(later), "the upgrade deletes them"
    for key, found in earlier.items():
        assert fixed(later[key]) == fixed(found), key


def pod_templates(found: dict[tuple[str, str], Object]) -> dict[tuple[str, str], Object]:
    return {key: o["spec"]["template"] for key, o in found.items() if key[0] in ("Deployment", "StatefulSet")}


def test_a_newer_chart_restarts_no_pod_for_its_version_alone(chart: Path, tmp_path: Path) -> None:
    """But the API server, which reads the pipelines of that version."""
    newer = tmp_path / "telellm"
    shutil.copytree(chart, newer)
    about = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "99.0.0"}))
    serving = ("serving.enabled=true", "serving.model=telecom")
    before, after = (pod_templates(objects(one, "all-on", *serving)) for one in (chart, newer))
    assert len(before) >= 14
    assert {name for (kind, name), template in before.items() if template != after[kind, name]} == {"ml-pipeline"}
    for key, template in before.items():
        selector = objects(chart, "all-on", *serving)[key]["spec"]["selector"]["matchLabels"]
        assert selector.items() <= template["metadata"]["labels"].items(), key


@pytest.mark.parametrize(
    ("change", "restarted"),
    [
        ("store.secretKey=b", {"ml-pipeline", "ml-pipeline-ui", "telellm-exporter", "telellm-serving-follow"}),
        (
            "global.ca.pem=b",
            {
                *("ml-pipeline", "ml-pipeline-ui", "telellm-exporter", "telellm-serving-follow"),
                *("telellm-vllm", "telellm-auth-proxy"),
            },
        ),
        ("pipelines.runs.keepHours=1", {"ml-pipeline-persistenceagent"}),
        ("telellm.templates.nodeSelector.pool=gpu", set()),
        ("minio.lifecycle.runsDays=1", set()),
    ],
)
def test_a_change_restarts_those_who_read_it_when_they_start_and_no_other(
    chart: Path, change: str, restarted: set[str]
) -> None:
    base = ["serving.enabled=true", "serving.model=telecom", "global.ca.pem=a"]
    if change.startswith("store."):
        base += ["minio.enabled=false", "store.endpoint=https://s3.example.org", "store.accessKey=a"]
        base += ["store.secretKey=a", "minio.sourceBuckets=null"]
    before, after = (pod_templates(objects(chart, "all-on", *base, *more)) for more in ((), (change,)))
    assert {name for (kind, name), template in before.items() if template != after[kind, name]} == restarted


def test_an_upgrade_keeps_the_secrets_that_the_earlier_chart_made(chart: Path, earlier_chart: Path) -> None:
    """What is there is looked up by name and key; a key of another name would be drawn anew."""
    earlier, later = objects(earlier_chart, "all-on"), objects(chart, "all-on")
    for (kind, name), found in earlier.items():
        if kind == "Secret":
            assert set(found.get("data") or {}) <= set(later[kind, name].get("data") or {}), name
