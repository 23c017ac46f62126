"""Networks on pictures that are never whole in memory: which part of its input a part of a layer's output needs.

A LazyPicture stands for a picture or an activation (1, C, H, W) without holding it. A network that is called on one is
recorded, operation by operation as torch's ATen has them, and computes nothing. Each recorded Layer has a Rule that
says which region of its inputs a region of its output needs, and computes the one from the other, as the whole run
would: what is padded at the picture's true edges is padded there and nowhere else, and beyond the other edges of a
region are its true neighbours. So regions may lie anywhere, and nothing is to be known of strides and receptive fields.

What needs all of a plane at once (the statistics of a norm, a mean, attention) is marked by its rule; tiles.py sees to
it before what follows.
"""

from __future__ import annotations

import itertools
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

aten = torch.ops.aten

Span = tuple[int, int]  # from the first up to, not including, the second
Region = tuple[Span, Span]  # rows and columns

# What must be whole in memory for one operation (attention between the places of a small plane) may take so much
LARGEST_WHOLE = 256 << 20
_numbers = itertools.count()


class CannotTile(Exception):
    """The network has an operation that needs more of the picture at once than there may be; its message names it."""


@dataclass(eq=False)
class Layer:
    """One recorded operation.

    Attributes:
        shape: of its output. The last two axes are rows and columns.
        inputs: the layers that it is computed from; operands of fixed values are the rule's own.
        number: larger than those of its inputs.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    inputs: tuple[Layer, ...]
    rule: Rule
    number: int = field(default_factory=_numbers.__next__)

    @property
    def whole(self) -> Region:
        return (0, self.shape[-2]), (0, self.shape[-1])

    def bytes(self, region: Region | None = None) -> int:
        """Of its output in a region, or of all of it."""
        numel = math.prod(self.shape)
        if region is not None:
            numel = numel // (self.shape[-2] * self.shape[-1]) * area(region)
        return numel * self.dtype.itemsize


def area(region: Region) -> int:
    return math.prod(stop - first for first, stop in region)


def hull(first: Region, second: Region) -> Region:
    """The smallest region that holds both."""
    rows, columns = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(first, second))
    return rows, columns


def crop(values: Tensor, have: Region, want: Region) -> Tensor:
    """The part `want` of values (..., h, w) that are the part `have` of something."""
    if have == want:
        return values
    (top, bottom), (left, right) = ((w[0] - h[0], w[1] - h[0]) for h, w in zip(have, want))
    return values[..., top:bottom, left:right]


# --- rules -----------------------------------------------------------------------------------------------------------


class Rule(ABC):
    """How an operation's output depends on places of its inputs."""

    @abstractmethod
    def needs(self, region: Region) -> list[Region]:
        """The part of each input that this part of the output is computed from; never empty."""

    @abstractmethod
    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        """This part of the output, from what `needs` says of each input."""

    def products(self) -> int:
        """Multiplications for all of its output, of operations in which they count."""
        return 0


class Source(Rule):
    """A picture in memory, on the CPU or where the network is."""

    def __init__(self, values: Tensor, device: torch.device) -> None:
        self.values, self.device = values, device

    def needs(self, region: Region) -> list[Region]:
        return []

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        rows, columns = region
        return self.values[..., rows[0] : rows[1], columns[0] : columns[1]].to(self.device)


@dataclass(frozen=True)
class _Operand:
    """Stands in recorded arguments for the layer's input of this number."""

    index: int


class _Call:
    """An operation and its arguments, with operands in the places of layers."""

    def __init__(self, func: Callable[..., Any], args: Any, kwargs: Any, pick: int | None) -> None:
        self.func, self.args, self.kwargs, self.pick = func, args, kwargs, pick

    def __call__(self, pieces: Sequence[Tensor], region: Region | None = None, size: Sequence[int] = ()) -> Tensor:
        def value(argument: object) -> object:
            if isinstance(argument, _Operand):
                return pieces[argument.index]
            if isinstance(argument, Tensor) and region is not None:
                return _broadcast_part(argument, region, size)
            return argument

        args, kwargs = (tree_map(value, part, is_leaf=_is_operand) for part in (self.args, self.kwargs))
        result = self.func(*args, **kwargs)
        return result if self.pick is None else result[self.pick]


def _is_operand(argument: object) -> bool:
    return isinstance(argument, _Operand)


