"""What a run is told before its first step."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from img2img.training import prepare


@pytest.mark.parametrize(("load", "own", "told"), [(0.1, 0.0, False), (1.2, 0.0, True), (1.2, 0.9, False)])
def test_busy_cores_are_remarked_on_but_not_this_process_own_work(
    load: float, own: float, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(prepare.os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(prepare, "_STARTED", time.monotonic() - 100)
    monkeypatch.setattr(prepare.time, "process_time", lambda: 100 * own)
    with caplog.at_level(logging.INFO, logger="img2img.training"):
        prepare._remark_on_busy_cores()
    assert ("train.threads=1" in caplog.text) is told
