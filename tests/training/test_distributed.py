"""Two processes of half the batch are one process of the whole batch, and bit-equal to each other (row A16).

Also where one of them meets what is not a number (B3), is killed (A15), or is asked to stop.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arguments, digests, make_data

SCRIPT = Path(__file__).with_name("ranks.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PATIENCE = 600  # seconds


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    together = subprocess.Popen([*TORCHRUN, str(SCRIPT), str(out)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    alone = subprocess.run([sys.executable, str(SCRIPT), str(out)], env=ENVIRONMENT, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    _, errors = together.communicate(timeout=100)
    assert together.returncode == 0, errors
    return out


@pytest.mark.parametrize("family", ["unconditional", "pix2pix", "cyclegan", "cut", "growing", "styles", "starganv2"])
def test_two_ranks_equal_one_process(family: str, weights: Path) -> None:
    alone, first, second = (
        safetensors.torch.load_file(weights / f"{family}-{name}.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    for key, expected in alone.items():
        assert torch.equal(first[key], second[key]), f"{key} differs between the ranks"
        torch.testing.assert_close(
            first[key], expected, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_what_is_not_finite_at_one_rank_is_skipped_by_all(weights: Path) -> None:
    """Both players of the third step; nothing of it stays in weights, averages or running statistics."""
    first, second = (safetensors.torch.load_file(weights / f"poisoned-{rank}-of-2.safetensors") for rank in (0, 1))
    assert first["skipped_steps"].tolist() == [2]
    assert any(key.startswith("now.generator.") and key.endswith("running_var") for key in first)
    for key, value in first.items():
        assert torch.equal(value, second[key]), f"{key} differs between the ranks"
        assert torch.isfinite(value).all(), key


# --- killed and restarted ---------------------------------------------------------------------------------------------

# about as long as torchrun needs to notice; states at every second step
LONG = {"train.kimg": 0.2, "train.batch": 4, "train.state_kimg": 0.008, "train.sample_kimg": 0.0, "train.keep_last": 1}


def to_text(value: object) -> str:
    """A value as --set takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class Torchrun:
    """`img2img train` in two processes, as a user types it."""

    def __init__(self, data: dict[str, dict[str, Any]], out: Path, *options: str) -> None:
        call = arguments("cyclegan", data, **LONG)
        sets = [word for key, value in call["set"].items() for word in ("--set", f"{key}={to_text(value)}")]
        command = [
            *TORCHRUN,
            *options,
            "-m",
            "img2img_cli",
            "train",
            call["recipe"],
            "--a",
            call["a"],
            "--b",
            call["b"],
        ]
        command += [*sets, "--device", "cpu", "--out", str(out), "--resume"]
        self.out, self.errors = out, out.with_suffix(".stderr")
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(command, env=ENVIRONMENT, stderr=errors, start_new_session=True)

    def wait_for_state(self) -> None:
        """Until the second state is there."""
        deadline = time.monotonic() + PATIENCE
        while not any(int(state.name[5:]) >= 4 for state in (self.out / "state").glob("step-*")):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ranks(self) -> dict[int, int]:
        """Rank -> process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = {}
        for child in children:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found |= {int(text[5:]): int(child) for text in variables if text.startswith(b"RANK=")}
        return found

    def said(self) -> str:
        return self.errors.read_text()

    def finish(self) -> int:
        return self.process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Torchrun(data, tmp_path_factory.mktemp("undisturbed") / "run")
    assert run.finish() == 0, run.said()
    return run.out


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_started_again_by_torchrun(
    rank: int, data: dict[str, dict[str, Any]], undisturbed: Path, tmp_path: Path
) -> None:
    run = Torchrun(data, tmp_path / "run", "--max-restarts", "1")
    run.wait_for_state()
    victim = run.ranks()[rank]
    os.kill(victim, signal.SIGKILL)
    assert run.finish() == 0, run.said()
    assert "no saved state to resume, starting from zero" in run.said()
    assert "resumed step-0000000" in run.said()
    assert "bit-exact" not in run.said()
    assert f"error: process {1 - rank} of 2: lost the others. See what they said" in run.said()
    assert "internal" not in run.said()
    assert digests(run.out) == digests(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_a_signal_to_both_ranks_saves_and_the_run_is_resumed(
    data: dict[str, dict[str, Any]], undisturbed: Path, tmp_path: Path
) -> None:
    """SIGUSR1, as schedulers send it ahead of time."""
    run = Torchrun(data, tmp_path / "run")
    run.wait_for_state()
    for process in run.ranks().values():
        os.kill(process, signal.SIGUSR1)
    assert run.finish() != 0
    assert f"stopped by signal {int(signal.SIGUSR1)}, state saved. Continue with" in run.said()
    (state,) = (run.out / "state").iterdir()
    again = Torchrun(data, tmp_path / "run")
    assert again.finish() == 0, again.said()
    assert f"resumed {state.name} at" in again.said()
    assert digests(run.out) == digests(undisturbed)
