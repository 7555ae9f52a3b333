"""What the chart says of itself, which needs no helm: its values and their page, its images, its copies of k8s/."""

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "telellm"


def test_job_templates_are_copies_of_k8s() -> None:
    for name in ("pytorchjob.yaml", "shards.yaml"):
        assert (CHART / "files" / "k8s" / name).read_text() == (ROOT / "k8s" / name).read_text(), "run: make chart"


def test_resources_can_be_given_to_every_image_of_a_step() -> None:
    from pipelines.components import RESOURCES

    schema = json.loads((CHART / "values.schema.json").read_text())
    steps = schema["properties"]["telellm"]["properties"]["steps"]
    assert set(steps["propertyNames"]["enum"]) == set(RESOURCES)


def test_a_list_of_all_images_names_the_whole_table() -> None:
    table = yaml.safe_load((CHART / "values.yaml").read_text())["images"]
    result = subprocess.run([sys.executable, ROOT / "helm" / "images.py"], capture_output=True, text=True, check=True)
    assert len(result.stdout.split()) == len(table)
    stages = {folder.parent.name for folder in ROOT.glob("images/*/Dockerfile")} - {"base", "base-torch", "tools"}
    assert stages <= set(table), "an image of ours is missing from the table"


def test_every_value_is_described_and_the_page_is_current() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_chart.py"))
    described = dict(written["leaves"](written["schema"]()))
    assert all(node.get("description") for node in described.values())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def leaves(node: Any, path: str = "") -> Iterator[str]:
        if path in described or not isinstance(node, dict):
            yield path
        else:
            for name, child in node.items():
                yield from leaves(child, f"{path}.{name}".strip("."))

    assert set(leaves(values)) == set(described)
    assert (ROOT / "docs" / "chart.md").read_text() == written["render"](), "run: make docs"
    text = (CHART / "values.yaml").read_text()
    assert text == written["comment"](text), "run: make docs"


def test_every_section_refuses_unknown_keys() -> None:
    def check(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                assert node.get("additionalProperties") is False, path
            for key, child in node.items():
                check(child, f"{path}.{key}")

    check(json.loads((CHART / "values.schema.json").read_text()), "")


def test_the_chart_is_of_telellms_version() -> None:
    import telellm

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == telellm.__version__
