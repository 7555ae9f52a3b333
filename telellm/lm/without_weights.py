"""Without weights: a model of which only the structure is in memory."""

from typing import Any


def build_without_weights(config: Any, **wishes: Any) -> Any:
    """Return the model of a configuration on torch's meta device; its buffers (rotary frequencies, …) are computed.

    Building without weights takes apart those that the model shares: they are one again.
    """
    import torch
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    with init_empty_weights(include_buffers=False):
        model = build(config, dtype=torch.float32, trust_remote_code=False, **wishes)
    model.tie_weights()
    return model
