"""`img2img models`: what it prints of a file, and of a checkout without models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.networks import GENERATORS
from img2img_cli import main, models


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
    monkeypatch.setattr(models, "shipped_folder", lambda: tmp_path)
    empty = CliRunner().invoke(main, ["models", "list"])
    assert (empty.exit_code, "No models ship" in empty.stdout) == (0, True)
    (tmp_path / "maps.safetensors").write_bytes(model_file.read_bytes())
    assert "pix2pix: translates a2b" in CliRunner().invoke(main, ["models", "list"]).stdout
    answer = json.loads(CliRunner().invoke(main, ["models", "list", "--json"]).stdout)
    assert [Path(model["file"]).name for model in answer["models"]] == ["maps.safetensors"]


def test_shipped_folder_stands_beside_the_package() -> None:
    assert models.shipped_folder().name == "checkpoints"
    assert (models.shipped_folder().parent / "img2img").is_dir()
