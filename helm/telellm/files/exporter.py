"""Show Prometheus what the newest reports in the store say, and how the nightly run of Kubeflow ended.

One series a recipe and figure, from the recipe's newest report; what is a night's becomes a curve in Prometheus.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from telellm.store import Store, StoreUnavailable

PORT = int(os.environ.get("PORT", "9101"))
INTERVAL_SECONDS = float(os.environ.get("INTERVAL_SECONDS", "300"))
KFP_API = os.environ.get("KFP_API", "")
HELP = {
    "telellm_store_reached": "1: the store answered at the last look.",
    "telellm_report_timestamp_seconds": "When the recipe's newest report was written.",
    "telellm_score": "A model's score.",
    "telellm_corpus_documents": "Documents of the snapshot.",
    "telellm_corpus_tokens": "Tokens of the training text.",
    "telellm_tele_eval_questions": "Questions of Tele-Eval.",
    "telellm_stage_seconds": "Time that a stage took.",
    "telellm_stage_dropped": "Items that a stage left out.",
    "telellm_training_tokens_per_second": "Speed of training.",
    "telellm_training_gpu_hours": "GPUs of a training times its hours.",
    "telellm_gate_promoted": "1: the newest candidate became production; 0: the gate refused it.",
    "telellm_pipelines_reached": "1: the API of Kubeflow Pipelines answered at the last look.",
    "telellm_recurring_run_failed": "1: the newest finished run of a recurring run failed.",
    "telellm_recurring_run_finished_timestamp_seconds": "When its newest run finished.",
    "telellm_recurring_run_running_seconds": "For how long its run has been going on; 0: none is.",
}
Series = tuple[str, dict[str, str], float]


class Reports:
    """The reports of a store; one that has not changed is not read again."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.read: dict[str, tuple[str, dict[str, Any]]] = {}

    def newest(self) -> dict[str, tuple[float, dict[str, Any]]]:
        """Return recipe → time and content of its newest report."""
        store, found = Store.open(self.uri), {}
        folder = f"{store.prefix}/runs/".lstrip("/")
        for entry in store.client.list_objects(store.bucket, prefix=folder):
            run = entry.object_name.rstrip("/").rpartition("/")[2]
            key = f"runs/{run}/report/report.json"
            known = list(store.client.list_objects(store.bucket, prefix=f"{folder}{run}/report/report.json"))
            if not known:
                continue
            if self.read.get(run, ("",))[0] != known[0].etag:
                self.read[run] = (known[0].etag, store.read_json(key) or {})
            report, written = self.read[run][1], known[0].last_modified.timestamp()
            name = report.get("recipe", {}).get("name", run)
            if written > found.get(name, (0.0,))[0]:
                found[name] = (written, report)
        return found


def series(recipe: str, written: float, report: dict[str, Any]) -> Iterator[Series]:
    """Yield the figures of a report."""
    own = {"recipe": recipe}
    yield "telellm_report_timestamp_seconds", own, written
    for model in report.get("models") or []:
        for metric, score in model.get("metrics", {}).items():
            if isinstance(score.get("value"), int | float):
                yield (
                    "telellm_score",
                    own | {"role": model.get("label", model["role"]), "metric": metric},
                    score["value"],
                )
    for category, numbers in ((report.get("corpus") or {}).get("categories") or {}).items():
        yield "telellm_corpus_documents", own | {"category": category}, numbers.get("documents") or 0
        yield "telellm_corpus_tokens", own | {"category": category}, numbers.get("tokens") or 0
    if questions := report.get("tele_eval"):
        yield "telellm_tele_eval_questions", own, questions.get("questions") or 0
    cluster = report.get("recipe", {}).get("cluster", {})
    nodes = cluster.get("training", {})
    for stage in report.get("stages") or []:
        label = own | {"stage": stage["name"]}
        yield "telellm_stage_seconds", label, stage["seconds"]
        yield "telellm_stage_dropped", label, sum((stage.get("drops") or {}).values())
        if stage["name"] in ("pretrain", "instruct") and cluster.get("enabled"):
            gpus = nodes.get("nodes", 1) * nodes.get("gpus_per_node", 0)
            yield "telellm_training_gpu_hours", label, gpus * stage["seconds"] / 3600
    for stage, training in (report.get("training") or {}).items():
        if speed := training.get("tokens_per_second"):
            yield "telellm_training_tokens_per_second", own | {"stage": stage}, speed
    if isinstance(gate := report.get("gate"), dict):
        yield "telellm_gate_promoted", own, float(bool(gate.get("promoted")))


