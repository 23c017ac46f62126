"""Pictures of toy worlds: real and generated points, and what the discriminator says of every place."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from img2img.atomic import write_bytes
from img2img.data.worlds import PointWorld

_NEUTRAL = (251, 250, 247)
_SAYS_REAL = (150, 192, 224)
_SAYS_GENERATED = (247, 196, 142)
_REAL = (98, 104, 114)
_GENERATED = (205, 20, 60)
_D_CURVE = (38, 110, 168)
_INK = (60, 64, 72)
_FINE = 3  # curves and words are drawn so many times larger and averaged down
_FIELD_STEPS = {1: 256, 2: 64}
_FAINTEST = 0.1  # a field that nowhere says more than this stays pale


def field_points(world: PointWorld) -> Tensor:
    """The places (M, dim) float32 whose field values draw_points shows: an even grid over the world's extent."""
    low, high = world.extent
    steps = _FIELD_STEPS[world.dim]
    axis = low + (high - low) * (torch.arange(steps) + 0.5) / steps
    if world.dim == 1:
        return axis[:, None]
    # from the top row down, as pixels lie
    y, x = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    return torch.stack((x, y), dim=2).reshape(-1, 2)


def draw_points(
    world: PointWorld, real: Tensor, fake: Tensor, field: Tensor | None = None, *, size: int = 256
) -> np.ndarray:
    """A picture of a world and of what was generated, with a legend beneath: uint8 (H, size, 3), H > size.

    In the plane: points over the discriminator's field, blue where it says real, orange where it says generated, the
    stronger the surer, relative to its strongest tenth. On the line: the densities of both (the world's own where it
    has one, else as estimated from the points), and σ(field) from 0 at the bottom to 1 at the top.

    Args:
        real, fake: (n, dim) and (m, dim); points that are not finite or lie outside the extent are not seen.
        field: (M,) what the discriminator says at field_points(world), positive for real; None for no field.
        size: width in pixels, and height without the legend.
    """
    assert real.shape[1] == fake.shape[1] == world.dim, f"points of {real.shape[1]} dimensions, world of {world.dim}"
    real_points, fake_points = (array[np.isfinite(array).all(1)] for array in (_numpy(real), _numpy(fake)))
    values = None if field is None else np.nan_to_num(_numpy(field))
    draw = _draw_line if world.dim == 1 else _draw_plane
    picture = draw(world, real_points, fake_points, values, size)
    return np.concatenate((picture, _legend(world.name, world.dim, field is not None, size)))


def write_gif(frames: Sequence[np.ndarray], path: str | os.PathLike[str], seconds_per_frame: float) -> None:
    """Write uint8 pictures (H, W, 3) of one size as an endless animation; durations are whole hundredths of a second.

    Raises:
        Fault: `path` cannot be written.
    """
    assert frames, "an animation has at least one frame"
    # one palette for all, taken from frames of the whole time, so that colours do not flicker
    some = [frames[index] for index in np.linspace(0, len(frames) - 1, min(8, len(frames))).round().astype(int)]
    palette = Image.fromarray(np.concatenate(some)).quantize(256, Image.Quantize.MEDIANCUT)
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    file = io.BytesIO()
    milliseconds = max(1, round(seconds_per_frame * 100)) * 10
    first.save(file, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    write_bytes(path, file.getvalue())


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


# --- the plane --------------------------------------------------------------------------------------------------------


def _draw_plane(
    world: PointWorld, real: np.ndarray, fake: np.ndarray, values: np.ndarray | None, size: int
) -> np.ndarray:
    pixels = np.full((size, size, 3), _NEUTRAL, np.float64)
    if values is not None:
        steps = _FIELD_STEPS[2]
        strongest = max(_FAINTEST, float(np.quantile(np.abs(values), 0.9)))
        small = Image.fromarray(np.tanh(values / strongest).reshape(steps, steps).astype(np.float32))
        field = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.float64).clip(-1, 1)[:, :, None]
        sides = np.where(field > 0, np.array(_SAYS_REAL), np.array(_SAYS_GENERATED))
        pixels += np.abs(field) * (sides - pixels)
    # a generated point upon a real one leaves a grey rim
    for points, colour, radius, opacity in (
        (real, _REAL, size / 110, _opacity(0.45, real)),
        (fake, _GENERATED, size / 160, _opacity(0.8, fake)),
    ):
        coverage = _coverage(_to_pixels(points, world.extent, size), size, radius, opacity)[:, :, None]
        pixels += coverage * (np.array(colour) - pixels)
    return pixels.round().astype(np.uint8)


def _opacity(most: float, points: np.ndarray) -> float:
    """Less where there are many points, so that crowded places still differ."""
    return most * min(1.0, (1000 / max(1, len(points))) ** 0.5)


def _to_pixels(points: np.ndarray, extent: tuple[float, float], size: int) -> np.ndarray:
    """Coordinates (n, 2) as positions (column, row), where pixel (i, j) covers [i, i + 1) × [j, j + 1)."""
    low, high = extent
    x, y = (points.T - low) / (high - low) * size
    return np.stack((x, size - y), axis=1)


