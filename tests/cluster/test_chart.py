"""The chart against a real API server: every object of every set of values, and a small installation from its first
pod to its last: of an earlier chart, upgraded while a model trains.

`helm` must be on the path. The training operator is the chart's own where the cluster has none.
"""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from telellm.recipe import Recipe
from telellm.store import Store
from tests.cluster.cluster import ROOT, Cluster, checkpoints, losses, note, remembered_jobs, torn, wait_until
from tests.cluster.conftest import CRD, LAUNCHER, REGISTRY, TAG, found_by_telellm
from tests.unit.test_chart import MATRIX, chart
from tests.unit.test_chart_upgrade import earlier_chart

__all__ = ["chart", "earlier_chart"]
NAMESPACE = "telellm-chart-tests"
OURS = "telellm/chart-tests"
RELEASE = "app.kubernetes.io/instance=telellm"
ABSENT = {"monitoring.coreos.com", "kueue.x-k8s.io"}
"""Groups whose operators a test cluster need not have."""
SMALL = f"""
images:
  minio: {{repository: {REGISTRY}/telellm/minio, tag: "{TAG}"}}
  launcher: {{repository: {REGISTRY}/telellm/launcher, tag: "{TAG}"}}
pipelines: {{enabled: false}}
minio: {{sourceBuckets: [raw]}}
telellm:
  nightly: {{enabled: true, api: "http://kubeflow:8888"}}
  recipes:
    small:
      model: {{name: "s3://models/base"}}
      sources: {{web: {{category: web, path: "s3://raw/web", licence: CC0-1.0}}}}
      cluster: {{stages: [ingest, pretrain]}}
"""
CHANGES = ("minio.lifecycle.runsDays=3", "trainingOperator.resources.limits.memory=300Mi")
"""What the upgrade changes beside the chart: the store is set up again, the training operator starts anew."""
STEPS = 500
RUN = (
    f"cluster.namespace={NAMESPACE}",
    "cluster.stages=[ingest, pretrain]",
    f"training.pretrain.max_steps={STEPS}",
    "training.pretrain.batch_sequences=4",
    "training.pretrain.checkpoint_steps=50",
    "training.instruct.max_steps=4",
    "evaluation.metrics=[answer_perplexity]",
)

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm on the path")


@pytest.fixture(scope="session")
def documents() -> None:
    """These tests need no documents and no namespace of the others."""


@pytest.fixture(scope="module")
def namespace(kubeconfig: str) -> Iterator[str]:
    """A namespace at level "restricted"."""
    remove()
    kubectl("create", "namespace", NAMESPACE)
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    kubectl("label", "namespace", NAMESPACE, f"{OURS}=made", *levels)
    yield NAMESPACE
    remove()


def remove() -> None:
    if f"namespace/{NAMESPACE}" in kubectl("get", "namespace", "-l", f"{OURS}=made", "-o", "name").split():
        subprocess.run(["helm", "uninstall", "telellm", "-n", NAMESPACE, "--wait"], capture_output=True)
        kubectl("delete", "namespace", NAMESPACE, "--timeout=240s")


def kubectl(*words: str, given: str = "") -> str:
    result = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True)
    assert result.returncode == 0, f"kubectl {' '.join(words)}: {result.stderr}"
    return result.stdout


def helm(*words: str) -> str:
    result = subprocess.run(["helm", *words, "-n", NAMESPACE], capture_output=True, text=True)
    assert result.returncode == 0, f"helm {' '.join(words)}: {result.stderr}"
    return result.stdout


def rendered(chart: Path, *words: str) -> list[dict]:
    """Return the objects as `helm install` makes them on this cluster, with what look-ups find."""
    text = helm("template", "telellm", str(chart), "--kube-version", "1.34.0", *words)
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def opaque_secrets() -> dict[str, dict[str, str]]:
    found = json.loads(kubectl("get", "secret", "-n", NAMESPACE, "-o", "json"))["items"]
    return {secret["metadata"]["name"]: secret["data"] for secret in found if secret["type"] == "Opaque"}


