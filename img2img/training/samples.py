"""Sample grids: named rows of images as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.data.values import to_uint8

_GAP = 2  # pixels between pictures


def draw_grid(rows: Mapping[str, Tensor]) -> tuple[np.ndarray, list[str]]:
    """One uint8 picture (H, W, C) of named rows of images (N, C, h, w) in [−1, 1], and a name for each of its rows.

    A single row is folded into a square. Rows may differ in channels: grey is repeated where another has colour.
    """
    if len(rows) == 1:
        ((name, images),) = rows.items()
        columns = math.ceil(math.sqrt(len(images)))
        parts = images.split(columns)
        return _draw(list(parts)), [name] + [""] * (len(parts) - 1)
    return _draw(list(rows.values())), list(rows)


def _draw(rows: Sequence[Tensor]) -> np.ndarray:
    channels = max(row.shape[1] for row in rows)
    width = max(len(row) for row in rows)
    strips = []
    for row in rows:
        # a generator that has gone wrong shows as grey, not as the end of the run
        images = row.float().cpu().nan_to_num(0.0)
        if images.shape[1] == 1 and channels > 1:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[1] == 3 and channels == 4:
            images = F.pad(images, (0, 0, 0, 0, 0, 1), value=1.0)
        images = F.pad(images, (_GAP, _GAP, _GAP, _GAP), value=1.0)
        missing = images.new_ones(width - len(row), *images.shape[1:])
        strips.append(torch.cat([*images, *missing], dim=-1))
    return to_uint8(torch.cat(strips, dim=-2))
