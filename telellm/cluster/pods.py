"""Pods: what a pod's status says of it, in a person's words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from telellm.progress import read_event

Pod = Mapping[str, Any]
HOPELESS = (
    *("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
)
"""A container that waits for one of these reasons does not start by itself."""
NEVER_STARTED = ("StartError", "ContainerCannotRun")
"""A container that ended for one of these reasons would do so again: its command is not in its image."""
PEER_LOST = 138
"""A training pod ends with this code when a pod that trains with it is gone; 128 + SIGUSR1 is the operator's code for
a failure that its user wants tried again."""
LINES_SHOWN = 15


@dataclass(frozen=True)
class End:
    """How a pod ended."""

    pod: str
    code: int | None
    reason: str
    """Error, OOMKilled, Evicted, NodeLost, Deleted, …"""
    said: str
    """Its program's message, or its last lines."""

    def __str__(self) -> str:
        """`pod x-master-0 ended with code 137 (OOMKilled): …`."""
        code = f" with code {self.code}" if self.code is not None else ""
        return f"pod {self.pod} ended{code} ({self.reason})" + (f": {self.said}" if self.said else "")


def name(pod: Pod) -> str:
    """Return the pod's name."""
    return str(pod["metadata"]["name"])


def uid(pod: Pod) -> str:
    """Return what tells a pod from the next one of its name."""
    return str(pod["metadata"]["uid"])


def phase(pod: Pod) -> str:
    """Return Pending, Running, Succeeded, Failed or Unknown."""
    return str(pod.get("status", {}).get("phase", "Pending"))


def is_at_work(pod: Pod) -> bool:
    """Say whether its program runs, or ran to its good end."""
    return phase(pod) in ("Running", "Succeeded") and not pod.get("deleted")


def end_of(pod: Pod) -> End | None:
    """Return how a pod ended badly, or None: it has not, or it ended well."""
    status = pod.get("status", {})
    if phase(pod) == "Succeeded":
        return None
    ended = [state["terminated"] for state in _states(pod) if "terminated" in state]
    bad = next((one for one in ended if one.get("exitCode")), None)
    if phase(pod) != "Failed" and bad is None and not pod.get("deleted"):
        return None
    reason = status.get("reason") or _disruption(pod) or (bad or {}).get("reason")
    reason = reason or ("Deleted" if pod.get("deleted") else "Error")
    said = _said((bad or {}).get("message") or status.get("message") or "")
    return End(name(pod), bad.get("exitCode") if bad else None, str(reason), said)


def waits_for(pod: Pod) -> str:
    """Return why a pod does not run yet, in the scheduler's or kubelet's own words; "" when it runs."""
    if phase(pod) != "Pending":
        return ""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason") or "not scheduled")
    waiting: Mapping[str, Any] = next((state["waiting"] for state in _states(pod) if "waiting" in state), {})
    if waiting.get("message"):
        return f"{waiting.get('reason')}: {waiting['message']}"
    return {"ContainerCreating": "its container is being created", "PodInitializing": "its container starts"}.get(
        str(waiting.get("reason")), str(waiting.get("reason") or "waits for the scheduler")
    )


def has_no_room(pod: Pod) -> bool:
    """Say whether the scheduler finds no node for a pod."""
    conditions = pod.get("status", {}).get("conditions", [])
    return phase(pod) == "Pending" and any(
        condition["type"] == "PodScheduled" and condition["status"] == "False" for condition in conditions
    )


def hopeless(pod: Pod) -> str:
    """Return why a pod will never start: an image that is not there, a secret that is missing; "" otherwise."""
    for state in _states(pod):
        for at, reasons in (("waiting", HOPELESS), ("terminated", NEVER_STARTED)):
            if (reason := state.get(at, {}).get("reason")) in reasons:
                return f"pod {name(pod)} cannot start ({reason}): {state[at].get('message', '')}"
    return ""


def _states(pod: Pod) -> list[Mapping[str, Any]]:
    status = pod.get("status", {})
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return [container.get("state", {}) for container in containers]


def _disruption(pod: Pod) -> str:
    """Return why the cluster took a pod away: eviction, preemption, a lost node."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            reason = str(condition.get("reason"))
            return {"DeletionByTaintManager": "NodeLost", "DeletionByPodGC": "NodeLost"}.get(reason, reason)
    return ""


def _said(message: str) -> str:
    """Return the program's own last message; without one, its last lines."""
    lines = message.rstrip().split("\n")  # not splitlines: it divides at the separator of events, too
    for line in reversed(lines):
        event = read_event(line)
        if event and event.get("state") == "failed":
            return str(event["message"])
    return "\n  ".join(line for line in lines if read_event(line) is None)[-4000:].strip()
