"""The colours of label maps: given as a text, or found in the maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from img2img.errors import UsageFault
from img2img.networks.labels import check_palette

_FAR = 64.0  # of 255: between colours that a person would choose for two classes


def given_palette(text: str) -> tuple[str, ...]:
    """The colours of "#0000aa,#ff0000", in lower case.

    Raises:
        UsageFault: naming "palette".
    """
    colours = tuple(colour.strip().lower() for colour in text.split(","))
    check_palette(colours)
    return colours


def find_palette(maps: Iterable[Tensor], count: int) -> tuple[str, ...]:
    """The `count` colours that stand for classes in label maps (3, h, w) uint8, in the order of their values.

    Maps without noise have no other colours. Those that were JPEGs have thousands: the first class is the most frequent
    colour, and each further one the most frequent of those that are far from the classes so far. Noise is near its
    class, where its weight is (distance / 64)⁴; what lies between two classes is rare.

    Raises:
        UsageFault: there are fewer colours.
    """
    found: dict[int, int] = {}
    for pixels in maps:
        red, green, blue = pixels.numpy().astype(np.int64).reshape(3, -1)
        for value, pixels_of_it in zip(*np.unique(red << 16 | green << 8 | blue, return_counts=True)):
            found[int(value)] = found.get(int(value), 0) + int(pixels_of_it)
    if len(found) < count:
        raise UsageFault(
            "data.labels",
            f"the label maps have {len(found)} colours, not {count}",
            f"Set data.labels={len(found)}, or give the colours as data.palette",
        )
    values = np.array(sorted(found))
    counts = np.array([found[value] for value in values.tolist()], np.float64)
    colours = np.stack((values >> 16, values >> 8 & 255, values & 255), axis=1).astype(np.float64)
    chosen = [int(counts.argmax())]
    distance = np.linalg.norm(colours - colours[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int((counts * np.minimum(1.0, distance / _FAR) ** 4).argmax()))
        distance = np.minimum(distance, np.linalg.norm(colours - colours[chosen[-1]], axis=1))
    return tuple(f"#{value:06x}" for value in sorted(values[chosen].tolist()))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread."""
    return list(range(count)) if count <= most else [index * count // most for index in range(most)]
