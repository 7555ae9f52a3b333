"""Write docs/chart.md and the comments of helm/telellm/values.yaml: both from values.schema.json."""

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm" / "telellm"
VALUES = CHART / "values.yaml"
TARGET = Path(__file__).with_name("chart.md")
KEY = re.compile(r"^( *)([A-Za-z][\w-]*):")
HEAD = """# Values of the chart

Every value of `helm/telellm`, made by `make docs` from `values.schema.json`. Helm refuses a key that is not here, by
its name.
"""


def schema() -> dict[str, Any]:
    """Return the schema of the values, with every reference in its place."""
    whole = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        for part in node.pop("allOf", []):
            node = {**whole["definitions"][part["$ref"].rpartition("/")[2]], **node, "definition": True}
        if "definition" not in node:
            node["properties"] = {name: resolve(child) for name, child in node.get("properties", {}).items()}
        return node

    return resolve(whole)


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every value with its dotted path."""
    for name, child in node["properties"].items():
        where = f"{path}.{name}".strip(".")
        if is_section(child):
            yield from leaves(child, where)
        else:
            yield where, child


def is_section(node: dict[str, Any]) -> bool:
    """Say whether a value has described values of its own."""
    return bool(node.get("properties")) and "definition" not in node


def render() -> str:
    """Return the whole page."""
    defaults = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    return "\n".join([HEAD, *_sections(schema(), defaults, "")]).rstrip() + "\n"


def _sections(node: dict[str, Any], defaults: Any, path: str) -> Iterator[str]:
    inner, rows = [], []
    for name, child in node["properties"].items():
        if is_section(child):
            inner.append(name)
        else:
            rows.append(f"| `{name}` | {_kind(child)} | {_default(defaults.get(name))} | {child['description']} |")
    if path:
        yield f"## `{path}`\n\n{node['description']}\n"
    if rows:
        yield "| value | kind | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for name in inner:
        yield from _sections(node["properties"][name], defaults[name], f"{path}.{name}".strip("."))


def _kind(node: dict[str, Any]) -> str:
    if choices := node.get("enum"):
        return " or ".join(f"`{choice}`" for choice in choices)
    words = {"string": "text", "boolean": "true or false", "object": "mapping", "array": "list"}
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    bounds = [f"{sign} {node[key]}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in node]
    return ", ".join([" or ".join(words.get(kind, kind) for kind in kinds), *bounds])


def _default(value: Any) -> str:
    if value in ("", [], {}, None):
        return "empty"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def comment(text: str) -> str:
    """Return values.yaml with the description of each value above it."""
    root, lines, path = schema(), [], []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if found := KEY.match(line):
            depth = len(found[1]) // 2
            path = [*path[:depth], found[2]]
            node = _find(root, path)
            if node is not None:
                if depth == 0:
                    lines.append("")
                width = 118 - len(found[1])
                lines += [f"{found[1]}# {part}" for part in textwrap.wrap(node["description"], width)]
        lines.append(line)
    return "\n".join([f"# {root['description']} Made by `make docs`: comments.", *lines]) + "\n"


def _find(node: dict[str, Any], path: list[str]) -> dict[str, Any] | None:
    for name in path:
        if not is_section(node) or name not in node["properties"]:
            return None
        node = node["properties"][name]
    return node


if __name__ == "__main__":
    VALUES.write_text(comment(VALUES.read_text(encoding="utf-8")), encoding="utf-8")
    TARGET.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{VALUES}\n{TARGET}\n")
