"""A network that looks, with random weights: small enough for tests, and of the layout that users' files have."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision import models


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of SqueezeNet 1.0 as a safetensors file."""
    path = tmp_path_factory.mktemp("networks") / "squeezenet1_0.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(models.squeezenet1_0(weights=None).state_dict(), path, {"input": "RGB in [-1, 1]"})
    return path
