"""Whether pictures move as their generator is told to (Karras et al. 2021, arXiv:2106.12423, EQ-T and EQ-R).

    EQ = 10 · log10( 2² / E[ (g(t[z₀]; w)(p) − t[g(z₀; w)](p))² ] ) in dB

over latents, transforms t of the generator's input z₀, and the places p of the picture that t moves in from within it.
2 is the range of a picture in [-1, 1]. Twice as large an error costs 6 dB.

For the picture itself to be moved to between its pixels, or turned, it is taken for samples of a signal, and the signal
read between them with a windowed kernel: Lanczos' for translation, for rotation one that is the same in all directions
and passes up to about 0.2 cycles a pixel. Turned pictures hold less of a square band than straight ones, so the
generator's own turned picture is seen through the same kernel. The kernel for rotation is ours, so EQ-R compares with
the paper's numbers only roughly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from img2img.devices import whole_float32
from img2img.draws import Draws

Transformed = Callable[[Tensor, Tensor], Tensor]
Kernel = Callable[[Tensor, Tensor], Tensor]
RANGE = 2.0
LARGEST_SHIFT = 1 / 8  # of each side
LANCZOS = 3
RADIUS = 6  # pixels, of the kernel for rotation
CUTOFF = 0.36  # cycles a pixel, the middle of its transition


def eq_t(
    generate: Transformed, latent_dim: int, *, whole: bool = True, count: int = 1024, batch: int = 16, seed: int = 0
) -> float:
    """EQ-T in dB: translation by up to an eighth of each side, of whole pixels (EQ-T) or any (EQ-T_frac).

    Args:
        generate: latents (N, latent_dim) and transforms (N, 2, 3), matrix | offset, to pictures (N, C, H, W): the place
            p = (x, y) shows what is at matrix · p + offset in the untransformed picture, in units of the shorter side,
            from the middle to the right and downwards.
        latent_dim: of the latents, which are normal.
        whole: shifts of whole pixels.
        count: latents, each with a transform of its own. They are made on the CPU in float32.
        batch: latents at a time; the result does not depend on it, but for rounding.
        seed: of latents and transforms.
    """
    return _psnr("translation" if whole else "fraction", generate, latent_dim, count, batch, seed)


def eq_r(generate: Transformed, latent_dim: int, *, count: int = 1024, batch: int = 16, seed: int = 0) -> float:
    """EQ-R in dB: rotation about the middle by any angle. Arguments as in eq_t."""
    return _psnr("rotation", generate, latent_dim, count, batch, seed)


@whole_float32()
@torch.inference_mode()
def _psnr(
    kind: Literal["translation", "fraction", "rotation"],
    generate: Transformed,
    latent_dim: int,
    count: int,
    batch: int,
    seed: int,
) -> float:
    """10 · log10(RANGE² / mean squared error)."""
    total, places = 0.0, 0
    for numbers in torch.arange(count).split(batch):
        draws = Draws(seed, f"equivariance/{kind}", numbers)
        latents = draws.stream("z").normal(latent_dim)
        straight = torch.eye(2, 3).expand(len(numbers), 2, 3)
        images = generate(latents, straight).double().cpu()
        height, width = images.shape[2:]
        short = min(height, width)
        chosen = draws.stream("transform").uniform(2).double()
        matrix = straight.double().clone()
        if kind == "rotation":
            cosine, sine = (2 * math.pi * chosen[:, 0]).cos(), (2 * math.pi * chosen[:, 0]).sin()
            matrix[:, :, :2] = torch.stack((cosine, sine, -sine, cosine), dim=1).unflatten(1, (2, 2))
        else:
            shifts = (2 * chosen - 1) * LARGEST_SHIFT * torch.tensor([width, height])
            matrix[:, :, 2] = -(shifts.round() if kind == "translation" else shifts) / short
        moved = generate(latents, matrix.float()).double().cpu()
        if kind == "rotation":
            expected, seen = read_between(images, matrix, radial_kernel, RADIUS)
            moved, _ = read_between(moved, straight.double(), radial_kernel, RADIUS)
            seen &= _inside(straight.double(), height, width, RADIUS)
        else:
            reach = 1 if kind == "translation" else LANCZOS
            expected, seen = read_between(images, matrix, lanczos_kernel, reach)
        squares = (moved - expected).square().masked_fill(~seen[:, None], 0)
        total += squares.sum().item()
        places += int(seen.sum()) * images.shape[1]
    return 10 * math.log10(RANGE**2 / max(total / places, 1e-30))


def read_between(images: Tensor, transforms: Tensor, kernel: Kernel, radius: int) -> tuple[Tensor, Tensor]:
    """Pictures (N, C, H, W) by transforms (N, 2, 3) as in eq_t -> the same shape, and where it is known, (N, H, W).

    Each new pixel is the sum over the pixels in `radius` of its place, times kernel(dx, dy).
    """
    height, width = images.shape[2:]
    x, y = _sources(transforms, height, width)
    left, top = x.floor(), y.floor()
    flat = images.flatten(2)
    result = torch.zeros_like(flat)
    for row in range(1 - radius, radius + 1):
        for column in range(1 - radius, radius + 1):
            weights = kernel(left + column - x, top + row - y)
            inside_x, inside_y = (left + column).clamp(0, width - 1), (top + row).clamp(0, height - 1)
            index = (inside_y * width + inside_x).long().flatten(1)[:, None].expand_as(flat)
            result += flat.gather(2, index) * weights.flatten(1)[:, None]
    return result.view_as(images), _inside(transforms, height, width, radius)


def _sources(transforms: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(N, H, W) twice: the column and the row, not whole, that each pixel shows."""
    short = min(height, width)
    rows = (torch.arange(height, dtype=transforms.dtype) - (height - 1) / 2)[:, None].expand(height, width) / short
    columns = (torch.arange(width, dtype=transforms.dtype) - (width - 1) / 2).expand(height, width) / short
    places = torch.stack((columns, rows, torch.ones_like(rows)))
    x, y = torch.einsum("nij,jhw->nihw", transforms, places).unbind(1)
    # what rounding moved off a pixel is put back
    x, y = ((short * value * 2**20).round() / 2**20 for value in (x, y))
    return x + (width - 1) / 2, y + (height - 1) / 2


