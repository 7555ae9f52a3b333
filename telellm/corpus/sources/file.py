"""A file of a source, as every reader receives it, and the limits that hold for hostile input."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from telellm.records import Document, Rejected

MAX_FILE_BYTES = 64 * 2**20
"""Largest single text (after decompression) that a reader takes into memory (bytes)."""
MAX_LINE_CHARACTERS = 1_000_000
"""Longest line that a reader accepts in a text (characters)."""


@dataclass(frozen=True)
class SourceFile:
    """One file (or, for an unpacked arXiv project, one folder) of a source."""

    path: Path
    """Where it lies on this machine."""
    name: str
    """Its name within the source, with `/`: the same on every machine and every night."""
    uri: str
    """Where it comes from, for `source_url`."""
    licence: str
    """The licence that the recipe states for the source."""
    retrieved_at: str
    """When it was collected (ISO date), if the source itself does not say; may be empty."""

    def metadata(self, **more: object) -> dict[str, object]:
        """Return the fields that every document of this file carries, and more."""
        return {
            "source_url": self.uri,
            "licence": self.licence,
            "retrieved_at": self.retrieved_at,
            "file_name": self.name,
        } | more

    def reject(self, reason: str, detail: str = "") -> Rejected:
        """Return this file as rejected."""
        return Rejected({"file": self.name, "uri": self.uri}, reason, detail)


Reader = Callable[[SourceFile], Iterator[Document | Rejected]]
"""Reads one file: yields documents and rejects, never raises for what the file contains."""
