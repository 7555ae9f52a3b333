"""Turn what `docker save` writes into an OCI image layout, with layers compressed and each once.

    docker save IMAGE... | python helm/layout.py FOLDER IMAGE...

A layout keeps its digests wherever it is copied, so that a site can pin what it loaded. The archive is read once, as it
comes: nothing of it lies on the disk uncompressed.
"""

import gzip
import hashlib
import json
import sys
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+"
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a layer that is compressed already → how."""
NAME = "org.opencontainers.image.ref.name"
LARGEST_TEXT = 4 << 20
"""A longer file of an archive is none of its descriptions (bytes)."""
LEVEL = 1
"""Wheels and libraries become hardly smaller at a higher one, and take four times as long."""
PIECE = 1 << 20


def main() -> int:
    """Write the layout; returns the exit status."""
    if len(sys.argv) < 3:
        sys.stderr.write(f"{__doc__}")
        return 2
    try:
        images = write_layout(sys.stdin.buffer, Path(sys.argv[1]), sys.argv[2:])
    except (ValueError, tarfile.TarError) as error:
        sys.stderr.write(f"error: this is no archive of `docker save`: {error}\n")
        return 1
    for name, digest in images:
        sys.stdout.write(f"{name}@{digest}\n")
    return 0


def write_layout(archive: IO[bytes], folder: Path, names: Collection[str]) -> list[tuple[str, str]]:
    """Write the layout of an archive; returns name and digest of each image, by the names given.

    Layers are `blobs/sha256/…` of Docker 25 and later, `…/layer.tar` of earlier ones, which link to a layer that came
    before. Raises `ValueError` where the archive names what is not in it.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers: dict[str, dict[str, Any]] = {}
    texts: dict[str, bytes] = {}
    links: dict[str, str] = {}
    with tarfile.open(fileobj=archive, mode="r|") as members:
        for member in members:
            if member.issym() or member.islnk():
                links[member.name] = _target(member)
            elif member.isfile():
                content = members.extractfile(member)
                assert content is not None
                if member.size <= LARGEST_TEXT and not member.name.endswith("layer.tar"):
                    texts[member.name] = content.read()
                else:
                    layers[member.name] = _write_layer(content, blobs)

    def layer(name: str) -> dict[str, Any]:
        name = links.get(name, name)
        if name in texts and name not in layers:
            layers[name] = _write_layer(_Text(texts[name]), blobs)
        if name not in layers:
            raise ValueError(f"layer {name} is not in it")
        return layers[name]

    if "manifest.json" not in texts:
        raise ValueError("it has no manifest.json")
    described_as: dict[str, dict[str, Any]] = {}
    for image in json.loads(texts["manifest.json"]):
        if image["Config"] not in texts:
            raise ValueError(f"{image['Config']} is not in it")
        config = _write(texts[image["Config"]], blobs) | {"mediaType": CONFIG}
        described = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config}
        described["layers"] = [layer(name) for name in image["Layers"]]
        manifest = _write(json.dumps(described, sort_keys=True).encode(), blobs) | {"mediaType": MANIFEST}
        described_as.update({short(name): manifest for name in image["RepoTags"] or []})
    if missing := [name for name in names if short(name) not in described_as]:
        raise ValueError(f"{missing[0]} is not in it")
    found = [described_as[short(name)] | {"annotations": {NAME: name}} for name in names]
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n', encoding="utf-8")
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found}
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return [(entry["annotations"][NAME], entry["digest"]) for entry in found]


def short(name: str) -> str:
    """Return the name by which Docker knows an image of its own registry: docker.io/library/mysql:8.4 is mysql:8.4."""
    return name.removeprefix("docker.io/").removeprefix("library/")


class _Text:
    """Bytes in memory, read as a file is."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, size: int) -> bytes:
        piece, self.content = self.content[:size], self.content[size:]
        return piece


def _target(member: tarfile.TarInfo) -> str:
    """Return what a link means: `a/layer.tar` → `../b/layer.tar` is `b/layer.tar`."""
    if member.islnk():
        return member.linkname
    parts: list[str] = member.name.split("/")[:-1]
    for part in member.linkname.split("/"):
        if part == "..":
            if not parts:
                raise ValueError(f"the link {member.name} leaves the archive: {member.linkname}")
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _write(content: bytes, blobs: Path) -> dict[str, Any]:
    found = hashlib.sha256(content).hexdigest()
    (blobs / found).write_bytes(content)
    return {"digest": f"sha256:{found}", "size": len(content)}


def _write_layer(content: Any, blobs: Path) -> dict[str, Any]:
    """Compress a layer, unless it is compressed, into a file called after its digest."""
    first = content.read(PIECE)
    kind = next((kind for magic, kind in PACKED.items() if first.startswith(magic)), "")
    part = blobs / ".part"
    digest = hashlib.sha256()
    with part.open("wb") as target:
        for piece in _pieces(first, content, compress=not kind):
            digest.update(piece)
            target.write(piece)
    size = part.stat().st_size
    part.replace(blobs / digest.hexdigest())
    return {"mediaType": LAYER + (kind or "gzip"), "digest": f"sha256:{digest.hexdigest()}", "size": size}


def _pieces(first: bytes, content: Any, compress: bool) -> Iterator[bytes]:
    """Yield a layer's compressed bytes: the same for the same layer, whenever it is written."""
    if not compress:
        piece = first
        while piece:
            yield piece
            piece = content.read(PIECE)
        return
    sink = _Sink()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=sink, mtime=0) as target:
        piece = first
        while piece:
            target.write(piece)
            yield sink.taken()
            piece = content.read(PIECE)
    yield sink.taken()


class _Sink:
    """What gzip writes, until it is taken."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self.pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        found = b"".join(self.pieces)
        self.pieces.clear()
        return found


if __name__ == "__main__":
    sys.exit(main())
