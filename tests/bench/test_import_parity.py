"""The comparison of imported generators: it passes for a peer of the layout, and tells one that is another function."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PARITY = Path(__file__).with_name("import_parity.py")

# a checkout that has one kind of generator only; its outermost convolutions pad with PADDING
NETWORKS = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        more = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        self.conv_block = nn.Sequential(*half, nn.ReLU(), *more)

    def forward(self, x):
        return x + self.conv_block(x)

class Generator(nn.Module):
    def __init__(self, inputs, outputs, width):
        super().__init__()
        layers = [nn.PADDING(3), nn.Conv2d(inputs, width, 7), nn.InstanceNorm2d(width), nn.ReLU()]
        for wide in (2 * width, 4 * width):
            layers += [nn.Conv2d(wide // 2, wide, 3, 2, 1), nn.InstanceNorm2d(wide), nn.ReLU()]
        layers += [Block(4 * width) for _ in range(6)]
        for wide in (2 * width, width):
            layers += [nn.ConvTranspose2d(2 * wide, wide, 3, 2, 1, 1), nn.InstanceNorm2d(wide), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.PADDING(3), nn.Conv2d(width, outputs, 7), nn.Tanh())

    def forward(self, x):
        return self.model(x)

def define_G(input_nc, output_nc, ngf, netG, norm, use_dropout):
    if (netG, norm, use_dropout) != ("resnet_6blocks", "instance", False):
        raise AttributeError("another kind")
    return Generator(input_nc, output_nc, ngf)
"""


def run(checkout: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(PARITY.parents[2]), str(PARITY.parents[2] / "cli")))
    words = [sys.executable, str(PARITY), str(checkout), "--width", "4"]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False)


@pytest.mark.parametrize(("padding", "code", "end"), [("Reflection", 0, "all within"), ("Replication", 1, "1 above")])
def test_a_peer_is_the_same_function_or_it_is_told(padding: str, code: int, end: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "networks.py").write_text(NETWORKS.replace("PADDING", f"{padding}Pad2d"))
    answer = run(tmp_path)
    assert answer.returncode == code, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0].split() == ["float32", "float64", "generator"]
    assert lines[1].endswith("resnet_6blocks, instance")
    assert sum("the peer cannot build it (another kind)" in line for line in lines) == len(lines) - 3
    assert lines[-1].startswith(end)


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    answer = run(tmp_path)
    assert answer.returncode == 2
    assert "models/networks.py is not there" in answer.stderr
