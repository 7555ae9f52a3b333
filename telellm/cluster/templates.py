"""Templates: `k8s/pytorchjob.yaml` and `k8s/shards.yaml`, which an administrator edits and the launcher fills in.

The launcher sets what differs from job to job: name, labels, image, command, number of pods, resources, queue. All else
stays as it stands in the file. A third file, `images.yaml`, may lie beside them: stage → image, with its digest. What
it names goes before the recipe's registry and tag: a site pins what runs.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import telellm
from telellm.cluster.api import Object
from telellm.cluster.jobs import PyTorchJob, ShardsJob
from telellm.cluster.names import label
from telellm.recipe import Cluster, Pod, RecipeError, Shards

SHIPPED = Path(telellm.__file__).resolve().parents[1] / "k8s"
MOUNTED = Path("/etc/telellm/job-templates")
"""Where Kubeflow's tasks have the ConfigMap with an administrator's templates."""
MAXIMUM_BYTES = 2**20
GPU = "nvidia.com/gpu"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
RETENTION = "telellm/retention-seconds"
IMAGE = re.compile(r"[a-z0-9][\w.:/-]*(@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True)
class Work:
    """What a job is to do."""

    name: str
    run: str
    """The run's address in its store."""
    step: str
    """The step of the run, as the report names it."""
    image: str
    """The stage whose image does it."""
    command: Sequence[str]


