"""SPADE: the paper's parameter counts, the norm it is where the map is constant, and how far labels reach."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from img2img.errors import UsageFault
from img2img.networks.labels import read_colour
from img2img.networks.layers import make_norm
from img2img.networks.spade import SpadeGenerator, SpatiallyAdaptiveNorm

COLOURS = ("#000000", "#ff0000", "#00ff00", "#0000ff")


def palette_of(count: int) -> tuple[str, ...]:
    return tuple(f"#{value:06x}" for value in range(count))


def maps(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random label maps (N, 3, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(len(COLOURS), (count, height, width), generator=generator)
    colours = torch.tensor([read_colour(colour) for colour in COLOURS]) / 127.5 - 1
    return colours[classes].permute(0, 3, 1, 2)


def small(**more: object) -> SpadeGenerator:
    torch.manual_seed(0)
    return SpadeGenerator(
        **{"palette": COLOURS, "width": 2, "hidden": 3, "downsamplings": 2, "norm": "instance", **more}
    )


@pytest.mark.parametrize(("classes", "millions"), [(36, 93.0), (151, 96.5), (183, 97.5)])
def test_parameter_counts_of_the_paper(classes: int, millions: float) -> None:
    """As later papers give them for Cityscapes (35 classes and an edge map), ADE20K and COCO-Stuff."""
    with torch.device("meta"):
        generator = SpadeGenerator(palette=palette_of(classes))
    assert round(sum(p.numel() for p in generator.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_where_the_map_is_constant_it_is_an_ordinary_norm_with_scale_and_shift(norm: str) -> None:
    """Two pixels from the edge on, where the convolutions see nothing of the zeros outside."""
    torch.manual_seed(0)
    spade = SpatiallyAdaptiveNorm(4, 3, 5, norm).double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    labels = torch.zeros(2, 3, 9, 8, dtype=torch.float64)
    labels[:, 1] = 1
    hidden = (spade.shared.weight[:, 1].sum((1, 2)) + spade.shared.bias).relu()
    scale, shift = (spade.scale_and_shift.weight.sum((2, 3)) @ hidden + spade.scale_and_shift.bias).chunk(2)
    ordinary = nn.BatchNorm2d(4).double() if norm == "batch" else make_norm("instance", 4)
    if isinstance(ordinary, nn.BatchNorm2d):
        ordinary.load_state_dict({"weight": 1 + scale, "bias": shift}, strict=False)
        expected = ordinary(x)
    else:
        expected = ordinary(x) * (1 + scale)[:, None, None] + shift[:, None, None]
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(spade(x, labels)[inner], expected[inner])
    assert scale.abs().min() > 0
    assert not torch.allclose(spade(x, labels), expected)


def test_a_label_changes_its_place_and_two_pixels_around() -> None:
    torch.manual_seed(0)
    spade = SpatiallyAdaptiveNorm(4, 2, 5, "instance").double()
    nn.init.constant_(spade.shared.bias, 10.0)  # no ReLU is off
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    labels = F.one_hot(torch.zeros(1, 9, 9, dtype=torch.int64), 2).permute(0, 3, 1, 2).double()
    changed = labels.clone()
    changed[0, :, 4, 4] = torch.tensor([0.0, 1.0])
    touched = (spade(x, labels) != spade(x, changed)).any(dim=1)[0]
    assert touched[2:7, 2:7].all()
    assert touched.sum() == 25


@pytest.mark.parametrize(("downsamplings", "size"), [(1, (2, 4)), (2, (4, 12)), (3, (16, 8))])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(downsamplings: int, size: tuple[int, int], channels: int) -> None:
    generator = small(downsamplings=downsamplings, out_channels=channels)
    images = generator(maps(2, *size))
    assert images.shape == (2, channels, *size)
    assert images.abs().max() <= 1
    assert generator.stride == generator.min_size == 2**downsamplings


def test_it_sees_classes_not_colours() -> None:
    generator = small().eval()
    images = maps(2, 8, 8)
    noise = (torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.5
    assert torch.equal(generator(images + noise), generator(images))
    assert not torch.allclose(generator(maps(2, 8, 8, seed=1)), generator(images))


def test_every_label_of_the_map_counts() -> None:
    """Its labels reach the picture at the whole size: one pixel in another class, off the grid of the start, changes it."""
    generator = small().double()
    images = maps(1, 8, 8).double()
    changed = images.clone()
    changed[0, :, 3, 5] = torch.where(images[0, :, 3, 5] > 0, -1.0, 1.0)
    assert not torch.equal(generator(images), generator(changed))


def test_spectral_norm_is_on_the_convolutions_of_blocks_alone() -> None:
    generator = small()
    normed = {name for name, module in generator.named_modules() if parametrize.is_parametrized(module)}
    expected = {
        name
        for name, module in generator.named_modules()
        if isinstance(module, nn.Conv2d) and name.split(".")[-1] in ("conv1", "conv2", "shortcut")
    }
    assert normed == expected != set()


def test_without_colours_it_says_what_is_missing() -> None:
    with pytest.raises(UsageFault, match=r"^data\.labels: .*Set data\.labels to the number of their colours"):
        SpadeGenerator()