def recurring_runs() -> Iterator[Series]:
    """Yield how the newest runs of Kubeflow's recurring runs ended."""
    api = KFP_API.rstrip("/") + "/apis/v2beta1"

    def get(path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{api}{path}", timeout=30) as response:
            found: dict[str, Any] = json.loads(response.read() or b"{}")
            return found

    names = {
        run["recurring_run_id"]: run["display_name"]
        for run in get("/recurringruns?page_size=100").get("recurringRuns") or []
    }
    newest: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for run in get("/runs?page_size=200&sort_by=created_at%20desc").get("runs") or []:
        if name := names.get(run.get("recurring_run_id", "")):
            newest.setdefault(name, run)
            if run.get("state") in ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"):
                ended.setdefault(name, run)
    for name in set(names.values()):
        own = {"name": name}
        if run := ended.get(name):
            yield "telellm_recurring_run_failed", own, float(run["state"] == "FAILED")
            yield "telellm_recurring_run_finished_timestamp_seconds", own, seconds(run.get("finished_at"))
        going = newest.get(name) if newest.get(name) is not ended.get(name) else None
        since = time.time() - seconds(going.get("created_at")) if going else 0.0
        yield "telellm_recurring_run_running_seconds", own, since


def seconds(text: str | None) -> float:
    """Return a time of the API as seconds since the epoch; 0: there is none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


def look(reports: Reports) -> str:
    """Return everything as Prometheus reads it."""
    found: list[Series] = []
    try:
        for recipe, (written, report) in reports.newest().items():
            found += series(recipe, written, report)
        found.append(("telellm_store_reached", {}, 1.0))
    except (StoreUnavailable, OSError, ValueError) as error:
        say(f"the store: {error}")
        found.append(("telellm_store_reached", {}, 0.0))
    if KFP_API:
        try:
            found += [*recurring_runs(), ("telellm_pipelines_reached", {}, 1.0)]
        except (OSError, ValueError) as error:
            say(f"Kubeflow Pipelines: {error}")
            found.append(("telellm_pipelines_reached", {}, 0.0))
    return text(found)


def text(found: list[Series]) -> str:
    """Return series in Prometheus' format."""
    lines = []
    for name, about in HELP.items():
        if own := [(labels, value) for metric, labels, value in found if metric == name]:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
            for labels, value in own:
                inner = ",".join(f"{key}={json.dumps(str(word), ensure_ascii=False)}" for key, word in labels.items())
                lines.append(f"{name}{{{inner}}} {value}" if inner else f"{name} {value}")
    return "\n".join(lines) + "\n"


def say(line: str) -> None:
    """Write a line to the log."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Page(BaseHTTPRequestHandler):
    """`/metrics`: what was found at the last look; `/healthz`."""

    content = ""

    def do_GET(self) -> None:
        """Answer."""
        data = Page.content.encode() if self.path == "/metrics" else b"ok\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def main() -> int:
    """Serve, and look again and again."""
    # the first process of a container only gets the signals that it handles
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    reports = Reports(sys.argv[1])
    threading.Thread(target=ThreadingHTTPServer(("", PORT), Page).serve_forever, daemon=True).start()
    while True:
        Page.content = look(reports)
        time.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
