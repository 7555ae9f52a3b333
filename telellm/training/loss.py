"""Loss: what a causal model is trained on, without ever holding the scores of a whole sequence."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from telellm.training.sequences import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCALED_SCORES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of a configuration that say that scores are more than the output layer's product."""


class DocumentLoss(nn.Module):
    """A causal model and its loss over packed documents; one module, so that sharding wraps both."""

    def __init__(self, model: "PreTrainedModel", chunk_tokens: int = 512) -> None:
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens
        self.in_chunks = not any(getattr(model.config, name, None) for name in SCALED_SCORES)

    def forward(self, tokens: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Return the summed negative log-likelihood of the targets (nats).

        All three are of shape (sequences, tokens). Positions begin again in every document: transformers makes the
        mask that keeps attention inside it from them. Scores (tokens x vocabulary) are computed for `chunk_tokens`
        at a time, and again in the backward pass; tokens without a target never meet the output layer.
        """
        arguments: dict[str, Any] = {"input_ids": tokens, "position_ids": positions, "use_cache": False}
        counted = targets != IGNORED
        if not counted.any():  # every parameter must still take part, or other processes would wait for it
            counted = torch.zeros_like(counted)
            counted[0, 0] = True
            return 0 * self._likelihood(arguments, counted, targets.clamp(min=0))
        return self._likelihood(arguments, counted, targets)

    def _likelihood(self, arguments: dict[str, Any], counted: Tensor, targets: Tensor) -> Tensor:
        wanted = targets[counted]
        if not self.in_chunks:
            return _cross_entropy(self.model(**arguments).logits[counted], wanted)
        hidden: Tensor = self.model.base_model(**arguments).last_hidden_state[counted]
        total = torch.zeros((), device=hidden.device)
        for begin in range(0, len(hidden), self.chunk_tokens):
            part, part_wanted = hidden[begin : begin + self.chunk_tokens], wanted[begin : begin + self.chunk_tokens]
            if len(hidden) > self.chunk_tokens:
                total = total + checkpoint(self._part, part, part_wanted, use_reentrant=False)
            else:
                total = total + self._part(part, part_wanted)
        return total

    def _part(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return _cross_entropy(head(hidden), wanted)


def _cross_entropy(scores: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores.float(), wanted, reduction="sum")
