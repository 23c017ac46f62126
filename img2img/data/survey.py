"""How many pictures a data set has and how large they are, by names and headers alone: a look before the long one."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from img2img.config import DataPaths
from img2img.data.arrays import is_arrays, read_arrays
from img2img.data.decode import MAX_PIXELS, open_regular, upright_size
from img2img.data.files import list_images
from img2img.data.labels import spread
from img2img.data.pack import is_pack, open_pack
from img2img.errors import ImageFault

_MOST_HEADERS = 1000  # read of each folder


@dataclass(frozen=True)
class Survey:
    """What was seen.

    Attributes:
        counts: "images", "pairs", or "a" and "b" -> number of pictures.
        sizes: (height, width) of pictures as they will be seen, evenly spread over the files; empty where all are of
            the size they were packed with.
        folders: what was looked at, as it was given.
    """

    counts: dict[str, int]
    sizes: tuple[tuple[int, int], ...]
    folders: tuple[str, ...]

    @property
    def count(self) -> int:
        """Pictures in one pass: the number of pairs, and of two folders the larger."""
        return max(self.counts.values())

    @property
    def median_size(self) -> tuple[int, int] | None:
        """The median height and the median width."""
        if not self.sizes:
            return None
        heights, widths = zip(*self.sizes)
        return round(statistics.median(heights)), round(statistics.median(widths))

    def filled(self, resolution: tuple[int, int]) -> float:
        """The median over pictures of how far they fill `resolution`: below 1 they are enlarged; 1 where nobody knows.

        The smaller one of a picture's two sides, each in parts of what is wanted.
        """
        shares = [min(height / resolution[0], width / resolution[1]) for height, width in self.sizes]
        return statistics.median(shares) if shares else 1.0


def survey(data: DataPaths, *, max_pixels: int = MAX_PIXELS) -> Survey:
    """Count the pictures of a run's folders and read some of their headers. Files that cannot be used are passed over.

    Raises:
        UsageFault: a folder, pack or file of arrays cannot be read.
    """
    roots = list(data.folders().values())
    counts: list[int] = []
    sizes: list[tuple[int, int]] = []
    for root in roots:
        if is_pack(root):
            counts += [len(lane) for lane in open_pack(root).lanes.values()]
        elif is_arrays(root):
            images = read_arrays(root).images
            counts.append(len(images))
            sizes += [(images.shape[1], images.shape[2])]
        else:
            files = list_images(root)
            counts.append(len(files))
            sizes += _sizes([files[index] for index in spread(len(files), _MOST_HEADERS)], max_pixels)
    if data.kind == "pairs" and len(roots) == 1:
        sizes = [(height, width // 2) for height, width in sizes]
    names = {"unpaired": ("a", "b"), "pairs": ("pairs",)}.get(data.kind, ("images",))
    named = dict(zip(names, counts if data.kind == "unpaired" else [min(counts)]))
    return Survey(named, tuple(sizes), tuple(str(root) for root in roots))


def _sizes(files: Sequence[Path], max_pixels: int) -> list[tuple[int, int]]:
    found = []
    for path in files:
        with contextlib.suppress(ImageFault), open_regular(path) as stream:
            found.append(upright_size(stream, path, max_pixels))
    return found
