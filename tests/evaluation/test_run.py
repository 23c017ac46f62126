"""From folders and models to a metric card: what is measured of what, once, and said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import img2img
from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.errors import Faults, UsageFault
from img2img.evaluation import features
from img2img.evaluation.card import Card
from img2img.evaluation.compare import compare_cards
from img2img.evaluation.extractors import Extractor, load_extractor, wrap_module
from img2img.evaluation.features import extract
from img2img.evaluation.image_set import open_set
from img2img.evaluation.run import evaluate, known_measures
from img2img.metrics.frechet import frechet_distance_of
from img2img.metrics.paired import psnr
from img2img.networks import GENERATORS

ALL_OF_FEATURES = ("fd", "kid", "prdc", "is", "memorisation")


def fill(
    folder: Path, count: int, seed: int, size: tuple[int, int] = (32, 32), classes: tuple[str, ...] = ("",)
) -> Path:
    generator = np.random.default_rng(seed)
    for number in range(count):
        coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
        path = folder / classes[number % len(classes)] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return fill(tmp_path / "real", 11, 0), fill(tmp_path / "fake", 10, 1)


def run(real: Path, fake: Path | None, weights: Path, **options: Any) -> Card:
    return evaluate(real, fake, weights=weights, device="cpu", **{"resamples": 0, **options})


def test_scores_are_of_the_features_and_the_card_says_of_what(
    folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path
) -> None:
    card = run(*folders, squeezenet, measures=ALL_OF_FEATURES, resamples=8)
    extractor = load_extractor("squeezenet1_0", squeezenet)
    real, fake = (extract(open_set(folder), extractor).values for folder in folders)
    assert real is not None
    assert fake is not None
    assert card.scores["FD-SqueezeNet"]["value"] == frechet_distance_of(real, fake)
    names = ["FD", "KID", "precision", "recall", "density", "coverage", "IS", "memorised"]
    assert list(card.scores) == [f"{name}-SqueezeNet" for name in names]
    names_with_intervals = ["FD-SqueezeNet", "KID-SqueezeNet"]
    assert (card.real["count"], card.fake["count"]) == (11, 10)
    assert card.fake["sizes"] == {"32×32": 10}
    assert card.extractor is not None
    assert (card.extractor["weights"], card.extractor["resize"]) == (extractor.digest, "clean")
    assert str(tmp_path) not in card.to_json()
    assert [name for name, score in card.scores.items() if score["interval"]] == names_with_intervals


def test_few_pictures_have_no_interval(squeezenet: Path, tmp_path: Path) -> None:
    few = fill(tmp_path / "few", 3, 0)
    card = run(few, few, squeezenet, measures=("fd",), resamples=20)
    assert card.scores["FD-SqueezeNet"]["interval"] is None
    with pytest.raises(UsageFault, match="at least 8"):
        run(few, few, squeezenet, resamples=7)


def test_names_order_and_batches_do_not_change_a_card(
    folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "again" / "fake"
    renamed.mkdir(parents=True)
    for number, path in enumerate(sorted(folders[1].iterdir(), reverse=True)):
        shutil.copy(path, renamed / f"other-{number}.png")
    caches = tmp_path / "one", tmp_path / "two"
    first = run(*folders, squeezenet, measures=ALL_OF_FEATURES[:4], cache=caches[0])
    second = run(folders[0], renamed, squeezenet, measures=ALL_OF_FEATURES[:4], cache=caches[1], batch=3)
    for name, score in first.scores.items():
        assert second.scores[name]["value"] == pytest.approx(score["value"], rel=1e-4)
    third = run(folders[0], renamed, squeezenet, measures=ALL_OF_FEATURES[:4], cache=caches[0])
    assert third.to_json() == first.to_json()


def test_a_second_measure_extracts_nothing(
    folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(*folders, squeezenet, cache=tmp_path / "cache")
    monkeypatch.setattr(Extractor, "__call__", lambda *_: pytest.fail("features are there already"))
    assert (
        run(*folders, squeezenet, cache=tmp_path / "cache", measures=("kid",)).values().items()
        <= first.values().items()
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda content: content[:-8] + b"12345678",
        lambda content: b"cos\nsystem\n(S'touch ran'\ntR.",  # a pickle that would run a command
    ],
    ids=["cut", "other values", "code"],
)
def test_a_damaged_cache_is_made_anew(
    damage: Any, folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = run(*folders, squeezenet, cache=tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    assert run(*folders, squeezenet, cache=tmp_path / "cache").to_json() == before.to_json()
    assert "damaged and made anew" in caplog.text
    assert not Path("ran").exists()


def test_features_of_a_users_own_module_are_not_kept(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Two modules of one class and without weights may differ in what they do."""
    seen = []
    for pool in (torch.nn.AdaptiveAvgPool2d(1), torch.nn.AdaptiveMaxPool2d(1)):
        extractor = wrap_module(torch.nn.Sequential(pool, torch.nn.Flatten()))
        seen.append(extract(open_set(folders[0]), extractor, cache=tmp_path / "cache").values)
    assert not torch.equal(*seen)


