"""Listed: places of other outputs, written down as an output: what reads the list is done again when they change."""

import json
import tempfile
from pathlib import Path
from typing import Any

from telellm.stage import Output
from telellm.store import Store


def put_list(store: Store, kind: str, content: str, listed: Any) -> str:
    """Write a list (anything that JSON can hold) where it is not yet; returns its place.

    `kind` names what is listed, `content` is what identifies it: the digest of all that its reader depends on.
    """
    place = f"stages/{kind}/{content}"
    if store.manifest(place) is None:
        with tempfile.TemporaryDirectory(prefix=f"telellm-{kind}-") as folder:
            Path(folder, _file(kind)).write_text(json.dumps(listed, indent=1), encoding="utf-8")
            store.commit(place, Path(folder), {"stage": kind, "content": content, "out": len(listed)})
    return place


def read_list(output: Output) -> Any:
    """Return what was listed."""
    return json.loads(output.path(_file(output.manifest["stage"])).read_text(encoding="utf-8"))


def _file(kind: str) -> str:
    return f"{kind}.json"
