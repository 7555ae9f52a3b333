"""The archive for a site without a way out, made from what Docker saves; test_chart_bundle.py loads it there."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = """#!/bin/sh
# images are names in $HELD/names; saving them gives $HELD/saved.tar
case "$1 $2" in
  "image inspect") grep -qxF "$3" "$HELD/names" ;;
  "save "*) cat "$HELD/saved.tar" ;;
  *) exit 1 ;;
esac
"""
IMAGES = ["registry.local/telellm/minio:0.1.0", "docker.io/library/mysql:8.4", "quay.io/argoproj/argoexec:v4.0.5"]


def layer(**files: str) -> bytes:
    """Return a layer with files, uncompressed."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return written.getvalue()


BASE, OWN = layer(etc="what all share" * 400_000), {name: layer(name=name) for name in IMAGES}


def saved(names: list[str], of_docker_25: bool) -> bytes:
    """Return what `docker save` writes: its own names of images, layers as they are, a shared one once."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    listed = []
    for number, name in enumerate(names):
        layers = [BASE, OWN[name]]
        diffs = ["sha256:" + hashlib.sha256(content).hexdigest() for content in layers]
        rootfs = {"type": "layers", "diff_ids": diffs}
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
        digest = hashlib.sha256(config).hexdigest()
        if of_docker_25:
            places = [f"blobs/sha256/{diff[7:]}" for diff in diffs]
            place = f"blobs/sha256/{digest}"
        else:
            places = [f"{number}-{part}/layer.tar" for part in range(2)]
            place = f"{digest}.json"
            if number:
                links[places[0]] = "../0-0/layer.tar"
        files[place] = config
        files |= {where: content for where, content in zip(places, layers, strict=True) if where not in links}
        own_name = name.removeprefix("docker.io/").removeprefix("library/")
        listed.append({"Config": place, "RepoTags": [own_name], "Layers": places})
    files["manifest.json"] = json.dumps(listed).encode()
    return archive_of(files, links)


def archive_of(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return written.getvalue()


def make_bundle(folder: Path, names: list[str], of_docker_25: bool = True) -> subprocess.CompletedProcess[str]:
    """Write folder/out/b.tar with `helm/bundle.sh`, where Docker has three images."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    (folder / "names").write_text("\n".join(IMAGES) + "\n")
    (folder / "saved.tar").write_bytes(saved([name for name in names if name in IMAGES], of_docker_25))
    chart, compiled = folder / "telellm-0.1.0.tgz", folder / "compiled"
    chart.write_bytes(b"chart")
    compiled.mkdir(exist_ok=True)
    (compiled / "adapt.yaml").write_text("pipelineInfo: {}\n")
    command = ["bash", str(ROOT / "helm" / "bundle.sh"), str(chart), str(compiled), str(folder / "out" / "b.tar")]
    environment = os.environ | {"DOCKER": str(folder / "docker"), "HELD": str(folder), "PYTHON": sys.executable}
    return subprocess.run([*command, *names], env=environment, capture_output=True, text=True)


def unpacked(folder: Path, of_docker_25: bool = True) -> Path:
    result = make_bundle(folder, IMAGES, of_docker_25)
    assert result.returncode == 0, result.stderr
    with tarfile.open(folder / "out" / "b.tar") as archive:
        archive.extractall(folder / "there")
    return folder / "there" / "b"


@pytest.mark.parametrize("of_docker_25", [True, False])
def test_a_bundle_holds_each_layer_once_compressed_under_its_digest(tmp_path: Path, of_docker_25: bool) -> None:
    bundle = unpacked(tmp_path, of_docker_25)
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    blobs = {name for name in found if name.startswith("images/blobs/")}
    assert found - blobs == {
        *("SHA256SUMS", "images.txt", "images.yaml", "load.py", "load.sh", "pipelines/adapt.yaml", "requirements.lock"),
        *("telellm-0.1.0.tgz", "images/index.json", "images/oci-layout"),
    }
    assert len(blobs) == 3 * 3 + 1, "manifest, config and layer of each, and what they share"
    for name in blobs:
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == Path(name).name
    for entry in json.loads((bundle / "images" / "index.json").read_text())["manifests"]:
        read = {part["digest"]: blob(bundle, part) for part in json.loads(blob(bundle, entry))["layers"]}
        name = entry["annotations"]["org.opencontainers.image.ref.name"]
        assert [gzip.decompress(content) for content in read.values()] == [BASE, OWN[name]]


def blob(bundle: Path, described: dict[str, Any]) -> bytes:
    return (bundle / "images" / "blobs" / "sha256" / described["digest"][7:]).read_bytes()


def test_the_same_images_make_the_same_bundle_whatever_docker_saved_them(tmp_path: Path) -> None:
    sums = [(unpacked(tmp_path / str(new), new) / "SHA256SUMS").read_text() for new in (True, False)]
    assert sums[0] == sums[1]


def test_the_values_of_a_bundle_pin_its_images(tmp_path: Path) -> None:
    bundle = unpacked(tmp_path)
    pinned = yaml.safe_load((bundle / "images.yaml").read_text())["images"]
    assert set(pinned) == {"minio", "mysql", "argoexec"}
    listed = dict(line.split("@") for line in (bundle / "images.txt").read_text().split())
    assert listed == dict(zip(IMAGES, (pinned[name]["digest"] for name in ("minio", "mysql", "argoexec")), strict=True))


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = make_bundle(tmp_path, [*IMAGES, "quay.io/argoproj/workflow-controller:v4.0.5"])
    assert result.returncode == 1
    assert "quay.io/argoproj/workflow-controller:v4.0.5" in result.stderr
    assert not (tmp_path / "out" / "b.tar").exists()


@pytest.mark.parametrize(
    ("files", "links", "said"),
    [
        ({"a": b"x"}, {}, "no manifest.json"),
        ({"manifest.json": b'[{"Config": "c", "RepoTags": ["a:1"], "Layers": []}]'}, {}, "c is not in it"),
        (
            {"c": b"{}", "manifest.json": b'[{"Config": "c", "RepoTags": ["a:1"], "Layers": ["../../etc/passwd"]}]'},
            {},
            "../../etc/passwd is not in it",
        ),
        ({"c": b"{}"}, {"a/layer.tar": "../../etc/passwd"}, "leaves the archive"),
        (
            {"c": b"{}", "manifest.json": b'[{"Config": "c", "RepoTags": ["b:1"], "Layers": []}]'},
            {},
            "a:1 is not in it",
        ),
    ],
)
def test_an_archive_that_names_what_is_not_in_it_is_refused(
    tmp_path: Path, files: dict[str, bytes], links: dict[str, str], said: str
) -> None:
    command = [sys.executable, str(ROOT / "helm" / "layout.py"), str(tmp_path / "layout"), "a:1"]
    result = subprocess.run(command, input=archive_of(files, links), capture_output=True)
    assert result.returncode == 1
    assert said in result.stderr.decode() and b"Traceback" not in result.stderr
    assert not list(tmp_path.rglob("passwd"))
