"""Sharding: a model divided over all processes with FSDP2, loaded and saved without a second whole copy on a device."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging
from transformers.utils.import_utils import is_flash_attn_2_available

from telellm.lm.models import torch_dtype
from telellm.lm.without_weights import build_without_weights
from telellm.recipe import Lora, Optimization
from telellm.training.loss import DocumentLoss

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def attention(device: torch.device) -> str | None:
    """Return which attention a device computes; None is what transformers chooses. All keep it inside a document."""
    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else None


def load_sharded(
    directory: Path, settings: Optimization, lora: Lora, mesh: DeviceMesh, device: torch.device
) -> DocumentLoss:
    """Return the model at a local directory, each process holding its part of every weight in float32.

    Every process builds the model without weights; the first reads them into its main memory and deals them out one
    by one. On a GPU, forward and backward are computed in `settings.dtype`, gradients are reduced in float32.
    """
    torch.manual_seed(settings.seed)
    weights = _read(directory, settings, lora) if dist.get_rank() == 0 else {}
    model, _ = _without_weights(directory, settings, lora, attention(device))
    if settings.activation_checkpointing:
        model.activation_checkpointing_enable()
    loss = DocumentLoss(model)
    on_gpu = device.type == "cuda"
    policy = MixedPrecisionPolicy(torch_dtype(settings.dtype), torch.float32) if on_gpu else MixedPrecisionPolicy()
    for block in _blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(loss, mesh=mesh, mp_policy=policy)
    buffers = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    loss.to_empty(device=device)
    model.tie_weights()
    for name, buffer in loss.named_buffers():
        buffer.copy_(buffers[name])
    for name, parameter in loss.named_parameters():
        assert isinstance(parameter.data, DTensor)
        whole = weights.pop(name.removeprefix("model.")) if weights else torch.empty(parameter.shape)
        dealt = distribute_tensor(whole.to(device), mesh, parameter.data.placements)
        parameter.data.to_local().copy_(dealt.to_local())
    return loss.train()


def save_whole(
    loss: DocumentLoss,
    directory: Path,
    settings: Optimization,
    lora: Lora,
    tokenizer: "PreTrainedTokenizerBase",
    result: Path,
) -> None:
    """Write `model/` (and `adapter/`, when low-rank updates were trained) from the weights of all processes.

    The first process gathers them in main memory; the model is in the number format of the model it was made from.
    """
    weights = get_model_state_dict(loss, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() != 0:
        return
    model: Any
    model, adapter = _without_weights(directory, settings, lora, None)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()}, assign=True)
    model.tie_weights()
    if adapter is not None:
        adapter.save_pretrained(str(result / "adapter"))
        model = adapter.merge_and_unload()
    model.to(AutoConfig.from_pretrained(directory, trust_remote_code=False).dtype or torch.float32)
    if (directory / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(directory)
    model.save_pretrained(result / "model", max_shard_size="5GB")
    tokenizer.save_pretrained(result / "model")


def _blocks(model: "PreTrainedModel") -> list[torch.nn.Module]:
    """Return the transformer blocks: what transformers itself never splits, or the longest list of modules."""
    names = set(model._no_split_modules or ())
    if found := [module for module in model.modules() if type(module).__name__ in names]:
        return found
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=lambda modules: len(modules), default=[]))


def _read(directory: Path, settings: Optimization, lora: Lora) -> dict[str, torch.Tensor]:
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    _adapt(model, settings, lora)
    return dict(model.state_dict())


def _without_weights(
    directory: Path, settings: Optimization, lora: Lora, attention: str | None
) -> "tuple[PreTrainedModel, PeftModel | None]":
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    model: PreTrainedModel = build_without_weights(config, attn_implementation=attention)
    with init_empty_weights(include_buffers=False):
        return model, _adapt(model, settings, lora)


def _adapt(model: "PreTrainedModel", settings: Optimization, lora: Lora) -> "PeftModel | None":
    """Add low-rank updates to the model's linear layers, in place, and freeze the rest; None for full training."""
    if settings.method != "lora":
        return None
    from peft import LoraConfig, get_peft_model

    chosen: dict[str, Any] = {"lora_alpha": lora.alpha, "target_modules": lora.targets or "all-linear"}
    config = LoraConfig(r=lora.rank, lora_dropout=lora.dropout, task_type="CAUSAL_LM", **chosen)
    adapter: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
    return adapter  # type: ignore[no-any-return]
