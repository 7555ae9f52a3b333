"""Deduplicate: exact copies, then near-duplicates by MinHash, across sources."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telellm.derived import derive
from telellm.parquet import read_records
from telellm.recipe import Deduplicate
from telellm.records import Document, Rejected
from telellm.stage import Context, Output, stage

if TYPE_CHECKING:
    import numpy

PREFERENCE = {"standard": 0, "arxiv": 1, "wiki": 2, "web": 3}
"""Which of two copies is kept: the one of the better edited source."""
SEED = 17
MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that no value's place in a band is lost (the golden ratio's bits)."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is remembered of a document, whatever its length."""

    id: str
    order: tuple[int, tuple[int, ...], int, str, bytes]
    """The better of two copies comes first, wherever they stood in the input."""
    minhash: bytes
    """The signature: 32-bit numbers, in the machine's order."""

    @property
    def digest(self) -> bytes:
        """The digest of its words."""
        return self.order[-1]


@stage(sections=("corpus.deduplicate",), produces=Document, by_file=True)
def deduplicate(
    context: Context, settings: Deduplicate, documents: Output
) -> Iterator[tuple[str, Iterator[Document | Rejected] | None]]:
    """Keep one of each group of copies: the better source, then the newer version, then the longer text.

    Sketches of all documents (half a KiB each) are compared; those of a file are kept for the next night. A file
    without a copy is taken as it is. Whether two are near-duplicates is the estimate from their whole signatures, for
    pairs that share a band of them. Rejects `"exact copy"`, `"near-duplicate"` and `"same id"`, with the id of the
    document that is kept.
    Source of MinHash: Broder, On the resemblance and containment of documents (1997).
    """
    sketches: list[Sketch] = []
    ends: dict[str, int] = {}
    make = partial(write_sketches, settings=settings)
    for name, path in derive(context, documents, "deduplicate", make, context.base):
        sketches += read_sketches(path)
        ends[name] = len(sketches)
    context.progress.note("compares")
    copies = find_copies(sketches, settings)
    first = 0
    for name, end in ends.items():
        changes = any(number in copies for number in range(first, end))
        yield name, _divide(documents.path(name), first, copies) if changes else None
        first = end


def _divide(path: Path, first: int, copies: Mapping[int, tuple[str, str]]) -> Iterator[Document | Rejected]:
    for number, document in enumerate(read_records(path, Document), first):
        if number in copies:
            reason, kept = copies[number]
            yield Rejected(document, reason, f"kept: {kept}")
        else:
            yield document


def write_sketches(path: Path, target: Path, settings: Deduplicate) -> None:
    """Write the sketches of a file's documents, in their order."""
    import pyarrow

    found = [sketch(document, settings) for document in read_records(path, Document)]
    rows = [
        {"id": s.id, "preference": s.order[0], "version": s.order[1], "length": s.order[2], "digest": s.digest}
        | {"minhash": s.minhash}
        for s in found
    ]
    table = pyarrow.Table.from_pylist(rows, schema=_schema())
    with pyarrow.ipc.new_file(target, table.schema) as writer:
        writer.write_table(table)


def read_sketches(path: Path) -> list[Sketch]:
    """Return the sketches of a file."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        columns = pyarrow.ipc.open_file(source).read_all().to_pydict()
    rows = zip(*(columns[name] for name in _schema().names), strict=True)
    return [Sketch(row[0], (row[1], tuple(row[2]), row[3], row[0], row[4]), row[5]) for row in rows]


def _schema() -> Any:
    import pyarrow

    integer, binary = pyarrow.int64(), pyarrow.binary()
    kinds = {"id": pyarrow.string(), "preference": integer, "version": pyarrow.list_(integer), "length": integer}
    return pyarrow.schema(list((kinds | {"digest": binary, "minhash": binary}).items()))


def sketch(document: Document, settings: Deduplicate) -> Sketch:
    """Return a document's digest and MinHash over its shingles of `ngram_words` words."""
    import numpy
    from rensa import RMinHash

    words = re.findall(r"\w+", document.content.lower())
    length = settings.ngram_words
    shingles = [" ".join(words[start : start + length]) for start in range(max(1, len(words) - length + 1))]
    minhash = RMinHash(settings.num_permutations, SEED)
    minhash.update(shingles)
    signature = numpy.array(minhash.digest(), numpy.uint32).tobytes()
    version = tuple(-int(part) for part in re.findall(r"\d{1,9}", str(document.fields.get("version", "")))) or (0,)
    digest = sha256(" ".join(words).encode("utf-8", "replace")).digest()
    return Sketch(document.id, (PREFERENCE[document.category], version, -len(words), document.id, digest), signature)


