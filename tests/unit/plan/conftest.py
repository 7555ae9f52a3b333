from pathlib import Path

import pytest
import torch

from tests.tiny_model import make_tiny_model

# tiny matrices are slower on several threads, and much slower on a busy machine
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
