"""Attempts: Kubeflow starts a failed step again whatever the failure was; what failed for good is not done twice.

A step whose job failed, or that was given something wrong, leaves a note in its run. A later attempt of the same
execution reads it and ends at once with the same words. The first attempt does the work whatever was noted: it is that
of a new run, or of Retry in Kubeflow's UI, and somebody may have put right what was wrong. An attempt whose pod was
lost leaves no note, so the next one goes on with its job.
"""

import os
import re

from telellm.recipe import RecipeError
from telellm.stage import StageFailed
from telellm.store import Store

NODE = "TELELLM_NODE"
"""Variable with Argo's name of this pod's node, as in `adapt-x7k2p.root.pretrain.executor(1)`: the second attempt."""
NAME = re.compile(r"(?P<step>.+)\((?P<number>\d+)\)")


def end_if_hopeless(store: Store, run: str, label: str) -> None:
    """Raise what an earlier attempt of this step failed of for good: `RecipeError` or `StageFailed`."""
    node = NAME.fullmatch(os.environ.get(NODE, ""))
    if node is None or int(node["number"]) == 0:
        return
    note = store.read_json(_place(run, label))
    if note is not None and note["step"] == node["step"]:
        error = RecipeError if note["code"] == 2 else StageFailed
        raise error(str(note["message"]))


def note_hopeless(store: Store, run: str, label: str, message: str, code: int) -> None:
    """Write down that this step of a run failed for good, for the attempts to come."""
    if node := NAME.fullmatch(os.environ.get(NODE, "")):
        store.write_json(_place(run, label), {"step": node["step"], "message": message, "code": code})


def _place(run: str, label: str) -> str:
    return f"runs/{run}/failed/{label}.json"
