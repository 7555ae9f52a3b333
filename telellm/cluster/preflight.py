"""Preflight: what can be known to fail before a job is started and a GPU is taken."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal

from telellm.cluster.api import Api, ClusterError, in_cluster
from telellm.cluster.follower import NeverRan
from telellm.cluster.launcher import launch
from telellm.cluster.names import job_name
from telellm.cluster.templates import GPU, Work, pytorch_job, shards_job
from telellm.progress import Progress
from telellm.recipe import Cluster, Recipe, RecipeError, Shards

DEFAULTS = Cluster()  # type: ignore[call-arg]
OLDEST = (1, 30)
TRAINING = {"pretrain", "instruct"}
ASKING = {"screen", "draft", "tele-eval"}
ALWAYS_JOBS = ("ingest", "clean", "screen")
"""Stages of every pipeline whose steps have the launcher's image in Kubeflow: jobs do their work."""
Trouble = Literal["", "warning", "failed"]
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "m": 1e-3, "": 1}


def is_launcher() -> bool:
    """Say whether this process has the launcher's image, as a step of Kubeflow: it holds no library of a stage."""
    return in_cluster() and find_spec("pyarrow") is None


def refuse_unreachable(recipe: Recipe, store: str, *, in_kubeflow: bool = False) -> None:
    """Raise `RecipeError` with everything that a recipe's jobs would read and no pod can reach.

    `in_kubeflow`: the steps beside the jobs are pods too, and have nothing of the machine that the recipe is from.
    """
    stages, mistakes = set(recipe.cluster.stages), []
    if not store.startswith("s3://"):
        mistakes.append(f"store: {store}: pods cannot reach it; name a bucket: --store s3://bucket/prefix")
    if "ingest" in stages and not in_kubeflow:
        mistakes += [
            f"sources.{name}.path: {source.path}: pods cannot reach it; put it into a bucket (s3://bucket/prefix), or "
            "leave ingest out of cluster.stages"
            for name, source in recipe.sources.items()
            if not source.path.startswith("s3://")
        ]
    if (asking := stages & ASKING) and not recipe.lm.endpoint:
        mistakes.append(
            f"lm.endpoint: empty: the image of {' and '.join(sorted(asking))} has no model in it; name a server, or "
            "leave the stage out of cluster.stages"
        )
    if in_kubeflow:
        mistakes += _not_in_kubeflow(recipe)
    if mistakes:
        raise RecipeError("\n".join(mistakes))


def _not_in_kubeflow(recipe: Recipe) -> Iterator[str]:
    """Yield what a recipe asks of steps whose images do not have it."""
    if missing := [stage for stage in ALWAYS_JOBS if stage not in recipe.cluster.stages]:
        yield (
            f"cluster.stages: lacks {', '.join(missing)}; in Kubeflow these are jobs always: their steps have the "
            "launcher's image, which holds no library of a stage"
        )
    distinct = recipe.tele_eval.distinct
    if distinct.embedder and not distinct.embedder_endpoint and not recipe.tele_eval.path:
        yield (
            "tele_eval.distinct.embedder_endpoint: empty: the image of distinct has no model in it; name a server, or "
            "leave embedder empty"
        )
    yield from _local_places(recipe.model_dump(mode="json"))


def _local_places(value: Any, field: str = "") -> Iterator[str]:
    """Yield a mistake for each field that names a file, a folder or a package of this machine."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _local_places(item, f"{field}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _local_places(item, field)
    elif isinstance(value, str) and _is_local(value.partition("=")[2] if field.startswith("study.") else value):
        yield f"{field}: {value}: the cluster's pods cannot reach it; put it into a bucket (s3://bucket/prefix)"


def _is_local(place: str) -> bool:
    """Say whether only this machine has it; what came with telellm is in its images too."""
    return place.startswith(("/", "file://", "package:")) and not place.startswith("package:telellm/")


def version(api: Api) -> str:
    """Return the cluster's version; raises `ClusterError` where it is too old."""
    found = api.get("/version")
    numbers = tuple(int("".join(filter(str.isdigit, found[part]))) for part in ("major", "minor"))
    if numbers < OLDEST:
        raise ClusterError(f"cluster: Kubernetes {found['gitVersion']} is older than 1.30; upgrade the cluster")
    return str(found["gitVersion"])


def check_templates(api: Api, settings: Cluster) -> tuple[Trouble, str]:
    """Fill in the templates."""
    work = Work("check", "s3://bucket/runs/check", "check", "launcher", ["telellm"])
    try:
        pytorch_job(work, settings)
        shards_job(work, settings, 1)
    except RecipeError as error:
        return "failed", str(error)
    return "", "pytorchjob.yaml and shards.yaml have what the launcher fills in"


