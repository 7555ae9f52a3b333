"""The chart's job that schedules the nightly run, against a server that answers as Kubeflow's API does."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubeflow import Kubeflow
from tests.unit.test_chart import Object, chart, one, rendered

__all__ = ["chart", "rendered"]

SCRIPT = Path(__file__).parents[2] / "helm" / "telellm" / "files" / "nightly.py"
WANTED = {
    "name": "nightly",
    "pipeline": "nightly",
    "version": "0.1.0-aa",
    "schedule": "0 2 * * *",
    "timeZone": "Europe/Berlin",
    "serviceAccount": "pipeline-runner",
    "parameters": {"recipe": "name: telecom", "store": "s3://telellm"},
}


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    server = Kubeflow("0.1.0-aa", "0.1.0-bb")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def schedule(kubeflow: Kubeflow, folder: Path, wanted: Any, patience: str = "20") -> subprocess.CompletedProcess[str]:
    kubeflow.asked.clear()
    (folder / "wanted.json").write_text(json.dumps(wanted))
    variables = os.environ | {
        "KFP_API": f"http://127.0.0.1:{kubeflow.server_address[1]}",
        "PATIENCE_SECONDS": patience,
        "OWNER": "telellm in platform",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, str(SCRIPT), str(folder / "wanted.json")]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


def test_the_nightly_run_is_made_once_however_often_it_is_asked_for(kubeflow: Kubeflow, tmp_path: Path) -> None:
    for _ in range(3):
        result = schedule(kubeflow, tmp_path, WANTED)
        assert result.returncode == 0, result.stderr
    (made,) = kubeflow.recurring.values()
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    assert made["pipeline_version_reference"] == {"pipeline_id": "p", "pipeline_version_id": "v-0.1.0-aa"}
    assert made["runtime_config"]["parameters"] == WANTED["parameters"]
    assert made["service_account"] == "pipeline-runner"
    assert [e["display_name"] for e in kubeflow.experiments] == ["nightly"]
    assert not [call for call in kubeflow.asked if not call.startswith("GET")]


@pytest.mark.parametrize(
    "change",
    [{"version": "0.1.0-bb"}, {"schedule": "0 3 * * *"}, {"timeZone": "Etc/UTC"}, {"parameters": {"store": "s3://x"}}],
)
def test_a_change_replaces_it_and_there_are_never_two(
    kubeflow: Kubeflow, tmp_path: Path, change: dict[str, Any]
) -> None:
    schedule(kubeflow, tmp_path, WANTED)
    (before,) = kubeflow.recurring
    assert schedule(kubeflow, tmp_path, WANTED | change).returncode == 0
    (after,) = kubeflow.recurring
    assert after != before
    assert kubeflow.most == 1
    assert len(kubeflow.experiments) == 1


def test_switched_off_it_goes_and_what_people_scheduled_stays(kubeflow: Kubeflow, tmp_path: Path) -> None:
    kubeflow.recurring["own"] = {"recurring_run_id": "own", "display_name": "nightly", "description": "mine"}
    other = "made by the chart telellm in another: 0 2 * * *"
    kubeflow.recurring["other"] = {"recurring_run_id": "other", "display_name": "nightly", "description": other}
    schedule(kubeflow, tmp_path, WANTED)
    assert len(kubeflow.recurring) == 3
    assert schedule(kubeflow, tmp_path, None).returncode == 0
    assert list(kubeflow.recurring) == ["own", "other"]


def test_one_that_a_person_turned_off_stays_off(kubeflow: Kubeflow, tmp_path: Path) -> None:
    schedule(kubeflow, tmp_path, WANTED)
    (made,) = kubeflow.recurring.values()
    made["status"] = "DISABLED"
    schedule(kubeflow, tmp_path, WANTED)
    assert [run["status"] for run in kubeflow.recurring.values()] == ["DISABLED"]


def test_a_server_that_starts_is_waited_for(kubeflow: Kubeflow, tmp_path: Path) -> None:
    kubeflow.starting = 1
    assert schedule(kubeflow, tmp_path, WANTED).returncode == 0
    assert len(kubeflow.recurring) == 1


def test_a_version_that_never_comes_is_named(kubeflow: Kubeflow, tmp_path: Path) -> None:
    result = schedule(kubeflow, tmp_path, WANTED | {"version": "0.2.0"}, patience="0")
    assert result.returncode == 1
    assert "pipeline nightly has no version 0.2.0" in result.stderr
    assert not kubeflow.recurring


def test_it_is_taken_away_with_the_chart_and_never_holds_it_back(kubeflow: Kubeflow, tmp_path: Path) -> None:
    schedule(kubeflow, tmp_path, WANTED)
    variables = {"OWNER": "telellm in platform", "PATIENCE_SECONDS": "0", "NO_PROXY": "127.0.0.1"}
    for api, left in ((f"http://127.0.0.1:{kubeflow.server_address[1]}", 0), ("http://127.0.0.1:9", 0)):
        command = [sys.executable, str(SCRIPT), "--remove"]
        result = subprocess.run(command, env={**variables, "KFP_API": api}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert len(kubeflow.recurring) == left
    assert "delete it in Kubeflow's UI" in result.stdout


@pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm on the path")
def test_an_upgrade_leaves_the_schedule_alone_unless_it_is_what_changes(
    kubeflow: Kubeflow, tmp_path: Path, rendered: Callable[..., tuple[Object, ...]]
) -> None:
    def release(*changes: str) -> tuple[str, str]:
        """Do what the job of a release does; returns the job's name and the id of the recurring run."""
        objects = rendered("all-on", *changes)
        wanted = json.loads(one(objects, "ConfigMap", "telellm-nightly")["data"]["wanted.json"])
        kubeflow.versions = (*kubeflow.versions, wanted["version"])
        result = schedule(kubeflow, tmp_path, wanted)
        assert result.returncode == 0, result.stderr
        (job,) = [o["metadata"]["name"] for o in objects if o["kind"] == "Job" and "nightly" in o["metadata"]["name"]]
        (made,) = kubeflow.recurring
        return job, made

    job, first = release()
    assert release("minio.lifecycle.runsDays=3", "monitoring.alerts=false", "global.labels.team=llm")[1] == first
    other_job, other = release("telellm.nightly.schedule=30 3 * * *")
    assert other != first and other_job != job, "a job of the same name would not run again"
    assert kubeflow.most == 1
