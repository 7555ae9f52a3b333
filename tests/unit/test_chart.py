"""The chart over a matrix of values: what matters of every pod, image, secret and consumer of the store.

`helm` must be on the path; without it these tests are skipped, and say so.
"""

import base64
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from pipelines import PIPELINES
from telellm.cluster.templates import Work, pytorch_job, shards_job
from telellm.recipe import Cluster, parse

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "telellm"
MATRIX = {file.stem: file for file in [*sorted(ROOT.glob("tests/chart/*.yaml")), *sorted(CHART.glob("values-*.yaml"))]}
NAMESPACE = "platform"
IMAGES = runpy.run_path(str(ROOT / "helm" / "images.py"))
WORKLOADS = ("Deployment", "StatefulSet", "Job", "Pod", "DaemonSet", "CronJob")
CLUSTER_WIDE = {
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingWebhookConfiguration",
    "PriorityClass",
    "ResourceFlavor",
    "ClusterQueue",
}
Object = dict[str, Any]

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm on the path")


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as `make chart` packages it: with the compiled pipelines."""
    copy = tmp_path_factory.mktemp("chart") / "telellm"
    shutil.copytree(CHART, copy)
    for file in (copy / "files" / "pipelines").glob("*.yaml"):
        file.unlink()
    command = [sys.executable, "-m", "telellm.cli", "compile", "--out", str(copy / "files" / "pipelines")]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return copy


@pytest.fixture(scope="module")
def rendered(chart: Path) -> Callable[..., tuple[Object, ...]]:
    @cache
    def render(name: str = "", *changes: str) -> tuple[Object, ...]:
        return tuple(filter(None, yaml.load_all(helm_template(chart, name, *changes).stdout, yaml.CSafeLoader)))

    return render


def helm_template(chart: Path, name: str = "", *changes: str, check: bool = True) -> subprocess.CompletedProcess:
    command = ["helm", "template", "t", str(chart), "--namespace", NAMESPACE, "--kube-version", "1.34.0"]
    command += ["-f", str(MATRIX[name])] if name else []
    for change in changes:
        command += ["--set", change]
    result = subprocess.run(command, capture_output=True, text=True)
    if check and result.returncode:
        raise AssertionError(result.stderr)
    return result


def pods(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object, Object]]:
    """Yield name, labels and spec of every pod, also of those that the launcher makes from its templates."""
    for found in objects:
        if found["kind"] in WORKLOADS:
            pod = found if found["kind"] == "Pod" else found["spec"]["template"]
            yield f"{found['kind']} {found['metadata']['name']}", pod["metadata"].get("labels", {}), pod["spec"]


def jobs(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    data = one(objects, "ConfigMap", "telellm-job-templates")["data"]
    job = yaml.safe_load(data["pytorchjob.yaml"])
    yield "pytorchjob.yaml", job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    yield "shards.yaml", yaml.safe_load(data["shards.yaml"])["spec"]["template"]["spec"]


def one(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def hooks(objects: tuple[Object, ...], event: str) -> list[Object]:
    return [o for o in objects if (o["metadata"].get("annotations") or {}).get("helm.sh/hook") == event]


def hook(objects: tuple[Object, ...], event: str) -> Object:
    (found,) = hooks(objects, event)
    return found


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def env(container: Object) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


def secret(text: str) -> str:
    return base64.b64decode(text).decode()


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_the_chart_passes_lint(chart: Path, name: str) -> None:
    command = ["helm", "lint", "--strict", str(chart), *(["-f", str(MATRIX[name])] if name else [])]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_every_pod_is_restricted(rendered: Callable[..., tuple[Object, ...]], name: str) -> None:
    objects = rendered(name)
    made = [(where, spec) for where, _, spec in pods(objects)]
    for where, spec in [*made, *jobs(objects)]:
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["runAsUser"] > 0, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), where
        assert "automountServiceAccountToken" in spec, where
        for volume in spec.get("volumes", []):
            kinds = {"configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim", "downwardAPI"}
            assert set(volume) - {"name"} <= kinds, f"{where}: {volume}"
        for container in containers(spec):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert container["imagePullPolicy"] == "IfNotPresent", where
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(mounts) == len(set(mounts)), where
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= {
                volume["name"] for volume in spec.get("volumes", [])
            } | {claim["metadata"]["name"] for claim in claims(objects, where)}, where
            variables = [entry["name"] for entry in container.get("env", [])]
            assert len(variables) == len(set(variables)), f"{where}: {variables}"


def claims(objects: tuple[Object, ...], where: str) -> list[Object]:
    kind, _, name = where.partition(" ")
    return one(objects, kind, name)["spec"].get("volumeClaimTemplates", []) if kind == "StatefulSet" else []


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_every_pod_has_requests_limits_and_no_links(rendered: Callable[..., tuple[Object, ...]], name: str) -> None:
    for where, _, spec in pods(rendered(name)):
        assert spec["enableServiceLinks"] is False, where
        for container in containers(spec):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), f"{where} {container['name']}"
            assert "memory" in resources["limits"], f"{where} {container['name']}"


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_only_accounts_with_rights_have_a_token(rendered: Callable[..., tuple[Object, ...]], name: str) -> None:
    objects = rendered(name)
    bound = {
        subject["name"]
        for found in objects
        if found["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in found["subjects"]
    }
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    for where, _, spec in pods(objects):
        account = spec.get("serviceAccountName", "default")
        assert account == "default" or account in accounts, where
        assert spec["automountServiceAccountToken"] is False or account in bound, where
        if account == "default":
            assert spec["automountServiceAccountToken"] is False, where


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_every_image_is_in_the_table(rendered: Callable[..., tuple[Object, ...]], name: str) -> None:
    values = IMAGES["load"]([MATRIX[name]] if name else [])
    known = set(IMAGES["images"](values))
    objects = rendered(name)
    found = {container["image"] for _, _, spec in pods(objects) for container in containers(spec)}
    text = yaml.safe_dump_all(objects)
    found |= set(re.findall(r"--executor-image=(\S+)", text))
    found |= set(re.findall(r"^ *image: (\S+)$", "\n".join(pipelines(objects).values()), re.MULTILINE))
    for _, _, spec in pods(objects):
        for container in containers(spec):
            found |= {str(value) for key, value in env(container).items() if key.endswith("_IMAGE")}
    assert found <= known, "not in the table of values.yaml"
    assert not [image for image in known if re.search(r":latest\b", image)]
    registry = values["global"]["imageRegistry"]
    assert all(image.startswith(f"{registry}/") for image in known) or not registry
    stages = {"ingest", "pretrain", "instruct", "screen", "clean", "launcher", "report"}  # jobs have these
    unused = {image for image in known - found if not stages & set(re.split(r"[/:]", image))}
    assert not unused, "in the list of images to mirror, but nothing uses them"


def pipelines(objects: tuple[Object, ...]) -> dict[str, str]:
    return {
        name: text
        for found in objects
        if found["kind"] == "ConfigMap" and found["metadata"]["name"].startswith("telellm-pipeline-")
        for name, text in found["data"].items()
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("minoi.enabled=true", "minoi"),
        ("minio.persistance.size=1Gi", "persistance"),
        ("store.endpont=x", "endpont"),
        ("images.minio.name=x", "name"),
        ("telellm.nightly.cron=x", "cron"),
        ("global.proxy.htp=x", "htp"),
        ("pipelines.mysql.persistence.sise=1", "sise"),
        ("telellm.steps.evalute.cpu=1", "evalute"),
    ],
)
def test_an_unknown_key_is_refused_by_name(chart: Path, change: str, named: str) -> None:
    result = helm_template(chart, "", change, check=False)
    assert result.returncode != 0
    assert f"'{named}'" in result.stderr or f" {named} " in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("minio.enabled=false",), "store.endpoint"),
        (("minio.enabled=false", "store.endpoint=https://s3.example.org"), "store.existingSecret"),
        (("store.endpoint=https://s3.example.org",), "minio.enabled"),
        (("telellm.nightly.enabled=true",), "telellm.nightly.recipe"),
        (("telellm.defaultRecipe=x",), "telellm.defaultRecipe"),
        (("authProxy.enabled=true",), "authProxy.existingSecret"),
        (("ingress.enabled=true",), "ingress.host"),
        (("ingress.enabled=true", "ingress.host=a.example.org"), "ingress.controllerNamespace"),
        (("vllm.enabled=true",), "vllm.model"),
        (("images.minio.digest=sha256:1",), "digest"),
        (("telellm.nightly.schedule=daily",), "schedule"),
        (("images.launcher.repository=x.org/our-launcher", "telellm.recipes.a.name=a"), "images.launcher.repository"),
    ],
)
def test_values_that_cannot_work_are_refused_with_their_name(chart: Path, changes: tuple[str, ...], said: str) -> None:
    result = helm_template(chart, "", *changes, check=False)
    assert result.returncode != 0
    assert said in result.stderr, result.stderr


def test_one_block_of_values_gives_every_consumer_the_store(rendered: Callable[..., tuple[Object, ...]]) -> None:
    objects = rendered("external-store")
    names = [o["metadata"]["name"] for o in objects if o["kind"] == "Secret"]
    assert not [name for name in names if "store" in name or "minio" in name]
    for where, spec in jobs(objects):
        assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "our-store"}}], where
        assert {"name": "company-ca", "optional": True} in [v.get("configMap") for v in spec["volumes"]], where
    for name, text in pipelines(objects).items():
        assert "our-store" in text and "telellm-store" not in text, name
        assert "s3://tele/platform" in text, name
    server = one(objects, "Deployment", "ml-pipeline")["spec"]["template"]["spec"]["containers"][0]
    given = env(server)
    assert (given["OBJECTSTORECONFIG_HOST"], given["OBJECTSTORECONFIG_PORT"]) == ("s3.example.org", "8443")
    assert (given["OBJECTSTORECONFIG_SECURE"], given["OBJECTSTORECONFIG_BUCKETNAME"]) == ("true", "tele-pipelines")
    for key in ("OBJECTSTORECONFIG_ACCESSKEY", "OBJECTSTORECONFIG_SECRETACCESSKEY"):
        assert given[key]["secretKeyRef"]["name"] == "our-pipelines-store"
    ui = env(one(objects, "Deployment", "ml-pipeline-ui")["spec"]["template"]["spec"]["containers"][0])
    assert (ui["MINIO_HOST"], ui["MINIO_PORT"], ui["MINIO_SSL"]) == ("s3.example.org", "8443", "true")
    assert ui["MINIO_ACCESS_KEY"]["secretKeyRef"]["name"] == "our-pipelines-store"
    argo = one(objects, "ConfigMap", "workflow-controller-configmap")["data"]["artifactRepository"]
    s3 = yaml.safe_load(argo)["s3"]
    assert (s3["endpoint"], s3["insecure"], s3["bucket"]) == ("s3.example.org:8443", False, "tele-pipelines")
    assert (s3["region"], s3["accessKeySecret"]["name"]) == ("eu-central-1", "our-pipelines-store")
    launcher = one(objects, "ConfigMap", "kfp-launcher")["data"]
    for provider in yaml.safe_load(launcher["providers"]).values():
        assert "s3.example.org:8443" in provider["default"]["endpoint"]
        assert (provider["default"]["disableSSL"], provider["default"]["region"]) == (False, "eu-central-1")
        assert provider["default"]["credentials"]["secretRef"]["secretName"] == "our-pipelines-store"
    assert "tele-pipelines" in launcher["defaultPipelineRoot"]
    (test,) = hook(objects, "test")["spec"]["containers"]
    assert test["envFrom"] == [{"secretRef": {"name": "our-store"}}]
    assert "--only store --store s3://tele/platform " in test["command"][-1]
    assert "telellm-minio" not in yaml.safe_dump_all([o for o in objects if o["kind"] != "NetworkPolicy"])


def test_secrets_are_made_and_never_the_same_twice(chart: Path, rendered: Callable[..., tuple[Object, ...]]) -> None:
    first = {o["metadata"]["name"]: o["data"] for o in rendered("all-on") if o["kind"] == "Secret" and "data" in o}
    again = filter(None, yaml.safe_load_all(helm_template(chart, "all-on").stdout))
    second = {o["metadata"]["name"]: o["data"] for o in again if o["kind"] == "Secret" and "data" in o}
    assert {"telellm-store", "telellm-pipelines-store", "telellm-minio-root", "telellm-lm"} <= set(first)
    drawn = ("AWS_SECRET_ACCESS_KEY", "rootPassword", "api-key", "password")
    for name, data in first.items():
        for key, value in data.items():
            assert secret(value), f"{name} {key}"
            if key in drawn:
                assert len(secret(value)) >= 24 and secret(value).isalnum(), f"{name} {key}"
                assert value != second[name][key], f"{name} {key} is a default"


def test_who_asks_a_language_model_has_the_key_that_its_server_wants(
    rendered: Callable[..., tuple[Object, ...]],
) -> None:
    for secret, changes in (("telellm-lm", ()), ("our-key", ("vllm.existingSecret=our-key",))):
        objects = rendered("all-on", *changes)
        server = env(one(objects, "StatefulSet", "telellm-vllm")["spec"]["template"]["spec"]["containers"][0])
        assert server["VLLM_API_KEY"]["secretKeyRef"]["name"] == secret
        assert (
            env(dict(jobs(objects))["shards.yaml"]["containers"][0])["OPENAI_API_KEY"]["secretKeyRef"]["name"] == secret
        )
        for name, text in pipelines(objects).items():
            platform = list(yaml.safe_load_all(text))[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
            asked = {one["secretName"] for executor in platform.values() for one in executor["secretAsEnv"]}
            assert secret in asked and not asked & ({"telellm-lm"} - {secret}), name


def test_no_secret_is_made_where_each_is_given(rendered: Callable[..., tuple[Object, ...]]) -> None:
    given = ["store.existingSecret", "store.pipelines.existingSecret", "minio.existingSecret", "vllm.existingSecret"]
    given.append("pipelines.mysql.existingSecret")
    objects = rendered("all-on", *(f"{path}=mine" for path in given))
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Secret"] == ["training-operator-webhook-cert"]
    assert "data" not in one(objects, "Secret", "training-operator-webhook-cert")


def test_job_templates_are_those_of_k8s(rendered: Callable[..., tuple[Object, ...]]) -> None:
    for name in ("pytorchjob.yaml", "shards.yaml"):
        written = yaml.safe_load(one(rendered(), "ConfigMap", "telellm-job-templates")["data"][name])
        assert written == yaml.safe_load((ROOT / "k8s" / name).read_text())


def test_a_digest_of_the_table_reaches_steps_and_jobs(
    rendered: Callable[..., tuple[Object, ...]], tmp_path: Path
) -> None:
    digest = "sha256:" + "ab" * 32
    names = ("pretrain", "clean", "evaluate", "mysql")
    objects = rendered("air-gap", *(f"images.{name}.digest={digest}" for name in names))
    for file, text in one(objects, "ConfigMap", "telellm-job-templates")["data"].items():
        (tmp_path / file).write_text(text)
    settings = Cluster.model_validate({"templates": str(tmp_path), "registry": "recipe.example.org", "tag": "x"})
    registry = IMAGES["load"]([MATRIX["air-gap"]])["global"]["imageRegistry"]

    def work(stage: str) -> Work:
        return Work("job", "s3://b/runs/r", stage, stage, ["telellm"])

    training = pytorch_job(work("pretrain"), settings).manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert training["spec"]["containers"][0]["image"] == f"{registry}/telellm/pretrain:0.1.0@{digest}"
    shards = [
        shards_job(work(stage), settings, 1).manifest["spec"]["template"]["spec"] for stage in ("clean", "ingest")
    ]
    assert shards[0]["containers"][0]["image"] == f"{registry}/telellm/clean:0.1.0@{digest}"
    assert shards[1]["containers"][0]["image"] == "recipe.example.org/telellm/ingest:x"
    assert "mysql" not in one(objects, "ConfigMap", "telellm-job-templates")["data"]["images.yaml"]
    executors = next(iter(yaml.safe_load_all(pipelines(objects)["adapt.yaml"])))["deploymentSpec"]["executors"]
    assert executors["exec-evaluate"]["container"]["image"] == f"{registry}/telellm/evaluate:0.1.0@{digest}"


def test_job_templates_have_what_the_values_say(rendered: Callable[..., tuple[Object, ...]]) -> None:
    changes = ["telellm.templates.nodeSelector.pool=gpu", "telellm.templates.env[0].name=NCCL_DEBUG"]
    changes += ["telellm.templates.env[0].value=INFO", "telellm.templates.tolerations[0].key=x"]
    changes += ["global.imagePullSecrets[0]=pull", "priorityClasses.jobs.existing=batch"]
    for where, spec in jobs(rendered("proxies", *changes)):
        assert spec["nodeSelector"] == {"pool": "gpu"}, where
        assert {"key": "x"} in spec["tolerations"], where
        assert spec["imagePullSecrets"] == [{"name": "pull"}], where
        assert spec["priorityClassName"] == "batch", where
        assert {"NCCL_DEBUG": "INFO", "HTTPS_PROXY": "http://proxy.example.org:3128"}.items() <= env(
            spec["containers"][0]
        ).items(), where


def test_roles_of_launcher_and_operator_are_those_of_k8s(rendered: Callable[..., tuple[Object, ...]]) -> None:
    for file in ("rbac.yaml", "training-operator.yaml"):
        for plain in yaml.safe_load_all((ROOT / "k8s" / file).read_text()):
            ours = one(rendered(), plain["kind"], plain["metadata"]["name"])
            for key in ("rules", "roleRef"):
                assert ours.get(key) == plain.get(key), plain["metadata"]["name"]
    launcher = one(rendered(), "RoleBinding", "telellm-launcher")
    assert [subject["name"] for subject in launcher["subjects"]] == ["telellm-launcher"]


def test_the_training_operator_is_that_of_k8s(rendered: Callable[..., tuple[Object, ...]]) -> None:
    plain = {o["kind"]: o for o in yaml.safe_load_all((ROOT / "k8s" / "training-operator.yaml").read_text())}
    name = "validator.training-operator.kubeflow.org"
    crd = one(rendered(), "CustomResourceDefinition", "pytorchjobs.kubeflow.org")
    assert crd["spec"] == plain["CustomResourceDefinition"]["spec"]
    hook = json.dumps(one(rendered(), "ValidatingWebhookConfiguration", name)["webhooks"]).replace(NAMESPACE, "telellm")
    assert json.loads(hook) == plain["ValidatingWebhookConfiguration"]["webhooks"]
    ours = one(rendered(), "Deployment", "training-operator")["spec"]["template"]["spec"]
    theirs = plain["Deployment"]["spec"]["template"]["spec"]
    assert ours["containers"] == theirs["containers"]
    assert ours["volumes"] == theirs["volumes"]
    assert one(rendered(), "ConfigMap", "training-operator-init-containers")["data"] == plain["ConfigMap"]["data"]


def test_pipelines_are_preloaded_under_the_charts_version(rendered: Callable[..., tuple[Object, ...]]) -> None:
    config = json.loads(one(rendered("all-on"), "ConfigMap", "telellm-pipelines")["data"]["sampleconfig.json"])
    assert config["loadSamplesOnRestart"] is True
    found = {entry["name"]: entry for entry in config["pipelines"]}
    assert set(found) == set(PIPELINES)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    server = one(rendered("all-on"), "Deployment", "ml-pipeline")["spec"]["template"]["spec"]
    mount = next(m for m in server["containers"][0]["volumeMounts"] if m["name"] == "preload")
    assert f"--sampleconfig={mount['mountPath']}/sampleconfig.json" in server["containers"][0]["args"]
    (volume,) = (v["projected"]["sources"] for v in server["volumes"] if v["name"] == "preload")
    mounted = [one(rendered("all-on"), "ConfigMap", source["configMap"]["name"])["data"] for source in volume]
    assert {name for data in mounted for name in data} == {"sampleconfig.json", *(f"{name}.yaml" for name in found)}
    for name, entry in found.items():
        assert entry["versionName"].startswith(f"{version}-"), name
        assert entry["file"] == f"{mount['mountPath']}/{name}.yaml"
        assert entry["description"], name
    # the API server never reads a version twice: what changes has another name
    other = rendered("all-on", "store.bucket=other")
    changed = json.loads(one(other, "ConfigMap", "telellm-pipelines")["data"]["sampleconfig.json"])["pipelines"]
    assert not {entry["versionName"] for entry in changed} & {entry["versionName"] for entry in found.values()}
    before = one(rendered("all-on"), "Deployment", "ml-pipeline")["spec"]["template"]["metadata"]["annotations"]
    after = one(other, "Deployment", "ml-pipeline")["spec"]["template"]["metadata"]["annotations"]
    assert before["checksum/pipelines"] != after["checksum/pipelines"]


def test_a_pipelines_form_starts_with_store_and_recipe(rendered: Callable[..., tuple[Object, ...]]) -> None:
    for name, text in pipelines(rendered("all-on")).items():
        spec = next(iter(yaml.safe_load_all(text)))
        parameters = spec["root"]["inputDefinitions"]["parameters"]
        assert parameters["store"]["defaultValue"] == "s3://telellm", name
        recipe = parse(parameters["recipe"]["defaultValue"])
        assert recipe.name == "telecom" and recipe.cluster.queue == "telellm"


def test_what_is_preloaded_is_what_was_compiled(chart: Path, rendered: Callable[..., tuple[Object, ...]]) -> None:
    """Besides images, defaults and what the values change, nothing is lost on the way through the templates."""
    for name, text in pipelines(rendered()).items():
        ours = list(yaml.safe_load_all(text))
        compiled = list(yaml.safe_load_all((chart / "files" / "pipelines" / name).read_text()))
        parameters = compiled[0]["root"]["inputDefinitions"]["parameters"]
        parameters["store"] |= {"defaultValue": "s3://telellm", "isOptional": True}
        assert ours == compiled, name
        assert components.load_component_from_text(text).pipeline_spec, name


def test_resources_of_steps_can_be_changed(rendered: Callable[..., tuple[Object, ...]]) -> None:
    executors = next(iter(yaml.safe_load_all(pipelines(rendered("values-small"))["adapt.yaml"])))["deploymentSpec"]
    evaluate = executors["executors"]["exec-evaluate"]["container"]["resources"]
    assert evaluate == {
        "resourceCpuRequest": "200m",
        "resourceMemoryRequest": "3Gi",
        "resourceMemoryLimit": "3Gi",
    }


@pytest.mark.parametrize("name", MATRIX)
def test_recipes_are_recipes_with_the_charts_images(rendered: Callable[..., tuple[Object, ...]], name: str) -> None:
    registry = IMAGES["load"]([MATRIX[name]])["global"]["imageRegistry"] or "registry.local"
    for file, text in (one(rendered(name), "ConfigMap", "telellm-recipes").get("data") or {}).items():
        recipe = parse(text, source=file)
        assert (recipe.cluster.registry, recipe.cluster.tag) == (registry, "0.1.0")


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_uninstalling_leaves_nothing_but_volumes(rendered: Callable[..., tuple[Object, ...]], name: str) -> None:
    assert not (CHART / "crds").exists(), "helm never deletes what lies there"
    for found in rendered(name):
        where = f"{found['kind']} {found['metadata']['name']}"
        notes = found["metadata"].get("annotations") or {}
        assert "helm.sh/resource-policy" not in notes, where
        if (event := notes.get("helm.sh/hook")) and event != "test":
            assert "hook-succeeded" in notes["helm.sh/hook-delete-policy"], f"{where}: {event} stays"
        if found["kind"] == "StatefulSet" and "volumeClaimTemplates" in found["spec"]:
            assert found["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] in ("Retain", "Delete"), where
        assert found["metadata"].get("labels", {}).get("app.kubernetes.io/instance") == "t", where
    keep = one(rendered(), "StatefulSet", "telellm-minio")["spec"]["persistentVolumeClaimRetentionPolicy"]
    gone = one(rendered("values-small"), "StatefulSet", "telellm-minio")["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert (keep["whenDeleted"], gone["whenDeleted"]) == ("Retain", "Delete")


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_the_pod_of_a_test_stays_for_its_log_and_goes_with_the_chart(
    rendered: Callable[..., tuple[Object, ...]], name: str
) -> None:
    """`helm test --logs` reads the log of a pod's only container at the very end."""
    objects = rendered(name)
    for test, last in zip(hooks(objects, "test"), hooks(objects, "post-delete"), strict=True):
        assert test["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
        assert len(test["spec"]["containers"]) == 1
        assert (last["kind"], last["metadata"]["name"]) == (test["kind"], test["metadata"]["name"])
        policy = last["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        assert set(policy) == {"before-hook-creation", "hook-succeeded", "hook-failed"}
        # the chart's own are gone by then
        assert not {"serviceAccountName", "priorityClassName", "volumes"} & set(last["spec"])
        assert "envFrom" not in last["spec"]["containers"][0]
    assert len(hooks(objects, "test")) == (2 if name == "serving" else 1)


def test_only_what_must_belongs_to_the_cluster(rendered: Callable[..., tuple[Object, ...]]) -> None:
    roles = [o["metadata"]["name"] for o in rendered("all-on") if o["kind"] == "ClusterRole"]
    assert roles == ["telellm-training-operator-webhook"]
    assert not [o for o in rendered("all-off") if o["kind"] in CLUSTER_WIDE]
    for found in rendered("all-on"):
        for rule in found.get("rules") or [] if found["kind"] in ("Role", "ClusterRole") else []:
            where = f"{found['metadata']['name']}: {rule}"
            assert "*" not in [*rule["verbs"], *rule.get("resources", []), *rule["apiGroups"]], where


def test_the_same_switched_off(rendered: Callable[..., tuple[Object, ...]]) -> None:
    kinds = {(o["kind"], o["metadata"]["name"]) for o in rendered("all-off")}
    assert kinds == {
        ("ServiceAccount", "telellm-launcher"),
        ("ServiceAccount", "telellm-stage"),
        ("Role", "telellm-launcher"),
        ("RoleBinding", "telellm-launcher"),
        ("ConfigMap", "telellm-job-templates"),
        ("ConfigMap", "telellm-pipelines"),
        *(("ConfigMap", f"telellm-pipeline-{name}") for name in PIPELINES),
        ("ConfigMap", "telellm-recipes"),
        ("Pod", "telellm-test"),
    }


def test_a_proxy_reaches_who_goes_out_and_never_the_cluster(rendered: Callable[..., tuple[Object, ...]]) -> None:
    objects = rendered("proxies")
    found = {where: env(container) for where, _, spec in pods(objects) for container in containers(spec)}
    for where in ("StatefulSet telellm-vllm", "Deployment telellm-auth-proxy", "Deployment ml-pipeline"):
        assert found[where]["HTTPS_PROXY"] == "http://proxy.example.org:3128", where
        excluded = found[where]["NO_PROXY"].split(",")
        assert {".svc", ".cluster.local", "$(KUBERNETES_SERVICE_HOST)", ".example.org", "ml-pipeline"} <= set(excluded)
    for text in pipelines(objects).values():
        for executor in next(iter(yaml.safe_load_all(text)))["deploymentSpec"]["executors"].values():
            assert env(executor["container"])["HTTPS_PROXY"] == "http://proxy.example.org:3128"


def test_a_private_ca_reaches_all(rendered: Callable[..., tuple[Object, ...]]) -> None:
    objects = rendered("proxies")
    assert "BEGIN CERTIFICATE" in one(objects, "ConfigMap", "telellm-ca")["data"]["ca.crt"]
    assert secret(one(objects, "Secret", "telellm-store")["data"]["AWS_CA_BUNDLE"]) == "/etc/telellm/ca/ca.crt"
    for where, _, spec in pods(objects):
        for container in containers(spec):
            paths = [
                value for value in env(container).values() if isinstance(value, str) and "/etc/telellm/ca" in value
            ]
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert not paths or "/etc/telellm/ca" in mounts, where


def test_what_concerns_every_pod_reaches_every_pod(rendered: Callable[..., tuple[Object, ...]]) -> None:
    changes = ["global.imagePullSecrets[0]=pull", "global.nodeSelector.pool=platform", "global.labels.team=llm"]
    changes += ["global.tolerations[0].key=platform", "global.tolerations[0].operator=Exists"]
    objects = rendered("all-on", *changes)
    last = hook(objects, "post-delete")["spec"]
    for where, labels, spec in pods(objects):
        if spec is not last:
            assert spec["priorityClassName"] == f"{NAMESPACE}-telellm-platform", where
        assert {"name": "pull"} in spec["imagePullSecrets"], where
        assert spec["nodeSelector"]["pool"] == "platform", where
        assert {"key": "platform", "operator": "Exists"} in spec["tolerations"], where
        assert labels["team"] == "llm", where
        assert spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].items() <= labels.items(), where


def test_nothing_is_there_twice(rendered: Callable[..., tuple[Object, ...]]) -> None:
    last = hook(rendered("all-on"), "post-delete")  # takes the place of the test's pod
    names = [(o["kind"], o["metadata"]["name"]) for o in rendered("all-on") if o is not last]
    assert sorted(names) == sorted(set(names))