def test_the_cache_does_not_grow_without_end(
    folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "LARGEST_CACHE", 1)
    run(*folders, squeezenet, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_of_sets_that_do_not_fit_mean_and_covariance_are_enough(
    folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(*folders, squeezenet, measures=("fd",), cache=tmp_path / "one").values()
    monkeypatch.setattr(features, "LARGEST_IN_MEMORY", 1)
    for _ in range(2):  # the second time out of the cache
        streamed = run(*folders, squeezenet, measures=("fd",), cache=tmp_path / "two").values()
        assert streamed["FD-SqueezeNet"] == pytest.approx(whole["FD-SqueezeNet"], rel=1e-9)
    with pytest.raises(UsageFault, match="only mean and covariance are known"):
        run(*folders, squeezenet, measures=("kid",), cache=tmp_path / "two")


def test_statistics_of_other_tools_stand_for_pictures(
    folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path
) -> None:
    extractor = load_extractor("squeezenet1_0", squeezenet)
    values = extract(open_set(folders[0]), extractor).values
    assert values is not None
    array = values.double().numpy()
    np.savez(tmp_path / "stats.npz", mu=array.mean(0), sigma=np.cov(array, rowvar=False))
    expected = run(*folders, squeezenet, measures=("fd",)).values()
    found = run(tmp_path / "stats.npz", folders[1], squeezenet, measures=("fd",))
    assert found.values()["FD-SqueezeNet"] == pytest.approx(expected["FD-SqueezeNet"], rel=1e-9)
    assert (found.real["kind"], found.real["count"]) == ("statistics", None)


def test_only_the_network_of_fid_makes_an_fid(squeezenet: Path) -> None:
    from img2img.evaluation.extractors import EXTRACTORS

    assert {name for name, spec in EXTRACTORS.items() if spec.distance_name == "FID"} == {"inception-2015"}


def write_sampler(path: Path, side: int = 16) -> Path:
    arguments = {"resolution": (side, side), "out_channels": 3, "num_classes": 2, "width": 4, "max_width": 8}
    torch.manual_seed(0)
    info = ModelInfo(
        "x",
        "sample",
        {"generator": NetworkSpec("dcgan", arguments)},
        {},
        {},
        {"image": 3},
        (side, side),
        ("cat", "dog"),
    )
    write_model(path, {"generator": GENERATORS["dcgan"](**arguments)}, info)
    return path


def write_translator(path: Path) -> Path:
    arguments = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}
    torch.manual_seed(0)
    spec = NetworkSpec("resnet", arguments)
    info = ModelInfo("x", "translate", {"generator_ab": spec}, {"a2b": "generator_ab"}, {}, {"a": 3, "b": 3}, (16, 16))
    write_model(path, {"generator_ab": GENERATORS["resnet"](**arguments)}, info)
    return path


def test_a_model_of_classes_is_measured_at_its_size_with_the_classes_of_the_real(
    squeezenet: Path, tmp_path: Path
) -> None:
    real = fill(tmp_path / "real", 6, 0, (40, 50), ("cat", "dog"))
    model = write_sampler(tmp_path / "model.safetensors")
    card = run(real, None, squeezenet, model=model, measures=("fd", "fd_per_class"))
    assert card.preparation["resolution"] == [16, 16]
    assert (card.fake["kind"], card.fake["count"]) == ("samples", 6)
    per_class = card.scores["intra-class FD-SqueezeNet"]
    assert per_class["value"] == pytest.approx(sum(per_class["details"]["classes"].values()) / 2)
    assert set(per_class["details"]["classes"]) == {"cat", "dog"}
    (tmp_path / "real" / "cat").rename(tmp_path / "real" / "cow")
    with pytest.raises(UsageFault, match="classes differ"):
        run(real, None, squeezenet, model=model)


def test_a_translator_is_measured_by_what_it_makes_of_the_source(
    folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path
) -> None:
    model = write_translator(tmp_path / "model.safetensors")
    card = run(folders[0], None, squeezenet, model=model, source=folders[1], measures=("fd", "preservation"))
    out = tmp_path / "out"
    loaded = img2img.load(model, "cpu")
    out.mkdir()
    for path in folders[1].iterdir():
        small = open_set(path, img2img_preparation())
        Image.fromarray(loaded.translate(next(iter(small.read([0]))).permute(1, 2, 0).numpy())).save(out / path.name)
    by_hand = run(folders[0], out, squeezenet, resolution=16, measures=("fd",))
    assert card.values()["FD-SqueezeNet"] == pytest.approx(by_hand.values()["FD-SqueezeNet"], rel=1e-6)
    assert -1 <= card.values()["content preservation"] <= 1


def img2img_preparation() -> Any:
    from img2img.evaluation.image_set import Preparation

    return Preparation((16, 16))


def test_pairs_are_matched_by_name(folders: tuple[Path, Path], squeezenet: Path, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    expected = []
    for path in sorted(folders[0].iterdir()):
        pixels = np.asarray(Image.open(path)).astype(int)
        changed = (pixels + np.random.default_rng(0).integers(-9, 10, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(changed).save(noisy / path.with_suffix(".bmp").name)
        pair = [
            torch.from_numpy(array.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None] for array in (pixels, changed)
        ]
        expected.append(float(psnr(*pair)))
    card = evaluate(folders[0], noisy, measures=("psnr", "ssim"), device="cpu")
    assert card.values()["PSNR"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert card.extractor is None
    equal = evaluate(folders[0], folders[0], measures=("psnr", "ssim"), device="cpu")
    assert equal.values() == {"PSNR": np.inf, "SSIM": 1.0}
    json.loads(equal.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    with pytest.raises(UsageFault, match=r"1 only in .*real"):
        evaluate(*folders, measures=("psnr",), device="cpu")


def test_the_path_through_a_models_latents_has_a_length(squeezenet: Path, tmp_path: Path) -> None:
    real = fill(tmp_path / "real", 4, 0)
    options = {"measures": ("ppl",), "perceptual": "squeezenet1_0", "count": 20}
    card = run(real, None, squeezenet, model=write_sampler(tmp_path / "model.safetensors", 32), **options)
    (score,) = card.scores.values()
    assert score["value"] > 0
    assert (score["details"]["count"], score["details"]["space"]) == (20, "z")
    with pytest.raises(UsageFault, match="16 × 16"):
        run(real, None, squeezenet, model=write_sampler(tmp_path / "model.safetensors", 16), **options)


def test_every_measure_of_two_models_can_be_compared(squeezenet: Path, tmp_path: Path) -> None:
    """Only choices forbid it, never results: cards of real measures, not of invented ones."""
    real = fill(tmp_path / "real", 24, 0, (16, 16), ("cat", "dog"))
    cards = [
        run(
            real,
            fill(tmp_path / str(seed), 24, seed, (16, 16), ("cat", "dog")),
            squeezenet,
            measures=[
                name
                for name in known_measures()
                if name not in ("fd_infinity", "ms_ssim", "ppl", "preservation", "perceptual")
            ],
            resamples=8,
        )
        for seed in (1, 2)
    ]
    assert len(compare_cards(*cards, ("a", "b"))) == len(cards[0].scores) == 11


def test_kernel_distances_of_other_counts_can_be_compared(squeezenet: Path, tmp_path: Path) -> None:
    real = fill(tmp_path / "real", 12, 0)
    cards = [
        run(real, fill(tmp_path / str(count), count, count), squeezenet, measures=("fd", "kid")) for count in (12, 14)
    ]
    with pytest.raises(Faults, match="count of fake pictures"):
        compare_cards(*cards, ("a", "b"))
    alone = [dataclasses.replace(card, scores={"KID-SqueezeNet": card.scores["KID-SqueezeNet"]}) for card in cards]
    assert len(compare_cards(*alone, ("a", "b"))) == 1


def test_python_has_evaluate(folders: tuple[Path, Path], squeezenet: Path) -> None:
    assert img2img.evaluate is evaluate
