"""Build the images, try each in a container of its own, and print how large they are.

    python images/build.py [NAME...] [--registry R] [--tag T] [--build-arg A=B]... [--secret id=ca,src=FILE]...

Without names: every folder here that has a Dockerfile. Docker with BuildKit is needed; what it says is in build/logs/,
the bills of materials are in build/sbom/, and the figures in build/images.json.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
BILL = "/usr/share/sbom/telellm.cdx.json"
LIMITS_MB = {"launcher": 100}
"""How much an image may hold beyond the Python or Debian image that it is made from (10^6 bytes)."""
LIGHT_MB = 350
"""The limit of the others, …"""
BESIDE_TORCH_MB = 400
"""… and of those with PyTorch: beside what its wheel and the CUDA wheels install."""
LONGEST = "minio"
"""Built first: it compiles for minutes, while the others wait for the network and the disk."""

LOCKED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp", "--tmpfs=/cache"]
CONFINED = """
test "$(id -u)" = 10001 || { echo "runs as user $(id -u), not as 10001"; exit 1; }
touch /tmp/x || exit 1
if touch /var/tmp/x 2>/dev/null; then echo "writes to /var/tmp under a read-only root"; exit 1; fi
for tool in uv cc go; do if command -v $tool; then echo "holds $tool, which only builds"; exit 1; fi; done
"""
OWNED = "for d in / /etc /usr/bin /opt/*; do if touch $d/x 2>/dev/null; then echo writes to $d; exit 1; fi; done"
WHEELS = """
from importlib.metadata import distributions
names = "torch", "triton", "nvidia-", "cuda-"
files = [f for d in distributions() if d.metadata["Name"].startswith(names) for f in d.files]
print(sum(file.size or 0 for file in files))
"""
MAY_LACK = {
    "launcher": ["pyarrow", "numpy"],
    "screen": ["torch", "transformers", "huggingface_hub"],
    "draft": ["torch", "transformers", "huggingface_hub"],
    "distinct": ["torch", "transformers", "huggingface_hub", "sentence_transformers"],
    "tele-eval": ["torch", "transformers", "huggingface_hub"],
}
"""What the code has for other places: the launcher reads no records, and these stages ask a model at an endpoint."""
LAUNCHED = """
from telellm.recipe import Cluster
from telellm.runs import find_stage
print(*(find_stage(name) for name in Cluster().stages))
"""


class Failed(RuntimeError):
    """An image cannot be built, does not work or is too large; the message says which and why."""


def main() -> int:
    """Build, try and measure; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the images, try each, and print how large they are.")
    parser.add_argument("name", nargs="*", help="folders of images/ (default: all)")
    parser.add_argument("--registry", default="registry.local", help="default: registry.local")
    parser.add_argument("--tag", default=version(), help=f"default: telellm's version, {version()}")
    parser.add_argument("--build-arg", action="append", default=[], metavar="A=B", help="as docker's")
    parser.add_argument("--secret", action="append", default=[], metavar="S", help="as docker's; ids: ca, netrc")
    options = parser.parse_args()
    try:
        names = order(options.name or [folder.parent.name for folder in ROOT.glob("images/*/Dockerfile")])
        images = {name: f"{options.registry}/telellm/{name}:{options.tag}" for name in order([*names, "base-torch"])}
        docker = find_docker()
        build_all(docker, names, images, options)
        measure_all(docker, names, images, options)
    except Failed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


def version() -> str:
    """Return telellm's version, without importing it."""
    return re.search(r'__version__ = "(.+)"', (ROOT / "telellm/__init__.py").read_text())[1]


def parents(name: str) -> list[str]:
    """Return the images of ours that one is built from."""
    file = ROOT / "images" / name / "Dockerfile"
    if not file.is_file():
        known = ", ".join(sorted(folder.parent.name for folder in ROOT.glob("images/*/Dockerfile")))
        raise Failed(f'"{name}" is no image\n  known images: {known}')
    return re.findall(r"registry\.local/telellm/([\w-]+):", file.read_text())


def order(names: Sequence[str]) -> list[str]:
    """Return the images and all that they are built from, in an order to build them in."""
    found: list[str] = []
    for name in sorted(names, key=lambda name: (name != LONGEST, name)):
        found += [other for other in [*order(parents(name)), name] if other not in found]
    return found


def find_docker() -> str:
    """Return a docker that can build with BuildKit: $DOCKER, or the first on the path that does."""
    places = os.get_exec_path()
    known = [os.environ["DOCKER"]] if os.environ.get("DOCKER") else [shutil.which("docker", path=p) for p in places]
    os.environ["DOCKER_BUILDKIT"] = "1"
    for docker in filter(None, known):
        if subprocess.run([docker, "build", "--help"], capture_output=True).returncode == 0:
            return docker
    raise Failed("no docker with BuildKit is on the path; install docker's buildx, or set DOCKER")


def build_all(docker: str, names: list[str], images: dict[str, str], options: argparse.Namespace) -> None:
    """Build the images two at a time, each after those it is built from."""
    revision = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty"], capture_output=True, text=True, cwd=ROOT
    )
    arguments = [f"VERSION={version()}", f"REVISION={revision.stdout.strip() or 'unknown'}", *options.build_arg]
    common = [word for argument in arguments for word in ("--build-arg", argument)]
    common += [word for secret in options.secret for word in ("--secret", secret)]

    def build(name: str, waits_for: list[Future]) -> None:
        for other in waits_for:
            other.result()
        ours = [word for p in parents(name) for word in ("--build-arg", f"{argument_of(p)}={images[p]}")]
        target = ["-f", f"images/{name}/Dockerfile", "-t", images[name]]
        start = time.monotonic()
        call(name, [docker, "build", "--network=host", "--progress=plain", *target, *ours, *common, "."])
        print(f"{images[name]}  built in {time.monotonic() - start:.0f} s", flush=True)

    done: dict[str, Future] = {}
    with ThreadPoolExecutor(2) as pool:
        for name in names:
            done[name] = pool.submit(build, name, [done[parent] for parent in parents(name)])
    for future in done.values():
        future.result()