def _broadcast_part(tensor: Tensor, region: Region, size: Sequence[int]) -> Tensor:
    """A region of an operand of fixed values; along axes of one row or column it is the same everywhere."""
    for axis, (first, stop), length in zip((-2, -1), region, size):
        if tensor.ndim >= -axis and tensor.shape[axis] == length > 1:
            tensor = tensor.narrow(axis, first, stop - first)
    return tensor


class Pixelwise(Rule):
    """Every place by itself, from the same place of each input; inputs of one row or column are broadcast.

    Args:
        layers: the shapes of its inputs.
        shape: of its output.
        broadcasts: fixed operands follow torch's rules of broadcasting, too, so they have places; else they have none.
    """

    def __init__(self, call: _Call, layers: Sequence[Layer], shape: Sequence[int], broadcasts: bool) -> None:
        self.call, self.size, self.broadcasts = call, tuple(shape[-2:]), broadcasts
        self._sizes = [layer.shape[-2:] for layer in layers]

    def needs(self, region: Region) -> list[Region]:
        parts = []
        for size in self._sizes:
            rows, columns = (
                span if length == whole else (0, 1) for span, length, whole in zip(region, size, self.size)
            )
            parts.append((rows, columns))
        return parts

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        return self.call(pieces, region if self.broadcasts else None, self.size)


def _clip(span: Span, length: int) -> Span:
    """The part of a span inside 0…length, or else the nearest place there is."""
    first = min(max(span[0], 0), length - 1)
    return first, max(min(span[1], length), first + 1)


def _surround(values: Tensor, have: Region, want: Region, value: float = 0.0) -> Tensor:
    """The part `want` from the part `have`; what that lacks is outside the picture and `value`."""
    if have == want:
        return values
    if any(w[1] <= h[0] or h[1] <= w[0] for h, w in zip(have, want)):
        size = (stop - first for first, stop in want)
        return values.new_full((*values.shape[:-2], *size), value)
    (top, bottom), (left, right) = ((h[0] - w[0], w[1] - h[1]) for h, w in zip(have, want))
    return F.pad(values, (left, right, top, bottom), value=value)


class _Window(Rule):
    """Each place of the output sees a window of the input, with zeros beyond its edges."""

    def __init__(
        self,
        size: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int] = (1, 1),
    ) -> None:
        self.size, self.kernel, self.stride, self.padding = size, kernel, stride, padding
        self.dilation = dilation

    def _windows(self, region: Region) -> Region:
        """What is seen, edges or not."""
        rows, columns = (
            (first * stride - padding, (stop - 1) * stride - padding + dilation * (kernel - 1) + 1)
            for (first, stop), kernel, stride, padding, dilation in zip(
                region, self.kernel, self.stride, self.padding, self.dilation
            )
        )
        return rows, columns

    def needs(self, region: Region) -> list[Region]:
        rows, columns = (_clip(span, length) for span, length in zip(self._windows(region), self.size))
        return [(rows, columns)]


