"""A signal in every phase, a disk that is full for a while, pictures that vanish or never answer: the run goes on or
says how it can, and ends with the bytes of a run that nothing happened to. In one process; test_crash.py forks."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arguments, digests, make_data, make_pictures

import img2img
from img2img import atomic, checkpoint
from img2img.errors import Fault, ImageFault, Interrupted
from img2img.training import loop
from img2img.training.engine import Engine
from img2img.training.run_folder import RunFolder

# states at 6, 12, 18 and 24 images, samples at 0, 12 and 24, lines of the log at every second step
STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_data(tmp_path_factory.mktemp("data"))


def train(data: dict[str, dict[str, Any]], out: Path, *, resume: bool = False, **settings: Any) -> None:
    img2img.train(**arguments("unconditional", data, **settings), out=out, resume=resume)


@pytest.fixture(scope="module")
def straight(data: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    train(data, out)
    return out


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the engine's step after each."""
    made: list[int] = []
    step = Engine.train_step

    def train_step(self: Engine, batches: Any) -> None:
        step(self, batches)
        made.append(self.step)

    monkeypatch.setattr(Engine, "train_step", train_step)
    return made


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# --- signals ----------------------------------------------------------------------------------------------------------

# phase -> what is called in it, and the call that the signal meets
PHASES: dict[str, tuple[object, str, int]] = {
    "the first sample": (RunFolder, "write_samples", 1),
    "a sample": (RunFolder, "write_samples", 2),
    "a line of the log": (RunFolder, "append_log", 3),
    "the first file of a state": (checkpoint, "write_new", 1),
    "the manifest of a state": (checkpoint, "write_new", 14),
    "the model": (loop, "write_model", 2),
    "the report": (loop, "write_report", 3),
}


