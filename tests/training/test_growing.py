"""Growing in a run: sizes, batches, what is shown and kept on the way."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import img2img
from img2img.checkpoint import load_state, read_info, state_folders
from img2img.config import resolve
from img2img.networks.growing import Growing
from img2img.translators import check

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arguments, make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("growing") / "run"
    img2img.train(**arguments("growing", data, **{"train.keep_last": 10, "train.log_kimg": 0.001}), out=str(out))
    return out


def test_images_are_counted_not_steps(run: Path) -> None:
    """Batches of 4 at 4 and 8 pixels (0, 4, 8, 12), of 2 at 16 (14, ...)."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seen = [line["images"] for line in lines if "terms" in line]
    # 4 → 8 pixels at 4 images, with batches of 4 still; 8 → 16 at 14, where a batch of 4 has gone on to 16
    assert seen == [4, 8, 12, 16, 18, 20, 22, 24]


def test_states_of_a_fade_hold_where_it_stands(run: Path) -> None:
    folders = state_folders(run / "state")
    counts = [load_state(folder).tree["engine"]["images_seen"] for folder in folders]
    assert counts == [8, 12, 18, 24]


def test_samples_have_one_size_throughout(run: Path) -> None:
    sizes = {Image.open(path).size for path in (run / "samples").glob("*.png")}
    assert len(sizes) == 1


def test_a_coarse_sample_is_shown_in_larger_pixels(run: Path) -> None:
    first = np.asarray(Image.open(min((run / "samples").glob("*.png"))))[2:18, 2:18]
    coarse = first[::4, ::4]
    np.testing.assert_array_equal(first, coarse.repeat(4, axis=0).repeat(4, axis=1))


def test_a_model_that_still_grows_is_read_as_it_was_written(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """A run of 7 images stops at 8, in the fade from 4 to 8 pixels: (8 - 4) / 6 of it."""
    call = arguments("growing", data, **{"growth.fade_kimg": 0.001, "train.kimg": 0.01, "growth.stable_kimg": 0.004})
    out = tmp_path / "run"
    img2img.train(**call, out=str(out))
    assert read_info(out / "model.safetensors").resolution == (16, 16)
    small = tmp_path / "small.safetensors"
    from img2img.checkpoint import ModelInfo, NetworkSpec, load_networks, write_model

    info, networks = load_networks(out / "model.safetensors")
    generator = networks["generator"]
    assert isinstance(generator, Growing)
    generator.grow_to(1, 0.25)
    spec = info.networks["generator"]
    grown = NetworkSpec(spec.name, {**spec.arguments, "level": 1, "alpha": 0.25})
    fields = {**info.__dict__, "networks": {"generator": grown}, "resolution": (8, 8)}
    write_model(small, networks, ModelInfo(**fields))
    again = load_networks(small)[1]["generator"]
    assert isinstance(again, Growing)
    z = torch.randn(3, 8)
    assert torch.equal(again(z), generator(z))
    assert again(z).shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    ("sets", "subject", "words"),
    [
        (["growth.start=8", "generator=dcgan"], "growth.start", "dcgan cannot grow"),
        (["growth.start=24"], "growth.start", "Use 4 or 8 or 16 or 32"),
        (["growth.start=64"], "growth.start", "Use 4 or 8 or 16 or 32"),
        (["growth.fade_kimg=1000"], "train.kimg", "growing from 8 to 64"),
        (["train.image_pool=10"], "growth.start", "pool"),
    ],
)
def test_what_cannot_grow_is_refused(sets: list[str], subject: str, words: str) -> None:
    faults = check(resolve("progan-small", sets=sets))
    assert [str(fault.subject) for fault in faults] == [subject]
    assert words in str(faults[0])


@pytest.mark.parametrize(
    ("sets", "subject"),
    [
        (["train.generators=2"], "growth.start"),
        (["train.unroll=2"], "train.unroll"),
        (["growth.start=0", "generator.level=0"], "generator.level"),
        (["discriminator.alpha=0.5"], "discriminator.alpha"),
    ],
)
def test_what_does_not_go_with_growing_is_refused(sets: list[str], subject: str) -> None:
    assert [str(fault.subject) for fault in check(resolve("progan-small", sets=sets))] == [subject]


def test_consensus_passes_over_layers_that_have_no_part(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    sets = {"loss.penalties": ["consensus"], "train.kimg": 0.02, "loss.penalties.consensus.weight": 0.1}
    result = img2img.train(**arguments("growing", data, **sets), out=str(tmp_path / "run"))
    assert result.status == "finished"
