"""What is wrong with a submission is said at once; the protocol is that of Kubeflow's API, v2beta1."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from telellm import __version__
from telellm.cluster.api import ClusterError
from telellm.recipe import RecipeError, parse
from telellm.stage import StageFailed
from telellm.submit import submit

RECIPE = """
name: small
model: {name: s3://models/tiny}
lm: {endpoint: "http://vllm:8000/v1"}
sources:
  one: {category: web, path: s3://raw/web}
"""


class Kubeflow:
    """A server that speaks as much of the API as a submission uses, and writes down what it is asked."""

    def __init__(self, ends_as):
        self.asked, self.versions, self.ends_as = [], [], ends_as
        self.uploaded = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = outer.answer(self.command, self.path.partition("?")[0], body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.host = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, method, path, body):
        path = path.removeprefix("/apis/v2beta1")
        self.asked.append((method, path, body))
        if path == "/healthz":
            return 200, {"multi_user": False}
        if method == "GET" and path == "/pipelines":
            return 200, {"pipelines": [{"pipeline_id": "p1", "display_name": "corpus"}] if self.versions else []}
        if path.startswith("/pipelines/upload"):
            made = {"pipeline_id": "p1", "pipeline_version_id": f"v{len(self.versions)}"}
            name = re.search(r"[?&]name=([^&]*)", self.asked[-1][1])
            self.versions.append(made | {"display_name": name[1] if name else "first"})
            self.uploaded.append(body.decode())
            return 200, made
        if path == "/pipelines/p1/versions":
            return 200, {"pipeline_versions": self.versions}
        if path == "/experiments":
            return 200, {"experiments": [{"experiment_id": "e1", "display_name": "telellm"}], "experiment_id": "e1"}
        if method == "POST" and path == "/runs":
            return 200, {"run_id": "r1", "state": "PENDING"}
        if path == "/runs/r1":
            task = {"task_id": "t1", "display_name": "ingest", "state": self.ends_as}
            return 200, {"run_id": "r1", "state": self.ends_as, "run_details": {"task_details": [task]}}
        return 404, {"message": f"there is no {path}"}


@pytest.fixture
def kubeflow(monkeypatch):
    for name in ("TELELLM_IMAGE_REGISTRY", "TELELLM_IMAGE_TAG"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(ends_as="SUCCEEDED"):
        servers.append(Kubeflow(ends_as))
        return servers[-1]

    yield start
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


def test_a_run_is_started_with_the_recipe_and_followed_to_its_end(kubeflow, capfd):
    server = kubeflow()
    assert submit("adapt", parse(RECIPE), server.host, "s3://bucket/runs", "monday") == 0
    out, err = capfd.readouterr()
    assert out == "s3://bucket/runs/runs/monday/report/report.html\n"
    assert f"{server.host}/#/runs/details/r1" in err and re.search(r"^ingest +.*succeeded$", err, re.MULTILINE)
    sent = json.loads(next(body for method, path, body in server.asked if (method, path) == ("POST", "/runs")))
    parameters = sent["runtime_config"]["parameters"]
    assert (parameters["store"], parameters["name"]) == ("s3://bucket/runs", "monday")
    assert parse(parameters["recipe"]).cluster.enabled


def test_a_run_that_fails_is_a_failure_with_its_page(kubeflow):
    server = kubeflow("FAILED")
    with pytest.raises(StageFailed, match=rf"ended as FAILED.*{server.host}/#/runs/details/r1"):
        submit("corpus", parse(RECIPE), server.host, "s3://bucket/runs", "monday")


def test_what_no_pod_can_reach_is_refused_before_the_server_is_asked(kubeflow):
    server = kubeflow()
    local = parse(RECIPE, changes=["model.name=/models/tiny"])
    with pytest.raises(RecipeError, match=r"model.name: /models/tiny: the cluster's pods cannot reach it"):
        submit("corpus", local, server.host, "s3://bucket/runs", "monday")
    assert server.asked == []
    study = parse(RECIPE, changes=['study.arms.second=["model.name=/models/tiny"]'])
    with pytest.raises(RecipeError, match=r"study\.arms\.second: model\.name=/models/tiny: the cluster's pods cannot"):
        submit("study", study, server.host, "s3://bucket/runs", "monday")


def test_another_server_is_told_at_once(kubeflow):
    server = kubeflow()
    with pytest.raises(ClusterError, match=r"answers 404; is this the address of Kubeflow Pipelines 2\?"):
        submit("corpus", parse(RECIPE), f"{server.host}/elsewhere", "s3://bucket/runs", "monday")


def uploaded_images(server):
    return set(re.findall(r"image: (\S+)", server.uploaded[-1]))


def test_the_steps_images_are_from_the_recipes_registry_as_those_of_its_jobs_are(kubeflow):
    server = kubeflow()
    recipe = parse(RECIPE, changes=["cluster.registry=registry.example:5000", "cluster.tag=v2"])
    assert submit("corpus", recipe, server.host, "s3://bucket/runs", "monday") == 0
    assert "registry.example:5000/telellm/launcher:v2" in uploaded_images(server)
    assert all(re.fullmatch(r"registry\.example:5000/telellm/[a-z-]+:v2", image) for image in uploaded_images(server))


def test_a_version_of_the_platforms_own_is_taken_where_it_does_the_same(kubeflow, capfd):
    """As the chart preloads it: with other images, resources, Secrets and defaults, and numbers as JSON has them."""
    server = kubeflow()
    assert submit("corpus", parse(RECIPE), server.host, "s3://bucket/runs", "monday") == 0
    text = server.uploaded[-1]
    assert f"registry.local/telellm/launcher:{__version__}" in text
    ours, platform = yaml.safe_load_all(text[text.index("# PIPELINE") : text.rindex("\n--")])
    theirs = json.loads(json.dumps(ours), parse_int=float)
    for executor in theirs["deploymentSpec"]["executors"].values():
        executor["container"] |= {"image": "harbor.example/telellm/x@sha256:0", "resources": {}, "env": [{"name": "A"}]}
    theirs["root"]["inputDefinitions"]["parameters"]["store"]["defaultValue"] = "s3://telellm"
    other = json.loads(json.dumps(theirs).replace("telellm.runs import start_run", "telellm.runs import begin_run"))
    specifications = [other, {"pipeline_spec": theirs, "platform_spec": platform}, {}]
    server.versions = [
        {"pipeline_id": "p1", "pipeline_version_id": f"c{number}", "display_name": f"chart-{number}"}
        | {"pipeline_spec": specification}
        for number, specification in enumerate(specifications)
    ]
    assert submit("corpus", parse(RECIPE), server.host, "s3://bucket/runs", "tuesday") == 0
    assert len(server.uploaded) == 2 and "version chart-1 is there" in capfd.readouterr().err
    sent = [json.loads(body) for method, path, body in server.asked if (method, path) == ("POST", "/runs")]
    assert sent[-1]["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "c1"}
    named = parse(RECIPE, changes=["cluster.registry=registry.example"])
    assert submit("corpus", named, server.host, "s3://bucket/runs", "wednesday") == 0
    assert len(server.uploaded) == 3 and "registry.example/telellm/launcher" in server.uploaded[-1]