@pytest.mark.parametrize(("phase", "number"), [*zip(PHASES, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) * 3)])
def test_a_signal_in_any_phase_saves_within_a_step(
    phase: str,
    number: int,
    data: dict[str, dict[str, Any]],
    straight: Path,
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name, call = PHASES[phase]
    real, calls, met = getattr(owner, name), [], []

    def interrupted(*positional: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            met.append(len(steps))
            os.kill(os.getpid(), number)
        return real(*positional, **named)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(Interrupted, match=rf"stopped by signal {number}, state saved\. .*--resume") as caught:
        train(data, tmp_path / "run")
    assert caught.value.exit_code == 128 + number
    assert len(steps) == met[0] + 1 < STEPS
    assert max((tmp_path / "run" / "state").iterdir()).name == f"step-{len(steps):09d}"
    train(data, tmp_path / "run", resume=True)
    assert digests(tmp_path / "run") == digests(straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_before_training_ends_it_where_it_stands(
    number: int, data: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large folder may be looked at for minutes. Nothing is left behind, and handlers are as they were."""
    waiting = threading.Event()

    def prepare(*_: Any) -> None:
        os.kill(os.getpid(), number)
        waiting.wait(60)
        pytest.fail("the signal was only noted")

    monkeypatch.setattr(loop, "prepare", prepare)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by signal {number} before the first step") as caught:
        train(data, tmp_path / "runs" / "run")
    assert caught.value.exit_code == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


# --- a full disk ------------------------------------------------------------------------------------------------------


def fill_disk(monkeypatch: pytest.MonkeyPatch, is_full: Callable[[], bool]) -> None:
    """Let every write of a file fail as on a full disk while `is_full`; half of what was asked for is written."""
    write = os.write

    def refuse(descriptor: int, content: memoryview) -> int:
        if is_full():
            write(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(atomic.os, "write", refuse)


def test_a_disk_that_is_full_for_a_while_costs_a_save_and_is_in_the_log(
    data: dict[str, dict[str, Any]],
    straight: Path,
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From the sixth to the eighth step: the second save, a sample and two lines of the log are lost."""
    fill_disk(monkeypatch, lambda: 6 <= len(steps) <= 8)
    train(data, tmp_path / "run", **{"train.keep_last": 9})
    assert [state.name[-2:] for state in sorted((tmp_path / "run" / "state").iterdir())] == ["03", "09", "12"]
    assert digests(tmp_path / "run") == digests(straight)
    assert [record["images"] for record in log(tmp_path / "run")] == [4, 8, 20, 24]
    assert [record.get("failed_saves", 0) for record in log(tmp_path / "run")] == [0, 0, 1, 1]
    assert caplog.text.count("step-000000006: cannot be written: no space (needs") == 1
    assert caplog.text.count("Training goes on to the next save; last good state: ") == 1
    assert caplog.text.count("log.jsonl: cannot be written: no space") == 2
    assert not list((tmp_path / "run").rglob(".img2img-*"))
    assert not (tmp_path / "run" / "samples" / "000000012.png").exists()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_last_save_that_fails_is_an_error_and_the_state_before_stays(
    stopped: bool,
    data: dict[str, dict[str, Any]],
    straight: Path,
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end, or where a signal asked for it."""
    step = Engine.train_step

    def train_step(self: Engine, batches: Any) -> None:
        step(self, batches)
        if stopped and len(steps) == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Engine, "train_step", train_step)
    fill_disk(monkeypatch, lambda: len(steps) > 9)
    with pytest.raises(Fault, match=r"no space \(needs .* Free some space") as caught:
        train(data, tmp_path / "run")
    assert caught.value.exit_code == 1
    assert len(steps) == (10 if stopped else STEPS)
    monkeypatch.undo()
    assert max((tmp_path / "run" / "state").iterdir()).name == "step-000000009"
    train(data, tmp_path / "run", resume=True)
    assert digests(tmp_path / "run") == digests(straight)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_that_are_lost_are_replaced_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After the scan; what stands in for them follows from the seed, so that two such runs are one."""
    pictures, prepare = tmp_path / "images", loop.prepare
    make_pictures(pictures, 7, 0)
    pipe, half = pictures / "03.png", pictures / "05.png"
    whole = {path: path.read_bytes() for path in (pipe, half)}

    def lose(*positional: Any) -> Any:
        pipe.unlink()
        for path, content in whole.items():
            path.write_bytes(content)
        prepared = prepare(*positional)
        pipe.unlink()
        os.mkfifo(pipe)
        half.write_bytes(whole[half][: len(whole[half]) // 2])
        return prepared

    monkeypatch.setattr(loop, "prepare", lose)
    own = {"images": {"images": str(pictures)}}
    with caplog.at_level(logging.WARNING, logger="img2img.training"):
        for name in ("one", "two"):
            train(own, tmp_path / name, **{"data.cache_gb": 0.0, "data.workers": 2})
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    for path, problem in ((pipe, "is a pipe"), (half, "file is cut short")):
        assert caplog.text.count(f"{path}: {problem}") == 2, "each run tells it once"
    assert caplog.text.count("Other pictures stand in for it") == 4
    counts = [record.get("replaced_pictures", 0) for record in log(tmp_path / "one")]
    assert counts == sorted(counts)
    assert counts[-1] >= 4


@pytest.mark.parametrize("end", ["signal", "error"])
def test_a_picture_lost_just_before_the_end_is_named(
    end: str,
    data: dict[str, dict[str, Any]],
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After the last line of the log, with no other to come."""
    prepare, step = loop.prepare, Engine.train_step
    lanes: list[Any] = []

    def keep(*positional: Any) -> Any:
        prepared = prepare(*positional)
        lanes.extend(prepared.source.lanes.values())
        return prepared

    def train_step(self: Engine, batches: Any) -> None:
        step(self, batches)
        if len(steps) == 9:
            assert not lanes[0].lost
            lanes[0].lost[0] = ImageFault("lost.png", "is not there any more", "Bring it back")
            if end == "error":
                raise Fault("the disk", "is gone", "Find it")
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "prepare", keep)
    monkeypatch.setattr(Engine, "train_step", train_step)
    with pytest.raises(Interrupted if end == "signal" else Fault):
        train(data, tmp_path / "run")
    assert caplog.text.count("lost.png: is not there any more. Bring it back. Other pictures stand in for it") == 1


def test_a_picture_that_never_answers_ends_the_run_by_its_name(
    data: dict[str, dict[str, Any]],
    straight: Path,
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a dead network mount; the states are kept."""
    prepare, gate = loop.prepare, threading.Event()

    def block(*positional: Any) -> Any:
        prepared = prepare(*positional)
        prepared.loader.timeout = 0.3
        (lane,) = prepared.source.lanes.values()
        load = lane.load

        def wait(index: int) -> Any:
            if len(steps) > 5:
                gate.wait(60)
            return load(index)

        lane.load = wait
        return prepared

    monkeypatch.setattr(loop, "prepare", block)
    with pytest.raises(Fault, match=r"\.png: no answer for 0\.3 seconds\. Check its disk") as caught:
        train(data, tmp_path / "run")
    gate.set()
    assert caught.value.exit_code == 1
    monkeypatch.setattr(loop, "prepare", prepare)
    assert max((tmp_path / "run" / "state").iterdir()).name in ("step-000000003", "step-000000006")
    train(data, tmp_path / "run", resume=True)
    assert digests(tmp_path / "run") == digests(straight)
