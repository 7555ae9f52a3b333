from pathlib import Path

import datasets
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telellm.training.sequences import IGNORED, Packed, batch, fill, order, write_sequences

documents = st.lists(st.lists(st.integers(0, 50_000), max_size=70), max_size=12)


def arrays(lists: list[list[int]]) -> list[np.ndarray]:
    return [np.asarray(values, np.int32) for values in lists]


@given(documents, st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_packing_loses_no_token_and_keeps_every_boundary(lists: list[list[int]], length: int) -> None:
    packed = list(fill(arrays(lists), length))
    assert [int(t) for p in packed for t in p.tokens] == [t for values in lists for t in values]
    assert all(len(p.tokens) == length for p in packed[:-1])
    assert all(sum(p.lengths) == len(p.tokens) <= length for p in packed)
    ends = set(np.cumsum([n for p in packed for n in p.lengths]).tolist())
    assert set(np.cumsum([len(values) for values in lists if values]).tolist()) <= ends


def test_packed_files_are_what_load_dataset_reads(tmp_path: Path) -> None:
    packed = list(fill(arrays([[1, 2, 3], [4, 5], [6]]), 4))
    assert write_sequences(packed, tmp_path / "data") == 2
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "data/*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert rows[:] == {"tokens": [[1, 2, 3, 4], [5, 6]], "lengths": [[3, 1], [1, 1]]}


def test_targets_are_the_next_tokens_and_never_cross_a_document() -> None:
    made = batch([{"tokens": [1, 2, 3, 4, 5], "lengths": [3, 2]}, {"tokens": [6, 7], "lengths": [2]}])
    assert made.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert made.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert made.targets.tolist() == [[2, 3, IGNORED, 5, IGNORED], [7] + [IGNORED] * 4]
    assert (made.num_tokens, made.num_targets) == (7, 4)


def test_a_flat_batch_is_one_row_without_padding() -> None:
    made = batch([{"tokens": [1, 2, 3], "lengths": [3]}, {"tokens": [6, 7], "lengths": [2]}], flat=True)
    assert made.tokens.tolist() == [[1, 2, 3, 6, 7]]
    assert made.positions.tolist() == [[0, 1, 2, 0, 1]]


def test_only_what_is_learnt_becomes_a_target() -> None:
    made = batch([{"tokens": [1, 2, 3, 4], "lengths": [4], "learnt": [False, False, True, False]}])
    assert made.targets.tolist() == [[IGNORED, 3, IGNORED, IGNORED]]


def test_a_process_without_data_takes_part_and_counts_nothing() -> None:
    made = batch([])
    assert (made.num_tokens, made.num_targets) == (0, 0)


def test_every_epoch_has_every_sequence_in_an_order_of_its_own() -> None:
    numbers = list(order(20, 2.5, seed=3))
    assert len(numbers) == 50
    assert sorted(numbers[:20]) == sorted(numbers[20:40]) == list(range(20))
    assert numbers[:20] != numbers[20:40]
    assert numbers == list(order(20, 2.5, seed=3)) != list(order(20, 2.5, seed=4))


def test_sequences_with_masks_keep_them_on_disk(tmp_path: Path) -> None:
    learnt = np.array([False, True])
    write_sequences([Packed(np.array([1, 2], np.int32), [2], learnt)], tmp_path)
    import pyarrow.parquet as parquet

    assert parquet.read_table(tmp_path / "part-00000.parquet").to_pylist() == [
        {"tokens": [1, 2], "lengths": [2], "learnt": [False, True]}
    ]
