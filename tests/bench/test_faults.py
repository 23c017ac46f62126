"""The account of tests/bench/faults.py: a fault that the run does not tell of is a problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RESUMED = "resumed step-000000004 at 64 images\n"
FULL = "warning: state/step-000000008: cannot be written: no space. Free some. Training goes on to the next save\n"
STOPPED = (
    "error: step-000000008: cannot be written: no space, 3 times in a row, so training stopped itself. Free some\n"
)


@pytest.fixture
def faults(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("faults")
    monkeypatch.setattr(script, "look_at_run", lambda out: [])
    return script


@pytest.mark.parametrize(
    ("noted", "said", "code", "problem"),
    [
        ({"kind": "nan", "step": 5}, RESUMED, 0, ""),
        ({"kind": "nan", "step": 6}, RESUMED, 0, "the NaN of step 6 is nowhere"),
        ({"kind": "save"}, RESUMED + FULL, 0, ""),
        ({"kind": "save"}, RESUMED, 0, "1 times disk full during a save, told 0 times"),
        ({"kind": "line"}, RESUMED, 0, "told 0 times"),
        ({"kind": "met", "file": "pictures/1.png"}, "warning: pictures/1.png: is empty\n", 0, ""),
        ({"kind": "met", "file": "pictures/1.png"}, "warning: pictures/2.png: is empty\n", 0, "lost and not named"),
        ({"kind": "stop", "signal": 15}, RESUMED + "stopped by signal 15, state saved", 143, ""),
        ({"kind": "stop", "signal": 15}, "stopped by signal 15 before the first step", 143, ""),
        ({"kind": "stop", "signal": 15}, "", -15, ""),
        ({"kind": "stop", "signal": 15}, RESUMED, 143, "ended it without a word"),
        ({"kind": "stop", "signal": 15}, RESUMED, 138, "exit 138"),
        ({"kind": "kill", "signal": 9}, RESUMED, -9, ""),
        ({"kind": "line"}, RESUMED + "Traceback", 0, "a traceback"),
        ({"kind": "line"}, "error: step-000000004: Permission denied", 1, "exit 1"),
        ({"kind": "save"}, STOPPED, 4, ""),
        ({"kind": "nan", "step": 5}, "error: run: training diverged", 4, "it stopped itself"),
    ],
)
def test_what_is_not_told_is_a_problem(
    noted: dict[str, Any],
    said: str,
    code: int,
    problem: str,
    faults: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "faults.jsonl").write_text(json.dumps({"launch": 0, "step": 1, **noted}) + "\n")
    launches = [faults.Launch(code, said, 1.0), faults.Launch(0, "", 1.0)]
    assert faults.account(tmp_path, launches, {5}, 0) == bool(problem)
    printed = capsys.readouterr().out
    assert ("PROBLEM" in printed) == bool(problem)
    assert problem in printed


def test_a_nan_before_the_state_that_was_taken_up_is_made_anew(
    faults: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = [{"kind": "nan"}, {"kind": "kill", "signal": 9}]
    (tmp_path / "faults.jsonl").write_text("".join(json.dumps({"launch": 0, "step": 6, **one}) + "\n" for one in noted))
    assert faults.account(tmp_path, [faults.Launch(-9, "", 1.0), faults.Launch(0, RESUMED, 1.0)], set(), 0) == 0
    assert "| a loss that is NaN | 1 | 0 steps skipped and counted, 1 made anew |" in capsys.readouterr().out
