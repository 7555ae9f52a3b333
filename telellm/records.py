"""The items that stages pass on: documents, questions, and what was rejected, with their Arrow schemas.

Field names and order are those of the Tele-LLMs data sets (arXiv 2409.05314, Tele-Data and Tele-Eval).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    import pyarrow

CATEGORIES = ("arxiv", "standard", "wiki", "web")
"""Where a document comes from; also the prefix of its id."""


@dataclass(frozen=True, slots=True)
class Document:
    """One item of the corpus."""

    id: str
    category: str
    content: str
    metadata: str = "{}"

    @classmethod
    def create(cls, category: str, key: str, content: str, **metadata: Any) -> Self:
        """Make a document whose id is `<category>_<key>`, with `metadata` as canonical JSON.

        `key` names the document within its category and is the same every night: an arXiv number, a
        specification's file name, a page's title, a URL's digest. Adds the content's `sha256`.
        Raises `ValueError` when the category is not one of `CATEGORIES`.
        """
        if category not in CATEGORIES:
            raise ValueError(f'"{category}" is not a category; known categories: {", ".join(CATEGORIES)}')
        content = whole(content)
        metadata["sha256"] = _digest(content)
        return cls(whole(f"{category}_{key}"), category, content, _canonical(metadata))

    @property
    def fields(self) -> dict[str, Any]:
        """The metadata as a dictionary."""
        loaded: dict[str, Any] = json.loads(self.metadata)
        return loaded

    def with_content(self, content: str) -> Self:
        """Return the document with another text and that text's digest."""
        content = whole(content)
        return replace(self, content=content, metadata=_canonical(self.fields | {"sha256": _digest(content)}))

    def with_fields(self, **changes: Any) -> Self:
        """Return the document with some fields of its metadata set."""
        return replace(self, metadata=_canonical(self.fields | changes))


@dataclass(frozen=True, slots=True)
class Question:
    """An open-ended question about one document; `evidence` is the passage that answers it."""

    statement: str
    answer: str
    id: str
    kind: str = ""
    evidence: str = ""
    split: str = "train"
    """`train`: the model may read the document in training; `held-out`: it never does; "" while it is a draft."""
    clause: str = ""
    """The heading of the document's clause or section that the evidence stands in ("5.3 Ellipsoid point")."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that a stage left out, and why.

    `reason` is one of few fixed phrases, so that it can be counted ("too short"); `detail` says more
    about this item. An item that never became a record is a mapping (`{"file": …}`).
    """

    item: "Document | Question | Mapping[str, Any]"
    reason: str
    detail: str = ""


Record = Document | Question
R = TypeVar("R", Document, Question)


def whole(text: str) -> str:
    """Return text that UTF-8 can hold: surrogate pairs are joined, half ones become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _digest(content: str) -> str:
    return sha256(content.encode()).hexdigest()


def _canonical(value: Mapping[str, Any]) -> str:
    return whole(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def schema(kind: type[Record]) -> "pyarrow.Schema":
    """Return the Arrow schema of a record: every field is a string."""
    import pyarrow

    return pyarrow.schema([(field.name, pyarrow.large_string()) for field in fields(kind)])


def to_table(records: Iterable[Record], kind: type[Record]) -> "pyarrow.Table":
    """Return records as an Arrow table with `schema(kind)`; every text is made `whole`."""
    import pyarrow

    rows = [{name: whole(value) for name, value in asdict(record).items()} for record in records]
    return pyarrow.Table.from_pylist(rows, schema=schema(kind))


def from_batch(batch: "pyarrow.RecordBatch", kind: type[R]) -> Iterator[R]:
    """Yield the records of an Arrow batch; a field that an older file does not have has its default."""
    names = [field.name for field in fields(kind) if field.name in batch.schema.names]
    for row in batch.to_pylist():
        yield kind(**{name: row[name] for name in names})


def rejected_row(rejected: Rejected) -> dict[str, str]:
    """Return a rejected item as a row of `rejects/`: reason, detail, id, and the item as JSON."""
    item = rejected.item if isinstance(rejected.item, Mapping) else asdict(rejected.item)
    return {
        "reason": rejected.reason,
        "detail": whole(rejected.detail),
        "id": whole(str(item.get("id", item.get("file", "")))),
        "item": _canonical(item),
    }
