"""Shape: how large a model is, from its configuration alone."""

import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from telellm.lm.hub import no_hub_name
from telellm.lm.models import conversion_of, find_local
from telellm.lm.without_weights import build_without_weights
from telellm.recipe import Lora, RecipeError
from telellm.store import Store, StoreUnavailable

PROBE_SECONDS = 2.0
SCALED_SCORES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""As in `telellm.training.loss`: a model with one of these computes the scores of a whole sequence at once."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a causal model."""

    name: str
    parameters: int
    layers: int
    hidden: int
    intermediate: int
    attention: int
    """Width of all attention heads together."""
    key_value: int
    """Width of the keys' heads together."""
    vocabulary: int
    block_parameters: int
    """Of the largest transformer block."""
    outer_parameters: int
    """Outside of the blocks: embeddings, output layer, last norm."""
    dtype_bytes: int
    """Bytes of a weight in the files of the model."""
    scores_in_chunks: bool
    linears: tuple[tuple[str, int, int], ...]
    """Name, inputs and outputs of each linear layer but the output layer."""

    def trained(self, method: str, lora: Lora) -> int:
        """Return how many parameters are trained: all of them, or those of low-rank updates (arXiv 2106.09685)."""
        if method != "lora":
            return self.parameters
        chosen = [
            (inputs, outputs)
            for name, inputs, outputs in self.linears
            if not lora.targets or any(name == target or name.endswith(f".{target}") for target in lora.targets)
        ]
        return sum(lora.rank * (inputs + outputs) for inputs, outputs in chosen)


def read_shape(name: str, revision: str = "main") -> Shape:
    """Return a model's sizes, counted on torch's meta device; raises `RecipeError` where its config.json is missing."""
    import torch

    config = _read_config(name, revision)
    try:
        model = build_without_weights(config)
    except ValueError as error:
        raise RecipeError(f"model: {name}: {str(error).splitlines()[0]}") from error
    text = config.get_text_config()
    total = sum(parameter.numel() for parameter in model.parameters())
    found = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    blocks: Sequence[Any] = max(found, key=lambda modules: len(modules), default=[])
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    output = model.get_output_embeddings()
    linears = [
        (module_name, module.in_features, module.out_features)
        for module_name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    ]
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return Shape(
        name=name,
        parameters=total,
        layers=len(sizes),
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        attention=heads * head,
        key_value=(getattr(text, "num_key_value_heads", None) or heads) * head,
        vocabulary=text.vocab_size,
        block_parameters=max(sizes, default=0),
        outer_parameters=total - sum(sizes),
        dtype_bytes=dtype.itemsize,
        scores_in_chunks=not any(getattr(config, field, None) for field in SCALED_SCORES),
        linears=tuple(linears),
    )


def _read_config(name: str, revision: str) -> Any:
    """Return a model's configuration, of the class that transformers has for it."""
    from transformers import AutoConfig

    path = None if "://" in name else find_local(name)
    where: dict[str, Any] = {"trust_remote_code": False}
    try:
        if path is not None and path.suffix == ".gguf":
            if (converted := conversion_of(path)).exists():  # its file of some megabytes of words takes seconds to read
                return AutoConfig.from_pretrained(converted, **where)
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, **where)
        if path is not None and not (path / "config.json").is_file():
            raise RecipeError(f"model: {path}: no model is there (config.json is missing)")
        if path is None:
            with tempfile.TemporaryDirectory(prefix="telellm-plan-") as folder:
                target = Path(folder) / "config.json"
                target.write_bytes(_from_bucket(name) if "://" in name else hub_config(name, revision))
                return AutoConfig.from_pretrained(folder, **where)
        return AutoConfig.from_pretrained(path, **where)
    except ValueError as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"model: {name}: its config.json tells of no known model: {error}") from error


def _from_bucket(uri: str) -> bytes:
    try:
        return Store.open(uri).read("config.json")
    except FileNotFoundError:
        raise RecipeError(f"model: {uri}: no model is there (config.json is missing)") from None
    except StoreUnavailable as error:
        raise RecipeError(
            f"model: {uri}: its config.json is needed to count its parameters: {str(error).removeprefix('store: ')}"
        ) from error


def hub_config(name: str, revision: str) -> bytes:
    """Return a hub model's config.json, from the cache or from the hub; does not wait where there is no network.

    Raises `RecipeError` where neither has it.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).read_bytes()
        if not constants.is_offline_mode():
            _reach(constants.ENDPOINT)
        return Path(hf_hub_download(name, "config.json", revision=revision)).read_bytes()
    except HFValidationError as error:
        raise no_hub_name(name) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise RecipeError(
            f'model: "{name}" is not on this machine, and its config.json is needed to count its parameters: '
            f"{str(error).splitlines()[0]}\n  name a local directory, or set HF_ENDPOINT and HF_TOKEN for a mirror; "
            f"`hf download {name} config.json` where there is a network is enough"
        ) from error


def _reach(endpoint: str) -> None:
    """Raise `OSError` at once where the hub cannot be reached: its client would try for half a minute."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return
    socket.create_connection((host, port), PROBE_SECONDS).close()