def argument_of(parent: str) -> str:
    """Return the build argument that names one of our images in the Dockerfiles of the others."""
    return "TOOLS_IMAGE" if parent == "tools" else "BASE_IMAGE"


def call(name: str, command: list[str], given: str | None = None) -> str:
    """Run a command of docker for an image, into its log; returns what it printed."""
    log = BUILD / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        command, input=given or "", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    with log.open("w" if command[1] == "build" else "a") as stream:
        stream.write(f"$ {' '.join(command)}\n{result.stdout}\n")
    if result.returncode:
        last = "\n".join(f"  {line}" for line in result.stdout.splitlines()[-15:])
        raise Failed(f"{name}: docker {command[1]} ended with code {result.returncode} ({log})\n{last}")
    return result.stdout


def try_out(docker: str, name: str, image: str) -> float | None:
    """Try an image in containers without a network; returns the seconds that its imports take, if it has any."""

    def run(*command: str, given: str | None = None, limits: Sequence[str] = LOCKED) -> str:
        entry = [f"--entrypoint={command[0]}"] if command[0] else []
        start = [docker, "run", "--rm", "-i", "--network=none", *limits, *entry, image]
        return call(name, [*start, *command[1:]], given)

    run("sh", "-c", CONFINED)
    run("sh", "-c", OWNED, limits=())
    bill = BUILD / "sbom" / f"{name}.cdx.json"
    bill.parent.mkdir(parents=True, exist_ok=True)
    bill.write_text(run("cat", BILL))
    if len(json.loads(bill.read_text())["components"]) < 50:
        raise Failed(f"{name}: {BILL} lacks what Debian and the language put into the image")
    if name == "minio":
        run("", "--version")
        run("mc", "--version")
        return None
    modules = ["kfp.dsl.executor_main"]
    if name == "launcher":
        run("", "--help")
        run("python", "-c", LAUNCHED)
        modules.append("telellm.cluster")
    elif not name.startswith("base"):
        run("", "stage", name, "--help")
        modules.append(stage_module(name))
    lacks = ["--may-lack", *MAY_LACK.get(name, [])]
    result = run("python", "-", *modules, *lacks, given=(ROOT / "images/imports.py").read_text())
    return json.loads(result.splitlines()[-1])["seconds"]


def stage_module(name: str) -> str:
    """Return the module of a stage, from the table in telellm/runs.py."""
    return re.search(rf'^    "{name}": "(.+)",$', (ROOT / "telellm/runs.py").read_text(), flags=re.MULTILINE)[1]


def measure_all(docker: str, names: list[str], images: dict[str, str], options: argparse.Namespace) -> None:
    """Try and measure the images, print the table; raises `Failed` for those that do not work or are too large."""

    def size(image: str) -> int:
        inspect = [docker, "image", "inspect", "-f", "{{.Size}}", image]
        if subprocess.run(inspect, capture_output=True).returncode:
            call("tools", [docker, "pull", image])
        return int(call("tools", inspect))

    torch = [name for name in names if "base-torch" in (name, *parents(name))]
    wheels = ["run", "--rm", "--network=none", "--entrypoint=python", images["base-torch"], "-c", WHEELS]
    wheels_mb = int(call("base-torch", [docker, *wheels])) / 1e6 if torch else 0
    figures, failures = [], []
    print(f"\n{'image':16}{'MB':>8}{'beyond base':>13}{'limit':>8}{'imports s':>11}")
    with ThreadPoolExecutor(2) as pool:
        tried = {name: pool.submit(try_out, docker, name, images[name]) for name in names if name != "tools"}
        for name, result in tried.items():
            beyond = size(images[name]) - size(origin(name, options.build_arg))
            limit = wheels_mb + BESIDE_TORCH_MB if name in torch else LIMITS_MB.get(name, LIGHT_MB)
            seconds = None
            try:
                seconds = result.result()
            except Failed as failure:
                failures.append(str(failure))
            if beyond > limit * 1e6:
                failures.append(f"{name}: {beyond / 1e6:.0f} MB beyond its base, more than {limit:.0f}")
            figures.append(
                {"name": name, "image": images[name], "bytes": size(images[name]), "bytes_beyond_base": beyond}
            )
            figures[-1] |= {"limit_bytes": int(limit * 1e6), "import_seconds": seconds}
            columns = f"{size(images[name]) / 1e6:8.0f}{beyond / 1e6:13.0f}{limit:8.0f}{seconds or '-':>11}"
            print(f"{name:16}{columns}", flush=True)
    (BUILD / "images.json").write_text(json.dumps({"wheels_bytes": int(wheels_mb * 1e6), "images": figures}, indent=1))
    if failures:
        raise Failed("\n".join(failures))


def origin(name: str, build_arguments: Sequence[str]) -> str:
    """Return the image of others that an image is made from: Python's, or Debian's for MinIO."""
    argument = "DEBIAN_IMAGE" if name == "minio" else "PYTHON_IMAGE"
    given = dict(text.partition("=")[::2] for text in build_arguments)
    text = (ROOT / "images" / ("minio" if name == "minio" else "base") / "Dockerfile").read_text()
    return given.get(argument) or re.search(rf"^ARG {argument}=(.+)$", text, flags=re.MULTILINE)[1]


if __name__ == "__main__":
    sys.exit(main())
