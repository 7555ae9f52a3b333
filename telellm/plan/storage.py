"""Storage: what a run leaves in the store."""

from collections.abc import Sequence

from telellm.plan.shape import Shape
from telellm.plan.texts import BYTES_PER_TOKEN, COMPRESSION, Texts
from telellm.plan.work import GIB, Work
from telellm.recipe import Recipe

CORPUS_STAGES = 6
"""ingest, clean, screen, deduplicate, decontaminate and the training text: each keeps its output."""
PACKED_BYTES = 2.0
"""Of a token in Parquet (zstd), measured with a vocabulary of 49,152 tokens."""
STATE_BYTES = 12
"""Of a trained parameter in a checkpoint: weight and AdamW's moments, float32."""


def keep(recipe: Recipe, texts: Texts, shape: Shape, training: Sequence[Work], pipeline: str) -> dict[str, float]:
    """Return what stays in the store, by kind (GiB).

    Checkpoints are counted at their most; a finished training removes its own. A nightly pipeline keeps as many models
    as `retention` does when every night makes one; of the corpus, nights share what is unchanged.
    """
    corpus = sum(texts.by_category.values()) * BYTES_PER_TOKEN / COMPRESSION
    checkpoints = [
        STATE_BYTES
        * work.trained_parameters
        * min(settings.keep_checkpoints + 1, work.steps // settings.checkpoint_steps)
        for work in training
        for settings in [recipe.section(f"training.{work.name}")]
    ]
    models = sum(shape.parameters * shape.dtype_bytes for _ in training)
    nights = 1
    if pipeline == "nightly":
        kept = recipe.retention
        nights = max(kept.versions, kept.refused_days, kept.runs_days) + kept.unused_days
    return {
        "corpus": CORPUS_STAGES * corpus / GIB,
        "packed sequences": nights * texts.num_tokens * PACKED_BYTES / GIB,
        "checkpoints": max(checkpoints, default=0) / GIB,
        f"models of {nights} nights" if nights > 1 else "models": nights * models / GIB,
    }