class Convolution(_Window):
    """aten.convolution, not transposed."""

    def __init__(
        self,
        layer: Layer,
        shape: Sequence[int],
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        super().__init__(layer.shape[-2:], weight.shape[2:], stride, padding, dilation)
        self.weight, self.bias, self.groups = weight, bias, groups
        self._products = math.prod(shape[-2:]) * weight.numel()

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        seen = _surround(pieces[0], self.needs(region)[0], self._windows(region))
        form = (self.stride, (0, 0), self.dilation, False, (0, 0), self.groups)
        return aten.convolution(seen, self.weight, self.bias, *form)

    def products(self) -> int:
        return self._products


class TransposedConvolution(Rule):
    """aten.convolution, transposed: input place i adds to the output places i · stride − padding + dilation · k."""

    def __init__(
        self,
        layer: Layer,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        self.size = layer.shape[-2:]
        self.weight, self.bias, self.groups = weight, bias, groups
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]

    def needs(self, region: Region) -> list[Region]:
        rows, columns = (
            _clip(((first + padding - reach) // stride, (stop - 1 + padding) // stride + 1), length)
            for (first, stop), padding, reach, stride, length in zip(
                region, self.padding, self.reach, self.stride, self.size
            )
        )
        return [(rows, columns)]

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        offsets, lacking = [], []
        for span, seen, padding, reach, stride in zip(
            region, self.needs(region)[0], self.padding, self.reach, self.stride
        ):
            first = seen[0] * stride - padding
            offsets.append(span[0] - first)
            # the rows that output_padding adds to the whole run
            lacking.append(max(0, span[1] - ((seen[1] - 1) * stride + reach + 1 - padding)))
        form = (self.stride, (0, 0), self.dilation, True, lacking, self.groups)
        wide = aten.convolution(pieces[0], self.weight, self.bias, *form)
        rows, columns = region
        (top, left), height, width = offsets, rows[1] - rows[0], columns[1] - columns[0]
        return wide[..., top : top + height, left : left + width]

    def products(self) -> int:
        return math.prod(self.size) * self.weight.numel()


class AveragePool(_Window):
    """avg_pool2d, with padding that counts or does not."""

    def __init__(
        self, layer: Layer, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], counts_padding: bool
    ) -> None:
        super().__init__(layer.shape[-2:], kernel, stride, padding)
        self.counts_padding = counts_padding

    def _pool(self, values: Tensor) -> Tensor:
        return F.avg_pool2d(values, tuple(self.kernel), tuple(self.stride))

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        have, want = self.needs(region)[0], self._windows(region)
        seen = self._pool(_surround(pieces[0], have, want))
        if self.counts_padding or have == want:
            return seen
        return seen / self._pool(_surround(torch.ones_like(pieces[0][:1, :1]), have, want))


class Padding(Rule):
    """Rows and columns added (or, by negative amounts, taken away) at the picture's edges.

    Args:
        mode: "reflect", "replicate" or "constant".
        amounts: left, right, top and bottom, as F.pad takes them.
    """

    def __init__(self, layer: Layer, mode: str, amounts: Sequence[int], value: float = 0.0) -> None:
        left, right, top, bottom = (*amounts, 0, 0)[:4]
        self.size, self.mode, self.value = layer.shape[-2:], mode, value
        self.before, self.after = (top, left), (bottom, right)

    def needs(self, region: Region) -> list[Region]:
        rows, columns = (
            self._span((first - before, stop - before), length)
            for (first, stop), before, length in zip(region, self.before, self.size)
        )
        return [(rows, columns)]

    def _span(self, span: Span, length: int) -> Span:
        first, stop = _clip(span, length)
        if self.mode == "reflect":
            # the edge that is reflected at, and as far behind it as the padding is wide
            if span[0] < 0:
                first, stop = 0, max(stop, 1 - span[0])
            if span[1] > length:
                first, stop = min(first, 2 * length - 1 - span[1]), length
        return first, stop

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        rows, columns = ((first - before, stop - before) for (first, stop), before in zip(region, self.before))
        want, have = (rows, columns), self.needs(region)[0]
        if self.mode == "constant":
            return _surround(pieces[0], have, want, self.value)
        beyond = [(max(0, -first), max(0, stop - length)) for (first, stop), length in zip(want, self.size)]
        (top, bottom), (left, right) = beyond
        padded = pieces[0]
        if any((top, bottom, left, right)):
            padded = F.pad(padded, (left, right, top, bottom), mode=self.mode)
        rows, columns = ((h[0] - low, h[1] + high) for h, (low, high) in zip(have, beyond))
        return crop(padded, (rows, columns), want)


class Slice(Rule):
    """Every so-manieth row and column, from some on; also nearest interpolation by the reciprocals of whole numbers."""

    def __init__(self, offsets: Sequence[int], steps: Sequence[int]) -> None:
        self.offsets, self.steps = offsets, steps

    def needs(self, region: Region) -> list[Region]:
        rows, columns = (
            (offset + first * step, offset + (stop - 1) * step + 1)
            for (first, stop), offset, step in zip(region, self.offsets, self.steps)
        )
        return [(rows, columns)]

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        return pieces[0][..., :: self.steps[0], :: self.steps[1]]


class Upsample(Rule):
    """Interpolation by whole factors, nearest or bilinear (places at the middles of pixels)."""

    def __init__(self, layer: Layer, factors: Sequence[int], mode: str) -> None:
        self.size, self.factors, self.mode = layer.shape[-2:], factors, mode
        # bilinear: a pixel's neighbours, and one more, so that no place wanted is beyond the middle of the last
        self.margin = 0 if mode == "nearest" else 2

    def needs(self, region: Region) -> list[Region]:
        rows, columns = (
            _clip((first // factor - self.margin, (stop - 1) // factor + 1 + self.margin), length)
            for (first, stop), factor, length in zip(region, self.factors, self.size)
        )
        return [(rows, columns)]

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        have = self.needs(region)[0]
        smooth = {} if self.mode == "nearest" else {"align_corners": False}
        fine = F.interpolate(pieces[0], scale_factor=[float(f) for f in self.factors], mode=self.mode, **smooth)
        rows, columns = ((first * f, stop * f) for (first, stop), f in zip(have, self.factors))
        return crop(fine, (rows, columns), region)


def _moments_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of every channel, (C,)."""
    if values.device.type != "cpu":
        return torch.var_mean(values, dim=(0, 2, 3), correction=0)
    # a third of var_mean's time in channels_last, and the result is thrown away
    _normal, mean, reciprocal = torch.native_batch_norm(values, None, None, None, None, True, 0.0, 0.0)
    variance = reciprocal.double().pow(-2)
    return variance.where(reciprocal > 0, 0.0), mean  # of a constant it gives no infinity


class Moments:
    """Mean and biased variance of every channel over planes that are seen part by part."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)  # squares: of the distances from the mean

    def add(self, values: Tensor) -> None:
        """values (1, C, h, w), none of them seen before (Chan, Golub & LeVeque 1979)."""
        count = values.shape[-2] * values.shape[-1]
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        variance, mean = (part.cpu().double() for part in _moments_of(wide))
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.squares = self.squares + variance * count + shift.square() * (self.count * count / total)
        self.count = total

    def by_group(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of each group of channels, (groups,); groups of one are the channels."""
        means, variances = (part.view(groups, -1) for part in (self.mean, self.squares / self.count))
        mean = means.mean(dim=1)
        return mean, variances.mean(dim=1) + (means - mean[:, None]).square().mean(dim=1)


class Normalisation(Rule):
    """Group norm of any number of groups over the whole picture; instance and layer norm are two of them."""

    def __init__(self, layer: Layer, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> None:
        self.channels, self.weight, self.bias, self.groups, self.eps = layer.shape[1], weight, bias, groups, eps
        self._scale = self._shift = torch.empty(0)

    def settle(self, moments: Moments) -> None:
        """Take the moments of the whole input, before anything is computed."""
        mean, variance = (
            part.repeat_interleave(self.channels // self.groups) for part in moments.by_group(self.groups)
        )
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.cpu().double()
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias.cpu().double()
        self._scale, self._shift = (part[None, :, None, None] for part in (scale, shift))

    def needs(self, region: Region) -> list[Region]:
        return [region]

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        (values,) = pieces
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        scale, shift = (part.to(wide) for part in (self._scale, self._shift))
        return torch.addcmul(shift, wide, scale).to(values.dtype)


class Held(Rule):
    """An operation whose output is computed once and kept, since it has no places or sees all places of its inputs."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def needs(self, region: Region) -> list[Region]:
        return []

    def compute(self, region: Region, pieces: Sequence[Tensor]) -> Tensor:
        assert self.value is not None, "what is held is computed before it is used"
        return crop(self.value, ((0, self.value.shape[-2]), (0, self.value.shape[-1])), region)


class PlaneMean(Held):
    """The mean of every plane."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.shape, self.dtype, self.device = shape, dtype, device

    def settle(self, moments: Moments) -> None:
        """Take the moments of the whole input."""
        self.value = moments.mean.view(self.shape).to(self.device, self.dtype)


class Whole(Held):
    """Any other operation, on all of its inputs at once."""

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self.call = call

    def run(self, inputs: Sequence[Tensor]) -> None:
        self.value = self.call(inputs)


# --- recording -------------------------------------------------------------------------------------------------------


class LazyPicture(Tensor):
    """A picture or an activation of a network that is recorded, not run; it has a shape, a dtype and a device."""

    layer: Layer
    _views: list[weakref.ref[LazyPicture]]

    @staticmethod
    def __new__(cls, layer: Layer, device: torch.device) -> LazyPicture:
        return torch.Tensor._make_wrapper_subclass(cls, layer.shape, dtype=layer.dtype, device=device)

    def __init__(self, layer: Layer, device: torch.device) -> None:
        super().__init__()
        self.layer = layer
        self._views = [weakref.ref(self)]

    @classmethod
    def of(cls, values: Tensor, device: torch.device) -> LazyPicture:
        """The picture `values` (1, C, H, W), which stays where it is, as one on `device`."""
        assert len(values) == 1, "one picture at a time"
        return cls(Layer(tuple(values.shape), values.dtype, (), Source(values, device)), device)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return f"LazyPicture({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not func._schema.is_mutable:
            return _record(func, args, kwargs or {})
        target = args[0]
        # another name for the same values would not see the change
        if not isinstance(target, LazyPicture) or sum(view() is not None for view in target._views) > 1:
            raise _refusal(func)
        changed = _record(_without_side_effect(func), args, kwargs or {})
        if changed.shape != target.shape or changed.dtype != target.dtype:
            raise _refusal(func)
        target.layer = changed.layer
        return target


def _without_side_effect(func: Any) -> Any:
    """aten.relu_ -> aten.relu."""
    name = func._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None or func._overloadname not in packet.overloads():
        raise _refusal(func)
    return getattr(packet, func._overloadname)


def _refusal(func: Any) -> CannotTile:
    return CannotTile(f"its operation {func._schema.name.removeprefix('aten::')} sees all of a picture at once")


def _record(func: Any, args: Any, kwargs: Any) -> Any:
    """The lazy results of an operation on lazy pictures."""
    try:
        shapes = _run_on_meta(func, args, kwargs)
    except (RuntimeError, NotImplementedError) as error:  # its course depends on values
        raise _refusal(func) from error
    lazies: list[LazyPicture] = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, LazyPicture)]
    layers = tuple(lazy.layer for lazy in lazies)
    device = lazies[0].device
    outputs = shapes if isinstance(shapes, list | tuple) else [shapes]
    if not all(isinstance(output, Tensor) for output in outputs):
        raise _refusal(func)
    order = itertools.count()
    operands, options = tree_map_only(LazyPicture, lambda _: _Operand(next(order)), (args, kwargs))
    results: list[Tensor] = []
    for index, output in enumerate(outputs):
        call = _Call(func, operands, options, index if isinstance(shapes, list | tuple) else None)
        rule = _rule_for(func, args, layers, output, call, device)
        if rule is None and index > 0 and func in _NORMS:
            results.append(torch.empty(0))  # statistics that nobody asks for
            continue
        if rule is None:
            rule = _whole(func, layers, output, call)
        results.append(LazyPicture(Layer(tuple(output.shape), output.dtype, layers, rule), device))
    if any(value.alias_info is not None for value in func._schema.returns):
        # results that are views: a change of one would change all
        family = [*lazies, *(result for result in results if isinstance(result, LazyPicture))]
        views = [view for lazy in lazies for view in lazy._views] + [
            weakref.ref(lazy) for lazy in family[len(lazies) :]
        ]
        for lazy in family:
            lazy._views = views
    return type(shapes)(results) if isinstance(shapes, list | tuple) else results[0]


def _run_on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """What the operation would return, without values."""

    def empty(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    args, kwargs = tree_map_only(Tensor, empty, (args, kwargs))
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*args, **kwargs)


def _whole(func: Any, layers: Sequence[Layer], output: Tensor, call: _Call) -> Whole:
    needed = [layer.bytes() for layer in layers if not isinstance(layer.rule, Held)]
    if needed and sum(needed) + output.numel() * output.element_size() > LARGEST_WHOLE:
        raise _refusal(func)
    return Whole(call)


# operations whose fixed operands have no places
_BY_CHANNEL = (aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default)
_NORMS = (*_BY_CHANNEL, aten.native_group_norm.default)
_SAME_PLACE = (
    aten._to_copy.default,
    aten.detach.default,
    aten.alias.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten._prelu_kernel.default,
)
_PADDINGS = {aten.reflection_pad2d.default: "reflect", aten.replication_pad2d.default: "replicate"}


def _rule_for(
    func: Any, args: Any, layers: Sequence[Layer], output: Tensor, call: _Call, device: torch.device
) -> Rule | None:
    """The rule of an operation on planes; None where there is none."""
    if all(isinstance(layer.rule, Held) for layer in layers):
        return None
    shape = output.shape
    planes = all(len(layer.shape) == 4 and layer.shape[0] == 1 for layer in layers)
    if not planes or (output.ndim != 4 and func is not aten.mean.dim):
        return None
    if torch.Tag.pointwise in func.tags or func in _SAME_PLACE:
        return Pixelwise(call, layers, shape, broadcasts=True)
    if func in (aten.view.default, aten._unsafe_view.default, aten.expand.default) and shape == layers[0].shape:
        return Pixelwise(_Call(aten.alias.default, call.args[:1], {}, None), layers, shape, broadcasts=True)
    if func in _ALONG_CHANNELS and (_axis(func, args) == 1 or shape == layers[0].shape):
        return Pixelwise(call, layers, shape, broadcasts=True)
    if len(layers) > 1:
        return None
    if func is aten.mean.dim and sorted(axis % 4 for axis in args[1]) == [2, 3]:
        return PlaneMean(shape, output.dtype, device)
    return _rule_of_planes(func, args, layers[0], output, call)


# operations along one axis -> where it stands among the arguments
_ALONG_CHANNELS = {
    aten.cat.default: 1,
    aten.slice.Tensor: 1,
    aten.split.Tensor: 2,
    aten.split_with_sizes.default: 2,
    aten.argmax.default: 1,
    aten.scatter.value: 1,
    aten._softmax.default: 1,
}


def _axis(func: Any, args: Any) -> int | None:
    position = _ALONG_CHANNELS[func]
    axis = args[position] if len(args) > position else 0
    return None if axis is None else int(axis) % 4


def _rule_of_planes(func: Any, args: Any, layer: Layer, output: Tensor, call: _Call) -> Rule | None:
    """The rule of an operation on one layer's planes."""
    if func is aten.convolution.default and args[0] is not None and isinstance(args[1], Tensor):
        weight, bias, stride, padding, dilation, transposed, _extra, groups = args[1:9]
        if isinstance(weight, LazyPicture) or isinstance(bias, LazyPicture) or weight.ndim != 4:
            return None
        if transposed:
            return TransposedConvolution(layer, weight, bias, stride, padding, dilation, groups)
        return Convolution(layer, output.shape, weight, bias, stride, padding, dilation, groups)
    if func in _PADDINGS:
        return Padding(layer, _PADDINGS[func], args[1])
    if func is aten.constant_pad_nd.default and len(args[1]) <= 4:
        return Padding(layer, "constant", args[1], *args[2:])
    if func is aten.slice.Tensor:
        return _rule_of_slice(layer, *args[1:])
    if func is aten.native_group_norm.default:
        return Normalisation(layer, args[1], args[2], args[6], args[7])
    if func is aten.native_batch_norm.default and args[5]:
        return Normalisation(layer, args[1], args[2], layer.shape[1], args[7])
    if func in _BY_CHANNEL:
        return Pixelwise(call, [layer], output.shape, broadcasts=False)
    return _rule_of_resampling(func, args, layer, output)


def _rule_of_resampling(func: Any, args: Any, layer: Layer, output: Tensor) -> Rule | None:
    sizes = list(zip(layer.shape[-2:], output.shape[-2:]))
    if func in (aten.upsample_nearest2d.default, aten.upsample_bilinear2d.default):
        mode = "nearest" if func is aten.upsample_nearest2d.default else "bilinear"
        larger = all(fine % coarse == 0 for coarse, fine in sizes)
        if larger and (mode == "nearest" or not args[2]):
            return Upsample(layer, [fine // coarse for coarse, fine in sizes], mode)
        if mode == "nearest" and all(fine % coarse == 0 for fine, coarse in sizes):
            return Slice((0, 0), [fine // coarse for fine, coarse in sizes])
    if func is aten.avg_pool2d.default:
        return _rule_of_pool(layer, *args[1:])
    return None


def _rule_of_slice(
    layer: Layer, axis: int = 0, first: int | None = None, _stop: int | None = None, step: int = 1
) -> Rule | None:
    if axis % 4 < 2:
        return None
    length = layer.shape[axis]
    first = 0 if first is None else first + length * (first < 0)
    offset = min(max(first, 0), length)
    return Slice((offset, 0), (step, 1)) if axis % 4 == 2 else Slice((0, offset), (1, step))


def _rule_of_pool(
    layer: Layer,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    counts_padding: bool = True,
    divisor: int | None = None,
) -> Rule | None:
    if ceil_mode or divisor is not None:
        return None
    kernel, stride, padding = (tuple(values) * (2 // len(values)) for values in (kernel, stride or kernel, padding))
    return AveragePool(layer, kernel, stride, padding, counts_padding)
