"""A cluster as the tests see it: kubectl, the store behind a forwarded port, and telellm's own processes."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import yaml

from telellm.progress import read_event
from telellm.store import Store
from telellm.training.checkpoints import complete
from tests.conftest import end_with_parent, free_ports

ROOT = Path(__file__).parents[2]
TELELLM = Path(sys.executable).with_name("telellm")
PATIENCE_SECONDS = 600
"""No test waits for a time: this is when it stops to believe that something will still happen."""
JOBS = ("pytorchjobs", "jobs")


def wait_until(what: str, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Return what a condition returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


@dataclass
class Process:
    """A telellm that was started; what it says goes to a file."""

    popen: "subprocess.Popen[bytes]"
    output: Path

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        return [event for line in self.said().split("\n") if (event := read_event(line))]

    def step(self) -> int:
        """The newest training step that it showed."""
        return next((e["done"] for e in reversed(self.events()) if e.get("unit") == "steps"), 0)

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for something that must happen while it runs."""

        def checked() -> Any:
            found = condition()
            if not found and self.popen.poll() is not None:
                raise AssertionError(f"{what}: telellm ended before, with {self.popen.returncode}:\n{self.said()}")
            return found

        return wait_until(what, checked)

    def end(self, code: int = 0) -> str:
        """Wait for its end; returns what it said."""
        try:
            self.popen.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"telellm does not end:\n{self.said()}") from None
        assert self.popen.returncode == code, self.said()
        return self.said()


