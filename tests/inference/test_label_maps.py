"""Models of label maps: the colours are in the file, and no size or format mixes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.checkpoint import ModelInfo, NetworkSpec, read_info, write_model
from img2img.data.decode import open_image
from img2img.inference.model import Model
from img2img.networks import SpadeGenerator
from img2img.networks.labels import read_colour

COLOURS = ("#000000", "#ff0000", "#00ff00", "#0000ff")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "spade.safetensors"
    torch.manual_seed(0)
    arguments = {"palette": COLOURS, "width": 4, "hidden": 4, "downsamplings": 2, "norm": "instance"}
    network = SpadeGenerator(**arguments)
    for parameter in network.parameters():
        parameter.data.mul_(4)  # untrained weights give nearly nothing but grey
    info = ModelInfo(
        translator="pix2pix",
        task="translate",
        networks={"generator": NetworkSpec("spade", arguments)},
        directions={"a2b": "generator"},
        domains={"a": "maps", "b": "photos"},
        channels={"a": 3, "b": 3},
        resolution=(32, 32),
    )
    write_model(path, {"generator": network}, info)
    assert read_info(path).networks["generator"].arguments["palette"] == COLOURS
    return Model.load(path)


def classes(height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(COLOURS), (height, width)).astype(np.uint8)


def picture(indices: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array([read_colour(colour) for colour in COLOURS], np.uint8)[indices])


def test_a_colour_table_a_picture_of_its_colours_and_a_noisy_one_are_the_same_map(model: Model, tmp_path: Path) -> None:
    indices = classes()
    table = Image.fromarray(indices)
    table.putpalette([value for colour in COLOURS for value in read_colour(colour)])
    table.save(tmp_path / "table.png")
    noise = np.random.default_rng(1).integers(-40, 40, (*indices.shape, 3))
    noisy = Image.fromarray((np.asarray(picture(indices)).astype(int) + noise).clip(0, 255).astype(np.uint8))
    expected = np.asarray(model.translate(picture(indices)))
    assert expected.shape == (24, 20, 3)
    assert expected.std() > 3
    for same in (tmp_path / "table.png", noisy):
        assert np.array_equal(np.asarray(model.translate(same)), expected)
    assert not np.array_equal(np.asarray(model.translate(picture(3 - indices))), expected)


@pytest.mark.parametrize("scale", [0.4, 0.5, 1.7, "trained"])
def test_no_scale_mixes_colours(model: Model, scale: float, tmp_path: Path) -> None:
    picture(classes()).save(tmp_path / "map.png")
    values = model.prepare(open_image(tmp_path / "map.png"), "a2b", scale).values
    assert tuple(values.shape[1:]) == model.working_size((24, 20), "a2b", scale)
    assert {tuple(pixel) for pixel in values.flatten(1).T.tolist()} == set(map(read_colour, COLOURS))


def test_a_tensor_is_resized_alike(model: Model) -> None:
    pixels = np.asarray(picture(classes()))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1
    translated = model.translate(tensor, scale=0.5)
    expected = np.asarray(model.translate(pixels, scale=0.5)).astype(int)
    found = ((translated.permute(1, 2, 0) + 1) * 127.5).round().numpy()
    assert np.abs(found - expected).max() <= 1
