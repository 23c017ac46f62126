"""`img2img bench parzen`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.draws import permutation
from img2img.inference.model import Model
from img2img.metrics.parzen import CANDIDATES, score
from img2img.networks import GENERATORS
from img2img_cli import main

NETWORK = {"resolution": (8, 8), "out_channels": 1, "latent_dim": 4, "width": 4, "max_width": 8}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model.safetensors and arrays.npz, sorted like a file of classes: dark pictures first."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    train = np.sort(random.integers(0, 256, (60, 1, 1))) + random.integers(-20, 20, (60, 8, 8))
    test = random.integers(0, 256, (30, 8, 8), np.uint8)
    np.savez("arrays.npz", train_images=train.clip(0, 255).astype(np.uint8), test_images=test)
    info = ModelInfo(
        translator="unconditional",
        task="sample",
        networks={"generator": NetworkSpec("dcgan", NETWORK)},
        directions={},
        domains={"image": "things"},
        channels={"image": 1},
        resolution=(8, 8),
    )
    torch.manual_seed(0)
    write_model(Path("model.safetensors"), {"generator": GENERATORS["dcgan"](**NETWORK)}, info)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["bench", "parzen", "model.safetensors", "--device", "cpu", *words])


def test_the_table_says_how_it_was_measured(here: Path) -> None:
    result = run("--images", "arrays.npz", "--samples", "20")
    assert result.exit_code == 0, result.stderr
    protocol, model, training = result.stdout.splitlines()
    assert "around 20 samples" in protocol
    assert "by 10 training pictures" in protocol
    assert "over 30 test pictures" in protocol
    assert model.startswith("model ")
    assert training.startswith("training pictures ")
    assert all("±" in line and "nats, bandwidth 0." in line for line in (model, training))
    assert sorted(path.name for path in here.iterdir()) == ["arrays.npz", "model.safetensors"]


def test_the_numbers_are_those_of_the_protocol(here: Path) -> None:
    result = run("--images", "arrays.npz", "--samples", "20", "--json", "--out", "found")
    answer = json.loads(result.stdout)
    assert json.loads(Path("found/parzen.json").read_text()) == answer
    assert (answer["samples"], answer["validation"], answer["test"]) == (20, 10, 30)
    with np.load("arrays.npz") as arrays:
        train, test = (
            torch.from_numpy(arrays[name][permutation(0, "parzen", 0, len(arrays[name]))]).double().flatten(1) / 255
            for name in ("train_images", "test_images")
        )
    samples = np.stack([pixels for _, pixels in Model.load("model.safetensors", "cpu").samples(20)])
    for name, values in (("model", torch.from_numpy(samples).double().flatten(1) / 255), ("training", train[:20])):
        expected = score(values, train[-10:], test)
        assert answer[name]["mean"] == pytest.approx(expected.mean)
        assert answer[name]["standard_error"] == pytest.approx(expected.standard_error)
        assert answer[name]["bandwidth"] == expected.bandwidth
        assert answer[name]["bandwidth"] in CANDIDATES


def test_pictures_of_another_size_are_refused(here: Path) -> None:
    np.savez("small.npz", train_images=np.zeros((9, 4, 4), np.uint8), test_images=np.zeros((9, 4, 4), np.uint8))
    result = run("--images", "small.npz")
    assert result.exit_code == 2
    assert (
        "small.npz: its training pictures are 4×4 with 1 channel, the model makes 8×8 with 1 channel" in result.stderr
    )
    assert "the file that the model was trained on" in result.stderr


def test_help_says_that_folders_are_not_taken(here: Path) -> None:
    assert "folders of pictures are not taken" in " ".join(run("--help").stdout.split())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_recipe_reaches_the_first_paper_s_mark(shared_data: Path, tmp_path: Path) -> None:
    """At least 225 nats; about eight minutes of one core."""
    images = ["--images", str(shared_data / "mnist.npz"), "--device", "cpu"]

    def command(*words: str) -> str:
        process = [sys.executable, "-m", "img2img_cli", *words, *images]
        return subprocess.run(process, check=True, capture_output=True, text=True).stdout

    command("train", "gan-mnist", "--out", str(tmp_path / "run"), "--set", "train.threads=1")
    answer = json.loads(command("bench", "parzen", str(tmp_path / "run" / "model.safetensors"), "--json"))
    assert answer["model"]["mean"] >= 225
    assert 235 < answer["training"]["mean"] < 250
