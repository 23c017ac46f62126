"""`img2img bench speed`: what it prints, and that it writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from img2img_cli import main

SMALL = ["data.resolution=16", "generator.width=4", "generator.max_width=8", "discriminator.width=4"]


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for index in range(3):
        Image.fromarray(np.full((20, 20, 3), 60 * index, np.uint8)).save(f"photos/{index}.png")
    sets = [word for key in [*SMALL, "train.batch=2"] for word in ("--set", key)]
    return ["bench", "speed", "dcgan-small", "--images", "photos", "--device", "cpu", "--steps", "4", *sets]


def test_it_says_how_fast_and_writes_nothing(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    first, second, third = result.stdout.splitlines()
    assert first.startswith("dcgan-small, 16 × 16, batch 2; cpu, ")
    assert "images/s; a step" in second
    assert "(median of 4, " in second
    assert "waiting for pictures" in third
    assert "peak memory" in third
    assert [path.name for path in Path().iterdir()] == ["photos"]


def test_as_json(arguments: list[str]) -> None:
    answer = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert len(answer["seconds"]) == 4
    assert answer["images_per_second"] == pytest.approx(2 / np.median(answer["seconds"]))
    assert 0 <= answer["waiting"] <= 1
    assert answer["peak_memory"] > 1e7


def test_a_missing_folder_is_named(arguments: list[str]) -> None:
    arguments[arguments.index("photos")] = "pictures"
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--images: there is no folder pictures" in result.stderr
