"""Sheets of pictures for the eye: rows on white, enlarged where they are small, with words below."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 2  # pixels between the pictures of a grid
_READABLE = 64  # pixels of a side below which nothing is seen, nor a caption read
_CAPTION_HEIGHT = 15


def make_grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Pictures (H, W, C) uint8 of one size in rows, on white with a narrow gap; shorter rows end in white."""
    height, width, channels = rows[0][0].shape
    columns = max(map(len, rows))
    size = (len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels)
    sheet = np.full(size, 255, np.uint8)
    for row, pictures in enumerate(rows):
        for column, pixels in enumerate(pictures):
            top, left = row * (height + _GAP), column * (width + _GAP)
            sheet[top : top + height, left : left + width] = pixels
    return sheet


def make_square(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size in a grid that is nearly a square; one alone stays as it is."""
    if len(pictures) == 1:
        return pictures[0]
    columns = math.ceil(math.sqrt(len(pictures)))
    return make_grid([pictures[first : first + columns] for first in range(0, len(pictures), columns)])


def captioned(pixels: np.ndarray, text: str = "") -> np.ndarray:
    """A picture (H, W, C) with a line of text below; a small one is enlarged by a whole factor first."""
    factor = math.ceil(_READABLE / min(pixels.shape[:2]))
    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    line = Image.new("L", (large.shape[1], _CAPTION_HEIGHT), 255)
    ImageDraw.Draw(line).text((1, 1), text, fill=0, font=ImageFont.load_default(11))
    strip = np.asarray(line)[..., None].repeat(large.shape[2], axis=2)
    if large.shape[2] == 4:
        strip[..., 3] = 255
    return np.concatenate((large, strip))
