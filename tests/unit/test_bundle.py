"""The archive for a site without a way out, with a stand-in for Docker that keeps images as files."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = """#!/bin/sh
# images are files in $HELD, pushed ones in $HELD/pushed
name() { echo "$1" | tr '/:' '__'; }
case "$1 $2" in
  "image inspect") test -e "$HELD/$(name "$3")" ;;
  "pull -q") exit 1 ;;
  "save -o") file=$3; shift 3; for i; do test -e "$HELD/$(name "$i")" || exit 1; echo "$i"; done >"$file" ;;
  "load -q") while read -r i; do touch "$HELD/$(name "$i")"; done <"$4" ;;
  "push -q") test -e "$HELD/$(name "$3")" && echo "$3" >>"$HELD/pushed" ;;
  tag*) test -e "$HELD/$(name "$2")" && touch "$HELD/$(name "$3")" ;;
esac
"""
IMAGES = ["registry.local/telellm/minio:0.1.0", "docker.io/library/mysql:8.4", "quay.io/argoproj/argoexec:v4.0.5"]


@pytest.fixture
def docker(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    held = tmp_path / "held"
    held.mkdir()
    for image in IMAGES:
        (held / image.replace("/", "_").replace(":", "_")).touch()
    return {**os.environ, "DOCKER": str(tmp_path / "docker"), "HELD": str(held), "PYTHON": sys.executable}


def bundle(folder: Path, docker: dict[str, str], *images: str) -> subprocess.CompletedProcess[str]:
    chart, compiled = folder / "telellm-0.1.0.tgz", folder / "compiled"
    chart.write_bytes(b"chart")
    compiled.mkdir(exist_ok=True)
    (compiled / "adapt.yaml").write_text("pipelineInfo: {}\n")
    command = ["bash", str(ROOT / "helm" / "bundle.sh"), str(chart), str(compiled), str(folder / "out" / "b.tar")]
    return subprocess.run([*command, *images], env=docker, capture_output=True, text=True)


def test_what_is_bundled_here_is_loaded_there(tmp_path: Path, docker: dict[str, str]) -> None:
    result = bundle(tmp_path, docker, *IMAGES)
    assert result.returncode == 0, result.stderr
    there = tmp_path / "there"
    with tarfile.open(tmp_path / "out" / "b.tar") as archive:
        archive.extractall(there, filter="data")
    found = {path.relative_to(there / "b").as_posix() for path in (there / "b").rglob("*") if path.is_file()}
    assert found == {
        "SHA256SUMS",
        "images.tar",
        "images.txt",
        "load.sh",
        "pipelines/adapt.yaml",
        "requirements.lock",
        "telellm-0.1.0.tgz",
    }
    held = tmp_path / "site"
    held.mkdir()
    site = {**docker, "HELD": str(held)}
    command = ["bash", str(there / "b" / "load.sh"), "registry.example.org/telecom/"]
    result = subprocess.run(command, env=site, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pushed = (held / "pushed").read_text().split()
    listed = subprocess.run(
        [sys.executable, str(ROOT / "helm" / "images.py"), "--registry", "registry.example.org/telecom"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(pushed) == len(IMAGES)
    assert set(pushed) <= set(listed), "the chart would not find these"
    assert "--set global.imageRegistry=registry.example.org/telecom" in result.stdout


def test_a_damaged_bundle_is_refused(tmp_path: Path, docker: dict[str, str]) -> None:
    bundle(tmp_path, docker, *IMAGES)
    with tarfile.open(tmp_path / "out" / "b.tar") as archive:
        archive.extractall(tmp_path / "there", filter="data")
    (tmp_path / "there" / "b" / "images.tar").write_text("")
    held = tmp_path / "site"
    held.mkdir()
    command = ["bash", str(tmp_path / "there" / "b" / "load.sh"), "registry.example.org"]
    result = subprocess.run(command, env={**docker, "HELD": str(held)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert "images.tar" in result.stdout + result.stderr and "damaged" in result.stderr
    assert not list(held.iterdir())


def test_an_image_that_is_not_there_is_named(tmp_path: Path, docker: dict[str, str]) -> None:
    result = bundle(tmp_path, docker, *IMAGES, "quay.io/argoproj/workflow-controller:v4.0.5")
    assert result.returncode == 1
    assert "quay.io/argoproj/workflow-controller:v4.0.5" in result.stderr
    assert not (tmp_path / "out" / "b.tar").exists()
