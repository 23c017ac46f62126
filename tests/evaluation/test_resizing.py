"""Ways of resizing: closed forms, and each against the tool it is named after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from img2img.evaluation.resizing import RESIZES, resize_clean, resize_pytorch, resize_tf1

SHAPES = [(128, 128), (299, 299), (341, 256), (40, 613), (1, 7), (2, 1)]


def _noise(height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8, generator=generator)


def test_tf1_samples_at_multiples_of_in_over_out() -> None:
    rows = torch.tensor([[0.0, 10.0], [100.0, 110.0]])[None, None]
    # positions 0, 1/2, 1, 3/2; beyond the last pixel stands its copy
    across = torch.tensor([0.0, 5, 10, 10])
    expected = torch.stack([across, across + 50, across + 100, across + 100])
    torch.testing.assert_close(resize_tf1(rows, 4)[0, 0], expected)
    every_other = torch.arange(36.0).reshape(1, 1, 6, 6)
    torch.testing.assert_close(resize_tf1(every_other, 3), every_other[..., ::2, ::2])


@pytest.mark.parametrize("shape", SHAPES)
def test_tf1_is_that_of_torch_fidelity(shape: tuple[int, int]) -> None:
    reference = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = _noise(*shape)
    for size in (299, 64):
        expected = reference.interpolate_bilinear_2d_like_tensorflow1x(
            images.float(), size=(size, size), align_corners=False
        )
        torch.testing.assert_close(resize_tf1(images, size), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_clean_is_pillow_on_floats(shape: tuple[int, int]) -> None:
    images = _noise(*shape)
    for size in (299, 64):
        planes = [
            np.asarray(Image.fromarray(plane.float().numpy()).resize((size, size), Image.Resampling.BICUBIC))
            for plane in images.flatten(0, 1)
        ]
        expected = torch.from_numpy(np.stack(planes)).clamp(0, 255).unflatten(0, (2, 3))
        torch.testing.assert_close(resize_clean(images, size), expected, rtol=0, atol=2e-4)


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("shape", SHAPES)
def test_clean_and_pytorch_are_those_of_clean_fid(shape: tuple[int, int]) -> None:
    reference = pytest.importorskip("cleanfid.resize")
    images = _noise(*shape)
    for mode, resize in (("clean", resize_clean), ("legacy_pytorch", resize_pytorch)):
        theirs = reference.build_resizer(mode)
        for image, resized in zip(images, resize(images, 299)):
            expected = torch.from_numpy(theirs(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)
            torch.testing.assert_close(resized, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", RESIZES)
def test_what_every_way_keeps(name: str) -> None:
    resize = RESIZES[name]
    images = _noise(29, 29)
    assert torch.equal(resize(images, 29), images.float())
    flat = torch.full((1, 1, 17, 33), 201, dtype=torch.uint8)
    for size in (5, 40):
        torch.testing.assert_close(resize(flat, size), torch.full((1, 1, size, size), 201.0))
    stretched = resize(_noise(20, 30), 50)
    assert stretched.dtype == torch.float32
    assert stretched.min() >= 0
    assert stretched.max() <= 255
    channels = torch.cat([resize(_noise(20, 30)[:, [index]], 50) for index in range(3)], 1)
    torch.testing.assert_close(stretched, channels, rtol=0, atol=1e-4)
