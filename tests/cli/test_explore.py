"""`img2img explore`, `project` and `sample --latent` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.networks import GENERATORS
from img2img_cli import main


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model of two classes, whose pictures are not all grey."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    arguments = {"resolution": (16, 16), "out_channels": 3, "latent_dim": 8, "width": 4, "num_classes": 2}
    generator = GENERATORS["dcgan"](**arguments)
    for parameter in generator.parameters():
        parameter.data.mul_(8)
    info = ModelInfo(
        translator="conditional",
        task="sample",
        networks={"generator": NetworkSpec("dcgan", arguments)},
        directions={},
        domains={"image": "pets"},
        channels={"image": 3},
        classes=("cat", "dog"),
        resolution=(16, 16),
    )
    write_model(path, {"generator": generator}, info)
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert "internal:" not in result.output
    return result


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


def test_numbers_are_those_of_the_files_that_sample_writes(model_file: Path) -> None:
    assert run("sample", model_file, "--out", "made", "--count", 8, "--seed", 3, "--class", "dog").exit_code == 0
    shared = ("--seed", 3, "--class", "dog", "--pictures", "5,2")
    result = run("explore", "interpolate", model_file, *shared, "--steps", 4)
    assert (result.exit_code, result.stdout) == (0, "wrote interpolation.png\n")
    sheet = Image.open("interpolation.png")
    assert sheet.size == (5 * 18 - 2, 16)
    for left, number in ((0, 5), (4 * 18, 2)):
        assert difference(sheet.crop((left, 0, left + 16, 16)), Image.open(f"made/{number:06d}.png")) <= 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_an_animation_comes_back_to_its_beginning(suffix: str, model_file: Path) -> None:
    options = ("--pictures", "0-2", "--steps", 5, "--out", f"way.{suffix}")
    result = run("explore", "interpolate", model_file, *options, "--json")
    assert json.loads(result.stdout) == {"file": f"way.{suffix}", "frames": 15}
    animation = Image.open(f"way.{suffix}")
    assert (animation.n_frames, animation.info["loop"]) == (15, 0)  # type: ignore[attr-defined]
    assert animation.size == (2 * 18 - 2, 16), "both classes side by side"
    again = Path(f"way.{suffix}").read_bytes()
    run("explore", "interpolate", model_file, *options)
    assert Path(f"way.{suffix}").read_bytes() == again


def test_sums_and_truncations_are_sheets_with_captions(model_file: Path) -> None:
    assert run("explore", "arithmetic", model_file, "--class", "cat", "--expr", "1,2 - 3 + 4").exit_code == 0
    assert Image.open("arithmetic.png").size == (4 * 66 - 2, 64 + 15)
    assert run("explore", "truncation", model_file, "--pictures", "0-1", "--values", "0.5,1,2").exit_code == 0
    assert Image.open("truncation.png").size == (3 * 66 - 2, 2 * 81 - 2)


def test_a_copy_is_its_sample_s_nearest_neighbour(model_file: Path) -> None:
    run("sample", model_file, "--out", "made", "--count", 6)
    result = run("explore", "neighbours", model_file, "made", "-k", 2, "--pictures", "0-3", "--json")
    answer = json.loads(result.stdout)
    for number, sample in enumerate(answer["samples"]):
        name = ("cat", "dog")[number % 2]
        assert (sample["number"], sample["class"]) == (number, name)
        assert sample["neighbours"][0]["name"] == f"{name}/{number:06d}"
        assert sample["neighbours"][0]["distance"] < 1
    assert Image.open("neighbours.png").size == (3 * 66 - 2, 4 * 81 - 2)
    result = run("explore", "neighbours", model_file, "made", "-k", 2, "--pictures", "0")
    assert result.stdout.startswith("     0  nearest is cat/000000 at ")


def test_a_projection_is_found_and_made_again(model_file: Path) -> None:
    run("sample", model_file, "--class", "dog", "--count", 1, "--seed", 4, "--out", "picture.png")
    result = run("project", model_file, "picture.png", "--class", "dog", "--steps", 120, "--animate", "--json")
    answer = json.loads(result.stdout)
    assert sorted(path.name for path in Path("projection").iterdir()) == [
        "comparison.png",
        "latent.safetensors",
        "progress.gif",
        "projection.png",
    ]
    assert (answer["space"], answer["class"], answer["perceptual"]) == ("z", "dog", None)
    assert answer["distance"] < answer["sample_distance"] / 3
    comparison = Image.open("projection/comparison.png")
    assert difference(comparison.crop((0, 0, 16, 16)), Image.open("picture.png")) == 0
    assert difference(comparison.crop((18, 0, 34, 16)), Image.open("projection/projection.png")) == 0
    again = run("sample", model_file, "--latent", "projection/latent.safetensors", "--out", "again")
    assert again.stdout == "made 1 picture in again/latent.png\n"
    assert difference(Image.open("again/latent.png"), Image.open("projection/projection.png")) == 0
    result = run("project", model_file, "picture.png", "--steps", 2, "--out", "other")
    assert "levels of 255 away; the nearest of 128 samples is" in result.stdout
    assert "class " in result.stdout


def test_many_of_each_class_truncated_and_gone_on_with(model_file: Path) -> None:
    options = ("--per-class", 3, "--class", "dog", "--truncation", 0.5, "--out", "made")
    assert run("sample", model_file, *options).stdout == "made 3 pictures in made\n"
    assert run("sample", model_file, *options, "--skip-existing").stdout == "there are now 3 pictures in made\n"
    assert sorted(map(str, Path("made").rglob("*.png"))) == [f"made/dog/{number:06d}.png" for number in range(3)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explore", "interpolate", "M", "--pictures", "3"], "leads nowhere"),
        (["explore", "interpolate", "M", "--out", "way.mp4"], "no picture format"),
        (["explore", "interpolate", "M", "--space", "w"], "has no styles"),
        (["explore", "arithmetic", "M", "--class", "dog", "--expr", "1 * 2"], "no sum of pictures"),
        (["explore", "truncation", "M", "--values", "a"], "are no numbers"),
        (["explore", "neighbours", "M", "nowhere"], "no such folder"),
        (["sample", "M", "--count", "2", "--per-class", "2"], "stands beside --per-class"),
        (["sample", "M", "--latent", "M", "--grid"], "stands beside --latent"),
        (["project", "M", "nowhere.png"], "nowhere.png"),
    ],
)
def test_nothing_is_written_for_what_cannot_be(arguments: list[str], words: str, model_file: Path) -> None:
    result = run(*(model_file if word == "M" else word for word in arguments))
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert list(Path().iterdir()) == []
