"""Augmentation of what discriminators see: DiffAugment and ADA, as functions of images and of keyed draws.

Both players see nothing but augmented images, so the generator is not told to make them augmented as long as the
changes can be undone in distribution. Everything is linear in the image and differentiable any number of times. Row i
depends on image i and on its draws alone, and every device draws the same numbers. Images are (N, C, H, W) in [−1, 1],
C is 1 (grey), 3 (RGB) or 4 (RGBA, whose alpha has no colour).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.draws import Draws

# --- DiffAugment ------------------------------------------------------------------------------------------------------


def diffaugment(images: Tensor, draws: Draws, *, parts: Sequence[str]) -> Tensor:
    """Always-on colour, translation and cutout (Zhao et al. 2020, arXiv:2006.10738, section 3.2).

    Colour: brightness + U(−½, ½), saturation × U(0, 2), contrast × U(½, 1½), in this order. Translation by up to an
    eighth of each side, filled with grey. Cutout of a window half as large as the image.
    """
    for part in parts:
        images = DIFFAUGMENT_PARTS[part](images, draws.stream(part))
    return images


def _vary_colour(images: Tensor, draws: Draws) -> Tensor:
    colours, alpha = _without_alpha(images)
    brightness, saturation, contrast = _columns(draws.uniform(3), images)
    colours = colours + (brightness - 0.5)
    grey = colours.mean(1, keepdim=True)
    colours = grey + (colours - grey) * (2 * saturation)
    level = colours.mean((1, 2, 3), keepdim=True)
    return _with_alpha(level + (colours - level) * (contrast + 0.5), alpha)


def _translate(images: Tensor, draws: Draws) -> Tensor:
    for dim, name in ((2, "top"), (3, "left")):
        size = images.shape[dim]
        reach = round(size / 8)
        shift = draws.stream(name).integers(2 * reach + 1) - reach
        source = torch.arange(size, device=images.device) - shift[:, None]
        shape = [len(images), 1, 1, 1]
        shape[dim] = size
        # what would leave on one side comes in on the other and is blanked: no two places read the same pixel
        moved = images.gather(dim, (source % size).view(shape).expand_as(images))
        images = moved * ((source >= 0) & (source < size)).view(shape)
    return images


def _cut_window(images: Tensor, draws: Draws) -> Tensor:
    centre = draws.uniform(2)
    return images * _outside_window(images, centre, torch.ones_like(centre[:, 0], dtype=torch.bool))


# --- ADA --------------------------------------------------------------------------------------------------------------


def ada(images: Tensor, draws: Draws, *, parts: Sequence[str], p: Tensor | float) -> Tensor:
    """The augmentations of adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676, appendix B).

    Each transformation is applied to each image with probability `p`. Blit and geometry make one affine map and colour
    one matrix, each applied once. An image for which nothing was drawn comes out bit for bit as it went in.

    Args:
        parts: some of ADA_PARTS: "blit" (mirroring, quarter turns, whole-pixel shifts), "geometry" (scaling, rotation,
            stretching, shifts), "colour" (brightness, contrast, luma flip, hue, saturation), "filter" (gain of four
            frequency bands), "noise", "cutout".
        p: in [0, 1]; a tensor of one element stays on its device.
    """
    if "blit" in parts or "geometry" in parts:
        images = _warp(images, _affine(images, draws.stream("geometry"), p, parts))
    if "colour" in parts:
        images = _apply_colour(images, _colour_matrix(images, draws.stream("colour"), p))
    if "filter" in parts:
        images = _change_bands(images, draws.stream("filter"), p)
    if "noise" in parts:
        images = _add_noise(images, draws.stream("noise"), p)
    if "cutout" in parts:
        chance, *centre = draws.stream("cutout").uniform(3).unbind(1)
        images = images * _outside_window(images, torch.stack(centre, 1), chance < p)
    return images


class _Chances:
    """Gates and values of a sequence of transformations, (N,) each, drawn in two operations.

    A transformation that is not applied gets its neutral value exactly, so that products of neutral matrices are exact.
    """

    def __init__(self, images: Tensor, draws: Draws, p: Tensor | float, count: int) -> None:
        self.p = p
        uniform = draws.stream("uniform").uniform(2, count).to(images.dtype)
        self._gates, self._uniform = (iter(rows.unbind(1)) for rows in uniform.unbind(1))
        self._normal = iter(draws.stream("normal").normal(count).to(images.dtype).unbind(1))

    def _applied(self, value: Tensor, neutral: float, p: Tensor | float | None = None) -> Tensor:
        gate = next(self._gates)
        return torch.where(gate < (self.p if p is None else p), value, neutral)

    def normal(self, std: float) -> Tensor:
        """N(0, std²), else 0."""
        return self._applied(std * next(self._normal), 0.0)

    def factor(self, octaves: float) -> Tensor:
        """2^N(0, octaves²), else 1."""
        return self._applied(torch.exp2(octaves * next(self._normal)), 1.0)

    def whole(self, count: int) -> Tensor:
        """A whole number below `count`, else 0."""
        return self._applied(torch.floor(count * next(self._uniform)), 0.0)

    def between(self, low: float, high: float, p: Tensor | float | None = None) -> Tensor:
        """U(low, high), else 0."""
        return self._applied(low + (high - low) * next(self._uniform), 0.0, p)


def _affine(images: Tensor, draws: Draws, p: Tensor | float, parts: Sequence[str]) -> Tensor:
    """(N, 3, 3): from places in the result to places in the image, in pixels from the centre.

    The transformations happen to the image in the order of the lines below, so their inverses are multiplied from the
    left to the right. Rotating twice with 1 − √(1 − p) rotates with probability p in all.
    """
    height, width = images.shape[-2:]
    chances = _Chances(images, draws, p, 16)
    inverse = torch.eye(3, dtype=images.dtype, device=images.device).expand(len(images), 3, 3)
    if "blit" in parts:
        inverse = inverse @ _scaling(1 - 2 * chances.whole(2))
        inverse = inverse @ _rotation(chances.whole(4) * (math.pi / 2), exact=True)
        shifts = (chances.between(-0.125, 0.125) * side for side in (width, height))
        inverse = inverse @ _shift(*(shift.round() for shift in shifts))
    if "geometry" in parts:
        half = 1 - (1 - p) ** 0.5
        size = 1 / chances.factor(0.2)
        inverse = inverse @ _scaling(size, size)
        inverse = inverse @ _rotation(chances.between(-math.pi, math.pi, half))
        stretch = chances.factor(0.2)
        inverse = inverse @ _scaling(1 / stretch, stretch)
        inverse = inverse @ _rotation(chances.between(-math.pi, math.pi, half))
        inverse = inverse @ _shift(*(chances.normal(0.125) * side for side in (width, height)))
    return inverse


def _matrices(rows: Sequence[Sequence[Tensor | float]], like: Tensor) -> Tensor:
    """(N, R, C) from elements that are numbers or (N,)."""
    elements = [
        element if isinstance(element, Tensor) else torch.full_like(like, element) for row in rows for element in row
    ]
    return torch.stack(elements, dim=1).unflatten(1, (len(rows), -1))


def _scaling(x: Tensor, y: Tensor | float = 1.0) -> Tensor:
    return _matrices(((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, 1.0)), x)


def _rotation(angle: Tensor, exact: bool = False) -> Tensor:
    """`exact`: of quarter turns, whose sines and cosines are whole."""
    cos, sin = angle.cos(), angle.sin()
    if exact:
        cos, sin = cos.round(), sin.round()
    return _matrices(((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0)), cos)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return _matrices(((1.0, 0.0, -x), (0.0, 1.0, -y), (0.0, 0.0, 1.0)), x)


def _warp(images: Tensor, inverse: Tensor) -> Tensor:
    """The images under `inverse` (N, 3, 3), continued by their reflections; unchanged where it is the identity.

    To keep high frequencies from folding back, the image is read and the result made at twice the resolution. The
    paper does so with the orthogonal wavelet sym6. Here it is the biorthogonal pair of Cohen, Daubechies & Feauveau
    with 9 and 7 coefficients: upsampling and downsampling undo each other as well, and since both are symmetric,
    mirroring, quarter turns and whole-pixel shifts come out exact but for rounding. Where the filters reach over the
    edge they see the reflection that the sampling goes on with.
    """
    height, width = images.shape[-2:]
    dtype, device = images.dtype, images.device
    fine = _upsampling(height, dtype, device) @ images @ _upsampling(width, dtype, device).mT
    x = torch.arange(-_MARGIN, 2 * width - 1 + _MARGIN, dtype=dtype, device=device) / 2 - (width - 1) / 2
    y = torch.arange(-_MARGIN, 2 * height - 1 + _MARGIN, dtype=dtype, device=device) / 2 - (height - 1) / 2
    # -1 and 1 are the centres of the outermost pixels
    rows = torch.stack((inverse[:, 0] * (2 / (width - 1)), inverse[:, 1] * (2 / (height - 1))), dim=1)
    a, b, c = rows[:, None, None].unbind(-1)
    grid = a * x[:, None] + (b * y[:, None, None] + c)
    warped = _Sampling.apply(fine, grid)
    warped = _downsampling(height, dtype, device) @ warped @ _downsampling(width, dtype, device).mT
    identity = torch.eye(3, dtype=dtype, device=device)
    moved = (inverse != identity).flatten(1).any(1)
    return torch.where(moved[:, None, None, None], warped, images)


class _Sampling(torch.autograd.Function):
    """Bilinear sampling (N, C, h, w), (N, H, W, 2) -> (N, C, H, W), continued by reflection about the edge pixels.

    It is linear in the images, so its derivative is its adjoint and the adjoint's derivative is itself. Older versions
    of torch differentiate grid_sample once only.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = images.shape
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SamplingAdjoint.apply(gradients[0], grid, ctx.size), None


