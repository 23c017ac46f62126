"""Label maps: pictures whose colours are classes, and the planes that networks make of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks.layers import without_autocast

MAX_LABELS = 256


class Palette(nn.Module):
    """Label maps (N, 3, H, W) in [-1, 1] -> (N, K, H, W), 1 in the plane of each pixel's class and 0 in the others.

    A pixel is of the class whose colour is nearest in RGB, so that the noise of a JPEG does no harm. Nothing is learned
    and no gradient passes.

    Args:
        colours: one for each of K classes, as "#0000aa".
    """

    colours: Tensor

    def __init__(self, colours: Sequence[str]) -> None:
        super().__init__()
        levels = [read_colour(colour) for colour in colours]
        # part of the state, so that a network built on the meta device gets it from its file; no arithmetic on meta
        self.register_buffer("colours", torch.tensor([[value / 127.5 - 1 for value in rgb] for rgb in levels]))

    def forward(self, images: Tensor) -> Tensor:
        with without_autocast(images.device):
            colours = self.colours.to(torch.promote_types(images.dtype, torch.float32))
            # ‖x − c‖² = ‖x‖² − 2 (x·c − ½ ‖c‖²)
            nearness = F.conv2d(images.to(colours.dtype), colours[:, :, None, None], -0.5 * colours.square().sum(1))
            return torch.zeros_like(nearness).scatter_(1, nearness.argmax(1, keepdim=True), 1.0)


def read_colour(text: object) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255 of "#0000aa".

    Raises:
        UsageFault: naming "palette".
    """
    digits = text[1:] if isinstance(text, str) and text.startswith("#") else ""
    if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise UsageFault("palette", f"{text!r} is no colour", "Write colours as #0000aa")
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def check_palette(colours: object) -> None:
    """`colours` is a list of at most MAX_LABELS different colours.

    Raises:
        UsageFault: naming "palette".
    """
    if not isinstance(colours, list | tuple) or len(colours) > MAX_LABELS:
        raise UsageFault("palette", f"is no list of at most {MAX_LABELS} colours", "Give colours such as #0000aa")
    found = [read_colour(colour) for colour in colours]
    for index, colour in enumerate(found):
        if colour in found[:index]:
            raise UsageFault("palette", f"{colours[index]} is there twice", "Give each class a colour of its own")
