"""Submit: run a pipeline on a Kubeflow server, and follow it to its end."""

import io
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from telellm import __version__
from telellm.cluster.api import ClusterError
from telellm.cluster.preflight import DEFAULTS, refuse_unreachable
from telellm.progress import Console, duration
from telellm.recipe import Cluster, Recipe, parse
from telellm.stage import StageFailed

EXPERIMENT = "telellm"
WITH_REPORT = {"adapt": "/report/report.html", "nightly": "/report/report.html", "study": "/report/study.html"}
POLL_SECONDS = 3.0
PATIENCE_SECONDS = 300
"""A server that is away for less than this does not end the following."""
VERSIONS_AT_ONCE = 20
"""Each comes with its whole specification."""
IMAGE = re.compile(r"image: \S+/telellm/(?P<name>[a-z-]+):\S+")
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


def submit(pipeline: str, recipe: Recipe, host: str, store: str, name: str) -> int:
    """Start a pipeline on a Kubeflow server and follow it; returns the exit status.

    The version of the pipeline is named after telellm's and its own digest, and uploaded where the server has none that
    does the same. Raises `RecipeError` for what its pods could not reach, and `ClusterError`.
    """
    recipe = parse(recipe.to_yaml(), changes=["cluster.enabled=true"])
    refuse_unreachable(recipe, store, in_kubeflow=True)
    console = Console(sys.stderr)
    with _reached(host), redirect_stdout(io.StringIO()):  # kfp prints the addresses of what it makes
        client = _client(host)
        pipeline_id, version_id = _upload(client, pipeline, recipe.cluster, console)
        experiment = client.create_experiment(EXPERIMENT)
        arguments = {"recipe": recipe.to_yaml(), "store": store, "name": name}
        run = client.run_pipeline(
            experiment.experiment_id,
            name or f"{recipe.name} {pipeline}",
            params=arguments,
            pipeline_id=pipeline_id,
            version_id=version_id,
        )
    console.line(f"{'run':<14}  {host.rstrip('/')}/#/runs/details/{run.run_id}")
    try:
        state = _follow(client, run.run_id, host, console)
    except KeyboardInterrupt:
        return _ask_whether_to_cancel(client, run.run_id, console)
    if state != "SUCCEEDED":
        raise StageFailed(
            f"{pipeline}: the run ended as {state}; the task that failed says why: "
            f"{host.rstrip('/')}/#/runs/details/{run.run_id}"
            # a study ends so where an arm did: the report is written before
            + (f"\n  report: {store.rstrip('/')}/runs/{name}{WITH_REPORT[pipeline]}" if pipeline == "study" else "")
        )
    place = f"runs/{name}{WITH_REPORT.get(pipeline, '')}"
    if not name:
        place = f"models/{recipe.name}/production.json"
    sys.stdout.write(f"{store.rstrip('/')}/{place}\n")
    return 0


def _client(host: str) -> Any:
    """Return kfp's client of a server that answers; kfp itself would try for half a minute, with many tracebacks."""
    import urllib3

    page = f"{host.rstrip('/')}/apis/v2beta1/healthz"
    answer = urllib3.PoolManager(retries=False, timeout=10).request("GET", page)
    if answer.status != 200:
        raise ClusterError(f"{page}: answers {answer.status}; {_remedy(answer.status)}", answer.status)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kfp import Client

        return Client(host=host)


