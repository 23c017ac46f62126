"""What a run is told before its first step."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch

from img2img import translators
from img2img.config import DataPaths, resolve
from img2img.distributed import World
from img2img.errors import Faults, UsageFault
from img2img.training import prepare
from img2img.training.precision import choose_precision
from img2img.translators.base import DataShape


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


def test_a_warning_comes_before_the_data_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = resolve("dcgan-small", None, ["loss.adversarial=wgan", "discriminator.spectral_norm=false"])
    precision = choose_precision("float32", torch.device("cpu"))
    with caplog.at_level(logging.WARNING, logger="img2img.training"), pytest.raises(UsageFault, match="no images"):
        prepare.prepare(config, DataPaths(images=tmp_path), precision, World(), None)
    assert "nothing keeps wgan's critic from growing steep" in caplog.text


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("cyclegan-small", ["discriminators judge patches of 70 × 70 pixels"]),
        ("pix2pix-small", ["discriminators judge patches of 70 × 70 pixels"]),
        ("dcgan-small", []),
    ],
)
def test_a_run_says_how_large_the_patches_are_that_it_judges(
    recipe: str, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with torch.device("meta"):
        shape = DataShape((128, 128), {"image": 3, "a": 3, "b": 3})
        translator, _specs = translators.build(resolve(recipe, None, ["data.resolution=128"]), shape)
    with caplog.at_level(logging.INFO, logger="img2img.training"):
        prepare._tell_patches(translator)
    assert caplog.messages == told


@pytest.mark.parametrize(
    ("recipe", "data", "mend"),
    [
        ("dcgan", DataPaths(worlds=("ring",)), "unconditional learns from images, not from points. Give --images DIR"),
        ("points", DataPaths(images=Path()), "points learns from points, not from images. Give --world NAME"),
        ("cyclegan", DataPaths(pairs=(Path(),)), "cyclegan learns from unpaired, not from pairs. Give --a DIR --b DIR"),
    ],
)
def test_data_of_another_kind_are_refused_unread(recipe: str, data: DataPaths, mend: str) -> None:
    with pytest.raises(Faults) as caught:
        prepare.check(resolve(recipe), data)
    assert str(caught.value) == f"data: {mend}"
