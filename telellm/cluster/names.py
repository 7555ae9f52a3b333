"""Names: what a job is called, so that a step that is tried again finds the job that it started before."""

import re
from hashlib import sha256

MAXIMUM_NAME = 50
"""A pod and a service of the operator are called `<job>-worker-<number>`, and that must be a DNS label (63)."""
MAXIMUM_LABEL = 63


def job_name(run: str, step: str, key: str) -> str:
    """Return the name of the job that does a step's work in a run: a DNS label, the same for the same work.

    `run` is the run's address in its store, `key` the digest of the work: neither two runs nor two recipes of one run
    share a job, however long their names are.
    """
    digest = sha256("\0".join((run, step, key)).encode()).hexdigest()[:10]
    words = label(f"{run.rpartition('/runs/')[2]}-{step}".lower())
    start = words[: MAXIMUM_NAME - len(digest) - 1].strip("-.")
    return f"{start if start[:1].isalpha() else f't-{start}'[: MAXIMUM_NAME - len(digest) - 1]}-{digest}".replace(
        ".", "-"
    )


def label(text: str) -> str:
    """Return a text as the value of a Kubernetes label."""
    return re.sub(r"[^a-zA-Z0-9.-]+", "-", text)[:MAXIMUM_LABEL].strip("-.")
