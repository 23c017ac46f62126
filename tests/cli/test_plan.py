"""`img2img plan`: what it prints can be trained with."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from img2img.config import read_toml
from img2img_cli import main

SETS = [
    word
    for text in (
        *("generator.width=4", "generator.max_width=8", "generator.latent_dim=8"),
        *("discriminator.width=4", "discriminator.max_width=8", "train.batch=2", "train.threads=1", "data.workers=1"),
    )
    for word in ("--set", text)
]


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures that fill 20 of 64 pixels, in a folder whose name needs quotes."""
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for index in range(30):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 26, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_what_is_planned_is_trained(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "planned.toml"
    result = run("plan", "dcgan-small", "--images", pictures, *SETS, "--device", "cpu", "--out", out)
    assert f"train with: img2img train dcgan-small --images '{pictures}' --set generator.width=4" in result.stdout
    assert "data.resolution  [64, 64] -> [20, 20]  half of the pictures, 26 × 20 in the median, would" in result.stdout
    assert set(tomllib.loads(out.read_text())) == {"data", "augment"}
    options = ["--config", out, *SETS, "--set", "train.kimg=0.004", "--device", "cpu", "--out", tmp_path / "run"]
    run("train", "dcgan-small", "--images", pictures, *options)
    config = read_toml(tmp_path / "run" / "config.toml")
    assert config.data.resolution == (20, 20)
    assert (config.augment.discriminator, config.augment.speed_kimg) == ("ada", 4.0)


def test_stdout_is_the_file(pictures: Path) -> None:
    result = run("plan", "dcgan-small", "--images", pictures, *SETS, "--set", "train.kimg=1", "--device", "cpu")
    assert tomllib.loads(result.stdout) == {"data": {"resolution": [20, 20]}}
    comments = [line for line in result.stdout.splitlines() if line.startswith("# ")]
    assert comments[0] == f"# dcgan-small on {pictures}: 30 images, in the median 26 × 20 pixels"
    assert comments[1].startswith("# 1 kimg on cpu (")
    assert any(line.startswith("# img2img train dcgan-small --images ") for line in comments)


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from img2img_cli import main\n"
        "try: main(['plan', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