@pytest.mark.parametrize("name", ["", *MATRIX])
def test_the_api_server_takes_every_object(
    chart: Path, namespace: str, request: pytest.FixtureRequest, name: str
) -> None:
    values = ["-f", str(MATRIX[name])] if name else []
    objects = rendered(chart, *values)
    # a pod is refused without its account and its priority class, and a dry run makes none
    accounts = [found for found in objects if found["kind"] == "ServiceAccount"]
    kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(accounts))
    request.addfinalizer(lambda: kubectl("delete", "serviceaccount", "-n", namespace, "-l", RELEASE))
    for pod in (found for found in objects if found["kind"] == "Pod"):
        pod["spec"].pop("priorityClassName", None)
    known = [found for found in objects if found["apiVersion"].partition("/")[0] not in ABSENT]
    command = ["kubectl", "apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-"]
    result = subprocess.run(command, input=yaml.safe_dump_all(known), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "would violate" not in result.stderr, result.stderr
    assert len(result.stdout.splitlines()) == len(known)


def test_secrets_that_are_there_stay(chart: Path, namespace: str) -> None:
    values = ["-f", str(MATRIX["all-on"])]

    def secrets() -> list[dict]:
        found = rendered(chart, "--dry-run=server", *values)
        return [o for o in found if o["kind"] == "Secret" and "data" in o]

    first = secrets()
    assert {o["metadata"]["name"]: o["data"] for o in first} != {o["metadata"]["name"]: o["data"] for o in secrets()}
    kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(first))
    try:
        assert {o["metadata"]["name"]: o["data"] for o in first} == {
            o["metadata"]["name"]: o["data"] for o in secrets()
        }
    finally:
        kubectl("delete", "-n", namespace, "secret", *(o["metadata"]["name"] for o in first))