def _coverage(positions: np.ndarray, size: int, radius: float, opacity: float) -> np.ndarray:
    """How much (size, size) a disc at each position hides of what lies beneath, edges smooth."""
    reach = int(np.ceil(radius))
    positions = positions[(np.abs(positions - size / 2) < size / 2 + reach).all(1)].astype(np.float32)
    step = np.arange(-reach, reach + 1)
    columns = np.floor(positions[:, :1]).astype(int) + step
    rows = np.floor(positions[:, 1:]).astype(int) + step
    across = columns + 0.5 - positions[:, :1]
    down = rows + 0.5 - positions[:, 1:]
    distance = np.hypot(down[:, :, None], across[:, None, :])
    hidden = opacity * (radius + 0.5 - distance).clip(0, 1)
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :] & (hidden > 0)
    index = (rows[:, :, None] * size + columns[:, None, :])[inside]
    # light that passes several discs is the product of what each lets through
    passes = np.bincount(index, np.log1p(-hidden[inside]), size * size)
    return 1 - np.exp(passes).reshape(size, size)


# --- the line ---------------------------------------------------------------------------------------------------------


def _draw_line(
    world: PointWorld, real: np.ndarray, fake: np.ndarray, values: np.ndarray | None, size: int
) -> np.ndarray:
    places = field_points(world)
    exact = world.density(places.double())
    p = _estimated_density(real, world.extent) if exact is None else exact.numpy()
    q = _estimated_density(fake, world.extent)
    # a peak much higher than the data's is cut: how high it is says little
    top = 1.15 * max(float(p.max()), min(float(q.max()), 1.6 * float(p.max())), 1e-9)
    large = size * _FINE
    picture = Image.new("RGB", (large, large), _NEUTRAL)
    pen = ImageDraw.Draw(picture, "RGBA")
    columns = (np.arange(len(p)) + 0.5) * large / len(p)

    def height(shares: np.ndarray) -> list[tuple[float, float]]:
        return list(zip(columns, large * (1 - shares), strict=True))

    for density, colour in ((p, _REAL), (q, _GENERATED)):
        curve = height((density / top).clip(0, 1.1))
        pen.polygon([(columns[0], large), *curve, (columns[-1], large)], fill=(*colour, 55))
        pen.line(curve, fill=colour, width=2 * _FINE, joint="curve")
    if values is not None:
        for start in range(0, large, 8 * _FINE):
            pen.line((start, large / 2, start + 4 * _FINE, large / 2), fill=(*_D_CURVE, 150), width=_FINE)
        pen.line(height(0.5 + 0.5 * np.tanh(values / 2)), fill=_D_CURVE, width=2 * _FINE, joint="curve")
    return np.asarray(picture.reduce(_FINE))


def _estimated_density(points: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """Gaussian kernel estimate on the picture's columns, with a bandwidth of 1/60 of the extent.

    One bandwidth for all points: those that follow the spread would blur what has two peaks.
    """
    steps = _FIELD_STEPS[1]
    low, high = extent
    width, bandwidth = (high - low) / steps, (high - low) / 60
    if len(points) == 0:
        return np.zeros(steps)
    counts, _ = np.histogram(points, steps, extent)
    offsets = np.arange(-steps, steps + 1) * width
    kernel = np.exp(-((offsets / bandwidth) ** 2) / 2) / (bandwidth * np.sqrt(2 * np.pi))
    return np.convolve(counts / len(points), kernel)[steps : 2 * steps]


# --- the legend -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _legend(name: str, dim: int, with_field: bool, size: int) -> np.ndarray:
    """(h, size, 3): what the colours mean, in one row or two, and the world's name."""
    rows = [("", {"real": _REAL, "generated": _GENERATED})]
    if with_field and dim == 1:
        rows.append(("", {"D says: 0 generated, 1 real": _D_CURVE}))
    if with_field and dim == 2:
        rows.append(("D says", {"real": _SAYS_REAL, "generated": _SAYS_GENERATED}))
    letters = size * _FINE / 20
    line = round(1.5 * letters / _FINE) * _FINE
    picture = Image.new("RGB", (size * _FINE, line * len(rows)), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(letters)
    pen.text((picture.width - 0.5 * letters, line / 2), name, _INK, font, "rm")
    for number, (title, entries) in enumerate(rows):
        x, middle = 0.5 * letters, (number + 0.5) * line
        pen.text((x, middle), title, _INK, font, "lm")
        x += pen.textlength(title, font) + (0.5 * letters if title else 0)
        for entry, colour in entries.items():
            reach = letters * (0.3 if number == 0 and dim == 2 else 0.42)
            if dim == 1:
                pen.line((x, middle, x + 2 * reach, middle), colour, 2 * _FINE)
            elif number == 0:
                pen.ellipse((x, middle - reach, x + 2 * reach, middle + reach), colour)
            else:
                pen.rectangle((x, middle - reach, x + 2 * reach, middle + reach), colour)
            x += 2 * reach + 0.35 * letters
            pen.text((x, middle), entry, _INK, font, "lm")
            x += pen.textlength(entry, font) + letters
    return np.asarray(picture.reduce(_FINE))