def pytorch_job(work: Work, settings: Cluster) -> PyTorchJob:
    """Return the template `pytorchjob.yaml`, filled in; raises `RecipeError` where it lacks what the work needs."""
    file = _file(settings, "pytorchjob.yaml")
    body = _read(file, "PyTorchJob", "kubeflow.org/v1")
    nodes = settings.training
    specs = _section(body, file, "spec", "pytorchReplicaSpecs")
    master = _section(body, file, "spec", "pytorchReplicaSpecs", "Master")
    template = _section(body, file, "spec", "pytorchReplicaSpecs", "Master", "template")
    container = _container(template, file, "pytorch")
    processes = nodes.gpus_per_node or nodes.processes_per_node
    requests: dict[str, Any] = {"cpu": f"{nodes.cpus:g}", "memory": f"{nodes.memory_gib:g}Gi"}
    limits: dict[str, Any] = {"memory": requests["memory"]}
    if nodes.gpus_per_node:
        requests[GPU] = limits[GPU] = nodes.gpus_per_node
    _fill_pod(template, container, work, settings, requests, limits)
    _set_env(container, "OMP_NUM_THREADS", str(max(1, int(nodes.cpus) // processes)))
    specs["Master"] = master | {"replicas": 1, "restartPolicy": "ExitCode"}
    specs.pop("Worker", None)
    if nodes.nodes > 1:
        worker = {"replicas": nodes.nodes - 1, "restartPolicy": "ExitCode", "template": copy.deepcopy(template)}
        specs["Worker"] = worker
    body["spec"]["nprocPerNode"] = str(processes)
    # the operator's back-off limit does not count restarts by exit code and its deadline has no clock (1.9.3): both are
    # the launcher's; failed pods stay until their words are read
    policy = {"cleanPodPolicy": "Running", "ttlSecondsAfterFinished": max(settings.retention_seconds, 3600)}
    body["spec"]["runPolicy"] = body["spec"].get("runPolicy", {}) | policy
    _fill_metadata(body, work, settings)
    return PyTorchJob(work.name, body, nodes.nodes)


def shards_job(work: Work, settings: Cluster, num_pods: int) -> ShardsJob:
    """Return the template `shards.yaml`, filled in for so many pods; raises `RecipeError` as `pytorch_job` does."""
    return _indexed_job(work, settings, num_pods, _amounts(settings.shards), settings.shards.retries)


def pod_job(work: Work, settings: Cluster) -> ShardsJob:
    """Return the template `shards.yaml`, filled in for one pod that does a stage's whole work, on GPUs if it evaluates.

    Raises `RecipeError` as `pytorch_job` does.
    """
    resources = _amounts(settings.evaluation)
    if work.image == "evaluate" and settings.evaluation.gpus:
        resources[GPU] = settings.evaluation.gpus
    return _indexed_job(work, settings, 1, resources, settings.evaluation.retries)


def _amounts(settings: Shards | Pod) -> dict[str, Any]:
    return {"cpu": f"{settings.cpus:g}", "memory": f"{settings.memory_gib:g}Gi"}


def _indexed_job(work: Work, settings: Cluster, num_pods: int, resources: Mapping[str, Any], retries: int) -> ShardsJob:
    file = _file(settings, "shards.yaml")
    body = _read(file, "Job", "batch/v1")
    template = _section(body, file, "spec", "template")
    container = _container(template, file, "stage")
    _fill_pod(template, container, work, settings, resources, resources)
    body["spec"] |= {
        "completionMode": "Indexed",
        "completions": num_pods,
        "parallelism": num_pods,
        "backoffLimitPerIndex": retries,
        "ttlSecondsAfterFinished": max(settings.retention_seconds, 3600),
        "activeDeadlineSeconds": settings.queue_seconds + settings.run_seconds,  # should the launcher be gone
    }
    _fill_metadata(body, work, settings)
    return ShardsJob(work.name, body)


def _file(settings: Cluster, name: str) -> Path:
    folder = Path(settings.templates or (MOUNTED if (MOUNTED / name).is_file() else SHIPPED))
    if not (folder / name).is_file():
        raise RecipeError(f"cluster.templates: {folder} has no {name}; copy k8s/ of telellm and edit it")
    return folder / name


def _pinned(settings: Cluster) -> Mapping[str, str]:
    """Return stage → image of `images.yaml` beside the templates; raises `RecipeError` where that is no such table."""
    file = _file(settings, "pytorchjob.yaml").with_name("images.yaml")
    if not file.is_file():
        return {}
    images = _load(file) or {}
    if not isinstance(images, dict):
        raise RecipeError(f"{file}: this is no table; write STAGE: IMAGE on each line")
    for stage, image in images.items():
        if not isinstance(image, str) or not IMAGE.fullmatch(image):
            raise RecipeError(f"{file}: {stage}: {image!r} is no image; write REGISTRY/NAME:TAG@sha256:DIGEST")
    return images


def _load(file: Path) -> Any:
    import yaml

    try:
        if file.stat().st_size > MAXIMUM_BYTES:
            raise ValueError(f"larger than {MAXIMUM_BYTES:,} bytes")
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{file}: cannot be read: {' '.join(str(error).split())[:300]}") from None


def _read(file: Path, kind: str, version: str) -> Object:
    body = _load(file)
    found = (body.get("kind"), body.get("apiVersion")) if isinstance(body, dict) else (None, None)
    if found != (kind, version):
        raise RecipeError(f"{file}: this is {found[0]} of {found[1]}, not {kind} of {version}")
    assert isinstance(body, dict)
    return body


def _section(body: Any, file: Path, *path: str) -> Any:
    for at, part in enumerate(path):
        if not isinstance(body, dict) or not isinstance(body.get(part), dict):
            raise RecipeError(f"{file}: {'.'.join(path[: at + 1])} is missing; the launcher fills it in: put it back")
        body = body[part]
    return body


def _container(template: Any, file: Path, name: str) -> Any:
    containers = template.get("spec", {}).get("containers") or []
    container = next((one for one in containers if one.get("name") == name), None)
    if container is None:
        known = ", ".join(str(one.get("name")) for one in containers) or "none"
        raise RecipeError(f"{file}: no container is called {name}; containers: {known}")
    variables = {entry.get("name") for entry in container.get("env") or []}
    if not container.get("envFrom") and not variables & {"AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE"}:
        raise RecipeError(f"{file}: container {name} gets no store credentials; give it envFrom with the Secret")
    mounts = {entry.get("mountPath") for entry in container.get("volumeMounts") or []}
    if missing := [path for path in ("/cache", "/tmp") if path not in mounts]:
        raise RecipeError(f"{file}: container {name} mounts nothing at {missing[0]}; stages write there: put it back")
    return container


def _fill_pod(
    template: Any,
    container: Any,
    work: Work,
    settings: Cluster,
    requests: Mapping[str, Any],
    limits: Mapping[str, Any],
) -> None:
    template.setdefault("metadata", {}).setdefault("labels", {}).update(_labels(work))
    named = f"{settings.registry}/telellm/{work.image}:{settings.tag or telellm.__version__}"
    container["image"] = _pinned(settings).get(work.image, named)
    container["command"] = list(work.command)
    container.pop("args", None)
    given = container.setdefault("resources", {})
    given["requests"] = given.get("requests", {}) | requests
    given["limits"] = given.get("limits", {}) | limits
    _set_env(container, "TELELLM_EVENTS", "log")
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"  # so that a pod's last words outlive it
    if settings.priority_class:
        template["spec"]["priorityClassName"] = settings.priority_class
    if settings.node_selector:
        template["spec"]["nodeSelector"] = template["spec"].get("nodeSelector", {}) | settings.node_selector


def _fill_metadata(body: Object, work: Work, settings: Cluster) -> None:
    metadata = body.setdefault("metadata", {})
    metadata["name"] = work.name
    metadata.pop("namespace", None)
    metadata["labels"] = metadata.get("labels", {}) | _labels(work)
    if settings.queue:
        metadata["labels"][QUEUE_LABEL] = settings.queue
    metadata["annotations"] = metadata.get("annotations", {}) | {
        "telellm/run": work.run,
        RETENTION: str(settings.retention_seconds),
    }


def _labels(work: Work) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "telellm",
        "app.kubernetes.io/managed-by": "telellm",
        "telellm/run": label(work.run.rpartition("/runs/")[2]),
        "telellm/step": label(work.step),
        "telellm/job": work.name,
    }


def _set_env(container: Any, name: str, value: str) -> None:
    """Set a variable, unless the administrator did."""
    variables = container.setdefault("env", [])
    if all(entry.get("name") != name for entry in variables):
        variables.append({"name": name, "value": value})
