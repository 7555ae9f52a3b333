"""What every section of a recipe is made of."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

ASIDE: dict[str, Any] = {"aside": True}
"""Marks a field that changes nothing of what is made (a price, requests in flight): it is no part of a digest."""


WITH_KEY = re.compile(r"//[^/?#]*@")
"""The part of an address that names a user, and may hold a password."""


class Settings(BaseModel):
    """A section of a recipe: unknown fields are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Here(str):
    """Text from the command line: if it is a path, then one in the working folder."""


def absolute(value: Any, info: ValidationInfo) -> Any:
    """Return a path as an absolute one, relative to the recipe's folder; a URI, or what is no text, as it is."""
    if not isinstance(value, str) or not value or "://" in value or value.startswith("package:"):
        return value
    folder = Path() if isinstance(value, Here) else Path((info.context or {}).get("folder", "."))
    try:
        return str((folder / Path(value).expanduser()).resolve())
    except (ValueError, RuntimeError) as error:  # a zero byte, an unknown ~user
        raise ValueError(f"this is not a path ({error})") from None


def _model(value: Any, info: ValidationInfo) -> Any:
    """A model may be a hub name (`owner/name`): it is a path only where it looks like one."""
    is_path = isinstance(value, str) and (value.startswith((".", "/", "~")) or value.endswith(".gguf"))
    return absolute(value, info) if is_path else value


def _without_key(value: str) -> str:
    """An address with a password would stand in every manifest and report."""
    if WITH_KEY.search(value):
        raise ValueError("a user or password stands in this address; leave it out, and set the variable of its key")
    return value


Endpoint = Annotated[str, AfterValidator(_without_key)]
PathOrUri = Annotated[str, BeforeValidator(absolute)]
ModelName = Annotated[str, BeforeValidator(_model)]
Share = Annotated[float, Field(ge=0, le=1)]


def named_twice(names: Iterable[str]) -> list[str]:
    """Return the names that are there more than once, sorted."""
    return sorted(name for name, number in Counter(names).items() if number > 1)
