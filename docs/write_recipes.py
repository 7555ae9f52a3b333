"""Write docs/recipes.md: every section and field of a recipe, from their definitions in telellm/recipe/."""

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from telellm.recipe import Recipe, Settings

TARGET = Path(__file__).with_name("recipes.md")
SYMBOLS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def render() -> str:
    """Return the whole page."""
    head = (
        "# Recipes\n\n"
        "A recipe is one YAML file that says everything about a run. This page is made by `make docs` from\n"
        "`telellm/recipe/`. A field without a default must be given. `telellm run RECIPE --set section.field=value`\n"
        "changes a field for one run.\n"
    )
    return "\n".join([head, *section("", Recipe)]).rstrip() + "\n"


def section(path: str, settings: type[Settings]) -> Iterator[str]:
    """Yield the lines of a section: what it is, its fields as a table, then its own sections."""
    yield f"## `{path}`\n" if path else "## The recipe\n"
    if about := re.sub(r"^Section `[^`]*`[.:]\s*", "", (settings.__doc__ or "").strip()):
        yield f"{about[0].upper()}{about[1:]}\n"
    rows, inner = [], []
    for name, field in settings.model_fields.items():
        nested = _section_type(field.annotation)
        where = f"{path}.{name}".strip(".")
        if nested is not None and where not in ("evaluation.judge",):
            inner.append((where + _which(field.annotation), nested))
        if nested is None or field.description:
            rows.append(f"| `{name}` | {_kind(field)} | {_default(field)} | {field.description or ''} |")
    if rows:
        yield "| field | kind | default | meaning |\n|---|---|---|---|"
        yield "\n".join(rows) + "\n"
    for where, nested in inner:
        yield from section(where, nested)


def _which(annotation: Any) -> str:
    """Return what stands behind the name of a field that has several sections."""
    return {list: "[]", dict: ".<name>"}.get(get_origin(annotation), "")


def _section_type(annotation: Any) -> type[Settings] | None:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Settings):
            return part
    return None


def _kind(field: FieldInfo) -> str:
    bounds = []
    for rule in field.metadata:
        bounds += [
            f"{symbol} {getattr(rule, name)}"
            for kind, symbol in SYMBOLS.items()
            if isinstance(rule, kind)
            for name in (kind.__name__.lower(),)
        ]
        if isinstance(rule, MinLen):
            bounds.append(f"at least {rule.min_length}")
        if isinstance(rule, MaxLen):
            bounds.append(f"at most {rule.max_length} characters")
    return ", ".join([_name(field.annotation), *bounds])


def _name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(part) for part in arguments if part is not type(None))
    if origin is list:
        return f"list of {'sections' if _section_type(annotation) else _name(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} × {_name(arguments[0])}"
    if origin is dict:
        return "sections by name" if _section_type(arguments[1]) else f"{_name(arguments[1])} by name"
    known = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return known.get(annotation, "section")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "*required*"
    if field.default in ("", None, [], {}):
        return "empty"
    value = field.default
    if isinstance(value, (list, tuple)):
        return "`[" + ", ".join(map(str, value)) + "]`"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(f"{TARGET}\n")
    TARGET.write_text(render(), encoding="utf-8")
