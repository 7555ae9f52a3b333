"""The states of jobs, as the operator and the job controller write them."""

import pytest

from telellm.cluster.jobs import PyTorchJob, ShardsJob


def conditions(*held, **others):
    return [
        *({"type": kind, "status": "True", "message": f"{kind} it is"} for kind in held),
        *({"type": kind, "status": status, "message": ""} for kind, status in others.items()),
    ]


def training(status, **policy):
    return {"spec": {"runPolicy": policy}, "status": {"conditions": status}}


@pytest.mark.parametrize(
    ("found", "phase"),
    [
        (training([]), "running"),
        (training(conditions("Created", Running="False"), suspend=True), "queued"),
        (training(conditions("Created", "Running", Suspended="False")), "running"),
        (training(conditions("Created", "Restarting", Running="False")), "running"),
        (training(conditions("Created", "Succeeded", Running="False")), "succeeded"),
        (training(conditions("Restarting", "Failed", Running="False")), "failed"),
    ],
)
def test_the_state_of_training(found, phase):
    assert PyTorchJob("x", {}, 2).state(found).phase == phase


@pytest.mark.parametrize(
    ("found", "phase"),
    [
        ({"spec": {}, "status": {}}, "running"),
        ({"spec": {"suspend": True}, "status": {"conditions": conditions("Suspended")}}, "queued"),
        ({"spec": {}, "status": {"conditions": conditions("SuccessCriteriaMet")}}, "running"),
        ({"spec": {}, "status": {"conditions": conditions("SuccessCriteriaMet", "Complete")}}, "succeeded"),
        ({"spec": {}, "status": {"conditions": conditions("FailureTarget")}}, "failed"),
    ],
)
def test_the_state_of_shards(found, phase):
    assert ShardsJob("x", {"spec": {"completions": 2}}).state(found).phase == phase


def test_training_works_when_all_nodes_do_and_shards_when_one_does():
    running = {"metadata": {"labels": {}}, "status": {"phase": "Running"}}
    pending = {"metadata": {"labels": {}}, "status": {"phase": "Pending"}}
    assert not PyTorchJob("x", {}, 2).all_at_work([running, pending])
    assert PyTorchJob("x", {}, 2).all_at_work([running, running])
    assert ShardsJob("x", {}).all_at_work([running, pending])
    assert not ShardsJob("x", {}).all_at_work([pending])
