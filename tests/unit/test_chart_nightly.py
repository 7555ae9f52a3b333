"""The chart's job that schedules the nightly run, against a server that answers as Kubeflow's API does."""

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

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


class Kubeflow(ThreadingHTTPServer):
    """Pipelines `nightly` with two versions; pages of one item; remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.recurring: dict[str, dict[str, Any]] = {}
        self.experiments: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.most = 0
        self.starting = 0


class Handler(BaseHTTPRequestHandler):
    server: Kubeflow

    def do_GET(self) -> None:
        path = self.seen()
        if self.server.starting:
            self.server.starting -= 1
            return self.answer({}, 503)
        if path == "/healthz":
            return self.answer({})
        if path == "/pipelines/names/nightly":
            return self.answer({"pipeline_id": "p", "display_name": "nightly"})
        if path == "/pipelines/p/versions":
            versions = [{"pipeline_version_id": f"v-{n}", "display_name": n} for n in ("0.1.0-aa", "0.1.0-bb")]
            return self.page("pipeline_versions", versions)
        if path == "/experiments":
            return self.page("experiments", self.server.experiments)
        if path == "/recurringruns":
            return self.page("recurringRuns", list(self.server.recurring.values()))
        return self.answer({"message": "not found"}, 404)

    def do_POST(self) -> None:
        path, server = self.seen(), self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if path == "/experiments":
            server.experiments.append(body | {"experiment_id": f"e{len(server.experiments)}"})
            return self.answer(server.experiments[-1])
        assert path == "/recurringruns"
        made = body | {"recurring_run_id": uuid.uuid4().hex, "status": "ENABLED"}
        server.recurring[made["recurring_run_id"]] = made
        server.most = max(server.most, len(server.recurring))
        return self.answer(made)

    def do_DELETE(self) -> None:
        self.server.recurring.pop(self.seen().rpartition("/")[2])
        self.answer({})

    def seen(self) -> str:
        path = urlsplit(self.path).path.removeprefix("/apis/v2beta1")
        self.server.asked.append(f"{self.command} {path}")
        return path

    def page(self, key: str, items: list[dict[str, Any]]) -> None:
        start = int(parse_qs(urlsplit(self.path).query).get("page_token", ["0"])[0] or 0)
        answer: dict[str, Any] = {key: items[start : start + 1]} if items else {}
        self.answer(answer | ({"next_page_token": str(start + 1)} if start + 1 < len(items) else {}))

    def answer(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    server = Kubeflow()
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
