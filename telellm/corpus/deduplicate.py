"""Deduplicate: exact copies, then near-duplicates by MinHash, across sources."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from telellm.recipe import Deduplicate
from telellm.records import Document, Rejected
from telellm.stage import Context, Output, stage

if TYPE_CHECKING:
    from rensa import RMinHash

PREFERENCE = {"standard": 0, "arxiv": 1, "wiki": 2, "web": 3}
"""Which of two copies is kept: the one of the better edited source."""
SEED = 17


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is remembered of a document, whatever its length."""

    id: str
    order: tuple[int, tuple[int, ...], int, str, bytes]
    """The better of two copies comes first, wherever they stood in the input."""
    minhash: "RMinHash"

    @property
    def digest(self) -> bytes:
        """The digest of its words."""
        return self.order[-1]


@stage(sections=("corpus.deduplicate",), produces=Document)
def deduplicate(context: Context, settings: Deduplicate, documents: Output) -> Iterator[Document | Rejected]:
    """Keep one of each group of copies: the better source, then the newer version, then the longer text.

    Two passes: sketches of all documents (4 KiB each, with their index) are compared, then the texts are streamed.
    Whether two are near-duplicates is the estimate from their whole signatures, for pairs that the index proposes.
    Rejects `"exact copy"`, `"near-duplicate"` and `"same id"`, with the id of the document that is kept.
    Source of MinHash: Broder, On the resemblance and containment of documents (1997).
    """
    progress = context.progress
    stream = progress.track(documents.records(Document), documents.num_records, "documents")
    sketches = [sketch(document, settings) for document in stream]
    copies = find_copies(sketches, settings)
    for number, document in enumerate(documents.records(Document)):
        if number in copies:
            reason, kept = copies[number]
            yield Rejected(document, reason, f"kept: {kept}")
        else:
            yield document


def sketch(document: Document, settings: Deduplicate) -> Sketch:
    """Return a document's digest and MinHash over its shingles of `ngram_words` words."""
    from rensa import RMinHash

    words = re.findall(r"\w+", document.content.lower())
    length = settings.ngram_words
    shingles = [" ".join(words[start : start + length]) for start in range(max(1, len(words) - length + 1))]
    minhash = RMinHash(settings.num_permutations, SEED)
    minhash.update(shingles)
    version = tuple(-int(part) for part in re.findall(r"\d{1,9}", str(document.fields.get("version", "")))) or (0,)
    digest = sha256(" ".join(words).encode("utf-8", "replace")).digest()
    return Sketch(document.id, (PREFERENCE[document.category], version, -len(words), document.id, digest), minhash)


def find_copies(sketches: list[Sketch], settings: Deduplicate) -> dict[int, tuple[str, str]]:
    """Return, for the number of each document that goes, the reason and the id of the one that stays."""
    from rensa import RMinHashLSH

    num_bands = _num_bands(settings.similarity, settings.num_permutations)
    index = RMinHashLSH(settings.similarity, settings.num_permutations, num_bands)
    copies: dict[int, tuple[str, str]] = {}
    exact: dict[bytes, str] = {}
    ids: set[str] = set()
    for number in sorted(range(len(sketches)), key=lambda number: sketches[number].order):
        current = sketches[number]
        near = [
            other
            for other in index.query(current.minhash)
            if sketches[other].minhash.jaccard(current.minhash) >= settings.similarity
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
            index.insert(number, current.minhash)
    return copies


def _num_bands(similarity: float, num_permutations: int) -> int:
    """Return the number of bands whose threshold, (1/b)^(1/r), lies just under the similarity."""
    choices = [bands for bands in range(1, num_permutations + 1) if num_permutations % bands == 0]
    fitting = [bands for bands in choices if (1 / bands) ** (bands / num_permutations) <= max(similarity - 0.1, 0.05)]
    return min(fitting, default=num_permutations)
