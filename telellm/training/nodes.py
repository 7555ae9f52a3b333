"""Nodes: the pods of a PyTorchJob that train one model together.

Every pod has the same command. The first one does the whole stage: it prepares the data, calls the others by a file in
the store, trains with them, and puts the output away. The others wait for that call, train, and stay until the output
is there, so that the first one is never left alone when it has to start again.
"""

import socket
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from telellm.progress import Progress
from telellm.store import Store
from telellm.training.job import Job
from telellm.training.torchrun import Node, Superseded, joined, run_program

PAUSE_SECONDS = 0.5


def call(store: Store, job: Job, node: Node) -> None:
    """Tell the other nodes what to do and where this one is."""
    about = {"job": asdict(job), "address": node.address, "attempt": uuid.uuid4().hex}
    store.write_json(f"{job.checkpoints}/call.json", about)


def follow(store: Store, run: str, stage: str, label: str, key: str, node: Node, progress: Progress) -> None:
    """Train with the first node, when it calls; returns when the stage's output is in the store.

    When the first node starts again, it calls again, and this one joins it anew. Raises `StageFailed` or `Interrupted`
    as the program does.
    """
    place = f"runs/{run}/checkpoints/{stage}-{key}/call.json"

    def is_done() -> bool:
        note = store.read_json(f"runs/{run}/stages/{label}.json")
        return note is not None and note["manifest"]["digest"] == key

    def has_moved(attempt: str) -> bool:
        """Whether the first node calls anew; no call at all means that it is putting the output away."""
        return bool((store.read_json(place) or {}).get("attempt", attempt) != attempt)

    while not is_done():
        progress.note("waits for the first node")
        about = store.read_json(place)
        if about is None or not _listens(about["address"], node.port):
            time.sleep(PAUSE_SECONDS)
            continue
        superseded = partial(has_moved, about["attempt"])
        with tempfile.TemporaryDirectory(prefix=f"telellm-{stage}-") as folder, suppress(Superseded):
            progress.note(f"joins the first node at {about['address']}")
            job, arguments = Job(**about["job"]), joined(node, about["address"])
            run_program(job, Path(folder), progress, arguments, superseded)
            progress.note("waits for the first node to put the model away")
            while not is_done() and not superseded():
                time.sleep(PAUSE_SECONDS)


def _listens(address: str, port: int) -> bool:
    """Say whether the first node's rendezvous is open: a call may be older than a node that was lost."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True