def _upload(client: Any, pipeline: str, settings: Cluster, console: Console) -> tuple[str, str]:
    """Return the ids of the pipeline and of a version of it that does what this one does, or upload this one.

    A platform's own version is taken before this one: its steps have the images, resources and Secrets of that
    platform. Where the recipe or the environment names a registry, the steps' images are from there, as its jobs' are.
    """
    registry = os.environ.get("TELELLM_IMAGE_REGISTRY") or settings.registry
    tag = os.environ.get("TELELLM_IMAGE_TAG") or settings.tag or __version__
    text = IMAGE.sub(rf"image: {registry}/telellm/\g<name>:{tag}", _compiled(pipeline))
    version = f"{__version__}-{sha256(text.encode()).hexdigest()[:8]}"
    pipeline_id = client.get_pipeline_id(pipeline)
    if pipeline_id is not None:
        is_named = (registry, tag) != (DEFAULTS.registry, __version__)
        work = _work_of(next(yaml.safe_load_all(text)))
        for known in _versions(client, pipeline_id):
            is_this = version in (known.display_name, getattr(known, "name", None))
            if is_this or (not is_named and _work_of(known.pipeline_spec or {}) == work):
                console.line(f"{pipeline:<14}  version {known.display_name} is there")
                return pipeline_id, known.pipeline_version_id
    with tempfile.TemporaryDirectory(prefix="telellm-submit-") as folder:
        file = Path(folder) / f"{pipeline}.yaml"
        file.write_text(text, encoding="utf-8")
        if pipeline_id is None:
            pipeline_id = client.upload_pipeline(str(file), pipeline_name=pipeline).pipeline_id
        uploaded = client.upload_pipeline_version(str(file), version, pipeline_id=pipeline_id)
    console.line(f"{pipeline:<14}  uploaded version {version}")
    return pipeline_id, uploaded.pipeline_version_id


def _compiled(pipeline: str) -> str:
    """Return a pipeline as Kubeflow's YAML."""
    from kfp import compiler

    from pipelines import PIPELINES

    with tempfile.TemporaryDirectory(prefix="telellm-submit-") as folder:
        file = Path(folder) / f"{pipeline}.yaml"
        compiler.Compiler().compile(PIPELINES[pipeline], str(file))
        return file.read_text(encoding="utf-8")


def _work_of(specification: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a pipeline's specification says of the work alone: its tasks, and the code of each."""
    found = specification.get("pipeline_spec", specification)
    executors = found.get("deploymentSpec", {}).get("executors", {})
    return {
        "tasks": found.get("root", {}).get("dag"),
        "components": found.get("components"),
        "code": {name: (one["container"]["command"], one["container"]["args"]) for name, one in executors.items()},
    }


def _versions(client: Any, pipeline_id: str) -> Iterator[Any]:
    """Yield the versions of a pipeline, the newest first."""
    token = ""
    while True:
        page = client.list_pipeline_versions(
            pipeline_id, page_token=token, page_size=VERSIONS_AT_ONCE, sort_by="created_at desc"
        )
        yield from page.pipeline_versions or []
        token = page.next_page_token
        if not token:
            return


def _follow(client: Any, run_id: str, host: str, console: Console) -> str:
    """Show every task's change of state; returns the run's last state."""
    began, last_answer = time.monotonic(), time.monotonic()
    shown: dict[str, str] = {}
    while True:
        try:
            with _reached(host):
                run = client.get_run(run_id)
            last_answer = time.monotonic()
        except ClusterError:
            if time.monotonic() - last_answer > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)
            continue
        for task in (run.run_details.task_details if run.run_details else None) or []:
            if task.state and shown.get(task.task_id) != task.state and not task.display_name.endswith("-driver"):
                shown[task.task_id] = task.state
                console.line(f"{task.display_name:<14}  {duration(time.monotonic() - began):>11}  {task.state.lower()}")
        if run.state in ENDED:
            return str(run.state)
        time.sleep(POLL_SECONDS)


def _ask_whether_to_cancel(client: Any, run_id: str, console: Console) -> int:
    """Let the person say what becomes of the run; without a terminal it goes on."""
    answer = ""
    if sys.stdin.isatty():
        sys.stderr.write("\nthe run goes on; cancel it? [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
    if answer in ("y", "yes"):
        client.terminate_run(run_id)
        console.line("cancelled; what is finished is kept")
    else:
        console.line("the run goes on; the page above shows it")
    return 130


@contextmanager
def _reached(host: str) -> Iterator[None]:
    """Turn what the client raises into what a person can act on."""
    from kfp_server_api.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        body = " ".join(str(error.body or error.reason).split())[:500]
        status = int(error.status or 0)
        raise ClusterError(f"{host}: {status} {body}; {_remedy(status)}", status) from None
    except (HTTPError, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterError(
            f"{host}: the Kubeflow server does not answer ({type(reason).__name__}); check --host, or forward its "
            "port: kubectl port-forward svc/ml-pipeline-ui 8080:80"
        ) from None


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "log in, or forward its port: kubectl port-forward svc/ml-pipeline-ui 8080:80"
    return "is this the address of Kubeflow Pipelines 2?" if status < 500 else "see the log of ml-pipeline"
