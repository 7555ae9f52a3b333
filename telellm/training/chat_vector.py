"""Chat vector: what a vendor's instruct model has learnt beyond its base model, added to a model that read the corpus.

    new = pretrained + scale · (instruct − base)

Source: Huang et al., Chat Vector: A Simple Approach to Equip LLMs with Instruction Following and Model Alignment in New
Languages (arXiv 2310.04799). Weights are read, added and written one by one: memory holds four tensors, no model.
"""

import json
import math
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telellm.lm.models import model_directory
from telellm.recipe import Instruct, RecipeError
from telellm.stage import Context

if TYPE_CHECKING:
    import torch

OF_THE_VENDOR = ("tokenizer*", "special_tokens_map.json", "chat_template*", "generation_config.json", "*.model")
"""What makes a chat of it: template, special tokens, and the token that ends an answer."""
BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""Number formats of weights, and the bytes of a number."""
IN_ITS_CONFIG = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


class Weights:
    """The tensors of a model directory by name; each is read from its file when it is wanted."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = opened.enter_context(safe_open(path, "pt"))
            self.files |= dict.fromkeys(file.keys(), file)
        if not self.files:
            raise RecipeError(f"training.instruct: {folder} holds no .safetensors files")

    def tensor(self, name: str) -> "torch.Tensor":
        """Return one tensor; raises `RecipeError` where the model has none of that name."""
        tensor: torch.Tensor = self._file(name).get_tensor(name)
        return tensor

    def kind(self, name: str) -> tuple[str, list[int]]:
        """Return a tensor's number format (as in `BF16`) and shape, without reading it."""
        found = self._file(name).get_slice(name)
        return found.get_dtype(), list(found.get_shape())

    def _file(self, name: str) -> Any:
        if name not in self.files:
            raise RecipeError(
                f"training.instruct.vendor: {self.folder} has no weight {name}: a chat vector needs three models of "
                "one kind; name the instruct model that was made of the recipe's base model"
            )
        return self.files[name]


def add_chat_vector(context: Context, settings: Instruct, pretrained: Path) -> None:
    """Write `model/`: the pretrained model with the difference between the vendor's instruct and base model added.

    Tokenizer, chat template and generation settings are the vendor's. Tokens that the instruct model has beyond the
    base model keep the vendor's own embeddings. Raises `RecipeError` where the three models do not fit.
    """
    import torch

    base = model_directory(context.recipe.model.name, context.recipe.model.revision)
    vendor = model_directory(settings.vendor, settings.vendor_revision)
    target = context.directory / "model"
    target.mkdir()
    with ExitStack() as opened:
        ours, theirs, before = (Weights(folder, opened) for folder in (pretrained, vendor, base))
        kinds = {name: _kind(name, ours, theirs, before) for name in sorted(ours.files)}
        vector, model = 0.0, 0.0
        with (target / "model.safetensors").open("wb") as stream:
            stream.write(_header(kinds))
            for name in context.progress.track(kinds, len(kinds), "tensors"):
                tensor, norms = _add(ours.tensor(name), theirs.tensor(name), before.tensor(name), settings.vector_scale)
                stream.write(tensor.view(torch.uint8).numpy().tobytes())
                vector, model = vector + norms[0], model + norms[1]
    _copy_the_rest(pretrained, vendor, target)
    share = (vector / model) ** 0.5 if model else 0.0
    context.counts["out"] = 1
    context.summary |= {
        "tensors": len(kinds),
        "vector_share": share,
        "headline": f"chat vector of {len(kinds):,} tensors, {share:.2%} of the weights' norm",
    }


def _kind(name: str, pretrained: Weights, vendor: Weights, base: Weights) -> tuple[str, list[int]]:
    """Return number format and shape of a sum: the vendor's tensor may have more rows than the two others."""
    (number, ours), (_, theirs), (_, before) = (weights.kind(name) for weights in (pretrained, vendor, base))
    longer = len(ours) == 2 and theirs[1:] == ours[1:] and theirs[0] > ours[0]
    if ours != before or (theirs != ours and not longer):
        raise RecipeError(
            f"training.instruct.vendor: {name} has the shape {theirs}, in the base model {before}, in the pretrained "
            f"one {ours}: name the instruct model that was made of the recipe's base model"
        )
    if number not in BYTES:
        raise RecipeError(
            f"training.instruct: {name} of the pretrained model is in {number}; known: {', '.join(BYTES)}"
        )
    return number, theirs


def _header(kinds: Mapping[str, tuple[str, list[int]]]) -> bytes:
    """Return the beginning of a safetensors file: its length in eight bytes, then name, kind and place of each tensor.

    Source: the format's description in the safetensors project; the library itself writes only what is in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (number, shape) in kinds.items():
        end = place + math.prod(shape) * BYTES[number]
        header[name] = {"dtype": number, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def _add(
    ours: "torch.Tensor", theirs: "torch.Tensor", before: "torch.Tensor", scale: float
) -> "tuple[torch.Tensor, tuple[float, float]]":
    """Return the sum in our number format, and the squared norms of what was added and of our tensor."""
    import torch

    rows = len(ours)
    vector = (theirs[:rows].float() - before.float()) * scale
    whole = ours.float()
    total = torch.cat([whole + vector, theirs[rows:].float()])
    return total.to(ours.dtype).contiguous(), (float(vector.square().sum()), float(whole.square().sum()))


def _copy_the_rest(pretrained: Path, vendor: Path, target: Path) -> None:
    for pattern in OF_THE_VENDOR:
        for path in vendor.glob(pattern):
            shutil.copyfile(path, target / path.name)
    config, theirs = (json.loads((folder / "config.json").read_text()) for folder in (pretrained, vendor))
    config |= {name: theirs[name] for name in IN_ITS_CONFIG if name in theirs}
    (target / "config.json").write_text(json.dumps(config, indent=2))
