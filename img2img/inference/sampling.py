"""New pictures as files: one each, or all in a grid."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from img2img.data.decode import FORMATS
from img2img.data.encode import WRITABLE, format_of, save_image
from img2img.errors import UsageFault
from img2img.inference.folder import require_folder
from img2img.inference.model import ANY_CLASS, Label, Model

_SUFFIXES = frozenset(suffix for name in WRITABLE for suffix in FORMATS[name])
_GAP = 2  # pixels between the pictures of a grid
# A grid keeps its pictures in memory; more of them than this nobody looks at
_LARGEST_GRID = 10_000


def write_samples(
    model: Model,
    out: str | os.PathLike[str],
    count: int,
    *,
    label: Label | Sequence[Label] | None = None,
    seed: int = 0,
    grid: bool = False,
) -> list[Path]:
    """Write `count` new pictures and return the files.

    Args:
        out: a picture file: one picture, or a grid of all. Else a folder for single PNG files called by number, in a
            folder for each class where there are several classes.
        label, seed: as in Model.sample.
        grid: with a folder, also write grid.png in it.

    Raises:
        UsageFault: the model makes no samples, does not know a class, or `out` cannot be used.
        Fault: the disk refused.
    """
    target = Path(out)
    classes = model.class_indices(label)
    to_file = not target.is_dir() and target.suffix.lower() in _SUFFIXES
    if (grid or to_file) and count > _LARGEST_GRID:
        raise UsageFault("--count", f"{count} pictures are too many for a grid", "Give a folder to --out, no --grid")
    names = [*model.info.classes, ANY_CLASS][: max(classes, default=0) + 1]
    folders = _class_folders(names) if len(set(classes)) > 1 else None
    require_folder(target.parent if to_file else target)
    written: list[Path] = []
    shown: list[tuple[int | None, np.ndarray]] = []
    for number, (index, pixels) in enumerate(model.samples(count, label=label, seed=seed)):
        if grid or to_file:
            shown.append((index, pixels))
        if not to_file:
            folder = target if folders is None or index is None else target / folders[index]
            require_folder(folder)
            written.append(folder / f"{number:06d}.png")
            save_image(written[-1], pixels)
    if grid or to_file:
        written.append(target if to_file else target / "grid.png")
        save_image(written[-1], _arrange(shown), format=format_of(written[-1]))
    return written


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


def _arrange(pictures: Sequence[tuple[int | None, np.ndarray]]) -> np.ndarray:
    """A row for each class; without classes, or with one, nearly a square."""
    order = list(dict.fromkeys(index for index, _ in pictures))
    if len(pictures) == 1:
        return pictures[0][1]
    if len(order) > 1:
        return make_grid([[pixels for index, pixels in pictures if index == row] for row in order])
    columns = math.ceil(math.sqrt(len(pictures)))
    return make_grid(
        [[pixels for _, pixels in pictures[first : first + columns]] for first in range(0, len(pictures), columns)]
    )


def _class_folders(classes: Sequence[str]) -> list[str]:
    """A folder name for each class. Names in a model file are a stranger's: none may lead out of the output folder."""
    plain = [re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ")[:80] for name in classes]
    unique = len({name.casefold() for name in plain}) == len(plain) and all(plain)
    return plain if unique else [f"{index:04d}-{name}" for index, name in enumerate(plain)]
