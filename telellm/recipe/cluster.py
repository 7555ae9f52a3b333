"""Section `cluster`: stages that run as jobs of a Kubernetes cluster."""

from typing import Literal

from pydantic import Field

from telellm.recipe.fields import PathOrUri, Settings


class Shards(Settings):
    """Section `cluster.shards`: the pods that share the shards of a corpus stage."""

    pods: int = Field(8, ge=1, le=1024, description="Pods of a stage; each takes an equal part of its shards.")
    cpus: float = Field(2, gt=0, description="CPU cores of a pod.")
    memory_gib: float = Field(8, gt=0, description="Memory of a pod (GiB).")
    retries: int = Field(3, ge=0, description="How often one pod's part is tried again.")


class Nodes(Settings):
    """Section `cluster.training`: the pods that train one model together."""

    nodes: int = Field(1, ge=1, le=1024, description="Pods, each on a node of its own where the cluster has enough.")
    gpus_per_node: int = Field(8, ge=0, description="GPUs of a pod, one process each; 0: trains on CPUs.")
    processes_per_node: int = Field(1, ge=1, description="Processes of a pod without GPUs.")
    cpus: float = Field(8, gt=0, description="CPU cores of a pod.")
    memory_gib: float = Field(64, gt=0, description="Memory of a pod (GiB).")
    restarts: int = Field(
        3, ge=0, description="Restarts in a row that reach no new training step before the job is given up."
    )
    collective_timeout_seconds: int = Field(
        600,
        ge=10,
        description="Processes that wait longer for one another end and start again (seconds); it must be longer than "
        "the first one needs to read the model.",
    )


class Pod(Settings):
    """Section `cluster.evaluation`: the one pod of a job that scores a model, packs text or adds a chat vector."""

    gpus: int = Field(1, ge=0, description="GPUs of the pod where it scores a model; the others take none.")
    cpus: float = Field(4, gt=0, description="CPU cores of the pod.")
    memory_gib: float = Field(32, gt=0, description="Memory of the pod (GiB).")
    retries: int = Field(3, ge=0, description="How often the work is tried again where its pod is lost.")


class Cluster(Settings):
    """Section `cluster`: stages that run as jobs of a Kubernetes cluster, started from here or from Kubeflow."""

    enabled: bool = Field(
        False, description="Start jobs in the cluster that KUBECONFIG names; in a pod of a cluster it is always on."
    )
    namespace: str = Field("", description="Namespace of the jobs; empty: the kubeconfig's, or that of this pod.")
    stages: list[
        Literal["ingest", "clean", "screen", "draft", "tele-eval", "pack", "pretrain", "instruct", "evaluate"]
    ] = Field(
        ["ingest", "clean", "screen", "pretrain", "instruct"],
        description="Stages that run as jobs; the others run where the pipeline's step runs. In Kubeflow ingest, "
        "clean, screen and training must be jobs, and other steps have the image of their stage and do its work "
        "themselves. The arms of a study always pack, train and evaluate as jobs.",
    )
    registry: str = Field("registry.local", min_length=1, description="Registry of the stages' images.")
    tag: str = Field("", description="Tag of the stages' images; empty: the version of telellm.")
    templates: PathOrUri = Field(
        "", description="Folder with pytorchjob.yaml and shards.yaml; empty: k8s/, as it came with telellm."
    )
    queue: str = Field("", description="Kueue's LocalQueue that admits the jobs; empty: no queue.")
    priority_class: str = Field("", description="PriorityClass of the pods; empty: that of the template.")
    node_selector: dict[str, str] = Field({}, description="Labels of the nodes that may run the pods.")
    shards: Shards = Shards()  # type: ignore[call-arg]
    training: Nodes = Nodes()  # type: ignore[call-arg]
    evaluation: Pod = Pod()  # type: ignore[call-arg]
    queue_seconds: int = Field(86_400, ge=1, description="Time within which all pods of a job must run (seconds).")
    run_seconds: int = Field(604_800, ge=1, description="Time that a job may run, without the queue (seconds).")
    retention_seconds: int = Field(
        0, ge=0, description="Time for which an ended job and its pods are kept to look at (seconds)."
    )
