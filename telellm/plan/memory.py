"""Memory: what one training process holds at its peak, by formulas."""

import math

from telellm.plan.shape import Shape
from telellm.plan.work import GIB, Device
from telellm.recipe import Optimization

CHUNK_TOKENS = 512
"""As in `telellm.training.loss`: scores are computed for so many tokens at a time."""
RUNTIME_GIB = {True: 1.5, False: 0.8}
"""On a GPU or not: context, buffers of collectives and fragments; on a CPU the program and its libraries."""
FLOAT = 4


def training_memory(
    shape: Shape, num_trained: int, settings: Optimization, sequence_length: int, device: Device, checkpointed: bool
) -> dict[str, float]:
    """Return the bytes that one of `device.processes` holds, by part.

    Weights, gradients and AdamW's moments are float32 and sharded (ZeRO 3, arXiv 1910.02054); FSDP2 keeps gathered what
    is outside of the blocks, and two blocks at a time, in the number format of the computation. Activations are those
    of a block of Llama's kind with a fused attention kernel, after Korthikanti et al. (arXiv 2205.05198): what each
    operation keeps for its backward pass. `checkpointed`: the state is copied while training goes on, on a CPU into the
    same memory. Of six trainings of 135 M parameters on a CPU, each took between 1.0 and 1.3 times as much.
    """
    share = 1 / device.processes
    width = 2 if device.on_gpu and settings.dtype == "bfloat16" else FLOAT
    at_once = min(settings.micro_batch_sequences, math.ceil(settings.batch_sequences / device.processes))
    num_tokens = at_once * sequence_length
    trained_outer = shape.outer_parameters if num_trained == shape.parameters else 0
    in_use = shape.outer_parameters + trained_outer + 3 * shape.block_parameters
    parts = {
        "weights": FLOAT * shape.parameters * share,
        "gradients": FLOAT * num_trained * share,
        "optimiser": 2 * FLOAT * num_trained * share,
        "gathered": width * in_use,
        "activations": num_tokens * activation_bytes(shape, width, settings.activation_checkpointing),
        "scores": _score_bytes(shape, num_tokens, width),
        "runtime": RUNTIME_GIB[device.on_gpu] * GIB,
    }
    if not device.on_gpu:
        parts["reading"] = FLOAT * shape.parameters  # the first process reads the whole model, and keeps the pages
    if checkpointed and not device.on_gpu:
        parts["checkpoint"] = 3 * FLOAT * num_trained * share
    return parts


def activation_bytes(shape: Shape, width: int, recomputed: bool) -> float:
    """Return the bytes that the blocks keep of one token; `recomputed`: their inputs, and one whole block."""
    norms = 2 * (FLOAT + 2 * width) * shape.hidden  # input in float32, its normalised form, the output
    attention = width * (2 * shape.attention + shape.hidden + 2 * shape.key_value) + FLOAT * shape.attention / 64
    mlp = 4 * width * shape.intermediate  # gate, its activation, up, their product
    block = norms + attention + mlp
    if recomputed:
        return shape.layers * width * shape.hidden + block
    return shape.layers * block


def _score_bytes(shape: Shape, num_tokens: int, width: int) -> int:
    """Return the bytes of scores over the vocabulary: as computed, in float32, and their gradient."""
    at_once = min(num_tokens, CHUNK_TOKENS) if shape.scores_in_chunks else num_tokens
    return at_once * shape.vocabulary * (width + 2 * FLOAT)
