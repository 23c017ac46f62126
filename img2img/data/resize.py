"""Resizing of uint8 and uint16 pixels: torch's antialiased bicubic filter, or the nearest pixel, everywhere alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(…, C, H, W) uint8 or uint16 to (…, C, *size) on the CPU; the same size comes back unchanged."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    deep = pixels.dtype == torch.uint16
    if size[1] == 1 or deep:
        # torch's uint8 kernel returns garbage, or fails an assertion, where the result is one pixel wide (pytorch issue
        # 117333; seen in 2.15)
        flat = flat.float()
    resized = functional.interpolate(flat, size=size, mode="bicubic", antialias=True, align_corners=False)
    if resized.is_floating_point():
        resized = resized.round_().clamp_(0, 65535 if deep else 255).to(pixels.dtype)
    return resized.reshape(*pixels.shape[:-2], *size)


def take_nearest(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(…, H, W) of any type to (…, *size): each place gets the pixel that its centre lies on, as label maps need it."""
    rows, columns = (
        (2 * torch.arange(wanted, device=pixels.device) + 1) * side // (2 * wanted)
        for side, wanted in zip(pixels.shape[-2:], size)
    )
    return pixels[..., rows[:, None], columns]


def fit_to(pixels: Tensor, size: tuple[int, int], fit: str = "crop", *, nearest: bool = False) -> Tensor:
    """(C, H, W) uint8 or uint16 to (C, *size).

    Args:
        nearest: by take_nearest, else by resize.
        fit: "stretch" changes the aspect ratio; "crop" keeps it (to half a pixel) and cuts off what sticks out at both
            sides alike.
    """
    part = _centre_of_aspect(pixels, size) if fit == "crop" else pixels
    return take_nearest(part, size) if nearest else resize(part, size)


def _centre_of_aspect(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest centred part of (…, H, W) with the aspect ratio of `size`."""
    height, width = pixels.shape[-2:]
    crop_height = min(height, max(1, round(width * size[0] / size[1])))
    crop_width = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return pixels[..., top : top + crop_height, left : left + crop_width]


def to_tensor(pixels: object) -> Tensor:
    """(H, W, C) array to a (C, H, W) view of the same memory."""
    return torch.as_tensor(pixels).permute(2, 0, 1)
