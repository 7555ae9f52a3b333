"""Launcher: start a job in the cluster, or adopt the one that is there, follow it to its end, and leave nothing behind.

How a job that was started is followed is in `follower.py`.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from types import FrameType
from typing import Any

from telellm.cluster.api import Api, ClusterError, Object, patiently
from telellm.cluster.follower import Follower
from telellm.cluster.jobs import Job
from telellm.cluster.names import job_name
from telellm.cluster.templates import RETENTION, Work, pod_job, pytorch_job, shards_job
from telellm.progress import Progress
from telellm.recipe import Cluster
from telellm.stage import StageFailed

DELETION_SECONDS = 90
OPERATOR_SECONDS = 30
MANAGED = "app.kubernetes.io/managed-by=telellm"


class Cancelled(SystemExit):
    """The step was told to end; 128 + SIGTERM."""

    def __init__(self) -> None:
        super().__init__(143)


def launch_stage(
    stage: str,
    run: str,
    step: str,
    key: str,
    command: Sequence[str],
    num_shards: int,
    settings: Cluster,
    progress: Progress,
    *,
    trains: bool = True,
) -> None:
    """Have a stage done by a job: an Indexed Job where there are shards, a PyTorchJob where it `trains`, else one pod.

    `command` is that of the pods, `key` the digest of the work, `step` its name in the run. Raises as `launch` does.
    """
    work = Work(job_name(run, step, key), run, step, stage, command)
    job: Job
    if num_shards:
        num_pods = min(settings.shards.pods, num_shards)
        part = ["--shards", f"$(JOB_COMPLETION_INDEX)/{num_pods}"]
        job = shards_job(replace(work, command=[*command, *part]), settings, num_pods)
    else:
        job = pytorch_job(work, settings) if trains else pod_job(work, settings)
    launch(job, Api(settings.namespace), settings, progress)


def launch(job: Job, api: Api, settings: Cluster, progress: Progress) -> None:
    """Start a job or adopt it, and return when it has succeeded.

    Raises `StageFailed` with pod, exit code, reason and last lines when it fails, and `ClusterError` when the cluster
    refuses what is needed. SIGTERM and SIGINT delete the job and its pods.
    """
    collection = job.collection.format(namespace=api.namespace)
    with _cancellable():
        kept = settings.retention_seconds > 0
        try:
            sweep(api, collection)
            _start(job, api, collection, progress)
            Follower(job, api, collection, settings, progress).follow()
        except StageFailed:
            raise
        except ClusterError as error:
            kept = error.status == 0  # nobody can delete it now; who tries this step again adopts it
            if error.status in (400, 422):
                raise StageFailed(f"{progress.stage}: {error}; look at k8s/ and the recipe's cluster section") from None
            raise
        except BaseException:
            kept = False
            raise
        finally:
            if not kept:
                _remove(api, collection, job, progress)


def sweep(api: Api, collection: str) -> None:
    """Delete jobs of telellm that ended longer ago than they are to be kept: their launcher may be gone."""
    for found in api.list(collection, MANAGED):
        ended = ended_at(found)
        kept = float(found["metadata"].get("annotations", {}).get(RETENTION, 0))
        if ended and time.time() - ended > max(kept, 60):
            api.delete(f"{collection}/{found['metadata']['name']}")


def ended_at(found: Object) -> float:
    """Return when a job ended (seconds since the epoch), or 0: it has not."""
    ends = [
        datetime.fromisoformat(condition["lastTransitionTime"]).timestamp()
        for condition in found.get("status", {}).get("conditions") or []
        if condition["type"] in ("Failed", "Succeeded", "Complete") and condition["status"] == "True"
    ]
    return max(ends, default=0.0)


def _start(job: Job, api: Api, collection: str, progress: Progress) -> None:
    """Create the job, or adopt it where it is there and has not ended."""
    path = f"{collection}/{job.name}"
    found = api.find(path)
    if found is not None and (found["metadata"].get("deletionTimestamp") or ended_at(found)):
        # an earlier end; the output that it should have made is not in the store
        api.delete(path)
        _wait_until_gone(api, path, job)
        found = None
    if found is not None:
        progress.say(f"goes on with the job {job.name}, which is there already")
        return
    for pause in patiently(OPERATOR_SECONDS):
        try:
            api.create(collection, job.manifest)
            break
        except ClusterError as error:
            if error.status == 409:  # another try of this step was faster
                return
            if error.status < 500:
                raise
            last = error
        progress.note(f"waits: {last}")  # the operator's webhook starts, or the API server does
        time.sleep(pause)
    else:
        raise last
    progress.say(f"started the job {job.name} in namespace {api.namespace}")


def _remove(api: Api, collection: str, job: Job, progress: Progress) -> None:
    """Delete a job with its pods, and wait until they are gone; says so where it stays."""
    path = f"{collection}/{job.name}"
    for pause in patiently():
        try:
            api.delete(path)
            _wait_until_gone(api, path, job)
            return
        except ClusterError as error:
            if error.status == 403:
                progress.say(f"the job {job.name} may be left behind: {error}")
                return
            time.sleep(pause)


def _wait_until_gone(api: Api, path: str, job: Job) -> None:
    deadline = time.monotonic() + DELETION_SECONDS
    while time.monotonic() < deadline:
        if api.find(path) is None and not api.list(api.pods, job.selector):
            return
        time.sleep(0.3)


@contextmanager
def _cancellable() -> Iterator[None]:
    """Let SIGTERM (the run was cancelled) end the body as an exception does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise Cancelled

    before: dict[int, Any] = {number: signal.signal(number, cancel) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
