"""`img2img sample` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.networks import GENERATORS
from img2img_cli import main


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model of two classes."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    arguments = {"resolution": (16, 16), "out_channels": 3, "latent_dim": 8, "width": 4, "num_classes": 2}
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
    write_model(path, {"generator": GENERATORS["dcgan"](**arguments)}, info)
    return path


def sample(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sample", *map(str, arguments), "--device", "cpu"])


def test_a_folder_with_classes_and_a_grid(model_file: Path, tmp_path: Path) -> None:
    result = sample(model_file, "--out", tmp_path / "out", "--count", 4, "--grid")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"made 4 pictures in {tmp_path / 'out'}\n"
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert names == ["cat/000000.png", "cat/000002.png", "dog/000001.png", "dog/000003.png", "grid.png"]


def test_seed_class_and_json(model_file: Path, tmp_path: Path) -> None:
    outputs = []
    for seed, label in ((1, "dog"), (1, "dog"), (2, "dog"), (1, "cat")):
        out = tmp_path / f"{len(outputs)}.png"
        result = sample(model_file, "--out", out, "--count", 1, "--class", label, "--seed", seed, "--json")
        assert json.loads(result.stdout) == {"count": 1, "files": [str(out)]}
        outputs.append(Image.open(out).tobytes())
    assert outputs[0] == outputs[1]
    assert len(set(outputs)) == 3


def test_default_folder(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sample(model_file, "--count", 2, "--class", "cat", "--class", "cat").exit_code == 0
    assert len(list(Path("samples").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--class", "dgo"], "Did you mean dog?"), (["--class", "9"], "0 to 1"), (["--count", "0"], "--count")],
)
def test_usage_faults(model_file: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = sample(model_file, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_translate_refuses_it_and_names_sample(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    result = CliRunner().invoke(main, ["translate", str(model_file), str(tmp_path / "src"), str(tmp_path / "dst")])
    assert result.exit_code == 2
    assert "img2img sample" in result.stderr
