"""Killed, signalled, refused and resumed: the final bytes are those of a run that nothing happened to."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import FAMILIES, arguments, make_data

SEED = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
# of each family: 20 or more over all of them (row A1), and as many as one likes in a proof that takes longer
KILLS = int(os.environ.get("CRASH_KILLS", math.ceil(20 / len(FAMILIES))))


class ForkServer:
    def __init__(self, data: dict[str, dict[str, Any]]) -> None:
        self.data = data
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        script = Path(__file__).with_name("fork_server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._answer() == {"ready": True}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the fork server died"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def train(
        self, family: str, out: Path, *, settings: dict[str, Any] | None = None, **request: Any
    ) -> dict[str, Any]:
        options = {key: request.pop(key) for key in ("resume", "init") if key in request}
        call = {**arguments(family, self.data, **(settings or {})), "out": str(out), **options}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"arguments": call, **request}) + "\n")
        self.process.stdin.flush()
        return self._answer()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    running = ForkServer(make_data(tmp_path_factory.mktemp("data")))
    yield running
    running.process.kill()


@pytest.fixture(scope="module")
def straight(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, float, int]]:
    """Family -> an undisturbed run, its seconds, and the number of its writing system calls."""
    runs = {}
    for family in FAMILIES:
        out = tmp_path_factory.mktemp("straight") / family
        answer = server.train(family, out)
        assert answer["code"] == 0, answer["stderr"]
        runs[family] = (out, answer["seconds"], answer["calls"])
    return runs


def digests(run: Path) -> dict[str, str]:
    """sha256 of the model and of every file of the last state."""
    last = max((run / "state").glob("step-*"))
    files = [run / "model.safetensors", *sorted(last.iterdir())]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def finish(server: ForkServer, family: str, out: Path) -> None:
    answer = server.train(family, out, resume=True)
    assert answer["code"] == 0, answer["stderr"]


@pytest.mark.parametrize("family", FAMILIES)
def test_twice_n_steps_equal_n_kill_resume_and_n(
    family: str, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    """Killed at random moments and taken up again, each time anew."""
    reference, seconds, _ = straight[family]
    chance = random.Random(f"{SEED}/{family}")
    for kill in range(KILLS):
        out = tmp_path / f"run-{kill}"
        moment = chance.uniform(0.02, seconds)
        killed = server.train(family, out, kill_after=moment)
        assert killed["code"] in (-signal.SIGKILL, 0), killed["stderr"]
        finish(server, family, out)
        assert digests(out) == digests(reference), f"CRASH_SEED={SEED}, killed after {moment:.3f} s"


@pytest.mark.parametrize("share", [0.006, 0.012, 0.018, 0.2, 0.45, 0.7, 0.95])
def test_killed_at_a_system_call_of_a_save(
    share: float, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    reference, _, calls = straight["unconditional"]
    killed = server.train("unconditional", tmp_path / "run", kill_at_call=math.ceil(share * calls))
    assert killed["code"] == -signal.SIGKILL
    finish(server, "unconditional", tmp_path / "run")
    assert digests(tmp_path / "run") == digests(reference)
    assert not list((tmp_path / "run").rglob(".img2img-*"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_every_system_call(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    reference, _, calls = straight["cyclegan"]
    for call in range(1, calls + 1):
        out = tmp_path / f"run-{call}"
        assert server.train("cyclegan", out, kill_at_call=call)["code"] == -signal.SIGKILL
        finish(server, "cyclegan", out)
        assert digests(out) == digests(reference), f"killed at system call {call} of {calls}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_saves_within_a_step_and_says_how_to_go_on(
    number: int, code: int, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    # the estimate after 20 steps is the marker: the run is then in its loop
    settings = {"train.kimg": 4.0, "train.state_kimg": 0.0, "train.sample_kimg": 0.0}
    stopped = server.train("unconditional", out, settings=settings, signal=number, signal_after="images/s")
    assert stopped["code"] == code, stopped["stderr"]
    assert "--resume" in stopped["stderr"]
    (state,) = (out / "state").iterdir()
    assert 20 <= int(state.name[5:]) < 2000


def test_interrupted_and_resumed_equals_straight(server: ForkServer, tmp_path: Path) -> None:
    settings = {"train.kimg": 0.12, "train.state_kimg": 0.0, "train.sample_kimg": 0.0}
    assert server.train("cyclegan", tmp_path / "straight", settings=settings)["code"] == 0
    out = tmp_path / "run"
    stopped = server.train("cyclegan", out, settings=settings, signal=signal.SIGTERM, signal_after="images/s")
    assert stopped["code"] == 143, stopped["stderr"]
    answer = server.train("cyclegan", out, settings=settings, resume=True)
    assert answer["code"] == 0, answer["stderr"]
    assert digests(out) == digests(tmp_path / "straight")
    seen = [json.loads(line)["images"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert seen == sorted(set(seen))


def test_a_damaged_newest_state_is_passed_over(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert server.train("unconditional", out, settings={"train.kimg": 0.016})["code"] == 0
    newest = max((out / "state").glob("step-*"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    answer = server.train("unconditional", out, resume=True)
    assert answer["code"] == 0
    assert f"skipped state {newest.name}: checksum mismatch; using step-" in answer["stderr"]
    assert digests(out) == digests(straight["unconditional"][0])


def test_a_run_is_not_taken_twice(server: ForkServer, straight: dict[str, tuple[Path, float, int]]) -> None:
    import fcntl

    out = straight["unconditional"][0]
    with open(out / ".lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = server.train("unconditional", out, resume=True)
    assert answer["code"] == 2
    assert "the run is in use by process" in answer["stderr"]


def test_an_existing_run_needs_resume(server: ForkServer, straight: dict[str, tuple[Path, float, int]]) -> None:
    before = digests(straight["pix2pix"][0])
    answer = server.train("pix2pix", straight["pix2pix"][0])
    assert answer["code"] == 2
    assert "this run exists already. Continue it with --resume" in answer["stderr"]
    assert digests(straight["pix2pix"][0]) == before


@pytest.mark.parametrize(
    ("settings", "code", "expected"),
    [
        ({"data.workers": 3, "train.log_kimg": 0.01}, 0, ""),
        ({"train.kimg": 0.03}, 0, "the run is made longer: train.kimg 0.024 then, 0.03 now"),
        ({"train.kimg": 0.02}, 2, "train.kimg: the run has 0.024, now 0.02"),
        ({"optim.lr": 0.1}, 2, "optim.lr: the run has 0.001, now 0.1"),
        ({"train.batch": 4}, 2, "train.batch: the run has 2, now 4"),
    ],
)
def test_resuming_with_another_configuration(
    settings: dict[str, Any],
    code: int,
    expected: str,
    server: ForkServer,
    straight: dict[str, tuple[Path, float, int]],
    tmp_path: Path,
) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(straight["unconditional"][0], out)
    answer = server.train("unconditional", out, settings=settings, resume=True)
    assert answer["code"] == code, answer["stderr"]
    assert expected in answer["stderr"]


def test_resuming_with_other_pictures_is_refused(server: ForkServer, tmp_path: Path) -> None:
    from tiny import make_pictures

    make_pictures(tmp_path / "images", 7, 0)
    own = ForkServer({"images": {"images": str(tmp_path / "images")}})
    try:
        assert own.train("unconditional", tmp_path / "run")["code"] == 0
        (tmp_path / "images" / "00.png").unlink()
        answer = own.train("unconditional", tmp_path / "run", settings={"train.kimg": 0.03}, resume=True)
    finally:
        own.process.kill()
    assert answer["code"] == 2
    assert "the pictures changed since step-000000012" in answer["stderr"]


def test_resuming_nothing_starts_from_zero_and_says_so(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    answer = server.train("unconditional", tmp_path / "run", resume=True)
    assert answer["code"] == 0
    assert "no saved state to resume, starting from zero" in answer["stderr"]
    assert digests(tmp_path / "run") == digests(straight["unconditional"][0])


@pytest.mark.parametrize("kind", ["file", "below a file", "full folder"])
def test_an_unusable_run_folder_is_refused_before_any_work(kind: str, server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "full folder": tmp_path}[kind]
    answer = server.train("unconditional", out)
    assert answer["code"] == 2, answer["stderr"]
    assert str(out) in answer["stderr"]
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_threads_caches_and_workers_change_no_byte(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    for number, settings in enumerate(({"data.workers": 4}, {"data.cache_gb": 0.0})):
        out = tmp_path / f"run-{number}"
        assert server.train("pix2pix", out, settings=settings)["code"] == 0
        assert digests(out) == digests(straight["pix2pix"][0])


def test_a_new_run_may_start_from_a_model(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    model = straight["cyclegan"][0] / "model.safetensors"
    answer = server.train("cyclegan", tmp_path / "run", init=str(model))
    assert answer["code"] == 0, answer["stderr"]
    assert digests(tmp_path / "run") != digests(straight["cyclegan"][0])
    refused = server.train("cyclegan", tmp_path / "other", settings={"generator.width": 6}, init=str(model))
    assert refused["code"] == 2
    assert f"--init: {model} does not fit: its width is 4, this run's 6" in refused["stderr"]
    refused = server.train("pix2pix", tmp_path / "other", init=str(model))
    assert refused["code"] == 2
    assert "its generator is another method, this run's unet" in refused["stderr"]


def test_a_run_folder_among_the_pictures_is_refused(server: ForkServer) -> None:
    out = Path(server.data["images"]["images"]) / "run"
    answer = server.train("unconditional", out)
    assert answer["code"] == 2
    assert f"--out: {out} lies inside" in answer["stderr"]
    assert not out.exists()