@dataclass
class Cluster:
    """One namespace of a real cluster, with MinIO and the training operator."""

    namespace: str
    kubeconfig: str
    """The administrator's; telellm gets that of the account `telellm-launcher`."""
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    """What telellm finds: the launcher's kubeconfig, and the store behind the forwarded port."""
    processes: list[Process] = field(default_factory=list)

    @property
    def as_administrator(self) -> list[str]:
        """The beginning of a command: kubectl, as an administrator, in the namespace."""
        return ["env", f"KUBECONFIG={self.kubeconfig}", "kubectl", f"--namespace={self.namespace}"]

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        command = [*self.as_administrator, *arguments]
        result = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert not check or result.returncode == 0, f"{shlex.join(arguments)}: {result.stderr}"
        return result.stdout

    def get(self, kind: str, *selector: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that are there."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json", *selector))["items"]
        return found

    def pods(self) -> dict[str, str]:
        """Return name → uid of the pods of telellm's jobs that are not being deleted."""
        found = self.get("pods", "-l", "app.kubernetes.io/managed-by=telellm")
        return {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def running(self, end_of_name: str) -> str:
        """Return the name of a running pod whose name ends so (or holds it, before a random part), or ""."""
        for pod in self.get("pods", "-l", "app.kubernetes.io/managed-by=telellm"):
            name, phase = pod["metadata"]["name"], pod["status"].get("phase")
            if re.search(rf"-{end_of_name}(-\w{{5}})?$", name) and phase == "Running":
                return str(name)
        return ""

    def is_empty(self) -> bool:
        """Say whether no job of telellm and no pod of one is there."""
        selector = ("-l", "app.kubernetes.io/managed-by=telellm")
        return not any(self.get(kind, *selector) for kind in (*JOBS, "pods"))

    def in_minio(self, script: str) -> str:
        """Run a shell script beside the server; `mc` knows it as `here`."""
        known = 'mc() { command mc --config-dir /tmp/mc "$@"; }; '
        known += 'mc alias set here http://127.0.0.1:9000 "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD"'
        return self.kubectl("exec", "minio-0", "--", "sh", "-ec", f"{known}\n{script}")

    def scale_minio(self, replicas: int) -> None:
        self.kubectl("scale", "statefulset/minio", f"--replicas={replicas}")
        if replicas:
            self.kubectl("rollout", "status", "statefulset/minio", f"--timeout={PATIENCE_SECONDS}s")
        else:
            self.kubectl("wait", "--for=delete", "pod/minio-0", f"--timeout={PATIENCE_SECONDS}s")

    def start_script(self, name: str, script: Path, port: int, *arguments: str, image: str, **files: str) -> None:
        """Let a pod of an image with Python run a script of this repository, which listens at the Service's port.

        Files lie beside the script, in its working folder; names may hold `__` for a dot. The pod is labelled `app`.
        """
        given = {script.name: script.read_text()} | {key.replace("__", "."): text for key, text in files.items()}
        container = {
            "name": name,
            "image": image,
            "command": ["python", script.name, *arguments],
            "workingDir": "/files",
            "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "files", "mountPath": "/files"}],
        }
        spec = {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "files", "secret": {"secretName": name}}],
        }
        metadata = {"name": name, "labels": {"app": name}}
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "Secret", "stringData": given},
            {"apiVersion": "v1", "kind": "Pod", "spec": spec},
            {"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"app": name}, "ports": [{"port": port}]}},
        ]
        self.kubectl("apply", "-f", "-", given=yaml.safe_dump_all([one | {"metadata": metadata} for one in objects]))
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={PATIENCE_SECONDS}s")

    def stop_script(self, name: str) -> None:
        """Delete what was made for a script."""
        self.kubectl("delete", "pod,service,secret", "-l", f"app={name}")

    def telellm(self, *arguments: str | Path, **changes: str) -> Process:
        """Start telellm as the launcher's account; it ends with the tests."""
        output = self.folder / f"telellm-{time.monotonic_ns()}.log"
        with output.open("wb") as stream:
            popen = subprocess.Popen(
                [str(TELELLM), *map(str, arguments)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment | changes,
                cwd=ROOT,
                preexec_fn=end_with_parent,
            )
        self.processes.append(Process(popen, output))
        return self.processes[-1]

    def clear(self) -> None:
        """End what a test that failed left behind."""
        for process in self.processes:
            process.popen.kill()
        self.processes.clear()
        for kind in JOBS:
            self.kubectl("delete", kind, "-l", "app.kubernetes.io/managed-by=telellm")
        wait_until("nothing is left", self.is_empty)

    def stage(self, name: str, run: str, **inputs: str) -> Process:
        """Start a stage of a run, as a component of the pipeline does; its events go to its output."""
        given = [part for key, place in inputs.items() for part in ("--input", f"{key}={place}")]
        return self.telellm("stage", name, "--run", run, *given, TELELLM_EVENTS="1")


class Supervised(threading.Thread):
    """A command that is started again whenever it ends, or does not work any more."""

    def __init__(self, command: list[str], output: Path, works: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self.command, self.output, self.works = command, output, works
        self.ended = threading.Event()
        self.popen: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        with self.output.open("ab") as stream:
            while not self.ended.is_set():
                self.popen = subprocess.Popen(self.command, stdout=stream, stderr=stream, preexec_fn=end_with_parent)
                failures = 0
                while self.popen.poll() is None and failures < 3 and not self.ended.is_set():
                    self.ended.wait(1)
                    failures = 0 if self.works() else failures + 1
                self.popen.kill()
                self.popen.wait()
                self.ended.wait(0.3)

    def stop(self) -> None:
        self.ended.set()
        if self.popen is not None:
            self.popen.terminate()
        self.join()


@contextmanager
def supervised(command: list[str], output: Path, works: Callable[[], bool] = lambda: True) -> Iterator[Supervised]:
    thread = Supervised(command, output, works)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


@contextmanager
def forwarded_store(cluster: Cluster, service: str) -> Iterator[str]:
    """Give an address of this machine behind which a store's Service is, also after its pod was replaced."""
    (port,) = free_ports(1)

    def works() -> bool:  # it may go on without an end to a pod that is gone
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        with suppress(OSError, HTTPException):
            connection.request("GET", "/minio/health/live")
            return connection.getresponse().status == 200
        return False

    command = [*cluster.as_administrator, "port-forward", f"service/{service}", f"{port}:9000"]
    with supervised(command, cluster.folder / "port-forward.log", works):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def remembered_jobs(cluster: Cluster, kind: str) -> Iterator[Callable[[], dict[str, set[str]]]]:
    """Give what returns every job of a kind that ever was there while the body ran: name → uids."""
    output = cluster.folder / f"{kind}-{time.monotonic_ns()}.log"
    columns = "custom-columns=NAME:.metadata.name,UID:.metadata.uid"
    command = [*cluster.as_administrator, "get", kind, "--watch", "--no-headers", "-o", columns]

    def seen() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in output.read_text().splitlines():
            with suppress(ValueError):  # the words of an error
                name, uid = line.split()
                found.setdefault(name, set()).add(uid)
        return found

    with supervised(command, output):
        yield seen


def copy_output(source: Store, place: str, target: Store) -> str:
    """Put a finished output into another store, at the same place; returns the place."""
    manifest = source.manifest(place)
    assert manifest is not None
    for name, entry in manifest["files"].items():
        target.upload(f"{place}/{name}", source.fetch(entry.get("key", f"{place}/{name}"), entry["sha256"]))
    files = {name: {key: entry[key] for key in ("bytes", "sha256")} for name, entry in manifest["files"].items()}
    target.write_json(f"{place}/manifest.json", manifest | {"files": files})
    return place


def note(store: Store, run: str, step: str) -> dict[str, Any]:
    """Return what a run noted of a finished step: its output's place and manifest."""
    found = store.read_json(f"runs/{run}/stages/{step}.json")
    assert found is not None, f"{step} of {run} is not done"
    return found


def checkpoints(store: Store, run: str = "run") -> list[int]:
    """Return the steps of the finished checkpoints of a run's pretraining."""
    places = {key.rpartition("/step-")[0] for key in store.list(f"runs/{run}/checkpoints") if "/step-" in key}
    return complete(store, places.pop()) if places else []


def losses(store: Store, run: str, step: str) -> dict[int, float]:
    """Return step → loss of a finished training; every step must be there once, in order."""
    place = note(store, run, step)["output"]
    lines = [json.loads(line) for line in store.read(f"{place}/log.jsonl").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return {line["step"]: line["loss"] for line in lines}


def torn(store: Store) -> list[str]:
    """Return what is wrong with the manifests in a store: files that are not there or not what the manifest says."""
    found = []
    for key in store.list(""):
        if not key.endswith("/manifest.json"):
            continue
        place = key.rpartition("/")[0]
        for name, entry in (store.manifest(place) or {"files": {}})["files"].items():
            try:
                store.fetch(entry.get("key", f"{place}/{name}"), entry["sha256"])
            except ValueError as error:
                found.append(str(error))
    return found
