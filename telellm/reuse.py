"""Reuse: a shard that changed in part keeps what an earlier version of it holds of items that did not change.

Beside its records a shard keeps a trail: for each item of its input, in order, the item's digest and how many records
and rejects came of it. So the next version of the shard takes these as they are, and only what is new goes through the
stage's function. `reuse/<stage>/<digest of code and settings>.json` names each shard's last version.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from telellm.parquet import read_records
from telellm.records import Document, Question, Record, Rejected
from telellm.store import MANIFEST, Store, TornOutput

TRAIL = "trail"


class EndOfItem:
    """Yielded by a function after all that came of one item; one that gives one result an item does without."""


@dataclass(frozen=True)
class Step:
    """What came of one item."""

    digest: str
    num_records: int
    num_rejects: int


def item_digest(item: Any) -> str:
    """Return what changes when an item does."""
    if isinstance(item, Document):
        return _short(f"{item.id}\0{item.category}\0{item.content}\0{item.metadata}")
    return _short(repr(item))


def _short(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def last_versions(store: Store, stage: str, base: str) -> dict[str, str]:
    """Return the place of each shard's last version, made by the same code with the same settings."""
    return dict(store.read_json(_pointer(stage, base)) or {})


def versions_of(names: Sequence[str], known: Mapping[str, str], margin: int = 0) -> dict[str, list[str]]:
    """Return for each shard the places of the earlier ones that may hold its items; all names are sorted as items are.

    That is the shard of its name; the one before, where it has none, from which it was cut off; and those after it
    whose first item is gone, which became a part of it. `margin`: so many more at both ends, where a shard is a number
    of records, and what comes or goes moves others across its ends.
    """
    old = sorted(known)
    places: dict[str, list[str]] = {}
    for name, after in zip_longest(names, names[1:]):
        first = max(bisect_right(old, name) - 1 - margin, 0)
        last = bisect_left(old, after) + margin if after else len(old)
        places[name] = [known[each] for each in old[first:last]]
    return places


def remember_versions(store: Store, stage: str, base: str, shards: Mapping[str, str]) -> None:
    """Write down the place of each shard (name → place)."""
    if shards != last_versions(store, stage, base):
        store.write_json(_pointer(stage, base), shards)


def forget_versions(store: Store) -> None:
    """Remove what names shards of which none is there any more."""
    for key in list(store.list("reuse")):
        places = (store.read_json(key) or {}).values()
        if not any(store.exists(f"{place}/{MANIFEST}") for place in places):
            store.remove(key)


def _pointer(stage: str, base: str) -> str:
    return f"reuse/{stage}/{base}.json"


class Earlier:
    """Earlier versions of a shard, read from their beginning to their end as if they were one."""

    def __init__(
        self, store: Store, versions: Sequence[tuple[str, Mapping[str, Any]]], kind: type[Document] | type[Question]
    ) -> None:
        self.files: dict[str, list[Path]] = {"data": [], "rejects": [], TRAIL: []}
        for place, manifest in versions:
            for name, entry in sorted(manifest["files"].items()):
                if (folder := name.partition("/")[0]) in self.files:
                    self.files[folder].append(store.fetch(f"{place}/{name}", entry["sha256"]))
        self.kind: Any = kind
        self.steps = [Step(*step) for path in self.files[TRAIL] for step in json.loads(path.read_bytes())]
        if any(not isinstance(n, int) or n < 0 for step in self.steps for n in (step.num_records, step.num_rejects)):
            raise TornOutput("the trail of an earlier version of this shard is none; it is made again")
        self.numbers = {step.digest: number for number, step in reversed(list(enumerate(self.steps)))}
        self._records, self._rejects, self._next = self._read_records(), self._read_rejects(), 0

    def take(self, number: int) -> list[Record | Rejected]:
        """Return what came of the item with this number; numbers only rise."""
        while self._next < number:
            self._results(self.steps[self._next])
        return self._results(self.steps[number])

    def _results(self, step: Step) -> list[Record | Rejected]:
        self._next += 1
        rejects = list(islice(self._rejects, step.num_rejects))
        records = list(islice(self._records, step.num_records))
        if (len(records), len(rejects)) != (step.num_records, step.num_rejects):
            raise TornOutput("an earlier version of this shard does not hold what its trail says; delete it")
        return [*records, *rejects]

    def _read_records(self) -> Iterator[Record]:
        for path in self.files["data"]:
            yield from read_records(path, self.kind)

    def _read_rejects(self) -> Iterator[Rejected]:
        import pyarrow.parquet as parquet

        for path in self.files["rejects"]:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=256):
                    for row in batch.to_pylist():
                        yield Rejected(json.loads(row["item"]), row["reason"], row["detail"])


def find_versions(store: Store, places: Sequence[str], kind: type[Document] | type[Question]) -> Earlier | None:
    """Return earlier versions of a shard, or None where they are gone or not whole."""
    try:
        manifests = [(place, manifest) for place in places if (manifest := store.manifest(place))]
        return Earlier(store, manifests, kind) if manifests else None
    except (TornOutput, ValueError, TypeError, KeyError, AttributeError, RecursionError):  # its trail is none
        return None


@dataclass
class Reuse:
    """The items of a shard: which of them are taken from an earlier version, and the trail that is left."""

    items: Callable[[], Iterable[Any]]
    """Reads the shard's items from the beginning, as often as it is called."""
    earlier: Earlier | None
    digests: list[str] = field(default_factory=list)
    known: list[int | None] = field(default_factory=list)
    """For each item, its number in the earlier version, or None where it is new."""
    trail: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        last = -1
        for item in self.items():
            digest = item_digest(item)
            number = self.earlier.numbers.get(digest) if self.earlier else None
            if number is not None and number <= last:  # in another order than before: too rare to be worth it
                number = None
            last = number if number is not None else last
            self.digests.append(digest)
            self.known.append(number)

    @property
    def num_known(self) -> int:
        """The number of items that are taken as they were."""
        return sum(number is not None for number in self.known)

    def new(self) -> Iterator[Any]:
        """Yield the items that the stage's function gets."""
        for item, number in zip(self.items(), self.known, strict=True):
            if number is None:
                yield item

    def merge(self, results: Iterator[Record | Rejected | EndOfItem], one_each: bool) -> Iterator[Record | Rejected]:
        """Yield what came of all items in their order; `one_each`: the function gives one result an item."""
        for digest, number in zip(self.digests, self.known, strict=True):
            found: Sequence[Record | Rejected]
            if number is not None:
                assert self.earlier is not None
                found = self.earlier.take(number)
            else:
                found = _next_item(results, one_each)
            num_rejects = sum(isinstance(result, Rejected) for result in found)
            self.trail.append(Step(digest, len(found) - num_rejects, num_rejects))
            yield from found
        assert next(results, None) is None, "the stage's function gave more than came of its items"

    def write(self, folder: Path, name: str) -> None:
        """Write the trail."""
        target = folder / TRAIL / f"{name}.json"
        target.parent.mkdir()
        steps = [[step.digest, step.num_records, step.num_rejects] for step in self.trail]
        target.write_text(json.dumps(steps, separators=(",", ":")))


def _next_item(results: Iterator[Record | Rejected | EndOfItem], one_each: bool) -> list[Record | Rejected]:
    found: list[Record | Rejected] = []
    for result in results:
        if isinstance(result, EndOfItem):
            return found
        found.append(result)
        if one_each:
            return found
    raise AssertionError("the stage's function gave less than came of its items")
