"""Jobs: the kinds of work that a cluster does for us, behind one small interface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from telellm.cluster import pods
from telellm.cluster.api import Object
from telellm.cluster.pods import Pod


@dataclass(frozen=True)
class State:
    """What a job says of itself."""

    phase: str
    """`queued` (suspended), `running`, `succeeded` or `failed`."""
    said: str = ""


class Job(Protocol):
    """Work in pods that a controller of the cluster looks after. A second kind of training job is a second class."""

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        ...

    @property
    def manifest(self) -> Object:
        """The object that is created."""
        ...

    @property
    def collection(self) -> str:
        """The API's path of such objects, with `{namespace}`."""
        ...

    @property
    def selector(self) -> str:
        """The labels of its pods."""
        ...

    @property
    def container(self) -> str:
        """The container that does the work."""
        ...

    def state(self, found: Object) -> State:
        """Read the state of the job as it is in the cluster."""
        ...

    def all_at_work(self, found: Sequence[Pod]) -> bool:
        """Say whether the job is out of the queue: its pods work as it needs them to."""
        ...

    def speaks(self, pod: Pod) -> bool:
        """Say whether this is the pod whose log is shown."""
        ...


@dataclass(frozen=True)
class PyTorchJob:
    """Training on several nodes, by the training operator (kubeflow.org/v1)."""

    name: str
    manifest: Object
    num_nodes: int
    collection: str = "/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs"
    container: str = "pytorch"

    @property
    def selector(self) -> str:
        """The labels of its pods."""
        return f"training.kubeflow.org/job-name={self.name}"

    def state(self, found: Object) -> State:
        """Read the operator's conditions; what was true once stays in the list, with status False."""
        conditions = _true_conditions(found)
        if "Failed" in conditions:
            return State("failed", conditions["Failed"])
        if "Succeeded" in conditions:
            return State("succeeded")
        if found["spec"].get("runPolicy", {}).get("suspend") or "Suspended" in conditions:
            return State("queued", conditions.get("Suspended", "the job is suspended"))
        return State("running")

    def all_at_work(self, found: Sequence[Pod]) -> bool:
        """All nodes: a part of them waits for the rest."""
        return sum(map(pods.is_at_work, found)) >= self.num_nodes

    def speaks(self, pod: Pod) -> bool:
        """The master: it has the first process."""
        return bool(pod["metadata"]["labels"].get("training.kubeflow.org/replica-type") == "master")


@dataclass(frozen=True)
class ShardsJob:
    """Shards in the pods of an Indexed Job; each index is tried again by itself."""

    name: str
    manifest: Object
    collection: str = "/apis/batch/v1/namespaces/{namespace}/jobs"
    container: str = "stage"

    @property
    def selector(self) -> str:
        """The labels of its pods."""
        return f"batch.kubernetes.io/job-name={self.name}"

    def state(self, found: Object) -> State:
        """Read the job controller's conditions."""
        conditions = _true_conditions(found)
        if said := conditions.get("Failed") or conditions.get("FailureTarget"):
            return State("failed", said)
        if "Complete" in conditions:
            return State("succeeded")
        if found["spec"].get("suspend"):
            return State("queued", conditions.get("Suspended", "the job is suspended"))
        return State("running")

    def all_at_work(self, found: Sequence[Pod]) -> bool:
        """Any pod: shards do not wait for one another."""
        return any(map(pods.is_at_work, found))

    def speaks(self, pod: Pod) -> bool:
        """A job of one pod is heard; of many, how many are done."""
        return int(self.manifest["spec"]["completions"]) == 1


def _true_conditions(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the types of the conditions that hold, with their messages."""
    conditions = found.get("status", {}).get("conditions") or []
    return {c["type"]: str(c.get("message") or c.get("reason", "")) for c in conditions if c["status"] == "True"}