def find_copies(sketches: Sequence[Sketch], settings: Deduplicate) -> dict[int, tuple[str, str]]:
    """Return, for the number of each document that goes, the reason and the id of the one that stays.

    A document that shares a band, its words or its id with no other stays; only the rest is gone through.
    """
    import numpy

    if not sketches:
        return {}
    signatures = numpy.frombuffer(b"".join(each.minhash for each in sketches), numpy.uint32).reshape(len(sketches), -1)
    bands = _bands(signatures, _num_bands(settings.similarity, settings.num_permutations))
    suspects = set(numpy.flatnonzero(numpy.any([_is_repeated(band) for band in bands], axis=0)).tolist())
    suspects |= _repeated(each.digest for each in sketches) | _repeated(each.id for each in sketches)
    index: dict[tuple[int, int], list[int]] = defaultdict(list)
    copies: dict[int, tuple[str, str]] = {}
    exact: dict[bytes, str] = {}
    ids: set[str] = set()
    for number in sorted(suspects, key=lambda number: sketches[number].order):
        current = sketches[number]
        places = list(enumerate(bands[:, number].tolist()))
        candidates = {other for place in places for other in index.get(place, ())}
        near = [
            other for other in candidates if numpy.mean(signatures[other] == signatures[number]) >= settings.similarity
        ]
        if current.digest in exact:
            copies[number] = ("exact copy", exact[current.digest])
        elif near:
            best = min(near, key=lambda other: sketches[other].order)
            copies[number] = ("near-duplicate", sketches[best].id)
        elif current.id in ids:
            copies[number] = ("same id", current.id)
        else:
            exact[current.digest] = current.id
            ids.add(current.id)
            for place in places:
                index[place].append(number)
    return copies


def _bands(signatures: "numpy.ndarray[Any, Any]", num_bands: int) -> "numpy.ndarray[Any, Any]":
    """Return a 64-bit hash of each document's values in each band (bands, documents): a polynomial mod 2^64."""
    import numpy

    values = signatures.reshape(len(signatures), num_bands, -1)
    hashes = numpy.zeros(values.shape[:2], numpy.uint64)
    for place in range(values.shape[2]):
        hashes = hashes * numpy.uint64(MULTIPLIER) + values[:, :, place] + numpy.uint64(1)
    return hashes.T.copy()


def _is_repeated(values: "numpy.ndarray[Any, Any]") -> "numpy.ndarray[Any, Any]":
    """Say of each value whether it is there more than once."""
    import numpy

    order = numpy.argsort(values, kind="stable")
    same = values[order][1:] == values[order][:-1]
    found = numpy.zeros(len(values), bool)
    found[order[1:][same]] = found[order[:-1][same]] = True
    return found


def _repeated(values: Iterable[Any]) -> set[int]:
    """Return the numbers of values that are there more than once."""
    first: dict[Any, int] = {}
    found: set[int] = set()
    for number, value in enumerate(values):
        if first.setdefault(value, number) != number:
            found |= {number, first[value]}
    return found


def _num_bands(similarity: float, num_permutations: int) -> int:
    """Return the number of bands whose threshold, (1/b)^(1/r), lies just under the similarity."""
    choices = [bands for bands in range(1, num_permutations + 1) if num_permutations % bands == 0]
    fitting = [bands for bands in choices if (1 / bands) ** (bands / num_permutations) <= max(similarity - 0.1, 0.05)]
    return min(fitting, default=num_permutations)