@pytest.mark.parametrize(
    ("account", "rights"),
    [
        ("telellm-launcher", {"create jobs.batch", "delete jobs.batch", "list pods", "get pods/log"}),
        ("telellm-stage", set()),
    ],
)
def test_accounts_may_do_what_they_must_and_no_more(
    chart: Path, namespace: str, account: str, rights: set[str]
) -> None:
    roles = [o for o in rendered(chart) if o["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(roles))
    asked = rights | {
        "get secrets",
        "list secrets",
        "create pods",
        "update configmaps",
        "create pods/exec",
        "get nodes",
    }
    for right in asked:
        verb, what = right.split()
        what, _, part = what.partition("/")
        command = ["kubectl", "auth", "can-i", verb, what, f"--subresource={part}", "-n", namespace]
        who = f"--as=system:serviceaccount:{namespace}:{account}"
        answer = subprocess.run([*command, who], capture_output=True, text=True).stdout.strip()
        assert (answer == "yes") is (right in rights), f"{account}: {right}: {answer}"
    kubectl("delete", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(roles))


@dataclass
class Life:
    """What was seen of an installation, from before it to after its end."""

    tests: list[str] = field(default_factory=list)
    """What `helm test` said: of the earlier chart, of this one."""
    secrets: list[dict[str, dict[str, str]]] = field(default_factory=list)
    """Before and after the upgrade, as are the following."""
    objects: list[dict[str, str]] = field(default_factory=list)
    store: list[tuple[str, str]] = field(default_factory=list)
    """The pod of the store, and the revision that it should be of."""
    operator: list[str] = field(default_factory=list)
    schedules: list[list[dict[str, str]]] = field(default_factory=list)
    """Recurring runs; also after the end."""
    wanted: list[str] = field(default_factory=list)
    pods: list[dict[str, str]] = field(default_factory=list)
    """Pods of the training."""
    said: str = ""
    trainings: dict[str, set[str]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)
    report: str = ""
    left: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def life(
    chart: Path,
    earlier_chart: Path,
    namespace: str,
    kubeconfig: str,
    images: None,
    recipe_with: Callable[..., Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> Life:
    """The earlier chart is installed, a pipeline runs, the chart is upgraded while it trains, all is removed."""
    life, platform = Life(), Cluster(namespace, kubeconfig, tmp_path_factory.mktemp("platform"))
    before = of_the_cluster()
    own_operator = str(not any(name.endswith(f"/{CRD}") for name in before)).lower()
    (platform.folder / "values.yaml").write_text(SMALL)

    def values(chart: Path, *changes: str) -> list[str]:
        files = ["-f", str(chart / "values-small.yaml"), "-f", str(platform.folder / "values.yaml")]
        return files + [
            word for change in (f"trainingOperator.enabled={own_operator}", *changes) for word in ("--set", change)
        ]

    charts = [(earlier_chart, values(earlier_chart)), (chart, values(chart, *CHANGES))]
    versions = [json.loads(wanted(*one))["version"] for one in charts]
    platform.start_script("kubeflow", ROOT / "tests" / "kubeflow.py", 8888, *versions, image=LAUNCHER)

    def see(chart: Path, values: list[str]) -> None:
        life.wanted.append(wanted(chart, values))
        life.secrets.append(opaque_secrets())
        life.objects.append(objects_of_the_release())
        pod = json.loads(kubectl("get", "pod", "-n", namespace, "telellm-minio-0", "-o", "json"))
        store = json.loads(kubectl("get", "statefulset", "-n", namespace, "telellm-minio", "-o", "json"))
        life.store.append((pod["metadata"]["uid"], store["status"]["updateRevision"]))
        life.operator += kubectl(
            *("get", "pod", "-n", namespace, "-l", "app.kubernetes.io/component=training-operator"),
            *("-o", "jsonpath={.items[*].metadata.uid}"),
        ).split()
        life.schedules.append(recurring_runs())

    waits = ["--wait", "--wait-for-jobs", "--timeout", "5m"]
    helm("install", "telellm", *map(str, [charts[0][0], *charts[0][1]]), *waits)
    life.tests.append(helm("test", "telellm"))
    see(*charts[0])
    with found_by_telellm(platform, "telellm-minio"), ended(platform):
        fill_source(platform)
        recipe = platform.folder / "recipe.yaml"
        recipe.write_text(recipe_with(*RUN).to_yaml())
        with remembered_jobs(platform, "pytorchjobs") as seen:
            run = platform.telellm("run", recipe, "--pipeline", "adapt", "--store", "s3://telellm")
            store = Store.open("s3://telellm")
            run.until("it trains", lambda: checkpoints(store, "cluster"))
            life.pods.append(platform.pods())
            helm("upgrade", "telellm", *map(str, [charts[1][0], *charts[1][1]]), *waits)
            life.pods.append(platform.pods())
            see(*charts[1])
            life.said, life.trainings = run.end(), seen()
        life.losses, life.torn = losses(store, "cluster", "pretrain"), torn(store)
        life.report = store.read("runs/cluster/report/report.html").decode().lower()
        assert note(store, "cluster", "pretrain")["manifest"]["summary"]["processes"] == 2
    life.tests.append(helm("test", "telellm", "--logs"))
    helm("uninstall", "telellm", "--wait")
    life.schedules.append(recurring_runs())
    platform.stop_script("kubeflow")

    def left() -> list[str]:
        life.left = [*leftovers(), *sorted(of_the_cluster() ^ before)]
        return life.left

    try:
        wait_until("nothing is left", lambda: not left(), 60)
    except AssertionError:
        assert life.left, "the test of it says what"
    return life


def test_the_chart_works_by_its_own_test(life: Life) -> None:
    for said in life.tests:
        assert "Succeeded" in said
    log = life.tests[-1].partition("POD LOGS: telellm-test")[2]
    for name in ("store", "store multipart", "cluster", "templates", "training operator", "rights"):
        assert re.search(rf"^ok +{name} ", log, re.MULTILINE), life.tests[-1]
    assert "failed" not in log


def test_a_pipeline_runs_against_the_store_operator_and_launcher_of_the_chart(life: Life) -> None:
    assert life.said.count("started the job cluster-ingest-") == 1
    assert list(life.losses) == list(range(1, STEPS + 1))
    assert life.torn == []
    assert "answer perplexity" in life.report


def test_an_upgrade_does_a_training_no_harm(life: Life) -> None:
    training = [{name: uid for name, uid in pods.items() if "pretrain" in name} for pods in life.pods]
    assert len(training[0]) == 2
    assert training[1] == training[0], "too fast: it had ended before the upgrade had"
    ((name, uids),) = life.trainings.items()
    assert name.startswith("cluster-pretrain-") and len(uids) == 1
    assert "ended with code" not in life.said
    assert len(life.operator) in (0, 2) and len(set(life.operator)) == len(life.operator), "it did not start anew"


def test_an_upgrade_keeps_what_the_earlier_chart_made(life: Life) -> None:
    earlier, later = life.objects
    assert {name: later.get(name) for name in earlier} == earlier
    assert any(name.startswith("PersistentVolumeClaim ") for name in earlier)
    assert life.secrets[0] and life.secrets[0] == life.secrets[1]
    (pod, revision), (pod_after, revision_after) = life.store
    assert (pod == pod_after) is (revision == revision_after)


def test_the_schedule_is_there_once_and_as_it_was_unless_it_differs(life: Life) -> None:
    earlier, later, removed = life.schedules
    assert [run["display_name"] for run in earlier] == [run["display_name"] for run in later] == ["nightly"]
    same = earlier[0]["recurring_run_id"] == later[0]["recurring_run_id"]
    assert same is (life.wanted[0] == life.wanted[1])
    assert removed == []


def test_an_uninstalled_chart_leaves_nothing(life: Life) -> None:
    assert life.left == []


def wanted(chart: Path, values: list[str]) -> str:
    """Return the recurring run that a chart wants, as JSON."""
    (config,) = [
        o for o in rendered(chart, *values) if (o["kind"], o["metadata"]["name"]) == ("ConfigMap", "telellm-nightly")
    ]
    return str(config["data"]["wanted.json"])


@contextmanager
def ended(platform: Cluster) -> Iterator[None]:
    """Let no telellm outlive the body."""
    try:
        yield
    finally:
        for process in platform.processes:
            process.popen.kill()


def recurring_runs() -> list[dict[str, str]]:
    """Return the recurring runs that Kubeflow has."""
    service = f"/api/v1/namespaces/{NAMESPACE}/services/kubeflow:8888/proxy/apis/v2beta1/recurringruns"
    return json.loads(kubectl("get", "--raw", service)).get("recurringRuns") or []


def fill_source(platform: Cluster) -> None:
    """Put documents into the bucket `raw`, in which the stages may only read."""
    secret = json.loads(platform.kubectl("get", "secret", "telellm-minio-root", "-o", "json"))["data"]
    root = {key: base64.b64decode(value).decode() for key, value in secret.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", root["rootUser"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", root["rootPassword"])
        raw = Store.open("s3://raw/")
        for path in sorted((ROOT / "samples" / "standards").iterdir()):
            raw.upload(f"standards/{path.name}", path)


def objects_of_the_release() -> dict[str, str]:
    """Return kind and name → uid of what the release holds and of its claims; its jobs are of one revision each."""
    found = {}
    manifest = [o for o in yaml.load_all(helm("get", "manifest", "telellm"), yaml.CSafeLoader) if o]
    kept = yaml.safe_dump_all([o for o in manifest if o["kind"] != "Job"])
    there = json.loads(kubectl("get", "-n", NAMESPACE, "-o", "json", "-f", "-", given=kept))["items"]
    there += json.loads(kubectl("get", "-n", NAMESPACE, "-o", "json", "persistentvolumeclaims"))["items"]
    for one in there:
        found[f"{one['kind']} {one['metadata']['name']}"] = one["metadata"]["uid"]
    return found


def of_the_cluster() -> set[str]:
    """Return what belongs to no namespace and that a chart could make; volumes are their claims'."""
    others = {"componentstatuses", "namespaces", "nodes", "persistentvolumes"}
    kinds = kubectl("api-resources", "--verbs=list", "--namespaced=false", "-o", "name").split()
    kinds = [kind for kind in kinds if kind not in others]
    kinds = [kind for kind in kinds if "metrics.k8s.io" not in kind]
    return set(kubectl("get", ",".join(kinds), "-o", "name", "--ignore-not-found").split())


def leftovers() -> list[str]:
    """Return what a release left in its namespace; Kubernetes itself keeps some objects in each."""
    kinds = kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events") and "metrics.k8s.io" not in kind]
    found = kubectl("get", "-n", NAMESPACE, ",".join(kinds), "-o", "name", "--ignore-not-found").split()
    return [name for name in found if name not in ("configmap/kube-root-ca.crt", "serviceaccount/default")]
