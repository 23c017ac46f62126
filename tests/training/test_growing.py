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
from img2img.checkpoint import (
    ModelInfo,
    NetworkSpec,
    load_networks,
    load_state,
    read_info,
    state_folders,
    write_model,
)
from img2img.config import resolve
from img2img.inference.model import Model
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


@pytest.fixture(scope="module")
def translator_run(data: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("translator") / "run"
    img2img.train(**arguments("pix2pixhd", data), out=str(out))
    return out


class TestTranslator:
    """pix2pixHD: 8 pixels until 4 images, 16 faded in at 10."""

    def test_samples_have_one_size_and_show_the_first_pictures_in_larger_pixels(self, translator_run: Path) -> None:
        grids = [np.asarray(Image.open(path)) for path in sorted((translator_run / "samples").glob("*.png"))]
        assert len({grid.shape for grid in grids}) == 1
        for top in (2, 22, 42):  # input, output, target
            first = grids[0][top : top + 16, 2:18]
            np.testing.assert_array_equal(first, first[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))
            last = grids[-1][top : top + 16, 2:18]
            assert not np.array_equal(last, last[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))

    def test_the_log_names_the_discriminators_that_have_a_part(self, translator_run: Path) -> None:
        lines = [json.loads(line) for line in (translator_run / "log.jsonl").read_text().splitlines()]
        judges = [{name for name in line["terms"] if name.startswith("discriminator")} for line in lines]
        assert judges[0] == {"discriminator_1"}
        assert judges[-1] == {"discriminator_0", "discriminator_1"}
        assert (translator_run / "report.html").exists()

    @pytest.mark.parametrize(("level", "alpha"), [(0, 1.0), (1, 0.25)])
    def test_a_model_that_still_grows_translates_pictures_of_any_size(
        self, level: int, alpha: float, translator_run: Path, tmp_path: Path
    ) -> None:
        info, networks = load_networks(translator_run / "model.safetensors")
        generator, spec = networks["generator"], info.networks["generator"]
        assert isinstance(generator, Growing)
        generator.grow_to(level, alpha)
        grown = NetworkSpec(spec.name, {**spec.arguments, "level": level, "alpha": alpha})
        side = 8 << level
        fields = {**info.__dict__, "networks": {"generator": grown}, "resolution": (side, side)}
        write_model(tmp_path / "small.safetensors", networks, ModelInfo(**fields))
        model = Model.load(tmp_path / "small.safetensors", "cpu")
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        with torch.no_grad():
            made = generator(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
        expected = (made[0].permute(1, 2, 0) + 1) * 127.5
        assert np.abs(model.translate(pixels) - expected.numpy()).max() <= 1
        large = np.tile(pixels, (128 // side, 192 // side, 1))
        whole, tiled = (model.translate(large, scale="native", tile=tile) for tile in ("off", 64))
        assert whole.shape == large.shape
        assert np.abs(whole.astype(int) - tiled).max() <= 1

    def test_a_run_that_does_not_grow_starts_from_a_model_that_did_and_the_other_way_round(
        self, data: dict[str, dict[str, Any]], translator_run: Path, tmp_path: Path
    ) -> None:
        for name, init, start in (("plain", translator_run, 0), ("again", tmp_path / "plain", 8)):
            call = arguments("pix2pixhd", data, **{"growth.start": start, "optim.lr": 1e-12})
            img2img.train(**call, out=str(tmp_path / name), init=init / "model.safetensors")
        first, plain, again = (
            load_networks(folder / "model.safetensors")[1]["generator"].state_dict()
            for folder in (translator_run, tmp_path / "plain", tmp_path / "again")
        )
        assert set(first) == set(again)
        assert set(first) - set(plain) == {"last_below.0.weight", "last_below.0.bias"}
        for key, weight in plain.items():
            torch.testing.assert_close(weight, first[key], rtol=0, atol=1e-7)
            torch.testing.assert_close(weight, again[key], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("recipe", "sets", "words"),
    [
        (
            "pix2pix-small",
            ["growth.start=128"],
            "generator unet cannot grow. Set growth.start=0, or use generator.name=co",
        ),
        (
            "spade-small",
            ["growth.start=32"],
            "generator spade cannot grow. Set growth.start=0, or use generator.name=co",
        ),
        (
            "pix2pixhd-small",
            ["growth.start=24"],
            "24 is not half, a quarter, … of the shorter side 64. Use 4 or 8 or 16",
        ),
        ("pix2pixhd-small", ["growth.start=8"], "sides double 3 times, and one of 1 enhancers joins at each. Set it 4"),
        (
            "pix2pixhd-small",
            ["growth.start=8", "generator.enhancers=3", "discriminator.layers=3"],
            "the discriminator would see 8 × 8 pixels at first, too few for it. Set it higher, or discriminator.layers",
        ),
        (
            "cyclegan-small",
            [
                "discriminator=progan",
                "train.image_pool=0",
                "train.scales=2",
                "generator=coarse_to_fine",
                "growth.start=64",
            ],
            "several progan discriminators do not grow together. Set train.scales=1",
        ),
    ],
)
def test_translators_that_cannot_grow_are_refused(recipe: str, sets: list[str], words: str) -> None:
    (fault,) = check(resolve(recipe, sets=[*sets, "growth.stable_kimg=1", "growth.fade_kimg=0"]))
    assert fault.subject == "growth.start"
    assert words in str(fault)


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
