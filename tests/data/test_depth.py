"""16-bit grey from the file to the batch: nothing is rounded to 8 bits on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from img2img.config import DataPaths, resolve
from img2img.data.batches import Loader
from img2img.data.decode import Picture, open_image
from img2img.data.pack import open_pack, pack
from img2img.data.resize import resize
from img2img.data.sources import Source, open_configured, open_source
from img2img.data.values import reduce_depth, to_float
from img2img.errors import UsageFault

SIZE = (12, 16)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Five pictures of every value, the third of 8 bits, the fourth in colours."""
    folder = tmp_path / "deep"
    folder.mkdir()
    for index in range(5):
        values = np.random.default_rng(index).integers(0, 65536, SIZE, dtype=np.uint16)
        Image.fromarray(values).save(folder / f"{index}.png")
    Image.fromarray((values >> 8).astype(np.uint8)).save(folder / "2.png")
    Image.fromarray(np.dstack([(values >> 8).astype(np.uint8)] * 3)).save(folder / "3.png")
    return folder


def open_deep(folder: Path, depth: int = 16, channels: int = 1) -> Source:
    return open_source(images=folder, resolution=SIZE, channels=channels, depth=depth)


def test_values_reach_the_batch_as_they_are_in_the_file(deep: Path) -> None:
    source = open_deep(deep)
    with Loader(source, seed=0, resolution=SIZE, dtype=torch.float64, workers=1) as loader:
        batch = loader.batch(np.arange(5))
        order = loader.items("image", np.arange(5))
    for image, item in zip(batch["image"], order, strict=True):
        values = open_image(deep / f"{item}.png").pixels
        values = values if values.dtype == np.uint16 else values[..., :1].astype(np.uint16) * 257
        expected = torch.from_numpy(values.astype(np.float64)).permute(2, 0, 1) / 32767.5 - 1
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-12)


def test_eight_bits_stay_the_default_and_what_they_were(deep: Path) -> None:
    shallow = open_deep(deep, depth=8)
    assert shallow.read("image", 0).dtype == torch.uint8
    assert torch.equal(reduce_depth(open_deep(deep).read("image", 0)), shallow.read("image", 0))
    assert open_deep(deep).fingerprint == shallow.fingerprint
    assert open_deep(deep, channels=3).read("image", 0).dtype == torch.uint8  # colours have 8


def test_crops_and_flips_move_the_same_values(deep: Path) -> None:
    config = resolve("dcgan-small", None, ["augment.flip=true"]).augment
    with Loader(open_deep(deep), seed=1, resolution=(8, 9), augmentation=config, workers=1) as loader:
        batch = loader.batch(np.arange(8))
    source = open_deep(deep)
    known = torch.cat([to_float(source.read("image", item)).flatten() for item in range(5)])
    assert batch["image"].shape == (8, 1, 8, 9)
    assert torch.isin(batch["image"], known).all()


def test_resizing_is_that_of_floats_rounded_to_16_bits() -> None:
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (1, 20, 30), dtype=np.uint16))
    exact = F.interpolate(values[None].double(), size=(7, 11), mode="bicubic", antialias=True)[0]
    resized = resize(values, (7, 11))
    assert resized.dtype == torch.uint16
    assert (resized.double() - exact.clamp(0, 65535)).abs().max() < 0.51
    assert torch.equal(resize(values, (20, 30)), values)


def test_a_pack_gives_the_same_values(deep: Path, tmp_path: Path) -> None:
    source = open_deep(deep)
    pack(source, tmp_path / "packed")
    packed = open_deep(tmp_path / "packed")
    assert packed.fingerprint == source.fingerprint
    for item in range(5):
        assert torch.equal(packed.read("image", item), source.read("image", item))
    assert np.load(tmp_path / "packed" / "image.npy").dtype == np.uint16
    assert open_pack(tmp_path / "packed").lanes["image"].dtypes == (torch.uint16,)
    with pytest.raises(UsageFault, match=r"holds 16 bits, not 8\. Pack it again .* data\.depth"):
        open_deep(tmp_path / "packed", depth=8)


def test_memory_is_counted_with_both_bytes(deep: Path) -> None:
    lanes = [open_deep(deep, depth).lanes["image"] for depth in (8, 16)]
    assert [lane.item_bytes for lane in lanes] == [12 * 16, 2 * 12 * 16]  # type: ignore[attr-defined]


def test_the_configuration_asks_for_it(deep: Path) -> None:
    config = resolve("dcgan-small", None, ["data.channels=1", "data.depth=16", "data.resolution=12,16"])
    source = open_configured(config, DataPaths(images=deep))
    assert source.read("image", 0).dtype == torch.uint16


@pytest.mark.parametrize(("background", "behind"), [("edge", 60000), ((255, 255, 255), 65535), ((255, 0, 0), 257 * 76)])
def test_transparent_grey_is_filled_on_its_own_scale(background: object, behind: int) -> None:
    pixels = np.full((1, 4, 1), 60000, np.uint16)
    pixels[0, 2:] = 7
    alpha = np.array([[255, 255, 0, 0]], np.uint8)
    grey = Picture(pixels, alpha, "PNG", None, ()).as_channels(1, background, deep=True)  # type: ignore[arg-type]
    assert grey[0, :, 0].tolist()[:2] == [60000, 60000]
    # the colour at the edge is known to 8 bits
    assert grey[0, 2:, 0] == pytest.approx([behind] * 2, abs=257)
