"""Sequences: tokens packed to a length, with the boundaries of the documents inside; on disk and as batches."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Tokens = NDArray[np.int32]
IGNORED = -100
"""Target of a token after which nothing is to be learnt (torch's `ignore_index`)."""
ROWS_IN_MEMORY = 256
ROWS_IN_FILE = 65_536


@dataclass(frozen=True, slots=True)
class Packed:
    """One training sequence."""

    tokens: Tokens
    lengths: list[int]
    """Lengths of the pieces of documents inside; their sum is the number of tokens."""
    learnt: NDArray[np.bool_] | None = None
    """Which tokens the model learns to write; None: all of them."""


def fill(documents: Iterable[Tokens], length: int) -> Iterator[Packed]:
    """Pack documents one after the other into sequences of `length` tokens; only the last may be shorter.

    A document that does not fit continues in the next sequence: no token is lost, none is padding.
    """
    pieces: list[Tokens] = []
    space = length
    for document in documents:
        while len(document):
            piece, document = document[:space], document[space:]
            pieces.append(piece)
            space -= len(piece)
            if not space:
                yield Packed(np.concatenate(pieces), [len(piece) for piece in pieces])
                pieces, space = [], length
    if pieces:
        yield Packed(np.concatenate(pieces), [len(piece) for piece in pieces])


def write_sequences(sequences: Iterable[Packed], folder: Path) -> int:
    """Write sequences to `part-….parquet` (columns `tokens`, `lengths`, and `learnt` where it matters).

    Returns their number. Memory is bounded by `ROWS_IN_MEMORY` sequences.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Packed] = []
    writer: parquet.ParquetWriter | None = None
    written = 0

    def flush() -> None:
        nonlocal writer, written
        columns = {
            "tokens": pyarrow.array([row.tokens for row in rows], pyarrow.list_(pyarrow.int32())),
            "lengths": pyarrow.array([row.lengths for row in rows], pyarrow.list_(pyarrow.int32())),
        }
        if rows[0].learnt is not None:
            columns["learnt"] = pyarrow.array([row.learnt for row in rows], pyarrow.list_(pyarrow.bool_()))
        table = pyarrow.table(columns)
        if writer is None or written % ROWS_IN_FILE == 0:
            if writer is not None:
                writer.close()
            path = folder / f"part-{written // ROWS_IN_FILE:05}.parquet"
            writer = parquet.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
        written += len(rows)
        rows.clear()

    try:
        for sequence in sequences:
            rows.append(sequence)
            if len(rows) == ROWS_IN_MEMORY:
                flush()
        if rows:
            flush()
    finally:
        if writer is not None:
            writer.close()
    return written


def order(num_sequences: int, epochs: float, seed: int) -> Iterator[int]:
    """Yield the numbers of the sequences as they are trained on: every epoch in an order of its own."""
    left = math.ceil(num_sequences * epochs)
    epoch = 0
    while left > 0:
        shuffled = np.random.default_rng([seed, epoch]).permutation(num_sequences)[:left]
        yield from (int(number) for number in shuffled)
        left -= len(shuffled)
        epoch += 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side, each of shape (sequences, tokens), padded to the longest."""

    tokens: "torch.Tensor"
    positions: "torch.Tensor"
    """Begin at 0 in every document: that is what keeps attention inside it."""
    targets: "torch.Tensor"
    """The token that follows within the document, or `IGNORED`."""
    num_tokens: int
    """Tokens that are no padding."""

    @property
    def num_targets(self) -> int:
        """The number of tokens that are learnt."""
        return int((self.targets != IGNORED).sum())


def batch(rows: Sequence[dict[str, Any]], flat: bool = False) -> Batch:
    """Put rows of a packed file side by side, or end to end in one row (`flat`), which is how flash attention wants it.

    No rows at all give one token that teaches nothing: a process without data takes part in a step all the same.
    """
    import torch

    num_tokens = sum(len(row["tokens"]) for row in rows)
    parts = [_with_targets(row) for row in rows or [{"tokens": [0], "lengths": [1]}]]
    if flat:
        columns = [np.concatenate(column)[None] for column in zip(*parts, strict=True)]
    else:
        longest = max(len(tokens) for tokens, _, _ in parts)
        # padding is a document of its own, at the end, of which nothing is learnt
        fillers = [np.zeros(longest, np.int64), np.arange(longest), np.full(longest, IGNORED)]
        columns = [
            np.stack([np.concatenate([values, filler[: longest - len(values)]]) for values in column])
            for column, filler in zip(zip(*parts, strict=True), fillers, strict=True)
        ]
    tokens, positions, targets = (torch.from_numpy(column.astype(np.int64)) for column in columns)
    return Batch(tokens, positions, targets, num_tokens)


def _with_targets(row: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    tokens = np.asarray(row["tokens"], np.int64)
    lengths = np.asarray(row["lengths"], np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])
    targets = np.append(tokens[1:], IGNORED)
    targets[np.cumsum(lengths) - 1] = IGNORED
    if row.get("learnt") is not None:
        targets[:-1][~np.asarray(row["learnt"], bool)[1:]] = IGNORED
    return tokens, positions, targets
