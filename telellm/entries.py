"""Entries: what a manifest says of its files, looked at before anyone follows it.

Whoever may write to a store may write its manifests: a name or key that leaves its folder, or a digest that is a path,
would otherwise have another machine read or write a file of its own.
"""

import re
from collections.abc import Mapping
from typing import Any

DIGEST = re.compile(r"[0-9a-f]{64}")


def stays_below(name: str) -> bool:
    """Say whether a relative name with `/` stays in its folder, on a disk and in a bucket alike."""
    return bool(name) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def trouble_with(manifest: Mapping[str, Any]) -> str:
    """Return what is wrong with the files that a manifest names; "" where nothing is."""
    files = manifest.get("files", {})
    if not isinstance(files, Mapping):
        return "it names no files"
    for name, entry in files.items():
        if not stays_below(name):
            return f"the name {name[:80]!r} leaves its folder"
        if not isinstance(entry, Mapping):
            return f"of {name[:80]!r} it says nothing"
        size, digest, key = entry.get("bytes", 0), entry.get("sha256", "0" * 64), entry.get("key", name)
        if not isinstance(size, int) or size < 0:
            return f"the size of {name[:80]!r} is none"
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            return f"the digest of {name[:80]!r} is none"
        if not isinstance(key, str) or not stays_below(key):
            return f"{name[:80]!r} lies at {str(key)[:80]!r}, which leaves the store"
    return ""
