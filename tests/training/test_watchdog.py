"""train.watchdog: faults are told, end the run, or send it back to before them; and what is left of a NaN."""

from __future__ import annotations

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
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from poison import poison
from test_crash import ForkServer, digests
from test_diagnosis import HEALTHY, log
from tiny import arguments, make_data

import img2img
from img2img.checkpoint import latest_state, load_state, state_folders
from img2img.config import resolve
from img2img.errors import Diverged
from img2img.training import TrainResult
from img2img.training.diagnosis import LINES
from img2img.training.watchdog import ROLLBACKS, Watchdog

SEED = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
# 24 steps of two images; a state every third step, a line of the log every second one
LENGTH = {"train.kimg": 0.048}
FEW_LINES = {"train.log_kimg": 1.0}  # too few to tell anything from
IN_A_ROW = {"player": "discriminator", "steps": [*range(8, 24)]}
NOW_AND_THEN = {"player": "generator", "steps": [8, 10, 12, 14, 16, 18, 20, 22]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def server(data: dict[str, dict[str, Any]]) -> Iterator[ForkServer]:
    running = ForkServer(data)
    yield running
    running.process.kill()


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def train(data: dict[str, dict[str, Any]], out: Path, bad: dict[str, Any], **settings: Any) -> TrainResult:
    undo = poison(**bad)
    try:
        return img2img.train(**arguments("unconditional", data, **{**LENGTH, **settings}), out=out)
    finally:
        undo()


def assert_finite(run: Path) -> None:
    files = [*run.glob("*.safetensors"), *run.glob("state/*/*.safetensors")]
    assert len(files) > 3
    for file in files:
        for name, tensor in load_file(file).items():
            if not name.startswith("engine.tallies."):  # what the log shall say: a NaN there is the truth
                assert torch.isfinite(tensor).all(), f"{file}: {name}"


# --- divergence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_loss_that_stays_nan_ends_the_run_with_all_it_takes_to_mend_it(
    player: str, data: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(Diverged) as caught:
        train(data, tmp_path / "run", {**IN_A_ROW, "player": player}, **FEW_LINES)
    fault = caught.value
    assert fault.exit_code == 4
    assert f"diverged at step 18: 10 steps in a row were not finite, first the loss {player}" in fault.problem
    (newest, _) = latest_state(tmp_path / "run" / "state")
    assert newest is not None
    assert f"Last good state: {newest.path}" in fault.mend
    assert "--set optim.lr=0.0005" in fault.mend
    assert "--resume --set train.watchdog=rollback" in fault.mend
    assert_finite(tmp_path / "run")
    assert "diverged at step 18" in lines(tmp_path / "run")[-1]["ended"]


def test_a_nan_layer_is_named_and_leaves_no_trace(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Running statistics and pools that met NaN are as before, where every other step is sound."""
    from img2img.training.engine import Engine

    plain = Engine.train_step
    seen: list[str] = []

    def train_step(engine: Engine, batches: Any) -> None:
        hook = None
        if engine.step in (5, 6):
            layer = dict(engine.translator.named_modules())["generator"]
            hook = layer.register_forward_hook(lambda module, inputs, output: output * float("nan"))
        plain(engine, batches)
        seen.append(engine.first_bad)
        if hook is not None:
            hook.remove()

    Engine.train_step = train_step  # type: ignore[method-assign]
    try:
        settings = {**LENGTH, "train.image_pool": 4, "discriminator.norm": "batch", "loss.penalties": "none"}
        call = arguments("unconditional", data, **settings)
        del call["set"]["loss.penalties.r1.every"]
        img2img.train(**call, out=tmp_path / "run")
    finally:
        Engine.train_step = plain  # type: ignore[method-assign]
    assert seen[4:7] == ["", "the loss discriminator", "the output of generator"]
    assert_finite(tmp_path / "run")
    state = load_state(state_folders(tmp_path / "run" / "state")[-1]).tree["engine"]
    assert state["skipped_steps"] == [5, 6]
    assert [record["skipped_steps"] for record in lines(tmp_path / "run")][:5] == [0, 0, 1, 1, 0]


def test_five_percent_of_a_thousand_steps_are_divergence_too() -> None:
    from test_engine import make_batch, make_engine

    engine = make_engine()
    undo = poison("generator", range(1, 1000, 2))
    try:
        for step in range(100):
            assert not engine.has_diverged, step
            engine.train_step([[make_batch(8 * step, 8)]])
    finally:
        undo()
    assert engine.has_diverged
    alarm = Watchdog(resolve("dcgan-small")).alarm(engine)
    assert alarm is not None
    assert "5 % of the last 1,000 steps" in alarm.problem
    assert alarm.sound_step == 1


# --- stop ------------------------------------------------------------------------------------------------------------


def test_stop_saves_and_says_how_to_go_on(
    data: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Diverged) as caught:
        train(data, out, NOW_AND_THEN, **{"train.watchdog": "stop"})
    assert caught.value.exit_code == 4
    assert "stopped at 28 images: non-finite steps (gradients): 3 steps were skipped" in caught.value.problem
    newest = state_folders(out / "state")[-1]
    assert newest.name == "step-000000014"
    assert "Begin anew with --set optim.lr=0.0005, or go on as it is" in caught.value.mend
    assert str(newest) in caught.value.mend
    assert "still stand" not in caplog.text, "the run ends by it"
    assert "--resume --set train.watchdog=warn" in caught.value.mend
    assert lines(out)[-1]["ended"].startswith("non-finite steps")
    assert lines(out)[-1]["faults"]
    assert "Ended at 0.028 kimg: non-finite steps" in (out / "report.html").read_text()
    result = img2img.train(
        **arguments("unconditional", data, **LENGTH, **{"train.watchdog": "warn"}), out=out, resume=True
    )
    assert result.status == "finished"


# --- rollback --------------------------------------------------------------------------------------------------------


def test_rollback_goes_back_to_before_the_first_evidence_and_on_at_half_the_rate(
    data: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    caplog.set_level("INFO")
    result = train(data, out, {**IN_A_ROW, "until_rate": 0.5}, **FEW_LINES, **{"train.watchdog": "rollback"})
    assert (result.status, result.rollbacks, result.images_seen) == ("finished", 2, 48)
    returns = [record for record in lines(out) if "rollback" in record]
    # step 18 is the tenth bad one, the newest state of at most eight steps is that of six
    assert [(record["step"], record["from_images"], record["rate_factor"]) for record in returns] == [
        (6, 36, 0.5),
        (6, 36, 0.25),
    ]
    assert all("10 steps in a row were not finite, first the loss discriminator" in r["rollback"] for r in returns)
    assert "Going back from 36 to 12 images, at 0.5 of the learning rates" in caplog.text
    assert lines(out)[-1]["learning_rate"] == pytest.approx(0.001 / 4)
    assert "Went back from 0.036 to 0.012 kimg" in (out / "report.html").read_text()
    state = load_state(state_folders(out / "state")[-1]).tree
    assert state["engine"]["rate_factor"] == 0.25
    assert [{k: v for k, v in record.items() if k != "seconds"} for record in returns] == state["watchdog"]["rollbacks"]
    assert_finite(out)


def test_after_three_returns_the_run_ends(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught:
        train(data, tmp_path / "run", {**IN_A_ROW, "until_rate": 0.0}, **FEW_LINES, **{"train.watchdog": "rollback"})
    assert "diverged at step 18" in caught.value.problem
    assert "after 3 returns" in caught.value.problem
    assert "watchdog=rollback" not in caught.value.mend
    assert sum("rollback" in record for record in lines(tmp_path / "run")) == ROLLBACKS == 3
    assert_finite(tmp_path / "run")


@pytest.mark.parametrize("keep", [1, 2])
def test_a_state_from_before_is_kept_however_few_shall_be(
    keep: int, data: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """States come every step, evidence spans ten: one of before would be gone long since."""
    settings = {"train.watchdog": "rollback", "train.keep_last": keep, "train.state_kimg": 0.002}
    out = tmp_path / "run"
    assert train(data, out, {**NOW_AND_THEN, "until_rate": 1.0}, **settings).rollbacks == 1
    (line,) = (record for record in lines(out) if "rollback" in record)
    assert line["step"] <= 8
    assert len(state_folders(out / "state")) <= keep + 3


def test_rollback_from_the_beginning_where_nothing_else_is_left(
    data: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    bad = {"player": "generator", "steps": [*range(24)], "until_rate": 1.0}
    result = train(data, tmp_path / "run", bad, **{"train.watchdog": "rollback"})
    assert result.rollbacks == 1
    (line,) = (record for record in lines(tmp_path / "run") if "rollback" in record)
    assert line["step"] == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("family", "bad"),
    [
        pytest.param("unconditional", NOW_AND_THEN, id="unconditional, now and then"),
        pytest.param("unconditional", IN_A_ROW, id="unconditional, in a row", marks=pytest.mark.slow),
        pytest.param("cyclegan", NOW_AND_THEN, id="cyclegan, now and then", marks=pytest.mark.slow),
        pytest.param("cyclegan", IN_A_ROW, id="cyclegan, in a row", marks=pytest.mark.slow),
    ],
)
def test_killed_around_a_rollback_and_resumed_gives_the_same_bytes(
    family: str, bad: dict[str, Any], server: ForkServer, tmp_path: Path
) -> None:
    """What the faults are told from, and what was done about them, is part of the state."""
    settings = {**LENGTH, "train.watchdog": "rollback", "train.state_kimg": 0.01}
    call = {"settings": settings, "poison": {**bad, "until_rate": 0.6}}
    straight = server.train(family, tmp_path / "straight", **call)
    assert straight["code"] == 0, straight["stderr"]
    assert sum("rollback" in record for record in lines(tmp_path / "straight")) == 1
    chance = random.Random(f"{SEED}/{family}")
    for kill in range(3):
        out = tmp_path / f"run-{kill}"
        # at a system call of the return, which is in the second third of them
        call_number = math.ceil(chance.uniform(0.2, 0.8) * straight["calls"])
        killed = server.train(family, out, **call, kill_at_call=call_number)
        assert killed["code"] == -signal.SIGKILL, killed["stderr"]
        answer = server.train(family, out, **call, resume=True)
        assert answer["code"] == 0, answer["stderr"]
        where = f"CRASH_SEED={SEED}, killed at call {call_number} of {straight['calls']}"
        assert digests(out) == digests(tmp_path / "straight"), where
        assert sum("rollback" in record for record in lines(out)) == 1, where


@pytest.mark.slow
def test_two_processes_go_back_together(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {**LENGTH, "train.watchdog": "rollback"}
    request = {
        "poison": {**NOW_AND_THEN, "until_rate": 1.0},
        "arguments": {**arguments("unconditional", data, **settings), "out": str(out)},
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = str(Path(__file__).with_name("poison.py"))
    ran = subprocess.run([*torchrun, script, json.dumps(request)], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert sum("rollback" in record for record in lines(out)) == 1
    assert lines(out)[-1]["images"] == 48
    first, second = ((tmp_path / f"rank-{rank}.sha256").read_text() for rank in (0, 1))
    assert first == second


# --- what is watched -------------------------------------------------------------------------------------------------


def test_off_looks_at_nothing(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    train(data, tmp_path / "run", NOW_AND_THEN, **{"train.watchdog": "off"})
    for record in lines(tmp_path / "run"):
        assert "faults" not in record
        assert not any(name.endswith(("diversity", "spectral_norm")) for name in record["monitors"])


def test_warn_tells_a_fault_once_and_again_at_the_end_while_it_stands(
    data: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = train(data, tmp_path / "run", NOW_AND_THEN)
    assert [fault.fault for fault in result.faults] == ["non-finite steps"]
    told = [text for text in caplog.messages if "non-finite steps (gradients)" in text]
    assert len(told) == 2
    assert told[1].startswith("faults that still stand at the end:\n  non-finite steps")
    assert "Set optim.lr=0.0005" in told[1]


@pytest.mark.parametrize("family", ["unconditional", "conditional", "growing", "pix2pix", "cyclegan", "starganv2"])
def test_a_short_sound_run_raises_no_alarm(family: str, data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Not even that it waits for pictures, and what samples are watched by is finite."""
    settings = {**LENGTH, "train.watchdog": "stop"}
    result = img2img.train(**arguments(family, data, **settings), out=tmp_path / "run")
    assert [fault for fault in result.faults if fault.spoils] == []
    monitors = lines(tmp_path / "run")[-1]["monitors"]
    diversity = [value for name, value in monitors.items() if name.endswith("_diversity")]
    assert diversity
    assert all(math.isfinite(value) for value in diversity)


def test_waiting_for_pictures_stops_nothing() -> None:
    watchdog = Watchdog(resolve("dcgan-small", None, ["train.watchdog=stop", "train.kimg=1.6"]))
    from test_engine import make_engine

    for record in log(HEALTHY | {"waiting": 0.9}):
        watchdog.look(record)
    assert [fault.fault for fault in watchdog.faults] == ["waiting for pictures"]
    assert watchdog.alarm(make_engine()) is None


def test_a_fault_that_stood_before_the_run_was_resumed_counts_from_its_first_line() -> None:
    from test_engine import make_engine

    collapsed = HEALTHY | {"samples_diversity": 0.01}
    config = resolve("dcgan-small", None, ["train.watchdog=rollback", "train.kimg=1.6"])
    first = Watchdog(config)
    records = [*log(HEALTHY, 10), *log(collapsed, 30, start=2000)]
    for number, record in enumerate(records):
        record["step"] = 10 * number
        record |= first.look(record)
    engine = make_engine()
    alarm = first.alarm(engine)
    assert alarm is not None
    second = Watchdog(config)
    second.remember(records)
    assert second.alarm(engine) == alarm
    bad = next(number for number, record in enumerate(records) if "faults" in record)
    assert alarm.sound_step == 10 * (bad - LINES + 1) - 1


def test_the_modes_are_those_of_the_key() -> None:
    for mode, watches, acts in (("off", False, False), ("warn", True, False), ("stop", True, True)):
        watchdog = Watchdog(resolve("dcgan-small", None, [f"train.watchdog={mode}"]))
        assert (watchdog.watches, watchdog.acts, watchdog.can_go_back) == (watches, acts, False)
