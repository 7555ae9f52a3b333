"""Likelihood: how likely a model finds what may follow a text, for many texts at once.

Texts of like length are computed together, as many as fill a batch with tokens. What all texts begin with is computed
once, and so is what the texts of one question begin with (the orders of its options): the attention's keys and values
are kept and every text goes on from them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

SHORTEST_SHARED = 8
"""A shorter common beginning is not worth computing ahead (tokens)."""
TOKENS_PER_QUESTION = 256
"""`batch_size` questions of this length fill a batch (tokens)."""
MAXIMUM_LOGITS = 2**26
"""Logits that are in memory at once, over all texts of a batch (256 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A text and what may follow it, each as token ids; neither the text nor an ending is empty."""

    text: list[int]
    endings: list[list[int]]


@dataclass(frozen=True, slots=True)
class _Row:
    """What is fed to the model in one row: a text with an ending but for its last token.

    Endings that differ only in the last token (the letters of options) share a row.
    """

    place: tuple[int, int]
    """Group, and number in it, of its text."""
    text: list[int]
    inner: list[int]
    last: dict[int, int]
    """Number of the ending → its last token."""


@dataclass(frozen=True, slots=True)
class _Group:
    beginning: list[int]
    """What its rows share beyond what all texts share; empty where it is not computed ahead."""
    rows: list[_Row]
    longest: int
    """Tokens of a row after the beginnings."""


def log_likelihoods(
    model: "PreTrainedModel",
    padding: int,
    groups: Sequence[Sequence[Continued]],
    batch_tokens: int,
    advance: Callable[[int], None],
) -> list[list[list[float]]]:
    """Return for each text of each group the log-likelihood of each of its endings (nats).

    The texts of a group should begin alike. `advance` is told the number of groups that are done. Log-softmax in
    float32, at the endings' positions only.
    """
    import torch

    found = [[[0.0] * len(continued.endings) for continued in group] for group in groups]
    rows = [list(_rows(number, group)) for number, group in enumerate(groups)]
    with torch.inference_mode():
        shared, cache, can_share = _compute_shared(model, [row.text for group in rows for row in group])
        ready = [_prepare(group, len(shared), can_share) for group in rows if group]
        for batch in _batches(ready, batch_tokens, _vocabulary(model)):
            for row, scores in _measure(model, padding, batch, len(shared), cache):
                group, number = row.place
                for ending, score in scores.items():
                    found[group][number][ending] = score
            advance(len(batch))
    return found


def common_beginning(lists: Sequence[list[int]]) -> list[int]:
    """Return what all lists begin with."""
    first, last = min(lists), max(lists)
    length = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[: min(len(first), len(last)) if length is None else length]


def _rows(group: int, texts: Sequence[Continued]) -> Iterator[_Row]:
    for number, continued in enumerate(texts):
        by_inner: dict[tuple[int, ...], _Row] = {}
        for ending, tokens in enumerate(continued.endings):
            inner = tuple(tokens[:-1])
            row = by_inner.setdefault(inner, _Row((group, number), continued.text, list(inner), {}))
            row.last[ending] = tokens[-1]
        yield from by_inner.values()


def _compute_shared(model: "PreTrainedModel", texts: list[list[int]]) -> "tuple[list[int], Cache | None, bool]":
    """Return what all texts begin with, its keys and values, and whether this model's can be gone on from.

    Other layers than plain attention (sliding windows, linear attention) would mind the padding between a beginning
    and what follows it.
    """
    import torch
    from transformers.cache_utils import DynamicLayer

    if len(texts) < 2:
        return [], None, False
    shared = common_beginning([text[:-1] for text in texts])  # the last token of a text predicts its ending
    ids = torch.tensor([shared or texts[0][:1]], device=model.device)
    cache = _forward(model, ids, torch.ones_like(ids), None, keep=1).past_key_values
    if not all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None])):
        return [], None, False
    return (shared, cache, True) if len(shared) >= SHORTEST_SHARED else ([], None, True)


def _prepare(rows: list[_Row], done: int, can_share: bool) -> _Group:
    beginning: list[int] = []
    if can_share and len(rows) > 1:
        beginning = common_beginning([row.text[:-1] for row in rows])[done:]
        beginning = beginning if len(beginning) >= SHORTEST_SHARED else []
    longest = max(len(row.text) + len(row.inner) for row in rows) - done - len(beginning)
    return _Group(beginning, rows, longest)


def _vocabulary(model: "PreTrainedModel") -> int:
    return int(model.config.get_text_config().vocab_size)


def _batches(groups: list[_Group], batch_tokens: int, vocabulary: int) -> Iterator[list[_Group]]:
    """Yield groups of like length, the longest first, with about `batch_tokens` tokens together."""
    batch: list[_Group] = []
    num_rows = longest = keep = 0
    for group in sorted(groups, key=lambda group: (bool(group.beginning), group.longest), reverse=True):
        most_kept = max(keep, *(len(row.inner) + 1 for row in group.rows))
        more, most = num_rows + len(group.rows), max(longest, group.longest)
        full = more * most > batch_tokens or more * most_kept * vocabulary > MAXIMUM_LOGITS
        if batch and (full or bool(batch[0].beginning) != bool(group.beginning)):
            yield batch
            batch, more, most = [], len(group.rows), group.longest
            most_kept = max(len(row.inner) + 1 for row in group.rows)
        batch.append(group)
        num_rows, longest, keep = more, most, most_kept
    if batch:
        yield batch


def _measure(
    model: "PreTrainedModel", padding: int, groups: list[_Group], done: int, cache: "Cache | None"
) -> "Iterator[tuple[_Row, dict[int, float]]]":
    """Yield each row of a batch with the log-likelihoods of its endings."""
    import torch

    rows = [row for group in groups for row in group.rows]
    owners = [number for number, group in enumerate(groups) for _ in group.rows]
    mask = torch.ones((len(groups), done), dtype=torch.long, device=model.device)
    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(groups))
    if groups[0].beginning:
        ids, mask = _pad([group.beginning for group in groups], padding, mask)
        cache = _forward(model, ids, mask, cache, keep=1).past_key_values
    if cache is not None and len(rows) > len(groups):
        cache.batch_select_indices(torch.tensor(owners, device=model.device))
    mask = mask[owners]
    rest = [
        (row.text + row.inner)[done + len(groups[owner].beginning) :] for row, owner in zip(rows, owners, strict=True)
    ]
    ids, mask = _pad(rest, padding, mask)
    keep = max(len(row.inner) for row in rows) + 1
    logits = _forward(model, ids, mask, cache, keep).logits
    for row, values in zip(rows, logits, strict=True):
        scores = values[-len(row.inner) - 1 :].float().log_softmax(-1)
        inner = sum(scores[at, token] for at, token in enumerate(row.inner))
        last = scores[-1, list(row.last.values())] + inner
        yield row, dict(zip(row.last, last.tolist(), strict=True))


def _pad(rows: list[list[int]], padding: int, mask: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return rows that end together, and the mask of what is computed already with theirs behind it."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows], device=mask.device)
    seen = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=mask.device)
    return ids, torch.cat([mask, seen], dim=1)


def _forward(
    model: "PreTrainedModel", ids: "torch.Tensor", mask: "torch.Tensor", cache: "Cache | None", keep: int
) -> Any:
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )
