"""Print every image that a site must mirror, as the chart names it, from the chart's table.

    python helm/images.py [-f VALUES]... [--registry REGISTRY | --pins FILE]

Also those that no manifest names because they only appear when a pipeline runs: Kubeflow's driver and launcher, Argo's
executor, the stages. With values files, only what they leave switched on.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).with_name("telellm")
USED_IF = {
    "minio": ("minio.enabled",),
    "training-operator": ("trainingOperator.enabled",),
    "vllm": ("vllm.enabled|serving.enabled",),
    "auth-proxy": ("authProxy.enabled",),
    "mysql": ("pipelines.enabled", "pipelines.mysql.enabled"),
    "metadata-grpc": ("pipelines.enabled", "pipelines.metadata.enabled"),
    "kfp-metadata-envoy": ("pipelines.enabled", "pipelines.metadata.enabled"),
    "workflow-controller": ("pipelines.enabled",),
    "argoexec": ("pipelines.enabled",),
}
"""Image → values that must be true for it to be used (`|`: one of them).

Kubeflow's others: pipelines.enabled; ours: always."""


def main() -> int:
    """Print the images, one a line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Print every image that a site must mirror.")
    parser.add_argument("-f", "--values", type=Path, action="append", default=[], help="values, as helm's -f")
    parser.add_argument("--registry", default=None, help="in place of global.imageRegistry")
    parser.add_argument("--pins", type=Path, help="print values with the digests of a file of lines NAME:TAG@DIGEST")
    options = parser.parse_args()
    values = load(options.values)
    if options.pins:
        lines = options.pins.read_text(encoding="utf-8").splitlines()
        sys.stdout.write(yaml.safe_dump({"images": pins(values, lines)}))
        return 0
    if options.registry is not None:
        values["global"]["imageRegistry"] = options.registry
    for image in images(values, every=not options.values):
        sys.stdout.write(f"{image}\n")
    return 0


def load(files: Iterable[Path] = ()) -> dict[str, Any]:
    """Return the chart's values with those of files over them."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for file in files:
        _merge(values, yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return values


def images(values: Mapping[str, Any], every: bool = False) -> Iterator[str]:
    """Yield the images of the table that these values use, or all of them."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    for name, image in values["images"].items():
        conditions = USED_IF.get(name, ("pipelines.enabled",) if name.startswith("kfp-") else ())
        if every or all(any(_at(values, path) for path in one.split("|")) for one in conditions):
            repository = image["repository"]
            if registry := values["global"]["imageRegistry"]:
                repository = f"{registry.rstrip('/')}/{re.sub(r'^[^/]*[.:][^/]*/', '', repository)}"
            digest = f"@{image['digest']}" if image.get("digest") else ""
            yield f"{repository}:{image.get('tag') or version}{digest}"


def pins(values: Mapping[str, Any], lines: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the digest of each image of the table that is in lines NAME:TAG@DIGEST."""
    digests = dict(line.split("@", 1) for line in lines)
    named = {name: next(images({**values, "images": {name: image}}, every=True)).partition("@")[0]
             for name, image in values["images"].items()}  # fmt: skip
    return {name: {"digest": digests[reference]} for name, reference in named.items() if reference in digests}


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


if __name__ == "__main__":
    sys.exit(main())
