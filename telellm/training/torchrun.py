"""Torchrun: the training program in processes of this machine, alone or as one node of many."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from telellm.progress import Progress
from telellm.stage import Interrupted, StageFailed, end_with_parent, workspace
from telellm.training.job import Complaint, Job, Step, read_event

LINES_KEPT = 30
RENDEZVOUS_SECONDS = 300
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Node:
    """This pod's part in a PyTorchJob, as the operator's environment tells it."""

    rank: int
    num_nodes: int
    processes: str
    port: int

    @property
    def address(self) -> str:
        """This pod's own address; other pods reach it by this one even before its name is known to the cluster."""
        return socket.gethostbyname(socket.gethostname())


def find_node() -> Node | None:
    """Return this pod's part in a PyTorchJob (its `PET_*` environment), or None outside of one."""
    given = os.environ
    if "PET_NNODES" not in given:
        return None
    rank, number = int(given.get("PET_NODE_RANK", 0)), int(given["PET_NNODES"])
    return Node(rank, number, given.get("PET_NPROC_PER_NODE", "auto"), int(given.get("PET_MASTER_PORT", 23456)))


def standalone(num_processes: int) -> list[str]:
    """Return torchrun's arguments for processes of this machine alone."""
    return ["--standalone", "--nproc-per-node", str(num_processes)]


def joined(node: Node, address: str) -> list[str]:
    """Return torchrun's arguments for one node of many; `address` is the first node's."""
    return [
        *("--nnodes", str(node.num_nodes), "--node-rank", str(node.rank), "--nproc-per-node", node.processes),
        *("--master-addr", address, "--master-port", str(node.port)),
        *("--rdzv-conf", f"timeout={RENDEZVOUS_SECONDS}", "--max-restarts", "0"),
    ]


class Superseded(Interrupted):
    """The first node has started again, and calls the others to where it is now."""


def run_program(
    job: Job, work: Path, progress: Progress, arguments: list[str], superseded: Callable[[], bool] | None = None
) -> None:
    """Run the program to its end, and show its steps; what it makes is in `work`.

    It is ended as soon as `superseded` says so, which is asked all the while. Raises `StageFailed` with the program's
    own words when it fails, `Interrupted` when something outside ended it: a process was killed, another node is gone,
    the store stayed away.
    """
    file = job.write(work / "job.json")
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    process = subprocess.Popen(
        [*command, "-m", "telellm.training.program", str(file), str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(arguments),
        preexec_fn=end_with_parent,
    )
    assert process.stdout is not None
    is_superseded = _end_when(superseded, process) if superseded else threading.Event()
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    complaints: list[Complaint] = []
    try:
        for line in process.stdout:
            event = read_event(line)
            if isinstance(event, Step):
                _show(progress, event)
            elif isinstance(event, Complaint):
                complaints.append(event)
            elif event:
                progress.note(event)
            else:
                lines.append(line.rstrip())
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if is_superseded.is_set():
        raise Superseded(f"{progress.stage}: the first node has started again")
    if code:
        # of several processes, one had a reason of its own, the others lost it
        cause = min(complaints, key=lambda complaint: complaint.interrupted, default=None)
        said = cause.text if cause else "\n".join(lines)
        failure = StageFailed if cause and not cause.interrupted else Interrupted
        raise failure(f"{progress.stage}: the training program ended with code {code}: {said}")


def _end_when(superseded: Callable[[], bool], process: "subprocess.Popen[str]") -> threading.Event:
    """End a process when `superseded` says so; returns what is set then."""
    happened = threading.Event()

    def watch() -> None:
        while process.poll() is None:
            if superseded():
                happened.set()
                process.kill()  # torchrun does not hear a gentler signal while it waits for a node that is gone
                return
            time.sleep(PAUSE_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
    return happened


def _environment(arguments: list[str]) -> dict[str, str]:
    """Every variable of this process but the operator's, whose place the arguments take."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
    number = arguments[arguments.index("--nproc-per-node") + 1]
    num_processes = int(number) if number.isdigit() else 1
    threads = str(max(1, workspace() // num_processes))
    return {"OMP_NUM_THREADS": threads} | kept | {"TOKENIZERS_PARALLELISM": "false"}


def _show(progress: Progress, event: Step) -> None:
    if event.step == event.resumed + 1:
        if event.resumed:
            progress.say(f"goes on after step {event.resumed}")
        progress.start(event.num_steps, "steps")
        progress.advance(event.resumed)
    progress.advance(note=event.line())
