"""Likelihood: how likely a model finds what may follow a text, for many texts at once.

Texts that begin alike are computed as one tree: what several of them share is computed once, whether that is the
prompt, the first words of many questions, or a question whose options stand in several orders. What all of them share
is kept as keys and values; the rest is a row of tokens, without padding, in which each token sees those on the way from
the root to it.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

TOKENS_PER_QUESTION = {"cpu": 96, "cuda": 512}
"""How many tokens are computed at once for each question of `batch_size`: on a CPU, what its cache holds is faster."""
MAXIMUM_LOGITS = {"cpu": 2**25, "cuda": 2**28}
"""Logits that are in memory at once."""
ALIKE = 0.05
"""How far a tree's logits may be from those of its texts one by one, in standard deviations (rounding of bfloat16)."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A text and what may follow it, each as token ids; neither the text nor an ending is empty."""

    text: list[int]
    endings: list[list[int]]


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What all texts begin with: how many tokens, and their keys and values; None where there are none."""

    length: int
    cache: "Cache | None"


@dataclass(frozen=True, slots=True)
class _Path:
    """What the model reads for a text: its tokens and an ending's but for the last.

    Endings that differ only in the last token (the letters of options) have one path.
    """

    tokens: list[int]
    first: int
    """The place that predicts the ending's first token."""
    place: tuple[int, int]
    """Group, and number in it, of the text."""
    last: dict[int, int]
    """Number of the ending → its last token."""


