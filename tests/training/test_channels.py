"""Domains of different channels, from folders to a trained model and back: grey to colours, colours to grey, opacity."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import tiny

import img2img
from img2img.checkpoint import read_info
from img2img.errors import Faults
from img2img.inference.folder import translate_folder

STEPS = {"train.kimg": 0.006, "train.state_kimg": 0.0, "train.sample_kimg": 0.0}
SIZE = (21, 17)  # width, height of what is translated: no multiple of anything


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("channels")
    for name, seed in (("a", 0), ("b", 1)):
        tiny.make_pictures(root / name, 4, seed)
    random = np.random.default_rng(2)
    (root / "mixed").mkdir()
    colours = random.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    deep = random.integers(0, 65536, (SIZE[1], SIZE[0]), dtype=np.uint16)
    Image.fromarray(colours[..., 0]).save(root / "mixed" / "grey.png")
    Image.fromarray(colours).save(root / "mixed" / "photo.jpg")
    Image.fromarray(deep).save(root / "mixed" / "deep.png")
    Image.fromarray(np.dstack((colours, colours[..., :1]))).save(root / "mixed" / "seen-through.png")
    return root


def train(family: str, folders: Path, out: Path, **settings: Any) -> Path:
    data = {option: {option: (str(folders / "a"), str(folders / "b"))} for option in ("pairs",)}
    data["unpaired"] = {"a": str(folders / "a"), "b": str(folders / "b")}
    result = img2img.train(**tiny.arguments(family, data, **STEPS, **settings), out=str(out))
    assert result.model_path is not None
    return result.model_path


def modes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("*.*g")):
        with Image.open(path) as image:
            assert image.size == SIZE
            found[path.name] = image.mode
    return found


@pytest.mark.parametrize(
    ("family", "channels", "more", "expected"),
    [
        ("pix2pix", (1, 3), {}, ("RGB", "RGB", "RGB", "RGBA")),
        ("pix2pix", (3, 1), {}, ("I;16", "L", "L", "LA")),
        ("pix2pix", (4, 4), {}, ("RGBA", "RGBA", "RGB", "RGBA")),
        ("pix2pix", (4, 1), {"augment.discriminator": "diffaugment"}, ("I;16", "L", "L", "LA")),
        ("cyclegan", (1, 3), {"loss.identity": 0.0}, ("RGB", "RGB", "RGB", "RGBA")),
        ("cyclegan", (1, 1), {}, ("I;16", "L", "L", "LA")),
    ],
)
def test_a_model_of_other_channels_translates_any_folder(
    family: str,
    channels: tuple[int, int],
    more: dict[str, Any],
    expected: tuple[str, ...],
    folders: Path,
    tmp_path: Path,
) -> None:
    settings = {"data.channels_a": channels[0], "data.channels_b": channels[1], **more}
    model = train(family, folders, tmp_path / "run", **settings)
    assert read_info(model).channels == dict(zip("ab", channels))
    summary = translate_folder(img2img.load(model, device="cpu"), folders / "mixed", tmp_path / "out")
    assert summary.exit_code == 0
    assert modes(tmp_path / "out") == dict(zip(("deep.png", "grey.png", "photo.jpg", "seen-through.png"), expected))


def test_a_is_what_the_model_reads_whichever_way_it_learns(folders: Path, tmp_path: Path) -> None:
    model = train("pix2pix", folders, tmp_path / "run", **{"data.channels_b": 1, "data.direction": "b2a"})
    info = read_info(model)
    assert info.channels == {"a": 3, "b": 1}
    assert info.domains == {"a": "b", "b": "a"}


def test_a_run_with_other_channels_resumes_and_says_so_where_they_changed(folders: Path, tmp_path: Path) -> None:
    settings = {"data.channels_a": 1, "data.channels_b": 3}
    train("pix2pix", folders, tmp_path / "run", **settings)
    data = {"pairs": {"pairs": (str(folders / "a"), str(folders / "b"))}}
    longer = tiny.arguments("pix2pix", data, **(STEPS | settings | {"train.kimg": 0.01}))
    assert img2img.train(**longer, out=str(tmp_path / "run"), resume=True).images_seen == 10
    changed = tiny.arguments(
        "pix2pix", data, **(STEPS | {"train.kimg": 0.01, "data.channels_a": 1, "data.channels_b": 1})
    )
    with pytest.raises(Faults, match=r"data\.channels_b: the run has 3, now 1"):
        img2img.train(**changed, out=str(tmp_path / "run"), resume=True)


def test_16_bit_grey_is_trained_and_comes_back_with_16_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(4):
            pixels = random.integers(0, 65536, (SIZE[1], SIZE[0]), dtype=np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    settings = {"data.channels": 1, "data.depth": 16}
    models = [
        train("pix2pix", tmp_path, tmp_path / f"run{depth}", **(settings | {"data.depth": depth})) for depth in (8, 16)
    ]
    assert models[0].read_bytes() != models[1].read_bytes()  # the bits below the eighth were seen
    translate_folder(img2img.load(models[1], device="cpu"), tmp_path / "a", tmp_path / "out")
    assert set(modes(tmp_path / "out").values()) == {"I;16"}
