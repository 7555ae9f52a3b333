"""What serves the model in production: who fetches, who answers, who follows, and with what right."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from telellm import registry
from telellm.store import Store

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "telellm"
Object = dict[str, Any]
needs_helm = pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm on the path")


@cache
def rendered(*changes: str) -> tuple[Object, ...]:
    command = ["helm", "template", "release", str(CHART), "--namespace", "platform", "--kube-version", "1.34.0"]
    command += ["-f", str(ROOT / "tests/chart/serving.yaml"), *(word for c in changes for word in ("--set", c))]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(document for document in yaml.safe_load_all(text) if document)


def one(kind: str, name: str, *changes: str) -> Object:
    """Return an object; of two pods of a name, the one that comes first: the other makes room for it."""
    found = [o for o in rendered(*changes) if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    assert len(found) == (2 if kind == "Pod" else 1)
    return found[0]


def pod(name: str, *changes: str) -> Object:
    spec: Object = one("Deployment", name, *changes)["spec"]["template"]["spec"]
    return spec


@needs_helm
def test_a_new_version_comes_before_the_old_one_goes() -> None:
    spec = one("Deployment", "telellm-serving")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    drain = int(pod("telellm-serving")["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod("telellm-serving")["terminationGracePeriodSeconds"] > drain
    assert "telellm.io/version" not in spec["template"]["metadata"]["annotations"]


@needs_helm
def test_the_model_is_fetched_with_the_stores_credentials_and_served_without_them() -> None:
    spec = pod("telellm-serving")
    (fetch,), (server,) = spec["initContainers"], spec["containers"]
    assert fetch["command"] == [
        *("telellm", "models", "fetch", "telecom", "--to", "/serving", "--wait", "--store", "s3://telellm")
    ]
    assert fetch["envFrom"] == [{"secretRef": {"name": "telellm-store"}}]
    assert "envFrom" not in server and "--served-model-name=telecom" in server["args"]
    assert "/vllm-openai:" in server["image"] and server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert next(m for m in server["volumeMounts"] if m["name"] == "serving")["readOnly"] is True
    assert spec["automountServiceAccountToken"] is False


@needs_helm
def test_a_server_is_ready_when_it_has_answered_a_question() -> None:
    server = pod("telellm-serving")["containers"][0]
    command = ["python3", "/etc/telellm/serving/probe.py", "telecom", "/serving/question.json"]
    assert server["startupProbe"]["exec"]["command"] == command
    assert server["readinessProbe"]["httpGet"]["path"] == "/health"
    assert one("ConfigMap", "telellm-serving")["data"]["probe.py"] == (CHART / "files/probe.py").read_text()


@needs_helm
def test_who_follows_may_patch_that_one_deployment_and_nothing_else() -> None:
    (rule,) = one("Role", "telellm-serving-follow")["rules"]
    assert rule == {
        "apiGroups": ["apps"],
        "resources": ["deployments"],
        "resourceNames": ["telellm-serving"],
        "verbs": ["get", "patch"],
    }
    assert pod("telellm-serving-follow")["serviceAccountName"] == "telellm-serving-follow"
    names = [b["metadata"]["name"] for b in rendered() if b["kind"] == "RoleBinding"
             if any(s["name"] == "telellm-serving-follow" for s in b["subjects"])]  # fmt: skip
    assert names == ["telellm-serving-follow"]
    assert not [o for o in rendered() if o["kind"].startswith("ClusterRole") and "serving" in o["metadata"]["name"]]


@needs_helm
def test_only_those_that_are_named_reach_the_server_and_it_reaches_the_store_alone() -> None:
    policy = one("NetworkPolicy", "telellm-serving")["spec"]
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "apps"}}}]
    labels = one("Pod", "telellm-test-serving")["metadata"]["labels"]
    kept = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")
    test = {"podSelector": {"matchLabels": {key: labels[key] for key in kept}}}
    ports = [{"port": 8000, "protocol": "TCP"}]
    assert policy["ingress"] == [{"from": [test], "ports": ports}, {"from": peers, "ports": ports}]
    assert [rule["ports"] for rule in policy["egress"]] == [[{"port": 9000, "protocol": "TCP"}]]
    follow = one("NetworkPolicy", "telellm-serving-follow")["spec"]
    assert not follow.get("ingress")
    assert {port["port"] for rule in follow["egress"] for port in rule["ports"]} == {9000, 443, 6443}


@needs_helm
def test_a_given_secret_and_a_missing_name() -> None:
    env = pod("telellm-serving", "serving.existingSecret=ours")["containers"][0]["env"]
    assert env[0]["valueFrom"]["secretKeyRef"] == {"name": "ours", "key": "api-key"}
    made = [o["metadata"]["name"] for o in rendered("serving.existingSecret=ours") if o["kind"] == "Secret"]
    assert "telellm-serving" not in made
    with pytest.raises(subprocess.CalledProcessError) as failed:
        rendered("serving.model=")
    assert "serving.model: empty; name a model of the registry" in failed.value.stderr


class Server(BaseHTTPRequestHandler):
    """Answers as vLLM does."""

    text = " A cell."

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = asked["model"] == "telecom" and "Question: Why?" in asked["prompt"]
        self.send_response(200 if right and self.headers["Authorization"] == "Bearer key" else 400)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"text": self.text}]}).encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.mark.parametrize(("key", "text", "code"), [("key", " A cell.", 0), ("other", " A cell.", 1), ("key", "", 1)])
def test_the_probe_passes_when_the_server_answers_the_question(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, text: str, code: int
) -> None:
    monkeypatch.setattr(Server, "text", text)
    (tmp_path / "question.json").write_text(json.dumps({"statement": "Why?"}))
    command = [sys.executable, str(CHART / "files/probe.py"), "telecom", str(tmp_path / "question.json")]
    environment = os.environ | {"SERVER_PORT": str(port), "VLLM_API_KEY": key}
    assert subprocess.run(command, env=environment, capture_output=True).returncode == code


class Listed(Server):
    """… and lists its model, and says its answer piece by piece."""

    def do_GET(self) -> None:
        known = self.path == "/v1/models" and self.headers["Authorization"] == "Bearer key"
        self.answer(200 if known else 401, json.dumps({"data": [{"id": "telecom"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or asked["messages"][0]["content"] != "What is a cell?":
            return self.answer(400, "{}")
        pieces = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in self.text.split()]
        return self.answer(200, "".join(f"data: {piece}\n\n" for piece in [*pieces, "[DONE]"]))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


@needs_helm
@pytest.mark.parametrize(
    ("promoted", "key", "text", "code", "said"),
    [
        (True, "key", "An area that a station serves.", 0, "ok       server answer"),
        (True, "key", "", 1, "failed   server answer"),
        (True, "other", "An area that a station serves.", 1, "failed   server "),
        (False, "key", "", 0, "no version of telecom is in production yet"),
    ],
)
def test_helm_test_asks_the_served_model_a_question_of_tele_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promoted: bool, key: str, text: str, code: int, said: str
) -> None:
    """The very command of the pod, with a server and a store of this machine."""
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "told").mkdir()
    examples = [{"statement": "What is a cell?", "answer": "An area that a station serves.", "id": "web_1"}]
    (tmp_path / "told" / "report.json").write_text(json.dumps({"tele_eval": {"examples": examples}}))
    manifest = {"name": "telecom", "version": "v1", "made_at": "v1", "run": "r", "outputs": {}, "model": "stages/x/1"}
    store.commit("models/telecom/v1", tmp_path / "told", manifest | {"gate": {"promoted": True, "reason": ""}})
    if promoted:
        registry.promote(store, "telecom", "v1", before=None, by="test", why="test", at="2026-01-01T00:00:00Z")
    monkeypatch.setattr(Listed, "text", text)
    server = HTTPServer(("127.0.0.1", 0), Listed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (container,) = one("Pod", "telellm-test-serving")["spec"]["containers"]
    variables = {entry["name"]: entry.get("valueFrom", entry.get("value")) for entry in container["env"]}
    assert variables["OPENAI_API_KEY"] == {"secretKeyRef": {"name": "telellm-serving", "key": "api-key"}}
    shell, flag, script, name, place, model = container["command"]
    assert (name, place, model) == ("serving", "s3://telellm", "telecom")
    script = script.replace("http://telellm-serving:8000", f"http://127.0.0.1:{server.server_port}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"OPENAI_API_KEY": key, "PATH": path, "NO_PROXY": "127.0.0.1"}
    command = [shell, flag, script, name, store.uri, model]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    server.shutdown()
    assert (result.returncode, said in result.stdout) == (code, True), result.stdout + result.stderr


@needs_helm
def test_the_served_model_is_watched_where_others_are() -> None:
    on = ("monitoring.serviceMonitors=true", "monitoring.alerts=true")
    (endpoint,) = one("ServiceMonitor", "telellm-serving", *on)["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    service = one("Service", "telellm-serving", *on)["metadata"]["labels"]
    selector = one("ServiceMonitor", "telellm-serving", *on)["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service.items()
    peers = [peer for rule in one("NetworkPolicy", "telellm-serving", *on)["spec"]["ingress"] for peer in rule["from"]]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in peers
    (rules,) = (group["rules"] for group in one("PrometheusRule", "telellm", *on)["spec"]["groups"])
    (down,) = [rule for rule in rules if rule["alert"] == "TelellmServingDown"]
    assert promql_parser.parse(down["expr"]) and 'service="telellm-serving"' in down["expr"]
    without = [o["metadata"]["name"] for o in rendered(*on, "serving.enabled=false") if o["kind"] == "ServiceMonitor"]
    assert without and "telellm-serving" not in without
