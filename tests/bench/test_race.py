"""The race refuses what is no checkout of a peer, and races one that keeps the peers' contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RACE = Path(__file__).with_name("race.py")

# the least that a checkout has: options that parse, and a model that steps
CHECKOUT = {
    "options/train_options.py": """
import argparse
class TrainOptions:
    def parse(self):
        parser = argparse.ArgumentParser()
        for name in ("dataroot", "checkpoints_dir", "model", "gpu_ids", "netG", "lambda_identity"):
            parser.add_argument("--" + name)
        parser.add_argument('--batch_size', type=int)
        parser.add_argument('--crop_size', type=int)
        parser.add_argument('--load_size', type=int)
        print("options are printed")
        return parser.parse_args()
""",
    "models/__init__.py": """
from models.cycle_gan_model import Model
def create_model(options):
    return Model()
""",
    "models/cycle_gan_model.py": """
class Model:
    def set_input(self, batch):
        self.shape = batch["A"].shape
    def optimize_parameters(self):
        assert self.shape == (1, 3, 32, 32), self.shape
""",
    "util/util.py": "",
}


def race(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RACE), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=100,
    )


def make_checkout(folder: Path) -> Path:
    for name, text in CHECKOUT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("missing", [None, *CHECKOUT])
def test_what_is_no_checkout_is_refused_by_name(tmp_path: Path, missing: str | None) -> None:
    if missing is not None:
        (make_checkout(tmp_path / "peer") / missing).unlink()
    result = race(str(tmp_path / "peer"))
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'peer'}: ")
    assert (missing or "no such folder") in result.stderr
    assert "checkout" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("folder", "problem"), [("nowhere", "no such folder"), ("", "no images in it")])
def test_photos_that_are_not_there_are_named(tmp_path: Path, folder: str, problem: str) -> None:
    photos = tmp_path / "photos" / folder
    (tmp_path / "photos").mkdir()
    result = race(str(make_checkout(tmp_path / "peer")), "--translate", str(photos))
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {photos}: {problem}")
    assert "Check the path" in result.stderr


@pytest.mark.slow
def test_a_peer_that_fails_is_quoted(tmp_path: Path) -> None:
    peer = make_checkout(tmp_path)
    (peer / "models/__init__.py").write_text("import no_such_package\n")
    result = race(str(peer), "--resolution", "32", "--rounds", "1")
    assert result.returncode == 2
    assert "peer does not run: ModuleNotFoundError: No module named 'no_such_package'" in result.stderr


@pytest.mark.slow
def test_two_sides_run_in_turn(tmp_path: Path) -> None:
    result = race(str(make_checkout(tmp_path)), "--resolution", "32", "--rounds", "2", "--steps", "1")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "cyclegan, a training step, 32 x 32, batch 1; cpu, 1 threads, 2 rounds"
    for line, start in zip(lines[1:], ("ours (float32): ", "peer (float32): ", "ours is "), strict=True):
        assert line.startswith(start)
