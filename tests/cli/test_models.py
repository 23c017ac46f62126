"""`img2img models`: what it prints of a file, and of a checkout without models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import img2img
from img2img import shipped
from img2img.checkpoint import ModelInfo, NetworkSpec, load_networks, read_info, write_model
from img2img.networks import GENERATORS
from img2img_cli import main


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    arguments = {"in_channels": 3, "out_channels": 1, "width": 4, "blocks": 1}
    info = ModelInfo(
        translator="pix2pix",
        task="translate",
        networks={"generator": NetworkSpec("resnet", arguments)},
        directions={"a2b": "generator"},
        domains={"a": "photos", "b": "maps\x1b[31m"},
        channels={"a": 3, "b": 1},
        resolution=(32, 48),
        images_seen=12_000,
        licence="CC0-1.0",
    )
    write_model(path, {"generator": GENERATORS["resnet"](**arguments)}, info)
    return path


def test_info(model_file: Path) -> None:
    result = CliRunner().invoke(main, ["models", "info", str(model_file)])
    assert result.exit_code == 0, result.output
    for words in ("pix2pix", "32 × 48", "a: RGB, b: grey", "12,000", "CC0-1.0", "blocks=1", "photos → maps\\x1b[31m"):
        assert words in result.stdout
    assert "\x1b" not in result.stdout


def test_info_as_json(model_file: Path) -> None:
    answer = json.loads(CliRunner().invoke(main, ["models", "info", str(model_file), "--json"]).stdout)
    assert answer["file"] == str(model_file)
    assert answer["resolution"] == [32, 48]
    assert answer["networks"]["generator"]["name"] == "resnet"


def test_info_of_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    result = CliRunner().invoke(main, ["models", "info", str(tmp_path / "model.safetensors")])
    assert result.exit_code == 2
    assert "model.safetensors" in result.stderr


def test_list(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "shipped_folder", lambda: tmp_path)
    empty = CliRunner().invoke(main, ["models", "list"])
    assert (empty.exit_code, "No models ship" in empty.stdout) == (0, True)
    (tmp_path / "maps.safetensors").write_bytes(model_file.read_bytes())
    assert "maps  pix2pix, 32 × 48: translates a2b" in CliRunner().invoke(main, ["models", "list"]).stdout
    answer = json.loads(CliRunner().invoke(main, ["models", "list", "--json"]).stdout)
    assert [(model["name"], Path(model["file"]).name) for model in answer["models"]] == [("maps", "maps.safetensors")]


def test_shipped_folder_stands_beside_the_package() -> None:
    assert shipped.shipped_folder().name == "checkpoints"
    assert (shipped.shipped_folder().parent / "img2img").is_dir()


def test_a_shipped_model_goes_by_its_name_wherever_a_file_can_stand(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "old-maps.safetensors").write_bytes(model_file.read_bytes())
    monkeypatch.setattr(shipped, "shipped_folder", lambda: tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 48)).save("photo.png")
    for arguments in (["models", "info", "old-maps"], ["translate", "old-maps", "photo.png", "map.png"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.stderr
    # a file of one's own of that name comes first
    Path("old-maps").write_bytes(b"mine")
    assert "not a safetensors file" in CliRunner().invoke(main, ["models", "info", "old-maps"]).stderr


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("old-map", "Did you mean old-maps?"),
        ("Old_Maps", "Did you mean old-maps?"),
        ("zebra", "img2img models list shows the names"),
        ("old-maps.safetensors", "there is no such file"),
        ("models/old-maps", "there is no such file"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, hint: str
) -> None:
    (tmp_path / "old-maps.safetensors").write_bytes(model_file.read_bytes())
    monkeypatch.setattr(shipped, "shipped_folder", lambda: tmp_path)
    for arguments in (["models", "info", written], ["sample", written], ["translate", written, "a", "b"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {written}: ")
        assert hint in result.stderr


def test_export_halves_the_size_and_keeps_the_pictures(model_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.safetensors"
    arguments = ["models", "export", str(model_file), str(target), "--half", "--licence", "MIT", "--metric", "fd=31.5"]
    result = CliRunner().invoke(main, [*arguments, "--metric", "seen by=a person"])
    assert result.exit_code == 0, result.stderr
    assert target.stat().st_size < 0.7 * model_file.stat().st_size
    info = read_info(target)
    assert (info.licence, info.metrics) == ("MIT", {"fd": 31.5, "seen by": "a person"})
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    before, after = (np.asarray(img2img.load(path).translate(picture)) for path in (model_file, target))
    assert np.abs(before.astype(int) - after).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["out.pt"], "out.pt does not end in .safetensors"),
        (["there.safetensors"], "there.safetensors exists already"),
        (["out.safetensors", "--metric", "accuracy"], "'accuracy' is not NAME=VALUE"),
        (["out.safetensors", "--half"], "generator.last.bias does not fit into half precision"),
    ],
)
def test_export_refuses(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.safetensors").write_bytes(b"mine")
    source = model_file
    if "--half" in arguments:
        info, modules = load_networks(model_file)
        modules["generator"].last.bias.fill_(1e6)
        source = tmp_path / "loud.safetensors"
        write_model(source, modules, info)
    result = CliRunner().invoke(main, ["models", "export", str(source), *arguments])
    assert result.exit_code == 2
    assert named in result.stderr
    assert Path("there.safetensors").read_bytes() == b"mine"
    assert not Path("out.safetensors").exists()
