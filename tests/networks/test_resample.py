"""Doubling and halving: against their definition as sums, constants, derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.networks.resample import (
    ConvDown,
    ConvUp,
    Double,
    Halve,
    binomial_downsample,
    conv_down,
    conv_up,
    fir_blur,
    fir_downsample,
    fir_upsample,
)

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def filtered(images: Tensor) -> Tensor:
    """The filter's sum at every place where all 16 pixels are there."""
    return sum(  # type: ignore[return-value]
        TAPS[i] * TAPS[j] * images[:, :, i : images.shape[2] - 3 + i, j : images.shape[3] - 3 + j]
        for i in range(4)
        for j in range(4)
    )


def spread(images: Tensor) -> Tensor:
    """A pixel, a zero, a pixel, ... in both directions."""
    wide = images.new_zeros(*images.shape[:2], 2 * images.shape[2], 2 * images.shape[3])
    wide[:, :, ::2, ::2] = images
    return wide


def repeat_edges(images: Tensor, size: int) -> Tensor:
    return F.pad(images, (size,) * 4, mode="replicate")


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 6, 10, dtype=torch.float64)


def test_doubling_is_zeros_between_pixels_and_the_filter(images: Tensor) -> None:
    # two pixels on each side become four; the filter takes 1 of them before and 2 after each place
    expected = 4 * filtered(spread(repeat_edges(images, 2)))[:, :, 2:-3, 2:-3]
    torch.testing.assert_close(fir_upsample(images), expected)


def test_halving_is_the_filter_and_every_other_pixel(images: Tensor) -> None:
    torch.testing.assert_close(fir_downsample(images), filtered(repeat_edges(images, 1))[:, :, ::2, ::2])


def test_a_constant_stays_one() -> None:
    constant = torch.full((1, 2, 4, 6), 0.7)
    doubled = fir_upsample(constant)
    assert doubled.shape == (1, 2, 8, 12)
    torch.testing.assert_close(doubled, torch.full_like(doubled, 0.7))
    torch.testing.assert_close(fir_downsample(doubled), constant)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_blur(images: Tensor, padding: int) -> None:
    torch.testing.assert_close(fir_blur(images, padding, gain=4), 4 * filtered(F.pad(images, (padding,) * 4)))


def test_convolutions_that_double_and_halve(images: Tensor) -> None:
    """Filter and convolution, both linear and the same at all places, may change places."""
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    doubled, halved = conv_up(images, weight.transpose(0, 1)), conv_down(images, weight)
    assert doubled.shape == (2, 4, 12, 20)
    assert halved.shape == (2, 4, 3, 5)
    inside = (..., slice(4, -4), slice(4, -4))
    # conv_up turns its weights around, as transposed convolutions do
    expected = F.conv2d(fir_upsample(images), weight.flip(2, 3), padding=1)
    torch.testing.assert_close(doubled[inside], expected[inside])
    expected = F.conv2d(F.pad(images, (2, 2, 2, 2)), weight)
    torch.testing.assert_close(halved, filtered(expected)[:, :, ::2, ::2])


@pytest.mark.parametrize("function", [fir_upsample, fir_downsample])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_first_and_second_derivatives(function: Callable[[Tensor], Tensor], layout: torch.memory_format) -> None:
    images = torch.randn(1, 2, 4, 6, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    torch.autograd.gradcheck(function, images)
    torch.autograd.gradgradcheck(lambda x: function(x).square(), images)


@pytest.mark.parametrize("function", [fir_upsample, fir_downsample, lambda x: fir_blur(x, 1)])
def test_autocast_leaves_the_dtype_alone(function: Callable[[Tensor], Tensor]) -> None:
    images = torch.randn(2, 8, 4, 6, dtype=torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = function(images)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), function(images.float()), atol=0.05, rtol=0.02)
    (slope,) = torch.autograd.grad(outputs.sum(), images)
    assert slope.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(2, 2), (6, 10), (7, 9), (2, 5)])
def test_binomial_halving_is_a_depthwise_convolution_on_mirrored_edges(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    kernel = (taps[:, None] * taps).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=3)
    torch.testing.assert_close(binomial_downsample(images), expected)
    torch.testing.assert_close(Halve()(images), expected)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (6, 9), (7, 4)])
def test_binomial_halving_can_be_differentiated_twice(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(binomial_downsample, (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(binomial_downsample, (images,), fast_mode=True)


def test_binomial_halving_is_silent_at_the_frequency_that_would_fold_to_zero() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    assert torch.equal(binomial_downsample(stripes), torch.zeros(1, 1, 8, 8))
    torch.testing.assert_close(binomial_downsample(torch.full((1, 2, 6, 4), 0.7)), torch.full((1, 2, 3, 2), 0.7))


@pytest.mark.parametrize("function", [binomial_downsample, fir_upsample, fir_downsample])
def test_it_keeps_bfloat16(function: Callable[[Tensor], Tensor]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(torch.randn(1, 1, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_layers_are_the_functions(images: Tensor) -> None:
    torch.manual_seed(0)
    down, up = ConvDown(3, 5, bias=True).double(), ConvUp(3, 5, bias=True).double()
    torch.testing.assert_close(down(images), conv_down(images, down.weight, down.bias))
    torch.testing.assert_close(up(images), conv_up(images, up.weight) + up.bias[:, None, None])
    assert torch.equal(ConvUp(3, 5, bias=False).double()(images * 0), torch.zeros(2, 5, 12, 20, dtype=torch.float64))
    torch.testing.assert_close(Double("antialiased")(images), fir_upsample(images))
    assert torch.equal(Double("nearest")(images)[:, :, 1::2, ::2], images)
