"""Convolutions with fast second derivatives: the same as torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks import convolution
from img2img.networks.convolution import conv2d, conv_transpose2d

CASES: list[tuple[Callable[..., Tensor], Callable[..., Tensor], dict[str, Any]]] = [
    (conv2d, F.conv2d, {"padding": 1}),
    (conv2d, F.conv2d, {"padding": 1, "bias": torch.linspace(-1, 1, 4, dtype=torch.float64)}),
    (conv2d, F.conv2d, {"stride": 2, "padding": 1}),
    (conv2d, F.conv2d, {"stride": 2}),
    (conv2d, F.conv2d, {"padding": 2, "groups": 2}),
    (conv_transpose2d, F.conv_transpose2d, {"stride": 2}),
    (conv_transpose2d, F.conv_transpose2d, {"stride": 2, "padding": 1, "groups": 2}),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES)
@pytest.mark.parametrize("size", [(5, 8), (6, 7)])
def test_values_and_three_derivatives_are_torchs(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    options: dict[str, Any],
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    groups = options.get("groups", 1)
    shape = (4, 6 // groups, 3, 3) if ours is conv2d else (6, 4 // groups, 3, 3)
    leaves = [torch.randn(2, 6, *size, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)]
    leaves += [value for name, value in options.items() if name == "bias"]
    numbers = {name: value for name, value in options.items() if name != "bias"}
    found = []
    for function in (ours, theirs):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        values = [function(*inputs, **numbers)]
        scalar = values[0].sin().sum()
        values += torch.autograd.grad(scalar, inputs, retain_graph=True)  # not to be differentiated: another path
        for last in (False, False, True):
            slopes = torch.autograd.grad(scalar, inputs, create_graph=not last, retain_graph=True)
            values += slopes
            scalar = sum(slope.square().sum() for slope in slopes)
        found.append(values)
    for left, right in zip(*found):
        assert right.abs().max() > 1e-3
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_autocast_has_the_dtypes_of_torch(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 6, 8, 8), torch.randn(4, 6, 3, 3), torch.randn(4)]
    results = []
    for function in (conv2d, F.conv2d):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        with torch.autocast("cpu", torch.bfloat16):
            outputs = function(inputs[0].to(memory_format=layout), inputs[1].to(memory_format=layout), inputs[2])
        results.append([outputs, *torch.autograd.grad(outputs.float().square().sum(), inputs)])
    for left, right in zip(*results):
        assert left.dtype == right.dtype
        torch.testing.assert_close(left, right, rtol=0.02, atol=0.02)


def test_gradients_that_nobody_asked_for_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for R1: the slope by the images is wanted, to be differentiated again; that of the weight is not."""
    images = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    calls = []
    monkeypatch.setattr(convolution, "_weight_slope", lambda *arguments: calls.append(arguments))
    outputs = conv2d(images, weight).square().sum()
    torch.autograd.grad(outputs, images, create_graph=True)
    assert calls == []


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_grouped_convolution_to_the_third_order(groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=groups).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)

    def answers(y: torch.Tensor) -> list[torch.Tensor]:
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
        return [y, first, second, *torch.autograd.grad(second.pow(2).sum(), [x, *conv.parameters()])]

    for got, expected in zip(answers(conv2d(x, conv.weight, conv.bias, padding=1, groups=groups)), answers(conv(x))):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
