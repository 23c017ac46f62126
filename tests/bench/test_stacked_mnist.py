from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "stacked_mnist.py"


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("stacked_mnist")


def test_three_digits_are_one_mode(script: ModuleType) -> None:
    digits = np.array([[a, b, c] for a in range(10) for b in range(10) for c in range(10)])
    assert script.as_modes(digits).tolist() == list(range(1000))


def test_coverage_in_closed_form(script: ModuleType) -> None:
    """Uniform on k of 1000 equally frequent modes: k modes, and a divergence of log(1000 / k)."""
    data = np.repeat(np.arange(1000), 3)
    for count in (1000, 500, 1):
        found = script.coverage(np.arange(count), data)
        assert found.modes == count
        assert found.kl == pytest.approx(math.log(1000 / count), abs=1e-12)


def test_the_divergence_is_from_the_data_and_not_from_uniform(script: ModuleType) -> None:
    data = np.concatenate([np.arange(1000), np.zeros(1000, int)])
    assert script.coverage(data, data).kl == pytest.approx(0, abs=1e-12)
    # of mode 0 the data hold 1001 of 2000
    assert script.coverage(np.zeros(5, int), data).kl == pytest.approx(math.log(2000 / 1001))


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_the_recipe_makes_every_mode_and_the_plain_game_loses_some(shared_data: Path, tmp_path: Path) -> None:
    """About 12 minutes of one core for the recipe, 10 for the plain DCGAN, 5 for the rest."""
    images = str(shared_data / "mnist.npz")
    plain = (
        "loss.adversarial=nonsaturating",
        "loss.penalties=none",
        "discriminator.norm=batch",
        "optim.lr=2e-4",
        "optim.betas=0.5,0.999",
        "optim.decay_share=0",
        "train.ema_kimg=0",
    )

    def run(*arguments: str) -> str:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout

    for name, sets in (("recommended", ()), ("plain", plain)):
        words = [word for key in ("train.threads=1", *sets) for word in ("--set", key)]
        train = ("-m", "img2img_cli", "train", "dcgan-stacked-mnist", "--device", "cpu", "--images", images)
        run(*train, "--out", str(tmp_path / name), *words)
    models = [str(tmp_path / name / "model.safetensors") for name in ("recommended", "plain")]
    lines = run(str(SCRIPT), *models, "--images", images).splitlines()
    found = {key: value for line in lines for key, value in json.loads(line).items()}
    assert found["classifier"]["test_accuracy"] >= 0.985
    assert found["training pictures"]["modes"] == 1000
    assert found["training pictures"]["kl"] < 0.02
    recommended, plain_found = (found[model] for model in models)
    assert recommended["modes"] == 1000
    assert recommended["kl"] < 0.1
    assert plain_found["kl"] > recommended["kl"]
