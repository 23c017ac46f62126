"""The memory estimate against closed forms and against a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from img2img.inference import memory
from img2img.inference.memory import activation_bytes, available_bytes, is_out_of_memory
from img2img.networks import GENERATORS


class Chain(nn.Module):
    """Two steps, each of which holds its input and its output."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 2) * 3


def test_peak_of_a_chain() -> None:
    images = torch.zeros(1, 1, 10, 10)
    # the input is the caller's; the product by 2 and the product by 3 are alive together
    assert activation_bytes(Chain(), images) == 2 * 400 * memory._WORKSPACE


def test_it_grows_with_the_picture_and_computes_nothing() -> None:
    network = GENERATORS["resnet"](width=64, blocks=9)
    small, large = (activation_bytes(network, torch.empty(1, 3, side, side, device="meta")) for side in (256, 8192))
    assert large / small == pytest.approx((8192 / 256) ** 2, rel=0.1)
    assert large > 10e9


def test_available_memory_is_said_for_the_cpu_only() -> None:
    assert available_bytes(torch.device("cuda")) is None
    if Path("/proc/meminfo").exists():
        available = available_bytes(torch.device("cpu"))
        assert available is not None
        assert 0 < available < 1 << 50


def test_control_group(tmp_path: Path) -> None:
    assert memory._from_control_group(tmp_path) is None
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._from_control_group(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._from_control_group(tmp_path) is None


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("sizes do not match"))


_CHILD = """
import re, torch
from pathlib import Path
from img2img.inference.memory import activation_bytes
from img2img.networks import GENERATORS
def highest():  # of this program; ru_maxrss begins at what the one that started it had
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
networks = GENERATORS["resnet"](width=16, blocks=1).eval(), GENERATORS["unet"](width=16, depth=5).eval()
for network, side in zip(networks, (768, 3072)):
    images = torch.zeros(1, 3, side, side)
    with torch.inference_mode():
        estimate = activation_bytes(network, images)
        before = highest()
        network(images)
    print(estimate, highest() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the highest use of memory is told so on Linux only")
def test_the_estimate_covers_a_real_run() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, env=environment, check=True)
    for line in child.stdout.splitlines():
        estimate, real = map(int, line.split())
        assert real <= estimate < 4 * real