class _SamplingAdjoint(torch.autograd.Function):
    """Each value spread over the pixels it would be read from, (N, C, H, W) -> (N, C, h, w)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        bilinear, reflection = 0, 2
        images, _ = torch.ops.aten.grid_sampler_2d_backward(
            values, values.new_zeros(()).expand(size), grid, bilinear, reflection, True, [True, False]
        )
        return images

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sampling.apply(gradients[0], grid), None, None


# Cohen, Daubechies & Feauveau 1992 ("9/7"), from the centre outwards: Σₖ DOWN[k]·UP[k + 2n] is 1 for n = 0, else 0
_DOWN = (0.602949018236358, 0.266864118442873, -0.0782232665289879, -0.0168641184428750, 0.0267487574108098)
_UP = (1.115087052456994, 0.591271763114247, -0.0575435262284996, -0.0912717631142495)
_MARGIN = len(_DOWN) - 1


def _reflected(index: int, size: int) -> int:
    """Where a row that goes on as its reflection about its end pixels has its element `index`."""
    index = abs(index) % (2 * (size - 1))
    return min(index, 2 * (size - 1) - index)


@lru_cache(maxsize=64)
def _upsampling(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2·size − 1, size): even rows are at the pixels, odd ones between them."""
    matrix = torch.zeros(2 * size - 1, size, dtype=torch.float64)
    for row in range(2 * size - 1):
        for tap in range(-3, 4):
            if (row - tap) % 2 == 0:
                matrix[row, _reflected((row - tap) // 2, size)] += _UP[abs(tap)]
    return matrix.to(device, dtype)


@lru_cache(maxsize=64)
def _downsampling(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, 2·size − 1 + 2·_MARGIN): from values on the fine grid and _MARGIN more on both sides."""
    matrix = torch.zeros(size, 2 * size - 1 + 2 * _MARGIN, dtype=torch.float64)
    for row in range(size):
        for tap in range(-_MARGIN, _MARGIN + 1):
            matrix[row, 2 * row + _MARGIN + tap] = _DOWN[abs(tap)]
    return matrix.to(device, dtype)


def _colour_matrix(images: Tensor, draws: Draws, p: Tensor | float) -> Tensor:
    """(N, 3, 4): what becomes of (red, green, blue, 1)."""
    chances = _Chances(images, draws, p, 5)
    identity = torch.eye(3, dtype=images.dtype, device=images.device)
    grey = torch.full_like(identity, 1 / 3)  # projects on the grey axis (1, 1, 1)/√3
    turn = (identity.roll(1, 0) - identity.roll(-1, 0)) / 3**0.5  # v ↦ (1, 1, 1)/√3 × v
    brightness, contrast = chances.normal(0.2), chances.factor(0.5)
    flipped, hue, saturation = chances.whole(2), chances.between(-math.pi, math.pi), chances.factor(1.0)
    flipped, hue, saturation, contrast = (v[:, None, None] for v in (flipped, hue, saturation, contrast))
    matrix = identity - 2 * flipped * grey
    matrix = (hue.cos() * identity + (1 - hue.cos()) * grey + hue.sin() * turn) @ matrix
    matrix = (saturation * identity + (1 - saturation) * grey) @ matrix
    # contrast comes before them and is the same for all channels; brightness comes first, and stays on the grey axis
    matrix = matrix * contrast
    return torch.cat((matrix, matrix.sum(2, keepdim=True) * brightness[:, None, None]), dim=2)


def _apply_colour(images: Tensor, matrix: Tensor) -> Tensor:
    """The images' colours under `matrix` (N, 3, 4); grey ones by the mean of its rows, as greys among colours."""
    colours, alpha = _without_alpha(images)
    neutral = torch.eye(3, 4, dtype=images.dtype, device=images.device)
    changed = (matrix != neutral).flatten(1).any(1)[:, None, None, None]
    if images.shape[1] == 1:
        gain, offset = matrix[:, :, :3].sum(2).mean(1), matrix[:, :, 3].mean(1)
        mapped = colours * gain[:, None, None, None] + offset[:, None, None, None]
    else:
        mapped = torch.baddbmm(matrix[:, :, 3:], matrix[:, :, :3], colours.flatten(2)).view_as(colours)
    return _with_alpha(torch.where(changed, mapped, colours), alpha)


def _change_bands(images: Tensor, draws: Draws, p: Tensor | float) -> Tensor:
    """Each of four octaves amplified by 2^N(0, 1) with probability p, the expected power of an image kept.

    The power of natural images falls as 1/f², so that the lowest octave has ten times as much as each of the others.
    """
    chances = _Chances(images, draws, p, 4)
    power = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
    gains = torch.ones(len(images), 4, dtype=images.dtype, device=images.device)
    columns = torch.eye(4, dtype=images.dtype, device=images.device)
    for band, column in enumerate(columns):
        factor = chances.factor(1.0)
        own = torch.where(column.bool(), factor[:, None], 1.0)
        rest = 1 + power[band] * (factor.square() - 1)
        gains = gains * own / rest.sqrt()[:, None]
    down, across = (
        torch.einsum("nb,bij->nij", gains, _bands(side, images.dtype, images.device))[:, None]
        for side in images.shape[-2:]
    )
    changed = (gains != 1).any(1)[:, None, None, None]
    return torch.where(changed, down @ images @ across.mT, images)


@lru_cache(maxsize=64)
def _bands(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(4, size, size): what each octave has of a row that goes on as its reflection, from the lowest; their sum is 1.

    L is the half-band filter (−1, 0, 9, 16, 9, 0, −1)/32, the autocorrelation of the wavelet sym2 that the paper builds
    its bands of: they are L(z⁴)L(z²)L(z), (1 − L(z⁴))L(z²)L(z), (1 − L(z²))L(z) and 1 − L(z).
    """
    half = {0: 16 / 32, 1: 9 / 32, 3: -1 / 32}
    low = [torch.eye(size, dtype=torch.float64)]
    for spread in (1, 2, 4):
        matrix = torch.zeros(size, size, dtype=torch.float64)
        for row in range(size):
            for tap in range(-3, 4):
                matrix[row, _reflected(row + tap * spread, size)] += half.get(abs(tap), 0.0)
        # a row continued by reflection stays one under symmetric filters, so that the products are in any order
        low.append(matrix @ low[-1])
    bands = [low[3], low[2] - low[3], low[1] - low[2], low[0] - low[1]]
    return torch.stack(bands).to(device, dtype)


def _add_noise(images: Tensor, draws: Draws, p: Tensor | float) -> Tensor:
    """N(0, σ²) on every value, σ = |N(0, 0.1²)|."""
    std = _Chances(images, draws, p, 1).normal(0.1).abs()
    noise = draws.stream("field").normal(*images.shape[1:]).to(images.dtype)
    return images + std[:, None, None, None] * noise


# --- What both have ---------------------------------------------------------------------------------------------------


def _columns(values: Tensor, images: Tensor) -> Iterator[Tensor]:
    """The columns of (N, K), to be multiplied with images."""
    return iter(values.to(images.dtype)[:, :, None, None, None].unbind(1))


def _without_alpha(images: Tensor) -> tuple[Tensor, Tensor | None]:
    return (images[:, :3], images[:, 3:]) if images.shape[1] == 4 else (images, None)


def _with_alpha(colours: Tensor, alpha: Tensor | None) -> Tensor:
    return colours if alpha is None else torch.cat((colours, alpha), dim=1)


def _outside_window(images: Tensor, centre: Tensor, cut: Tensor) -> Tensor:
    """(N, 1, H, W): 0 in a window half as wide and high, around `centre` (N, 2) in shares of width and height.

    1 outside it, and everywhere where `cut` (N,) is false.
    """
    height, width = images.shape[-2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device) + 0.5) / height
    inside_x = (x - centre[:, :1]).abs() < 0.25
    inside_y = (y - centre[:, 1:]).abs() < 0.25
    inside = inside_y[:, :, None] & inside_x[:, None] & cut[:, None, None]
    return (~inside)[:, None].to(images.dtype)


DIFFAUGMENT_PARTS: Mapping[str, Callable[[Tensor, Draws], Tensor]] = {
    "colour": _vary_colour,
    "translation": _translate,
    "cutout": _cut_window,
}
ADA_PARTS = ("blit", "geometry", "colour", "filter", "noise", "cutout")
# method -> parts there are, and those it has where none are named
PARTS: Mapping[str, tuple[str, ...]] = {"diffaugment": tuple(DIFFAUGMENT_PARTS), "ada": ADA_PARTS}
# those that change where things are, not what they look like
MOVING_PARTS = ("translation", "blit", "geometry", "cutout")
DEFAULT_PARTS: Mapping[str, tuple[str, ...]] = {"diffaugment": tuple(DIFFAUGMENT_PARTS), "ada": ADA_PARTS[:3]}


def parts_named(method: str, text: str) -> tuple[str, ...]:
    """The parts of `method` that a text with commas names, in the method's order; its own choice where it is empty.

    Names that it does not have come last, for whoever checks.
    """
    named = [name for name in (part.strip() for part in text.split(",")) if name]
    if not named:
        return DEFAULT_PARTS[method]
    known = tuple(part for part in PARTS[method] if part in named)
    return known + tuple(dict.fromkeys(name for name in named if name not in PARTS[method]))
