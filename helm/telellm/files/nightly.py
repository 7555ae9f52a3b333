"""Make the recurring runs of Kubeflow Pipelines what the chart's values say, and leave alone what is so already.

Kubeflow keeps recurring runs in its database: an object in the cluster alone would never show up in its UI, and its
API cannot change one. So one that differs is deleted and made anew, never two at a time; its past runs stay.
The digest of what is wanted is in its description. Only the standard library is needed.
"""

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

API = os.environ["KFP_API"].rstrip("/") + "/apis/v2beta1"
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "900"))
MARK = f"made by the chart {os.environ['OWNER']}: "
"""Beginning of the description of a recurring run that is this installation's."""


def main() -> int:
    """Do it; returns the exit status. `--remove` never fails: nobody should have to keep a chart for it."""
    if sys.argv[1] != "--remove":
        schedule(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        return 0
    try:
        schedule(None)
    except (OSError, SystemExit) as error:
        say(f"the recurring run may still be there: delete it in Kubeflow's UI ({error})")
    return 0


def schedule(wanted: dict | None) -> None:
    """Make the recurring run, replace it, or take it away."""
    call("GET", "/healthz", patience=PATIENCE_SECONDS)
    found = [run for run in every("/recurringruns", "recurringRuns") if run.get("description", "").startswith(MARK)]
    keep = None
    if wanted:
        body = recurring_run(wanted)
        # one that a person turned off in the UI stays off until the values change
        keep = next((run for run in found if run["description"] == body["description"]), None)
        if keep:
            say(f"the recurring run {wanted['name']} is as it should be")
    for run in found:
        if run is not keep:
            call("DELETE", f"/recurringruns/{run['recurring_run_id']}")
            say(f"deleted the recurring run {run['display_name']} ({run.get('description')})")
    if wanted and not keep:
        body["experiment_id"] = experiment(wanted["name"])
        made = call("POST", "/recurringruns", body)
        say(f"made the recurring run {made['display_name']}: {wanted['schedule']}, {wanted['timeZone']}")


def recurring_run(wanted: dict) -> dict:
    """Return the recurring run as the API takes it."""
    pipeline, version = pipeline_version(wanted["pipeline"], wanted["version"])
    body = {
        "display_name": wanted["name"],
        "pipeline_version_reference": {"pipeline_id": pipeline, "pipeline_version_id": version},
        "runtime_config": {"parameters": wanted["parameters"]},
        "service_account": wanted["serviceAccount"],
        "max_concurrency": "1",
        "no_catchup": True,
        "mode": "ENABLE",
        # Kubeflow's cron begins with the second; the time zone is that of its scheduler
        "trigger": {"cron_schedule": {"cron": f"0 {wanted['schedule']}"}},
    }
    digest = hashlib.sha256(json.dumps([body, wanted["timeZone"]], sort_keys=True).encode()).hexdigest()[:12]
    body["description"] = f"{MARK}{wanted['schedule']} {wanted['timeZone']}, {digest}"
    return body


def pipeline_version(name: str, version: str) -> tuple[str, str]:
    """Return the ids of a preloaded pipeline's version; the API server may still be reading it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            pipeline = call("GET", f"/pipelines/names/{urllib.parse.quote(name)}")["pipeline_id"]
            for found in every(f"/pipelines/{pipeline}/versions", "pipeline_versions"):
                if version in (found.get("display_name"), found.get("name")):
                    return pipeline, found["pipeline_version_id"]
            missing = f"pipeline {name} has no version {version}"
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            missing = f"there is no pipeline {name}"
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {missing}; see the log of the API server (ml-pipeline)")
        say(f"waits: {missing}")
        time.sleep(5)


def experiment(name: str) -> str:
    """Return the id of the experiment that the runs are shown under; made where it is missing."""
    for found in every("/experiments", "experiments"):
        if found["display_name"] == name and found.get("storage_state") != "ARCHIVED":
            return found["experiment_id"]
    return call("POST", "/experiments", {"display_name": name})["experiment_id"]


def every(path: str, key: str) -> list[dict]:
    """Return all items of a list, page by page."""
    items, token = [], ""
    while True:
        answer = call("GET", f"{path}?{urllib.parse.urlencode({'page_size': 100, 'page_token': token})}")
        items += answer.get(key) or []
        token = answer.get("next_page_token") or ""
        if not token:
            return items


def call(method: str, path: str, body: dict | None = None, patience: float = 60) -> dict:
    """Ask the API; a server that is away is waited for."""
    deadline = time.monotonic() + patience
    while True:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(API + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code < 500 or time.monotonic() > deadline:
                said = error.read().decode("utf-8", "replace")[:2000]
                if error.code != 404:
                    say(f"{method} {path}: {error.code}: {said}")
                raise
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"error: {API} does not answer: {error}") from None
        say(f"waits for {API}")
        time.sleep(3)


def say(text: str) -> None:
    """Write a line to the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
