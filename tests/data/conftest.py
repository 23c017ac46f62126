"""Pictures that the tests of img2img.data make for themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeImage = Callable[..., Path]


def smooth_pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """(H, W, 3) uint8: a few soft waves, different for each seed, that survive JPEG."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(random.uniform(3, 12) * x + random.uniform(3, 12) * y + random.uniform(0, 6)) for _ in range(3)]
    return np.rint(127.5 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.fixture
def make_image() -> MakeImage:
    """make_image(path, seed=0, height=24, width=32, **save options): writes a picture and its folders."""

    def make(path: Path, seed: int = 0, height: int = 24, width: int = 32, **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_pixels(seed, height, width)).save(path, **options)  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture
def make_folder(make_image: MakeImage) -> Callable[..., Path]:
    """make_folder(root, count, seed=0, suffix=".png", **options): writes count pictures 000.png, 001.png, …"""

    def make(root: Path, count: int, seed: int = 0, suffix: str = ".png", **options: object) -> Path:
        for index in range(count):
            make_image(root / f"{index:03d}{suffix}", seed=seed + index, **options)
        return root

    return make