def longest_input(model: "PreTrainedModel", otherwise: int = 2**31) -> int:
    """Return how many tokens a model reads at most; `otherwise` where its configuration sets no limit."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or otherwise)


def log_likelihoods(
    model: "PreTrainedModel",
    padding: int,
    groups: Sequence[Sequence[Continued]],
    batch_size: int,
    advance: Callable[[int], None],
) -> list[list[list[float]]]:
    """Return for each text of each group the log-likelihood of each of its endings (nats).

    `advance` is told the number of groups that are done. Log-softmax in float32, at the endings' places only.
    """
    import torch

    found = [[[0.0] * len(continued.endings) for continued in group] for group in groups]
    paths = sorted(
        (path for number, group in enumerate(groups) for path in _paths(number, group)), key=lambda path: path.tokens
    )
    left = Counter(path.place[0] for path in paths)
    with torch.inference_mode():
        in_trees = bool(paths) and _takes_trees(model, max(len(path.tokens) for path in paths))
        beginning = _read_beginning(model, paths) if in_trees else _Beginning(0, None)
        for batch in (_trees if in_trees else _rectangles)(paths, *_limits(model, batch_size)):
            scores = _read_tree(model, batch, beginning) if in_trees else _read_rows(model, padding, batch)
            start = done = 0
            for path in batch:
                end = start + len(path.tokens) - path.first
                for ending, score in _add_up(path, scores[start:end]).items():
                    found[path.place[0]][path.place[1]][ending] = score
                start = end
                left[path.place[0]] -= 1
                done += not left[path.place[0]]
            advance(done)
    return found


def _paths(group: int, texts: Sequence[Continued]) -> Iterator[_Path]:
    for number, continued in enumerate(texts):
        found: dict[tuple[int, ...], _Path] = {}
        for ending, tokens in enumerate(continued.endings):
            inner = tuple(tokens[:-1])
            fresh = _Path([*continued.text, *inner], len(continued.text) - 1, (group, number), {})
            found.setdefault(inner, fresh).last[ending] = tokens[-1]
        yield from found.values()


def _add_up(path: _Path, scores: "torch.Tensor") -> dict[int, float]:
    """Return the log-likelihood of each ending of a path, given the log-softmax at its places."""
    inner = sum(float(scores[at, token]) for at, token in enumerate(path.tokens[path.first + 1 :]))
    return {ending: inner + float(scores[-1, token]) for ending, token in path.last.items()}


def _limits(model: "PreTrainedModel", batch_size: int) -> tuple[int, int]:
    """Return the most tokens that are computed at once, and the most places for which logits are kept."""
    kind = "cuda" if model.device.type == "cuda" else "cpu"
    vocabulary = int(model.config.get_text_config().vocab_size)
    return batch_size * TOKENS_PER_QUESTION[kind], MAXIMUM_LOGITS[kind] // vocabulary


def _trees(paths: Sequence[_Path], most_tokens: int, most_kept: int) -> Iterator[list[_Path]]:
    """Yield paths in their order, as many as make a tree of `most_tokens`, cut where little is shared.

    What is shared over a cut is computed twice: of the cuts that leave at least half a tree, the cheapest is made.
    """
    shared = [0, *(_num_shared(before.tokens, path.tokens) for before, path in pairwise(paths))]
    start = 0
    while start < len(paths):
        num_tokens = num_kept = 0
        end, costs = start, []
        while end < len(paths):
            path = paths[end]
            new = len(path.tokens) - (shared[end] if end > start else 0)
            kept = len(path.tokens) - path.first
            if end > start and (num_tokens + new > most_tokens or num_kept + kept > most_kept):
                costs.append((shared[end], -end))
                end = -min(costs)[1]
                break
            if end > start and num_tokens >= most_tokens / 2:
                costs.append((shared[end], -end))
            num_tokens, num_kept, end = num_tokens + new, num_kept + kept, end + 1
        yield list(paths[start:end])
        start = end


def _rectangles(paths: Sequence[_Path], most_tokens: int, most_kept: int) -> Iterator[list[_Path]]:
    """Yield paths of like length, the longest first, as many as make a batch of `most_tokens` with its padding."""
    batch: list[_Path] = []
    num_kept = 0
    for path in sorted(paths, key=lambda path: len(path.tokens), reverse=True):
        kept = len(path.tokens) - path.first
        if batch and ((len(batch) + 1) * len(batch[0].tokens) > most_tokens or num_kept + kept > most_kept):
            yield batch
            batch, num_kept = [], 0
        batch.append(path)
        num_kept += kept
    if batch:
        yield batch


def _read_beginning(model: "PreTrainedModel", paths: Sequence[_Path]) -> "_Beginning":
    """Compute what all paths share, up to the first place whose prediction is wanted."""
    import torch

    length = min(_num_shared(paths[0].tokens, paths[-1].tokens), min(path.first for path in paths))
    if not length:
        return _Beginning(0, None)
    ids = torch.tensor([paths[0].tokens[:length]], device=model.device)
    cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    return _Beginning(length, cache)


def _read_tree(model: "PreTrainedModel", paths: Sequence[_Path], beginning: _Beginning) -> "torch.Tensor":
    """Return the log-softmax at the paths' places, one path after the other, computed as one tree."""
    import torch

    if len(paths) == 1:
        return _read_rows(model, 0, paths)
    before = beginning.length
    tokens: list[int] = []
    depths: list[int] = []
    nodes: list[list[int]] = []
    branches: list[tuple[int, int, list[int]]] = []
    for number, path in enumerate(paths):
        shared = max(_num_shared(paths[number - 1].tokens, path.tokens), before) if number else before
        start, end = len(tokens), len(tokens) + len(path.tokens) - shared
        way = nodes[-1][:shared] if number else list(range(before))
        nodes.append([*way, *range(before + start, before + end)])
        branches.append((start, end, nodes[-1]))
        tokens += path.tokens[shared:]
        depths += range(shared, len(path.tokens))
    sees = torch.zeros((len(tokens), before + len(tokens)), dtype=torch.bool)
    for start, end, on_path in branches:
        sees[start:end, on_path] = torch.ones((end - start, len(on_path)), dtype=torch.bool).tril(
            len(on_path) - (end - start)
        )
    hidden = torch.finfo(model.dtype).min
    mask = torch.zeros(sees.shape, dtype=model.dtype).masked_fill(~sees, hidden)[None, None].to(model.device)
    wanted = [node - before for path, way in zip(paths, nodes, strict=True) for node in way[path.first :]]
    ids = torch.tensor([tokens], device=model.device)
    named: dict[str, Any] = {"position_ids": torch.tensor([depths], device=model.device)}
    if before:
        named["past_key_values"] = copy.deepcopy(beginning.cache)
    with _attention_along(branches, mask) if model.device.type == "cpu" else nullcontext():
        return _log_softmax(model, [(0, node) for node in wanted], ids, mask, named)


