"""Residual blocks: fused resampling equals the plain one, blocks by hand, sums over places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks import residual
from img2img.networks.residual import (
    DiscriminatorBlock,
    GeneratorBlock,
    conv_of_doubled,
    double,
    half_of_conv,
    halve,
)

PLAIN: dict[Callable[[nn.Conv2d, Tensor], Tensor], Callable[[nn.Conv2d, Tensor], Tensor]] = {
    conv_of_doubled: lambda conv, x: conv(double(x)),
    half_of_conv: lambda conv, x: halve(conv(x)),
}


@pytest.fixture(params=[True, False])
def fuses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(residual, "_fuses", lambda images, places: request.param)
    return bool(request.param)


@pytest.mark.parametrize("function", PLAIN)
@pytest.mark.parametrize("size", [(4, 4), (6, 10)])
def test_resampling_inside_the_kernel(
    function: Callable[[nn.Conv2d, Tensor], Tensor], size: tuple[int, int], fuses: bool
) -> None:
    """Values, gradients and second derivatives, borders and bias included."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)

    def answers(function: Callable[[nn.Conv2d, Tensor], Tensor]) -> list[Tensor]:
        y = function(conv, x)
        first = torch.autograd.grad(y.pow(3).sum(), [x, conv.weight, conv.bias], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), [x, conv.weight, conv.bias])
        return [y, *first, *second]

    for got, expected in zip(answers(function), answers(PLAIN[function])):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_large_planes_are_fused_and_small_ones_are_not() -> None:
    assert residual._fuses(torch.zeros(16, 1, 1, 1), places=64)
    assert not residual._fuses(torch.zeros(15, 1, 1, 1), places=64)
    assert not residual._fuses(torch.zeros(16, 1, 1, 1, dtype=torch.bfloat16), places=64)
    assert residual._fuses(torch.zeros(16, 1, 1, 1, dtype=torch.bfloat16), places=512)


def test_generator_block_by_hand(fuses: bool) -> None:
    torch.manual_seed(0)
    block = GeneratorBlock(4, 3, nn.BatchNorm2d).double()
    x = torch.randn(2, 4, 4, 6, dtype=torch.float64)
    normal = F.batch_norm(x, None, None, training=True)
    inside = block.conv1(double(normal.relu()))
    inside = block.conv2(F.batch_norm(inside, None, None, training=True).relu())
    torch.testing.assert_close(block(x), inside + block.shortcut(double(x)))


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("first", [True, False])
def test_discriminator_block_by_hand(first: bool, norm: str, fuses: bool) -> None:
    torch.manual_seed(0)
    block = DiscriminatorBlock(4, 6, first=first, norm=norm, wide=False).double()
    x = torch.randn(2, 4, 4, 6, dtype=torch.float64)

    def normal(x: Tensor) -> Tensor:
        return F.group_norm(x, 1) if norm == "layer" and not first else x

    inside = block.conv1(x if first else normal(x).relu())
    assert inside.shape[1] == (6 if first else 4)
    inside = block.conv2(normal(inside).relu())
    before = x.clone()
    torch.testing.assert_close(block(x), halve(inside) + halve(block.shortcut(x)))
    assert torch.equal(x, before)


def test_a_block_that_keeps_everything_has_no_convolution_in_its_shortcut() -> None:
    assert isinstance(DiscriminatorBlock(4, 4, halves=False).shortcut, nn.Identity)
    assert isinstance(DiscriminatorBlock(4, 5, halves=False).shortcut, nn.Conv2d)
    assert isinstance(DiscriminatorBlock(4, 4).shortcut, nn.Conv2d)
