"""Modulated convolution: two forms of one function, and what demodulation promises."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.networks.modulated import MODULATION_FORMS, modulated_conv2d, modulation_scales
from img2img.networks.resample import conv_up


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(3, 4, 6, 5, dtype=dtype, requires_grad=True),
        torch.randn(5, 4, 3, 3, dtype=dtype, requires_grad=True),
        (1 + 0.5 * torch.randn(3, 4, dtype=dtype)).requires_grad_(),
    )


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("up", "padding"), [(1, 0), (1, 1), (1, 2), (2, 1)])
def test_forms_are_one_function_with_first_and_second_derivatives(up: int, padding: int, demodulate: bool) -> None:
    found = []
    for form in MODULATION_FORMS:
        images, weight, styles = inputs()
        if up == 2:
            weight = weight.detach().transpose(0, 1).contiguous().requires_grad_()
        bias = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
        leaves = images, weight, styles, bias
        options = {"padding": padding, "up": up, "demodulate": demodulate, "gain": 1.3, "form": form}
        outputs = modulated_conv2d(images, weight, styles, bias=bias, **options)
        slopes = torch.autograd.grad(outputs.sin().sum(), leaves, create_graph=True)
        curvatures = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves)
        found.append([outputs, *slopes, *curvatures])
    assert found[0][0].shape == (3, 5, *((12, 10) if up == 2 else (4 + 2 * padding, 3 + 2 * padding)))
    for left, right in zip(*found):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


def test_each_sample_has_its_own_weights_of_unit_norm() -> None:
    """An impulse in one input channel reads the weights out: per sample and output channel their squares sum to 1."""
    _images, weight, styles = inputs()
    rows = []
    for channel in range(4):
        impulse = torch.zeros(3, 4, 5, 5, dtype=torch.float64)
        impulse[:, channel, 2, 2] = 1
        rows.append(modulated_conv2d(impulse, weight, styles, padding=1)[:, :, 1:4, 1:4].flip(2, 3))
    used = torch.stack(rows, dim=2)
    torch.testing.assert_close(used.square().sum(dim=(2, 3, 4)), torch.ones(3, 5, dtype=torch.float64))
    expected = F.normalize((weight * styles[:, None, :, None, None]).flatten(2), dim=2)
    torch.testing.assert_close(used.flatten(2), expected)


def test_doubling_is_the_same_with_the_weights_of_each_sample() -> None:
    """Against one sample at a time, with weights made by hand."""
    images, weight, styles = inputs()
    outputs = modulated_conv2d(images, weight.transpose(0, 1), styles, padding=1, up=2)
    for n in range(3):
        own = F.normalize((weight * styles[n, :, None, None]).flatten(1), dim=1).reshape(5, 4, 3, 3)
        torch.testing.assert_close(outputs[n : n + 1], conv_up(images[n : n + 1], own.transpose(0, 1)))


def test_demodulation_keeps_the_variance() -> None:
    torch.manual_seed(0)
    images, weight, styles = torch.randn(8, 64, 16, 16), 7 * torch.randn(32, 64, 3, 3), 20 * torch.randn(8, 64)
    assert modulated_conv2d(images, weight, styles, padding=0).std().item() == pytest.approx(1, abs=0.02)


def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    def function(images: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
        return modulated_conv2d(images, weight, styles, padding=1).square()

    leaves = tuple(value[:2, :, :3, :2] if value.dim() == 4 else value[:2] for value in inputs())
    leaves = tuple(value.detach().requires_grad_() for value in leaves)
    torch.autograd.gradcheck(function, leaves)
    torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("form", MODULATION_FORMS)
def test_float16_does_not_overflow(form: str) -> None:
    """Sums of 64·9 products of weights near 1000 and styles near 100 would leave float16's 65504."""
    torch.manual_seed(0)
    images, weight, styles = torch.randn(2, 64, 8, 8), 1000 * torch.randn(16, 64, 3, 3), 100 * torch.randn(2, 64)
    expected = modulated_conv2d(images, weight, styles, padding=1)
    between, _rest = modulation_scales(weight, styles)
    assert F.conv2d(images * between[:, :, None, None], weight).std() < 3
    with torch.autocast("cpu", torch.float16):
        found = modulated_conv2d(images.half(), weight, styles, padding=1, form=form)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_autocast_sums_squares_in_float32() -> None:
    """In bfloat16, sums of 4096 equal squares would be off by whole percents."""
    weight, styles = torch.full((1, 4096, 1, 1), 0.3), torch.ones(1, 4096)
    with torch.autocast("cpu", torch.bfloat16):
        scale_in, scale_out = modulation_scales(weight, styles.bfloat16())
    assert scale_out is not None
    assert scale_out.dtype == torch.float32
    assert (scale_in[0, 0] * scale_out[0, 0]).item() == pytest.approx(1 / (0.3 * 64), rel=1e-5)
