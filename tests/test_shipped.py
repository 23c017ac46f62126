"""The models in checkpoints/: small, described, usable by name, and as good as their cards say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import img2img
from img2img.checkpoint import read_info
from img2img.shipped import shipped_folder, shipped_models

MODELS = shipped_models()


def test_the_folder_holds_models_and_their_cards_and_nothing_else() -> None:
    assert MODELS
    expected = {f"{name}{suffix}" for name in MODELS for suffix in (".safetensors", ".md")}
    assert {path.name for path in shipped_folder().iterdir()} == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_and_says_what_it_is(name: str) -> None:
    path = MODELS[name]
    assert path.stat().st_size < 10e6
    info = read_info(path)
    assert info.licence
    assert info.metrics
    card = path.with_suffix(".md").read_text("utf-8")
    for words in ("## Data", "## Training", "## Measured", "img2img train", info.licence):
        assert words in card


def test_sign_digits_makes_the_class_asked_for_and_again() -> None:
    model = img2img.load("sign-digits", device="cpu")
    first, again = (np.stack([np.asarray(image) for image in model.sample(4, label="3")]) for _ in range(2))
    assert first.shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(first, again)
    other = np.stack([np.asarray(image) for image in model.sample(4, label="7")])
    assert np.abs(first.astype(int) - other).mean() > 5  # the same noise in another class
    assert first.std(axis=0).mean() > 10  # other noise in the same class


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sign_digits_is_as_good_as_its_card_says(shared_data: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout

    signs, split = str(shared_data / "sign_digits"), str(tmp_path / "signs")
    run("-m", "img2img_cli", "data", "split", "--classes", signs, "--every", "5", "--out", split, "--link")
    script = str(Path(__file__).parent / "bench" / "first_runs.py")
    folders = ("--train", f"{split}/train", "--test", f"{split}/test")
    printed = run(script, "classes", "sign-digits", *folders, "--grid", str(tmp_path / "grid.png"))
    held_out, samples = (float(text) for text in re.findall(r"([\d.]+)% of \d+ (?:held out|samples)", printed))
    assert held_out >= 90
    assert samples >= 80
    spreads = [float(text) for text in re.findall(r"spread within a class ([\d.]+)", printed)]
    assert spreads[1] > 0.6 * spreads[0]
