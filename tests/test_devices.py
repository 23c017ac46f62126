"""Settings of the devices."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from img2img.devices import peak_memory, whole_float32


def test_float32_is_whole_within_and_settings_come_back() -> None:
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [backend.fp32_precision for backend in backends]
    with whole_float32():
        assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
    assert [backend.fp32_precision for backend in backends] == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own")
def test_peak_memory_is_the_process_s_own() -> None:
    """And not that of the one that started it."""
    held = np.ones(200_000_000, np.uint8)
    here = peak_memory(torch.device("cpu"))
    assert here > held.nbytes
    program = "import torch; from img2img.devices import peak_memory; print(peak_memory(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 1e7 < int(child.stdout) < here
