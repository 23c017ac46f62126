"""On a CUDA device: every family trains in float32 and bfloat16, resumes, and agrees with the CPU in float64."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny import FAMILIES, arguments, make_data

import img2img
from img2img.config import DataPaths, resolve
from img2img.distributed import World
from img2img.training.precision import choose_precision
from img2img.training.prepare import prepare, step_batches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_resumes(family: str, precision: str, data: dict[str, Any], tmp_path: Path) -> None:
    call = {**arguments(family, data, **{"train.precision": precision}), "device": "cuda", "out": tmp_path / "run"}
    result = img2img.train(**call)
    call["set"]["train.kimg"] = 0.04
    longer = img2img.train(**call, resume=True)
    assert longer.images_seen > result.images_seen
    assert longer.model_path is not None
    info = img2img.load(longer.model_path, device="cuda").info
    assert info.images_seen == longer.images_seen


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_and_steps_agree_with_the_cpu(family: str, data: dict[str, Any]) -> None:
    """In float64 both devices differ by rounding alone: the draws are the same bits, the order of sums is not."""
    states = []
    for name in ("cpu", "cuda"):
        call = arguments(family, data, **{"train.precision": "float64"})
        config = resolve(call["recipe"], None, call["set"])
        folders = {
            key: tuple(Path(folder) for folder in [value]) if key == "pairs" else Path(value)
            for key, value in call.items()
            if key not in ("recipe", "set", "device")
        }
        precision = choose_precision("float64", torch.device(name))
        prepared = prepare(config, DataPaths(**folders), precision, World(), None)
        for _ in range(3):
            prepared.engine.train_step(step_batches(prepared))
        states.append({key: value.cpu() for key, value in prepared.engine.translator.state_dict().items()})
    for key, expected in states[0].items():
        torch.testing.assert_close(
            states[1][key], expected, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