def _attention_along(
    branches: Sequence[tuple[int, int, list[int]]], mask: "torch.Tensor"
) -> "AbstractContextManager[Any]":
    """Compute attention for each branch over what is on its path alone, instead of over a mask that hides most.

    `branches`: the first of a branch's tokens and the one after its last, and the places of all keys on its path. On a
    GPU, many small products are slower than a large one.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend
    from torch.overrides import TorchFunctionMode

    cut = [
        (start, end, torch.tensor(on_path), mask[:, :, start:end, on_path].contiguous())
        for start, end, on_path in branches
        if end > start
    ]

    class Along(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            theirs = kwargs.get("attn_mask")
            if function is not attend or theirs is None or theirs.data_ptr() != mask.data_ptr():
                return function(*args, **kwargs)
            query, key, value = args
            found = [
                attend(
                    query[:, :, start:end],
                    key.index_select(2, on_path),
                    value.index_select(2, on_path),
                    **(kwargs | {"attn_mask": seen}),
                )
                for start, end, on_path, seen in cut
            ]
            return torch.cat(found, dim=2)

    return Along()


def _read_rows(model: "PreTrainedModel", padding: int, paths: Sequence[_Path]) -> "torch.Tensor":
    """Return the same, a row for each path; padding stands on the right, where nothing looks at it."""
    import torch

    longest = max(len(path.tokens) for path in paths)
    gaps = [longest - len(path.tokens) for path in paths]
    ids = [path.tokens + [padding] * gap for path, gap in zip(paths, gaps, strict=True)]
    mask = [[1] * (longest - gap) + [0] * gap for gap in gaps]
    wanted = [(row, at) for row, path in enumerate(paths) for at in range(path.first, len(path.tokens))]
    return _log_softmax(
        model, wanted, torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device), {}
    )


def _log_softmax(
    model: "PreTrainedModel",
    wanted: Sequence[tuple[int, int]],
    ids: "torch.Tensor",
    mask: "torch.Tensor",
    named: dict[str, Any],
) -> "torch.Tensor":
    """Return the log-softmax at the `wanted` (row, place) pairs, one after the other.

    They are picked before the output layer, which is a fifth of a small model's work.
    """
    rows, places = zip(*wanted, strict=True)

    def pick(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][rows, places][None],)

    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    handle = head.register_forward_pre_hook(pick)
    try:
        logits: torch.Tensor = model(
            input_ids=ids, attention_mask=mask, use_cache="past_key_values" in named, **named
        ).logits
    finally:
        handle.remove()
    return logits[0].float().log_softmax(-1)


def _takes_trees(model: "PreTrainedModel", longest: int) -> bool:
    """Say whether a model computes a tree as it computes the tree's texts.

    Not so where a layer looks at its window or keeps a state instead of reading the mask; it is tried on two texts.
    """
    config = model.config.get_text_config()
    for field in ("sliding_window", "attention_chunk_size"):
        if 0 < (getattr(config, field, None) or 0) <= longest:
            return False
    beginning = [1, 2, 3, 4, 5, 6]
    tried = [_Path([*beginning, *end], 3, (0, 0), {}) for end in ([7, 8, 9], [8, 7, 9, 7])]
    try:
        scores = _read_tree(model, tried, _read_beginning(model, tried))
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    expected = _read_rows(model, 0, tried)
    return bool((scores - expected).abs().max() < ALIKE * expected.std())


def _num_shared(first: list[int], second: list[int]) -> int:
    """Return how many tokens two lists begin with alike."""
    most = min(len(first), len(second))
    return next((at for at in range(most) if first[at] != second[at]), most)