def check_operator(api: Api, settings: Cluster) -> tuple[Trouble, str]:
    """Ask for PyTorchJob of kubeflow.org/v1."""
    if not TRAINING & set(settings.stages):
        return "", "not needed: no stage of cluster.stages trains"
    found = api.find("/apis/kubeflow.org/v1") or {"resources": []}
    if any(resource["name"] == "pytorchjobs" for resource in found["resources"]):
        return "", "PyTorchJob (kubeflow.org/v1) is known to the cluster"
    return "failed", (
        "PyTorchJob (kubeflow.org/v1) is not known to the cluster; install the training operator 1.9: "
        "k8s/training-operator.yaml"
    )


def check_rights(api: Api, settings: Cluster) -> tuple[Trouble, str]:
    """Ask for each right that the launcher uses."""
    missing = [
        f"{verb} {resource}" for group, resource, verb in _rights(settings) if not _may(api, group, resource, verb)
    ]
    if missing:
        return "failed", (
            f"this account may not {', '.join(missing)} in namespace {api.namespace}; "
            "bind the Role of k8s/rbac.yaml to it there"
        )
    return "", f"this account may start, follow and delete jobs in namespace {api.namespace}"


def check_room(api: Api, settings: Cluster) -> tuple[Trouble, str]:
    """Compare what training asks for with what the nodes have, free or not."""
    nodes = settings.training
    if not TRAINING & set(settings.stages):
        return "", "not compared: no stage of cluster.stages trains"
    try:
        found = api.get("/api/v1/nodes")["items"]
    except ClusterError as error:
        if error.status != 403:
            raise
        return "", "not compared: this account may not list nodes"
    wanted = {"cpu": nodes.cpus, "memory": nodes.memory_gib * 2**30, GPU: float(nodes.gpus_per_node)}
    room = sum(_fit(node, wanted, settings.node_selector) for node in found)
    asked = f"{nodes.nodes} × ({nodes.cpus:g} CPU, {nodes.memory_gib:g} GiB, {nodes.gpus_per_node} GPU)"
    if room < nodes.nodes:
        return "warning", (
            f"{asked} are asked for, but the {len(found)} nodes have room for {room} such pods even when they are "
            "empty; change cluster.training or cluster.node_selector, or add nodes"
        )
    return "", f"{asked} fit on the {len(found)} nodes when they are empty"


CHECKS: Mapping[str, Callable[[Api, Cluster], tuple[Trouble, str]]] = {
    "templates": check_templates,
    "training operator": check_operator,
    "rights": check_rights,
    "room": check_room,
}
"""Name of a check → the check; it returns its trouble, if any, and what it found."""


def check_store_from_a_pod(api: Api, settings: Cluster, store: str) -> tuple[Trouble, str]:
    """Let a pod check the store with the Secret that jobs get; raises `StageFailed` with what it says.

    Where the cluster or the queue has no room for the pod now, that is a warning: what is started then waits longer.
    """
    small = Shards(pods=1, cpus=0.5, memory_gib=0.5, retries=0)
    quick = {
        "shards": small,
        "queue_seconds": min(60, settings.queue_seconds),
        "run_seconds": 120,
        "retention_seconds": 0,
    }
    run = f"{store.rstrip('/')}/runs/doctor"
    command = ["telellm", "doctor", "--only", "store", "--store", store]
    work = Work(job_name(run, "store", uuid.uuid4().hex), run, "doctor", "launcher", command)
    changed = settings.model_copy(update=quick)
    job = shards_job(work, changed, 1)
    for container in job.manifest["spec"]["template"]["spec"]["containers"]:
        for variable in container.get("env", []):
            if variable["name"] == "TELELLM_STORE_PATIENCE":
                variable["value"] = "0"
    try:
        launch(job, api, changed, Progress("doctor", lambda event: None))
    except NeverRan as error:
        return "warning", f"not checked: {error}"
    return "", f"a pod in namespace {api.namespace} reads, writes and deletes in {store}"


def _rights(settings: Cluster) -> Iterator[tuple[str, str, str]]:
    stages = set(settings.stages)
    kinds = [("kubeflow.org", "pytorchjobs")] if stages & TRAINING else []
    for group, resource in [*kinds, ("batch", "jobs")]:
        for verb in ("create", "get", "list", "delete"):
            yield group, resource, verb
    yield from (("", "pods", verb) for verb in ("list", "watch"))
    yield "", "pods/log", "get"


def _may(api: Api, group: str, resource: str, verb: str) -> bool:
    resource, _, part = resource.partition("/")
    attributes = {
        "namespace": api.namespace,
        "group": group,
        "resource": resource,
        "subresource": part,
        "verb": verb,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def _fit(node: Mapping[str, Any], wanted: Mapping[str, float], selector: Mapping[str, str]) -> int:
    """Return how many pods fit on a node."""
    labels = node["metadata"].get("labels", {})
    if node["spec"].get("unschedulable") or any(labels.get(key) != value for key, value in selector.items()):
        return 0
    has = node["status"]["allocatable"]
    return min(int(_quantity(has.get(name, "0")) // amount) for name, amount in wanted.items() if amount)


def _quantity(text: str) -> float:
    """Return a quantity of Kubernetes (`2`, `500m`, `64Gi`) as a number."""
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * UNITS[unit]
