"""Colours of label maps: exact ones are found as they are, those of JPEGs through their noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from img2img.data.labels import find_palette, given_palette, spread
from img2img.data.pack import pack
from img2img.data.sources import open_source
from img2img.errors import UsageFault
from img2img.networks.labels import read_colour

COLOURS = ("#0000de", "#0030ff", "#01cfff", "#70fe8e", "#ae0001", "#ff5000", "#fff001")


def draw(seed: int, colours: tuple[str, ...] = COLOURS, size: int = 96) -> np.ndarray:
    """Rectangles on a ground of the first colour, (size, size, 3)."""
    random = np.random.default_rng(seed)
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = read_colour(colours[0])
    for colour in (*colours[1:], *colours[1:]):
        top, left = random.integers(0, size - 24, 2)
        height, width = random.integers(8, 24, 2)
        pixels[top : top + height, left : left + width] = read_colour(colour)
    return pixels


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def colours_of(pixels: Tensor) -> set[str]:
    return {f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in pixels.flatten(1).T.tolist()}


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_exact_colours_are_found_as_they_are_in_the_order_of_their_values() -> None:
    grey = tuple(f"#{value:02x}{value:02x}{value:02x}" for value in range(6))  # an index map of six classes
    for colours in (COLOURS, grey):
        maps = [tensor(draw(seed, colours)) for seed in range(4)]
        assert find_palette(maps, len(colours)) == tuple(sorted(colours))


@pytest.mark.parametrize("quality", [75, 95])
def test_colours_of_jpegs_are_found_through_their_noise(quality: int) -> None:
    maps = [tensor(as_jpeg(draw(seed), quality)) for seed in range(12)]
    assert len({tuple(pixel) for pixels in maps for pixel in pixels.flatten(1).T.tolist()}) > 1000
    found = find_palette(maps, len(COLOURS))
    for colour in COLOURS:
        distances = [np.linalg.norm(np.subtract(read_colour(colour), read_colour(other))) for other in found]
        assert min(distances) < 12
    assert len(set(found)) == len(COLOURS)


def test_fewer_colours_than_classes_are_refused_with_their_number() -> None:
    with pytest.raises(UsageFault, match=r"^data\.labels: the label maps have 7 colours, not 9\. Set data\.labels=7"):
        find_palette([tensor(draw(0))], 9)


def test_given_colours() -> None:
    assert given_palette("#0000AA, #ff0000") == ("#0000aa", "#ff0000")
    for text in ("blue", "#0000aa;#ff0000", "#0000aa,#0000AA", "#0000aa,"):
        with pytest.raises(UsageFault, match=r"^palette: "):
            given_palette(text)


def test_a_choice_of_numbers_is_spread_evenly() -> None:
    assert spread(3, 5) == [0, 1, 2]
    assert spread(10, 5) == [0, 2, 4, 6, 8]


# --- pairs ------------------------------------------------------------------------------------------------------------


def write_maps(folder: Path, mode: str, count: int = 3, size: int = 96) -> None:
    """Label maps as pictures of their colours (RGB), as colour tables (P), or as plain indices (L)."""
    folder.mkdir(parents=True)
    colours = [read_colour(colour) for colour in COLOURS]
    for index in range(count):
        pixels = draw(index, size=size)
        classes = sum(number * (pixels == colour).all(axis=2) for number, colour in enumerate(colours))
        image = Image.fromarray(pixels if mode == "RGB" else np.asarray(classes, np.uint8))
        if mode == "P":
            image.putpalette([value for colour in colours for value in colour])
        image.save(folder / f"{index}.png")


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
@pytest.mark.parametrize("size", [(40, 40), (33, 70), (128, 128)])
def test_maps_keep_their_colours_at_any_size_and_photographs_do_not(
    mode: str, direction: str, size: tuple[int, int], tmp_path: Path
) -> None:
    write_maps(tmp_path / "maps", mode)
    write_maps(tmp_path / "photos", "RGB")
    folders = [tmp_path / "maps", tmp_path / "photos"][:: 1 if direction == "a2b" else -1]
    source = open_source(pairs=folders, resolution=size, fit="stretch", direction=direction, labels=True)
    expected = COLOURS if mode != "L" else tuple(f"#{value:02x}{value:02x}{value:02x}" for value in range(7))
    seen: dict[str, set[str]] = {"a": set(), "b": set()}
    for index in range(3):
        for name, pixels in source.sample("pair", index).items():
            seen[name] |= colours_of(pixels)
    assert seen["a"] == set(expected)
    assert len(seen["b"]) > 20


def test_maps_of_another_size_than_their_photographs(tmp_path: Path) -> None:
    write_maps(tmp_path / "photos", "RGB", size=60)
    write_maps(tmp_path / "maps", "RGB")
    for folders, direction in ((["maps", "photos"], "a2b"), (["photos", "maps"], "b2a")):
        paths = [tmp_path / name for name in folders]
        source = open_source(pairs=paths, resolution=(50, 50), direction=direction, labels=True, resize_pairs=True)
        assert colours_of(source.read("a", 0)) <= set(COLOURS)


def test_a_pack_is_refused(tmp_path: Path) -> None:
    write_maps(tmp_path / "maps", "RGB")
    write_maps(tmp_path / "photos", "RGB")
    source = open_source(pairs=[tmp_path / "maps", tmp_path / "photos"], resolution=(32, 32))
    pack(source, tmp_path / "pack")
    with pytest.raises(UsageFault, match=r"^data\.labels: a pack holds pictures that were resized smoothly"):
        open_source(pairs=[tmp_path / "pack"], resolution=(32, 32), labels=True)
