"""Augmentation on the device: random crop, horizontal flip and zoom, a function of each image's own draws."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from img2img.draws import Draws


def load_size(resolution: tuple[int, int], enlarge: float) -> tuple[int, int]:
    """(height, width) at which pictures are read when random crops of `resolution` are taken; `enlarge` ≥ 1."""
    return round(resolution[0] * enlarge), round(resolution[1] * enlarge)


def augment(
    images: Tensor,
    draws: Draws,
    *,
    resolution: tuple[int, int],
    flip: bool = False,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """(N, C, h, w) to (N, C, *resolution).

    The same draws give the same crop, flip and zoom, whatever the channels: call it once for each half of a pair with
    one `draws`. Without zoom every value of the result is a value of the input.

    Args:
        images: at least as large as `resolution`, a part of which is chosen at random; of any type, for zoom float.
        flip: mirror left and right with probability ½.
        zoom: bounds of a magnification, drawn uniformly: the part taken is `resolution` / zoom large and interpolated
            bilinearly to `resolution`; beyond the picture it goes on as its reflection.
    """
    height, width = images.shape[-2:]
    mirrored = draws.stream("flip").uniform() < 0.5 if flip else torch.zeros(len(draws), dtype=torch.bool)
    if tuple(zoom) != (1.0, 1.0):
        return _zoom(images, draws, resolution, mirrored.to(images.device), zoom)
    top = draws.stream("top").integers(height - resolution[0] + 1)
    left = draws.stream("left").integers(width - resolution[1] + 1)
    if (height, width) == tuple(resolution) and not flip:
        return images
    if images.device.type == "cpu":
        return _crop_by_slices(images, top, left, mirrored, resolution)
    return _crop_by_index(images, top, left, mirrored.to(images.device), resolution)


def _crop_by_slices(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, size: tuple[int, int]) -> Tensor:
    crops = images.new_empty((*images.shape[:2], *size))
    for crop, image, y, x, mirror in zip(crops, images, top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        part = image[:, y : y + size[0], x : x + size[1]]
        crop.copy_(part.flip(-1) if mirror else part)
    return crops


def _crop_by_index(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, size: tuple[int, int]) -> Tensor:
    # What _crop_by_slices does, without waiting for the device to tell its draws
    rows = top[:, None] + torch.arange(size[0], device=images.device)
    columns = torch.arange(size[1], device=images.device)
    columns = left[:, None] + torch.where(mirrored[:, None], size[1] - 1 - columns, columns)
    items = torch.arange(len(images), device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return images[items, channels, rows[:, None, :, None], columns[:, None, None, :]]


def _zoom(images: Tensor, draws: Draws, size: tuple[int, int], mirrored: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Crop, flip and magnify with one sampling grid."""
    low, high = bounds
    factor = low + (high - low) * draws.stream("zoom").uniform()
    scales, shifts = [], []
    for name, extent, length in (("left", images.shape[-1], size[1]), ("top", images.shape[-2], size[0])):
        # In the grid's coordinates the picture reaches from -1 to 1: a part of this share of it may move so far
        share = (length / extent) / factor
        room = (1 - share).clamp(min=0)
        shifts.append(room * (2 * draws.stream(f"zoom/{name}").uniform() - 1))
        scales.append(share)
    horizontal = torch.where(mirrored, -scales[0], scales[0])
    zero = torch.zeros_like(horizontal)
    matrix = torch.stack(
        (
            torch.stack((horizontal, zero, shifts[0]), dim=-1),
            torch.stack((zero, scales[1], shifts[1]), dim=-1),
        ),
        dim=1,
    ).to(images.dtype)
    grid = functional.affine_grid(matrix, [len(images), 1, *size], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
