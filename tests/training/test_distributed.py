"""Two processes of half the batch are one process of the whole batch, and bit-equal to each other (row A16)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

SCRIPT = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = subprocess.Popen([*torchrun, str(SCRIPT), str(out)], env=environment, stderr=subprocess.PIPE, text=True)
    alone = subprocess.run([sys.executable, str(SCRIPT), str(out)], env=environment, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    _, errors = together.communicate(timeout=100)
    assert together.returncode == 0, errors
    return out


@pytest.mark.parametrize("family", ["unconditional", "pix2pix", "cyclegan", "cut", "growing", "styles", "starganv2"])
def test_two_ranks_equal_one_process(family: str, weights: Path) -> None:
    alone, first, second = (
        safetensors.torch.load_file(weights / f"{family}-{name}.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    for key, expected in alone.items():
        assert torch.equal(first[key], second[key]), f"{key} differs between the ranks"
        torch.testing.assert_close(
            first[key], expected, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}"
        )
