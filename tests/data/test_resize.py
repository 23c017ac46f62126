from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from img2img.data.resize import fit_to, resize, take_nearest


def ramp(height: int, width: int) -> torch.Tensor:
    """(3, H, W) uint8: rows, columns, constant."""
    rows = torch.arange(height).to(torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width).to(torch.uint8)[None].expand(height, width)
    return torch.stack((rows, columns, torch.full((height, width), 77, dtype=torch.uint8)))


def test_same_size_is_unchanged() -> None:
    pixels = ramp(5, 7)
    assert resize(pixels, (5, 7)) is pixels


@settings(max_examples=50, deadline=None)
@given(*[st.integers(1, 60)] * 4)
def test_constant_stays_constant_at_any_size(height: int, width: int, new_height: int, new_width: int) -> None:
    resized = resize(torch.full((2, height, width), 201, dtype=torch.uint8), (new_height, new_width))
    assert resized.shape == (2, new_height, new_width)
    assert resized.dtype == torch.uint8
    assert (resized == 201).all()


def test_halving_averages_a_ramp() -> None:
    # away from the borders the antialiased filter keeps a linear ramp: pixel i lies at 2i + 0.5
    resized = resize(ramp(64, 64), (32, 32)).int()
    expected = 2 * torch.arange(32) + 0.5
    assert (resized[1, 0, 4:-4] - expected[4:-4]).abs().max() <= 0.5


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 40)] * 4)
def test_agrees_with_the_float_filter(height: int, width: int, new_height: int, new_width: int) -> None:
    # torch's uint8 kernel rounds between its two passes, hence the tolerance
    pixels = ramp(height, width)
    expected = interpolate(pixels[None].float(), (new_height, new_width), mode="bicubic", antialias=True)[0]
    assert (resize(pixels, (new_height, new_width)) - expected.round().clamp(0, 255)).abs().max() <= 2


def test_leading_dimensions() -> None:
    batch = torch.randint(0, 256, (2, 4, 3, 20, 30), dtype=torch.uint8)
    resized = resize(batch, (8, 9))
    assert resized.shape == (2, 4, 3, 8, 9)
    assert torch.equal(resized[1, 2], resize(batch[1, 2], (8, 9)))


def test_stretch_uses_everything() -> None:
    stretched = fit_to(ramp(40, 80), (40, 40), "stretch")
    assert stretched[1, 0, 0] <= 2
    assert stretched[1, 0, -1] >= 77


def test_crop_takes_the_centre() -> None:
    assert torch.equal(fit_to(ramp(40, 80), (40, 40), "crop"), ramp(40, 80)[:, :, 20:60])
    assert torch.equal(fit_to(ramp(80, 40), (20, 40), "crop"), ramp(80, 40)[:, 30:50])


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@settings(max_examples=40, deadline=None)
@given(*[st.integers(1, 70)] * 4)
def test_any_size_fits(fit: str, height: int, width: int, new_height: int, new_width: int) -> None:
    assert fit_to(ramp(height, width), (new_height, new_width), fit).shape == (3, new_height, new_width)


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 40)] * 4)
def test_the_nearest_pixel_is_the_one_that_the_centre_lies_on(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    taken = take_nearest(ramp(height, width), (new_height, new_width))
    for axis, (side, new_side) in enumerate(((height, new_height), (width, new_width))):
        centres = [(2 * place + 1) * side // (2 * new_side) for place in range(new_side)]  # of whole numbers: exact
        found = taken[0, :, 0] if axis == 0 else taken[1, 0]
        assert found.tolist() == centres
    assert (taken[2] == 77).all()


def test_nearest_at_the_same_size_changes_nothing_and_floats_stay_floats() -> None:
    pixels = ramp(5, 7).float() / 3
    assert torch.equal(take_nearest(pixels, (5, 7)), pixels)
