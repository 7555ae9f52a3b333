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

import pytest
import yaml

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
    (found,) = [o for o in rendered(*changes) if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


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
    assert policy["ingress"] == [{"from": peers, "ports": [{"port": 8000, "protocol": "TCP"}]}]
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
