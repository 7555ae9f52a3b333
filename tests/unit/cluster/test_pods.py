"""What a pod's status says, in a person's words; the statuses are those that Kubernetes 1.34 gave."""

import json

import pytest

from telellm.cluster import pods
from telellm.progress import SEPARATOR


def pod(phase="Running", *, state=None, conditions=(), **status):
    containers = [{"name": "pytorch", "state": state}] if state else []
    return {
        "metadata": {"name": "x-master-0", "uid": "u1", "labels": {}},
        "status": {"phase": phase, "containerStatuses": containers, "conditions": list(conditions), **status},
    }


def terminated(code, reason="Error", message=""):
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (pod("Failed", state=terminated(137, "OOMKilled")), "pod x-master-0 ended with code 137 (OOMKilled)"),
        (pod("Failed", state=terminated(1, message="boom")), "pod x-master-0 ended with code 1 (Error): boom"),
        (
            pod("Failed", reason="Evicted", message="The node was low on resource: memory."),
            "pod x-master-0 ended (Evicted): The node was low on resource: memory.",
        ),
        (
            pod(
                "Failed",
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}],
            ),
            "pod x-master-0 ended (NodeLost)",
        ),
        (pod("Running") | {"deleted": True}, "pod x-master-0 ended (Deleted)"),
    ],
)
def test_how_a_pod_ended(found, said):
    assert str(pods.end_of(found)) == said


def test_a_pod_that_works_or_ended_well_has_no_bad_end():
    assert pods.end_of(pod("Running", state={"running": {}})) is None
    assert pods.end_of(pod("Succeeded", state=terminated(0, "Completed"))) is None
    assert pods.end_of(pod("Succeeded", state=terminated(0, "Completed")) | {"deleted": True}) is None


def test_the_programs_own_message_is_taken_from_its_last_lines():
    event = json.dumps({"stage": "pretrain", "state": "failed", "message": "the loss is nan", "code": 1})
    message = f"some line\npretrain  the loss is nan {SEPARATOR}{event}\n"
    assert pods.end_of(pod("Failed", state=terminated(1, message=message))).said == "the loss is nan"
    progress = json.dumps({"stage": "pretrain", "state": "running"})
    message = f"line 1\nx {SEPARATOR}{progress}\nKilled\n"
    assert pods.end_of(pod("Failed", state=terminated(137, message=message))).said == "line 1\n  Killed"


def test_the_schedulers_words_say_why_a_pod_waits():
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    assert pods.waits_for(pod("Pending", conditions=[condition])) == words
    creating = pod("Pending", state={"waiting": {"reason": "ContainerCreating"}})
    assert pods.waits_for(creating) == "its container is being created"
    assert pods.waits_for(pod("Running")) == ""


@pytest.mark.parametrize(
    "state",
    [
        {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
        {"waiting": {"reason": "ErrImageNeverPull", "message": "no such image"}},
        {"waiting": {"reason": "CreateContainerConfigError", "message": "no such image"}},
        {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such image"}},
    ],
)
def test_a_pod_that_can_never_start_is_known(state):
    assert pods.hopeless(pod("Pending", state=state)).endswith("no such image")


def test_a_pod_that_only_starts_is_not_given_up():
    assert pods.hopeless(pod("Pending", state={"waiting": {"reason": "ContainerCreating"}})) == ""
    assert pods.hopeless(pod("Failed", state=terminated(137, "OOMKilled"))) == ""