def _inside(transforms: Tensor, height: int, width: int, radius: int) -> Tensor:
    """(N, H, W): where the whole kernel lies in the picture."""
    x, y = _sources(transforms, height, width)
    low, room = radius - 1, radius
    return (x >= low) & (x <= width - room) & (y >= low) & (y <= height - room)


def lanczos_kernel(dx: Tensor, dy: Tensor) -> Tensor:
    """sinc(x) · sinc(x / 3) in rows times the same in columns; 1 at 0 and 0 at all other pixels."""
    kernel = torch.ones_like(dx)
    for distance in (dx, dy):
        kernel *= torch.sinc(distance) * torch.sinc(distance / LANCZOS) * (distance.abs() < LANCZOS)
    return kernel


def radial_kernel(dx: Tensor, dy: Tensor) -> Tensor:
    """The impulse response of the disc |f| ≤ CUTOFF, times a Kaiser window of RADIUS; the same in all directions."""
    distance = torch.hypot(dx, dy)
    at = 2 * math.pi * CUTOFF * distance
    jinc = torch.where(at == 0, 0.5, torch.special.bessel_j1(at) / at.where(at != 0, 1.0))
    falling = (1 - (distance / RADIUS).square()).clamp_min(0).sqrt()
    window = torch.special.i0(6.0 * falling) / torch.special.i0(torch.tensor(6.0, dtype=at.dtype))
    # the disc's area times 2 J1(x) / x
    return math.pi * CUTOFF**2 * 2 * jinc * window * (distance < RADIUS)
