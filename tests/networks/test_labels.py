"""Label maps as planes: the nearest colour wins, whatever the type; colours are read or refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from img2img.errors import UsageFault
from img2img.networks.labels import Palette, check_palette, read_colour

COLOURS = ("#000000", "#ff0000", "#00ff00", "#8080ff", "#010203")


def levels(*colours: str) -> Tensor:
    """A label map of one row, (1, 3, 1, n) in [-1, 1]."""
    return torch.tensor([read_colour(colour) for colour in colours]).T.reshape(1, 3, 1, -1) / 127.5 - 1


def test_each_colour_is_its_own_class() -> None:
    planes = Palette(COLOURS)(levels(*COLOURS))
    assert torch.equal(planes[0, :, 0], torch.eye(5))


@given(st.integers(0, 2**16))
def test_the_nearest_colour_wins(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 2 - 1
    palette = Palette(COLOURS)
    planes = palette(images)
    distances = torch.cdist(images.permute(0, 2, 3, 1), palette.colours.double()).permute(0, 3, 1, 2)
    assert planes.dtype == torch.float64
    assert torch.equal(planes.sum(1), torch.ones(2, 4, 5, dtype=torch.float64))
    assert torch.equal(planes.argmax(1), distances.argmin(1))


def test_autocast_does_not_blur_colours() -> None:
    """bfloat16 holds #010203 and black as one."""
    images = levels(*COLOURS)
    with torch.autocast("cpu", torch.bfloat16):
        planes = Palette(COLOURS)(images)
    assert torch.equal(planes[0, :, 0], torch.eye(5))


@pytest.mark.parametrize(
    "colours", ["#000000", 3, ("#000000", "red"), ("#00000",), ("#0000zz",), ("000000",), (0,), ("#0000aa", "#0000AA")]
)
def test_what_is_no_palette_is_refused(colours: object) -> None:
    with pytest.raises(UsageFault, match=r"^palette: "):
        check_palette(colours)


def test_more_than_256_classes_are_refused() -> None:
    check_palette([f"#{value:06x}" for value in range(256)])
    with pytest.raises(UsageFault, match="at most 256"):
        check_palette([f"#{value:06x}" for value in range(257)])
