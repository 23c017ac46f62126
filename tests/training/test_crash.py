"""Killed, signalled, refused and resumed: the final bytes are those of a run that nothing happened to."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import FAMILIES, arguments, digests, make_data

from img2img.checkpoint import latest_state, manifest_digest

SEED = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
# of each family: 21 over all of them (row A1 wants 20), and as many as one likes in a proof that takes longer
QUICK = ("unconditional", "conditional", "pix2pix", "growing", "began")
KILLS = {family: int(os.environ.get("CRASH_KILLS", 3 if family in QUICK else 1)) for family in FAMILIES}


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
        options = {key: request.pop(key) for key in ("resume", "init", "images") if key in request}
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
        answer = server.train(family, out, settings={"train.keep_last": 9})
        assert answer["code"] == 0, answer["stderr"]
        runs[family] = (out, answer["seconds"], answer["calls"])
    return runs


def finish(server: ForkServer, family: str, out: Path, settings: dict[str, Any] | None = None) -> None:
    answer = server.train(family, out, settings=settings, resume=True)
    assert answer["code"] == 0, answer["stderr"]
    assert "bit-exact" not in answer["stderr"]


@pytest.mark.parametrize("family", FAMILIES)
def test_twice_n_steps_equal_n_kill_resume_and_n(
    family: str, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    """Killed at random moments and taken up again, each time anew."""
    reference, seconds, _ = straight[family]
    chance = random.Random(f"{SEED}/{family}")
    kills, wanted = 0, KILLS[family]
    for attempt in range(4 * wanted):
        out = tmp_path / f"run-{attempt}"
        moment = chance.uniform(0.02, seconds)
        killed = server.train(family, out, kill_after=moment)
        assert killed["code"] in (-signal.SIGKILL, 0), killed["stderr"]
        kills += killed["code"] == -signal.SIGKILL  # it may have been faster than the straight run
        finish(server, family, out)
        assert digests(out) == digests(reference), f"CRASH_SEED={SEED}, killed after {moment:.3f} s"
        if kills == wanted:
            break
    assert kills == wanted
    print(f"{family}: {kills} kills, CRASH_SEED={SEED}")


def resume_from(kept: Path, family: str, server: ForkServer, reference: Path, out: Path) -> None:
    """With every newer state damaged or gone, in turn, the run is taken up at this one and ends as it did."""
    shutil.copytree(reference, out)
    newer = [state for state in sorted((out / "state").iterdir()) if state.name > kept.name]
    for number, state in enumerate(newer):
        if number % 2:
            shutil.rmtree(state)
        else:
            manifest = state / "manifest.json"
            manifest.write_bytes(manifest.read_bytes()[: number + 1])
    answer = server.train(family, out, resume=True)
    assert answer["code"] == 0, answer["stderr"]
    assert f"resumed {kept.name} at " in answer["stderr"]
    assert digests(out) == digests(reference), f"CRASH_SEED={SEED}, resumed from {kept.name}"


@pytest.mark.parametrize("family", ["cyclegan", "growing", "styles", "began"])
def test_resumed_from_an_older_state(
    family: str, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    """One of those that were kept, by chance: with an image pool, in a fade, with ADA, with k."""
    reference = straight[family][0]
    kept = random.Random(f"{SEED}/{family}/state").choice(sorted((reference / "state").iterdir())[:-1])
    resume_from(kept, family, server, reference, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_from_every_kept_state(
    family: str, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    reference = straight[family][0]
    states = sorted((reference / "state").iterdir())
    assert len(states) >= 4
    for kept in states:
        resume_from(kept, family, server, reference, tmp_path / kept.name)


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
@pytest.mark.timeout(7200)
def test_killed_at_every_system_call(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    """Also while older states are removed, of which the first one after every 0.01 kimg stays."""
    settings = {"train.keep_last": 1, "train.keep_every": 0.01}
    whole = server.train("cyclegan", tmp_path / "whole", settings=settings)
    assert digests(tmp_path / "whole") == digests(straight["cyclegan"][0])
    kept = [state.name for state in sorted((tmp_path / "whole" / "state").iterdir())]
    assert [int(name[5:]) for name in kept] == [6, 12]
    for call in range(1, whole["calls"] + 1):
        out = tmp_path / "run"
        shutil.rmtree(out, ignore_errors=True)
        assert server.train("cyclegan", out, settings=settings, kill_at_call=call)["code"] == -signal.SIGKILL
        if call > whole["calls"] // 2:
            assert latest_state(out / "state")[0] is not None, f"killed at system call {call}"
        finish(server, "cyclegan", out, settings)
        assert digests(out) == digests(tmp_path / "whole"), f"killed at system call {call} of {whole['calls']}"
        assert [state.name for state in sorted((out / "state").iterdir())] == kept, f"killed at system call {call}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_saves_within_a_step_and_says_how_to_go_on(
    number: int, code: int, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    """Sent to the process group, as Ctrl-C and schedulers do, with two threads that decode."""
    out = tmp_path / "run"
    # the estimate after 20 steps is the marker: the run is then in its loop
    settings = {"train.kimg": 4.0, "train.state_kimg": 0.0, "train.sample_kimg": 0.0, "data.workers": 2}
    stopped = server.train("unconditional", out, settings=settings, signal=number, signal_after="images/s")
    assert stopped["code"] == code, stopped["stderr"]
    assert "--resume" in stopped["stderr"]
    (state,) = (out / "state").iterdir()
    assert 20 <= int(state.name[5:]) < 2000


def test_a_second_signal_stops_at_once_and_tears_nothing(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    """In the middle of a save: of the state at 12 images no file is there under its name yet, or all are."""
    reference, _, calls = straight["unconditional"]
    out = tmp_path / "run"
    stopped = server.train("unconditional", out, signals_at_call=[calls // 2, signal.SIGTERM, signal.SIGINT])
    assert stopped["code"] == 128 + signal.SIGINT
    assert stopped["calls"] == calls // 2
    assert "--resume" not in stopped["stderr"]
    finish(server, "unconditional", out)
    assert digests(out) == digests(reference)


def test_a_disk_that_stays_full_stops_the_run_after_three_saves(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    """The kernel refuses files larger than half of the weights; the last state before is as it was, and resumed."""
    out, settings = tmp_path / "run", {"train.state_kimg": 0.004}
    assert server.train("unconditional", out, settings={**settings, "train.kimg": 0.006})["code"] == 0
    before, model = digests(out), out / "model.safetensors"
    small = model.stat().st_size // 2
    stopped = server.train("unconditional", out, settings=settings, resume=True, largest_file=small)
    assert stopped["code"] == 4, stopped["stderr"]
    (state,) = {*(out / "state").glob("step-000000003")}
    refused = [line for line in stopped["stderr"].splitlines() if "cannot be written: no space" in line]
    went_on, ended = [line for line in refused if "Training goes on to the next save" in line], refused[-1]
    assert len(went_on) == 2
    for line in (*went_on, ended):
        assert "step-0000000" in line
        assert re.search(r"\(needs [0-9.]+ MB, [0-9.]+ MB free\)", line)
        assert "Free some space or set train.keep_last=1" in line
        assert f"ast good state: {state}" in line
    assert "3 times in a row, so training stopped itself" in ended
    assert "--resume" in ended
    assert digests(out) == before
    assert not list(out.rglob(".img2img-*"))
    finish(server, "unconditional", out, settings)
    assert digests(out) == digests(straight["unconditional"][0])


def test_interrupted_and_resumed_equals_straight(server: ForkServer, tmp_path: Path) -> None:
    settings = {"train.kimg": 0.06, "train.state_kimg": 0.0, "train.sample_kimg": 0.0}
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


def test_only_damaged_states_end_it_with_all_their_names(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight["unconditional"][0], out)
    log = (out / "log.jsonl").read_bytes()
    states = sorted((out / "state").iterdir())
    for state in states:
        (state / "model.safetensors").write_bytes(os.urandom(100))
    answer = server.train("unconditional", out, resume=True)
    assert answer["code"] == 1, answer["stderr"]
    assert f"error: {out / 'state'}: no state verifies (" in answer["stderr"]
    for state in states:
        assert f"skipped state {state.name}: checksum mismatch" in answer["stderr"]
    assert "Copy the run folder again, or begin a new run from its model with --init" in answer["stderr"]
    assert (out / "log.jsonl").read_bytes() == log


def test_a_run_is_not_taken_twice(server: ForkServer, tmp_path: Path) -> None:
    """By a second trainer while the first goes on; the lock of the dead is free."""
    out = tmp_path / "run"
    settings = {"train.kimg": 40.0, "train.state_kimg": 0.01, "train.sample_kimg": 0.0}
    rival = {**arguments("unconditional", server.data, **settings), "out": str(out), "resume": True}
    answer = server.train("unconditional", out, settings=settings, rival=rival, rival_after="images/s")
    assert answer["code"] == -signal.SIGKILL, answer["stderr"]
    assert answer["rival"]["code"] == 2
    assert re.search(rf"{out}: the run is in use by process [0-9]+\. Wait for it", answer["rival"]["stderr"])
    again = server.train(
        "unconditional", out, settings=settings, resume=True, signal=signal.SIGTERM, signal_after="images/s"
    )
    assert again["code"] == 143, again["stderr"]


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
    out = tmp_path / "run"
    shutil.copytree(straight["unconditional"][0], out)
    answer = server.train("unconditional", out, settings=settings, resume=True)
    assert answer["code"] == code, answer["stderr"]
    assert expected in answer["stderr"]


@pytest.mark.parametrize(
    ("key", "then"),
    [("threads", 2), ("device", "cuda"), ("memory_format", "torch.contiguous_format"), ("processes", 2)],
)
def test_resuming_on_another_machine_is_allowed_and_said_not_to_be_exact(
    key: str, then: object, server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight["unconditional"][0], out)
    manifest = max((out / "state").iterdir()) / "manifest.json"
    facts = json.loads(manifest.read_text())
    now = facts[key]
    assert now != then
    facts[key] = then
    manifest.write_text(json.dumps({**facts, "sha256": manifest_digest(facts)}))
    answer = server.train("unconditional", out, settings={"train.kimg": 0.026}, resume=True)
    assert answer["code"] == 0, answer["stderr"]
    assert f"resume will not be bit-exact: {key} {then} then, {now} now" in answer["stderr"]


def test_resuming_with_other_pictures_is_refused(server: ForkServer, tmp_path: Path) -> None:
    from tiny import make_pictures

    images, settings = str(tmp_path / "images"), {"train.kimg": 0.03}
    make_pictures(tmp_path / "images", 7, 0)
    assert server.train("unconditional", tmp_path / "run", images=images)["code"] == 0
    (tmp_path / "images" / "00.png").unlink()
    answer = server.train("unconditional", tmp_path / "run", images=images, settings=settings, resume=True)
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


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("pix2pix", {"data.workers": 4}),
        ("pix2pix", {"data.cache_gb": 0.0}),
        # with spectral normalisation, whose vectors move with every look at a weight while it trains
        ("unconditional", {"train.log_kimg": 0.002, "train.sample_kimg": 0.002, "train.state_kimg": 0.004}),
    ],
)
def test_threads_caches_workers_and_logs_change_no_byte(
    family: str,
    settings: dict[str, Any],
    server: ForkServer,
    straight: dict[str, tuple[Path, float, int]],
    tmp_path: Path,
) -> None:
    assert server.train(family, tmp_path / "run", settings=settings)["code"] == 0
    assert digests(tmp_path / "run") == digests(straight[family][0])


def test_packed_data_change_no_byte(
    server: ForkServer, straight: dict[str, tuple[Path, float, int]], tmp_path: Path
) -> None:
    from img2img.data.pack import pack
    from img2img.data.sources import open_source

    call = arguments("unconditional", server.data)
    images = call["images"]
    size = round(call["set"]["data.resolution"] * call["set"]["augment.enlarge"])
    pack(open_source(images=images, resolution=(16, 16), load_size=(size, size)), tmp_path / "packed")
    answer = server.train("unconditional", tmp_path / "run", images=str(tmp_path / "packed"))
    assert answer["code"] == 0, answer["stderr"]
    assert digests(tmp_path / "run") == digests(straight["unconditional"][0])


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
