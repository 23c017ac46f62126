"""Settings of the devices."""

from __future__ import annotations

import torch

from img2img.devices import whole_float32


def test_float32_is_whole_within_and_settings_come_back() -> None:
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [backend.fp32_precision for backend in backends]
    with whole_float32():
        assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
    assert [backend.fp32_precision for backend in backends] == before
