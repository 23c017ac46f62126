"""Measures in the training loop: they change no weight, keep the best model, end a run, and survive kills."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

sys.path.insert(0, str(Path(__file__).parent))
from tiny import FAMILIES, arguments, make_data

from img2img.checkpoint import load_networks, load_state, read_info
from img2img.config import Config, DataPaths, resolve
from img2img.data.sources import array_source, open_source
from img2img.distributed import World
from img2img.errors import Faults, Interrupted, UsageFault
from img2img.evaluation.extractors import EXTRACTORS, Extractor, wrap_module
from img2img.evaluation.features import Features, extract
from img2img.evaluation.measures import Comparison, Score, measure
from img2img.inference.model import Model
from img2img.training import Progress, TrainResult, evaluation, loop, train
from img2img.training.evaluation import ChosenPictures, Evaluation
from img2img.training.precision import choose_precision
from img2img.training.prepare import Prepared, check, prepare
from img2img.training.standing import Standing

FOLDERS = {
    "unconditional": "images",
    "conditional": "classes",
    "pix2pix": "pairs",
    "cyclegan": "unpaired",
    "cut": "unpaired",
    "starganv2": "classes",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the smallest extractor that a configuration can name."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_0.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(models.squeezenet1_0().state_dict(), path, {"input": "RGB in [-1, 1]"})
    return path


load_named = evaluation.load_extractor


def load_tiny(name: str, weights: Path, resize: str | None, device: torch.device) -> Extractor:
    """In place of a named extractor, which takes seconds: a convolution and a mean."""
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3, stride=2)
    for parameter in convolution.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    module = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    extractor = wrap_module(module, "Tiny", 12, resize, device)
    # what is kept is of networks known by name
    extractor.spec = dataclasses.replace(extractor.spec, name="tiny")
    return extractor


@pytest.fixture(autouse=True)
def _tiny_eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "load_extractor", load_tiny)


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.getbasetemp()  # one cache for all tests of a session
    monkeypatch.setenv("IMG2IMG_CACHE", str(home / "cache"))
    monkeypatch.setenv("IMG2IMG_WEIGHTS", str(home / "no weights"))


@dataclasses.dataclass
class Runs:
    """Tiny runs that are measured every fourth step."""

    data: dict[str, dict[str, Any]]
    weights: Path

    def config(self, family: str, **settings: Any) -> Config:
        measured = {
            "train.eval_kimg": 0.008,
            "eval.count": 5,
            "eval.extractor": "squeezenet1_0",
            "eval.weights": str(self.weights),
        }
        call = arguments(family, self.data, **{**measured, **settings})
        return resolve(call["recipe"], None, call["set"])

    def paths(self, family: str) -> DataPaths:
        folders = self.data[FAMILIES[family][1]]
        return DataPaths(**{key: (Path(value),) if key == "pairs" else Path(value) for key, value in folders.items()})

    def train(self, family: str, out: Path, *, settings: dict[str, Any] | None = None, **options: Any) -> TrainResult:
        return train(self.config(family, **(settings or {})), self.paths(family), out, device="cpu", **options)

    def prepare(self, family: str, **settings: Any) -> Prepared:
        precision = choose_precision("float32", torch.device("cpu"))
        return prepare(self.config(family, **settings), self.paths(family), precision, World(), None)


@pytest.fixture
def runs(data: dict[str, dict[str, Any]], weights: Path) -> Runs:
    return Runs(data, weights)


def read(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def measured(run: Path) -> dict[int, dict[str, Any]]:
    """images -> what was logged of the evaluation there, without its time."""
    keys = ("measures", "better", "best_images")
    return {record["images"]: {key: record[key] for key in keys} for record in read(run) if "measures" in record}


# --- a run that is measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FOLDERS)
def test_measuring_changes_no_weight_and_keeps_the_best(family: str, runs: Runs, tmp_path: Path) -> None:
    plain = runs.train(family, tmp_path / "plain", settings={"train.eval_kimg": 0.0})
    settings = {"train.state_kimg": 0.008, "train.keep_last": 9}
    result = runs.train(family, tmp_path / "run", settings=settings)
    assert (plain.best, plain.evaluations, result.evaluations) == (None, 0, 3)
    assert not (tmp_path / "plain" / "best.safetensors").exists()
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "run")]
    assert models[0] == models[1]

    found = measured(tmp_path / "run")
    assert list(found) == [8, 16, 24]
    suffixes = (" a2b", " b2a") if family == "cyclegan" else ("",)
    names = [f"{name}-Tiny{suffix}" for suffix in suffixes for name in ("FD", "KID")]
    assert all(sorted(entry["measures"]) == sorted(names) for entry in found.values())
    assert all(set(entry["better"].values()) == {"lower"} for entry in found.values())

    deciding = {
        images: math.fsum(entry["measures"][f"FD-Tiny{suffix}"] for suffix in suffixes) / len(suffixes)
        for images, entry in found.items()
    }
    best_at = min(deciding, key=lambda images: deciding[images])
    assert result.best is not None
    assert (result.best.score, result.best.value, result.best.images_seen) == (
        "FD-Tiny",
        deciding[best_at],
        best_at,
    )
    info, networks = load_networks(result.best.model_path)
    assert (info.images_seen, info.metrics) == (best_at, found[best_at]["measures"])
    averages = load_state(tmp_path / "run" / "state" / f"step-{best_at // 2:09d}").tree["ema"]
    for name, network in networks.items():
        assert all(torch.equal(value, averages[name][key]) for key, value in network.state_dict().items())


def test_the_extractor_of_the_configuration_looks(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "load_extractor", load_named)
    result = runs.train("unconditional", tmp_path / "run", settings={"train.kimg": 0.008, "eval.best": "kid"})
    assert result.best is not None
    assert result.best.score == "KID-SqueezeNet"
    assert sorted(measured(tmp_path / "run")[8]["measures"]) == ["FD-SqueezeNet", "KID-SqueezeNet"]


def test_real_pictures_are_looked_at_once(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run of another seed takes them from the cache."""
    monkeypatch.setenv("IMG2IMG_CACHE", str(tmp_path / "cache"))
    looks: list[str] = []

    def watch(progress: Progress) -> None:
        looks.extend([progress.activity.partition(":")[0]] if progress.activity else [])

    runs.train("unconditional", tmp_path / "first", settings={"train.kimg": 0.008}, watch=watch)
    assert looks[0] == "real pictures"
    assert set(looks[1:]) == {"evaluating"}
    (kept,) = (tmp_path / "cache" / "features").iterdir()
    looks.clear()
    runs.train("unconditional", tmp_path / "second", settings={"train.kimg": 0.008, "train.seed": 3}, watch=watch)
    assert set(looks) == {"evaluating"}
    assert list((tmp_path / "cache" / "features").iterdir()) == [kept]


def test_another_score_decides(runs: Runs, tmp_path: Path) -> None:
    settings = {"eval.measures": "fd, prdc", "eval.best": "coverage", "eval.count": 7}
    result = runs.train("unconditional", tmp_path / "run", settings=settings)
    values = {images: entry["measures"]["coverage-Tiny"] for images, entry in measured(tmp_path / "run").items()}
    assert result.best is not None
    assert result.best.score == "coverage-Tiny"
    assert result.best.value == max(values.values())
    assert result.best.images_seen == min(images for images, value in values.items() if value == result.best.value)


def test_classes_are_compared_class_by_class(runs: Runs, tmp_path: Path) -> None:
    """The real pictures' classes are those of the samples; of three cats and two dogs each class has a distance."""
    settings = {"eval.measures": "fd_per_class", "eval.count": 9, "train.kimg": 0.008}
    runs.train("conditional", tmp_path / "run", settings=settings)
    assert list(measured(tmp_path / "run")[8]["measures"]) == ["intra-class FD-Tiny"]


def test_a_dry_run_says_what_it_costs_and_writes_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMG2IMG_CACHE", str(tmp_path / "cache"))
    result = runs.train("cyclegan", tmp_path / "run", settings={"train.kimg": 0.025}, dry_run=True)
    assert (result.status, result.evaluations, result.best) == ("planned", 4, None)
    assert result.evaluation_seconds > 0
    assert list(tmp_path.iterdir()) == []


# --- scripted scores: the best, the early end, kills ------------------------------------------------------------------

SCRIPT = {4: 9.0, 8: 7.0, 12: 8.0, 16: 7.5, 20: 6.0, 24: 5.0}
EVERY_SECOND = {"train.eval_kimg": 0.004, "train.state_kimg": 0.006}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Scores by the images seen, in place of real ones; returns the images at which they were asked for."""
    asked: list[int] = []

    def measure(self: Evaluation, report: Callable[[int, int], None]) -> list[Score]:
        asked.append(self._prepared.engine.images_seen)
        report(1, 1)
        return [Score("FD-Tiny", SCRIPT[asked[-1]], "lower")]

    monkeypatch.setattr(Evaluation, "measure", measure)
    return asked


def test_the_best_is_kept_and_the_last_is_the_model(runs: Runs, scripted: list[int], tmp_path: Path) -> None:
    result = runs.train("unconditional", tmp_path / "run", settings={**EVERY_SECOND, "train.kimg": 0.016})
    assert scripted == [4, 8, 12, 16]
    assert result.best == loop.BestModel(tmp_path / "run" / "best.safetensors", "FD-Tiny", 7.0, 8)
    assert read_info(result.best.model_path).images_seen == 8
    assert read_info(tmp_path / "run" / "model.safetensors").images_seen == 16
    assert [entry["best_images"] for entry in measured(tmp_path / "run").values()] == [4, 8, 8, 8]
    assert not result.stopped_early


def test_patience_ends_the_run_as_finished(
    runs: Runs, scripted: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**EVERY_SECOND, "eval.patience": 2}
    with caplog.at_level(logging.INFO, logger="img2img.training"):
        result = runs.train("unconditional", tmp_path / "run", settings=settings)
    assert (result.status, result.stopped_early, result.images_seen) == ("finished", True, 16)
    assert "at 8 images: FD-Tiny 7 (best so far), " in caplog.text
    assert "at 16 images: FD-Tiny 7.5 (best at 8), " in caplog.text
    assert "stopping: the last 2 evaluations were no better (eval.patience)" in caplog.text
    assert read_info(tmp_path / "run" / "model.safetensors").images_seen == 16
    assert (tmp_path / "run" / "samples" / "000000016.png").exists()

    again = runs.train("unconditional", tmp_path / "run", settings=settings, resume=True)
    assert (again.stopped_early, again.images_seen, again.best, again.evaluations) == (True, 16, result.best, 0)
    # more patience lets it go on
    longer = runs.train("unconditional", tmp_path / "run", settings={**settings, "eval.patience": 3}, resume=True)
    assert (longer.stopped_early, longer.images_seen) == (False, 24)
    assert longer.best is not None
    assert longer.best.images_seen == 24


def test_patience_that_runs_out_at_the_end_ends_nothing_early(runs: Runs, scripted: list[int], tmp_path: Path) -> None:
    settings = {**EVERY_SECOND, "eval.patience": 2, "train.kimg": 0.016}
    assert not runs.train("unconditional", tmp_path / "run", settings=settings).stopped_early
    assert not runs.train("unconditional", tmp_path / "run", settings=settings, resume=True).stopped_early


class Killed(BaseException):
    """Ends a run without a chance to save anything."""


def kill_at(images: int, activity: str = "") -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.images_seen >= images and progress.activity.startswith(activity):
            raise Killed

    return watch


@pytest.mark.parametrize(("images", "activity"), [(4, ""), (8, "evaluating"), (10, ""), (16, "evaluating")])
def test_killed_and_resumed_is_as_if_nothing_happened(
    images: int, activity: str, runs: Runs, scripted: list[int], tmp_path: Path
) -> None:
    settings = {**EVERY_SECOND, "eval.patience": 2}
    straight = runs.train("unconditional", tmp_path / "straight", settings=settings)
    with pytest.raises(Killed):
        runs.train("unconditional", tmp_path / "run", settings=settings, watch=kill_at(images, activity))
    result = runs.train("unconditional", tmp_path / "run", settings=settings, resume=True)
    assert (result.stopped_early, result.images_seen) == (True, 16)
    assert straight.best is not None
    assert result.best == dataclasses.replace(straight.best, model_path=tmp_path / "run" / "best.safetensors")
    states = ["state/step-000000008/standing.json", "state/step-000000008/manifest.json"]
    for name in ("best.safetensors", "model.safetensors", *states):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert measured(tmp_path / "run") == measured(tmp_path / "straight")
    seen = [record["images"] for record in read(tmp_path / "run")]
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("images", [8, 24])
def test_a_signal_ends_an_evaluation_and_the_resumed_run_makes_it(
    images: int, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed between batches of pictures."""
    monkeypatch.setattr(evaluation, "extract", partial(extract, batch=2))

    def stop(progress: Progress) -> None:
        if progress.activity.startswith("evaluating") and progress.images_seen == images:
            os.kill(os.getpid(), signal.SIGTERM)

    runs.train("unconditional", tmp_path / "straight")
    with pytest.raises(Interrupted) as caught:
        runs.train("unconditional", tmp_path / "run", watch=stop)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert f"--resume (at {images} images)" in str(caught.value)
    assert images not in measured(tmp_path / "run")
    result = runs.train("unconditional", tmp_path / "run", resume=True)
    assert result.images_seen == 24
    assert measured(tmp_path / "run") == measured(tmp_path / "straight")
    for name in ("best.safetensors", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    (record,) = (record for record in read(tmp_path / "run") if record["images"] == images)
    assert {"terms", "measures"} <= set(record), "one line tells of the step and of its evaluation"


def test_a_signal_while_real_pictures_are_looked_at(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMG2IMG_CACHE", str(tmp_path / "cache"))

    def stop(progress: Progress) -> None:
        if progress.activity.startswith("real pictures"):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(evaluation, "extract", partial(extract, batch=2))
    with pytest.raises(Interrupted, match=r"--resume \(at 2 images\)"):
        runs.train("unconditional", tmp_path / "run", settings={"train.kimg": 0.008}, watch=stop)
    (state,) = (tmp_path / "run" / "state").iterdir()
    assert state.name == "step-000000001"


def test_a_run_begun_without_may_go_on_with_evaluations(runs: Runs, tmp_path: Path) -> None:
    """Its states know nothing of evaluations, as those that were saved before there were any."""
    without = {"train.eval_kimg": 0.0, "train.kimg": 0.016}
    runs.train("unconditional", tmp_path / "run", settings=without)
    assert not list((tmp_path / "run" / "state").glob("*/standing*"))
    result = runs.train("unconditional", tmp_path / "run", resume=True)
    assert result.images_seen == 24
    assert list(measured(tmp_path / "run")) == [16, 24], "16 was due and is made up for"
    # and without again: what is known of the best stays
    runs.train("unconditional", tmp_path / "run", settings={"train.eval_kimg": 0.0, "train.kimg": 0.03}, resume=True)
    state = load_state(max((tmp_path / "run" / "state").iterdir()))
    assert result.best is not None
    assert Standing.of(state.tree).best == result.best.value


def test_another_ruler_looks_for_the_best_anew(runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs.train("unconditional", tmp_path / "run", settings={"train.kimg": 0.016})
    settings = {"eval.count": 6, "eval.resize": "tf1"}
    with caplog.at_level(logging.WARNING, logger="img2img.training"):
        result = runs.train("unconditional", tmp_path / "run", settings=settings, resume=True)
    assert "the best model is looked for anew: resize, pictures of the evaluation changed" in caplog.text
    assert result.best is not None
    assert result.best.images_seen in (16, 24)


def test_the_time_of_evaluations_is_not_that_of_training(
    runs: Runs, scripted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second when it is looked at, and by a thousand in an evaluation."""
    now = 0.0
    scores = Evaluation.measure

    def look() -> float:
        nonlocal now
        now += 1
        return now

    def measure_slowly(self: Evaluation, report: Callable[[int, int], None]) -> list[Score]:
        nonlocal now
        now += 1000
        return scores(self, report)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=look))
    monkeypatch.setattr(Evaluation, "measure", measure_slowly)
    result = runs.train("unconditional", tmp_path / "run", settings=EVERY_SECOND)
    records = read(tmp_path / "run")
    assert records[-1]["seconds"] < 300
    assert result.seconds < 300
    assert all(record["images_per_second"] > 2 / 100 for record in records)
    assert all(record["eval_seconds"] == 1001 for record in records if "measures" in record)
    assert result.evaluation_seconds > 6 * 1000


# --- what is refused before the first step ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval.measures": "fdd"}, "eval.measures: 'fdd' is unknown. Did you mean fd?"),
        ({"eval.measures": " , "}, "eval.measures: names nothing. Name some of fd, kid"),
        ({"eval.measures": "psnr"}, "eval.measures: 'psnr' is unknown"),
        ({"eval.measures": "fd,fd_per_class"}, "eval.measures: fd_per_class needs classes, and unconditional has none"),
        ({"eval.best": "prdc"}, "eval.best: 'prdc' is not among what is measured"),
        ({"eval.measures": "prdc"}, "eval.best: prdc is 4 scores. Name one of precision, recall, density, coverage"),
        ({"eval.best": "recal", "eval.measures": "fd,prdc"}, "Did you mean recall?"),
        (
            {"eval.extractor": "inception2015"},
            "eval.extractor: 'inception2015' is unknown. Did you mean inception-2015",
        ),
        ({"eval.resize": "bilinear"}, "eval.resize: squeezenet1_0 does not know 'bilinear'"),
        ({"eval.weights": "absent.safetensors"}, "eval.weights: there is no file absent.safetensors. Check the path"),
        ({"eval.weights": ""}, "eval.weights: squeezenet1_0: its weights are not here"),
        ({"eval.weights": "", "eval.extractor": "inception-2015"}, "img2img weights fetch inception-2015"),
    ],
)
def test_wrong_keys_are_refused_before_the_data_are_read(
    settings: dict[str, Any], message: str, runs: Runs, tmp_path: Path
) -> None:
    with pytest.raises(Faults) as caught:
        runs.train("unconditional", tmp_path / "run", settings=settings)
    (fault,) = caught.value.faults
    assert message in str(fault)
    assert not (tmp_path / "run").exists()


def test_names_are_checked_without_evaluations_too_but_weights_are_not(runs: Runs) -> None:
    check(runs.config("unconditional", **{"train.eval_kimg": 0.0, "eval.weights": ""}), runs.paths("unconditional"))
    config = runs.config("unconditional", **{"train.eval_kimg": 0.0, "eval.best": "x"})
    with pytest.raises(Faults, match=r"eval\.best"):
        check(config, runs.paths("unconditional"))


def test_points_cannot_be_measured() -> None:
    config = resolve("points", None, ["train.eval_kimg=1"])
    with pytest.raises(Faults, match=r"train\.eval_kimg: measures pictures, and points of a toy world are none"):
        check(config, DataPaths(worlds=("ring",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval.measures": "fd,is"}, r"eval\.measures: is: .* needs at least 10 images, got 5\. Raise eval\.count"),
        ({"eval.measures": "fd_infinity"}, r"eval\.measures: fd_infinity: .* samples to extrapolate"),
    ],
)
def test_too_few_pictures_are_refused_before_the_first_step(
    settings: dict[str, Any], message: str, runs: Runs, tmp_path: Path
) -> None:
    with pytest.raises(UsageFault, match=message):
        runs.train("unconditional", tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_none_are_refused_by_key_and_file(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "load_extractor", load_named)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UsageFault, match=r"eval\.weights: .*text\.safetensors"):
        runs.train("unconditional", tmp_path / "run", settings={"eval.weights": str(tmp_path / "text.safetensors")})


def test_one_picture_is_no_set(runs: Runs, tmp_path: Path) -> None:
    from tiny import make_pictures

    make_pictures(tmp_path / "one", 1, 0)
    config = runs.config("unconditional", **{"train.batch": 2})
    with pytest.raises(UsageFault, match=r"train\.eval_kimg: one has 1 picture"):
        train(config, DataPaths(images=tmp_path / "one"), tmp_path / "run", device="cpu")


# --- the pictures -----------------------------------------------------------------------------------------------------


def test_chosen_pictures_are_the_middles_of_what_training_reads() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 10, 13), dtype=np.uint8)
    chosen = ChosenPictures(array_source({"image": images}), "image", 5, (8, 8), 1)
    assert (len(chosen), chosen.sizes, len(set(chosen.chosen))) == (5, {(8, 8): 5}, 5)
    for index, pixels in zip(chosen.chosen, chosen.read(range(5))):
        assert torch.equal(pixels, torch.from_numpy(images[index, :, 1:9, 2:10]))
    assert len(ChosenPictures(array_source({"image": images}), "image", 50, (8, 8), 1)) == 9


def test_opacity_is_not_compared_but_translated() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8), dtype=np.uint8)
    chosen = ChosenPictures(array_source({"image": images}), "image", 3, (8, 8), 1)
    assert {pixels.shape for pixels in chosen.read([0, 1, 2])} == {(3, 8, 8)}
    assert {pixels.shape for pixels in chosen.read_whole([0, 1, 2])} == {(4, 8, 8)}


def test_halves_of_pairs_are_chosen_together() -> None:
    images = {name: np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8) for name in "ab"}
    source = array_source(images, aligned=True)
    assert ChosenPictures(source, "a", 4, (8, 8), 1).chosen == ChosenPictures(source, "b", 4, (8, 8), 1).chosen


def test_the_identity_is_that_of_the_pixels(data: dict[str, dict[str, Any]]) -> None:
    """Everything that changes them changes it, and nothing else."""
    folders = {key: Path(value) for key, value in data["unpaired"].items()}

    def identity(domain: str = "a", count: int = 4, **options: Any) -> str:
        source = open_source(**folders, **{"resolution": (16, 16), "workers": 1, **options})
        return ChosenPictures(source, domain, count, (16, 16), options.get("workers", 1)).identity

    same = [identity(), identity(workers=2), identity(cache_gb=0.0)]
    others = [
        identity("b"),
        identity(count=3),
        identity(fit="stretch"),
        identity(channels=1),
        identity(load_size=(18, 18)),
        identity(direction="b2a"),
    ]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 1 + len(others)


@pytest.mark.parametrize("family", FOLDERS)
def test_made_pictures_do_not_depend_on_who_makes_them(family: str, runs: Runs) -> None:
    """Two processes' shares are the pictures of one."""
    prepared = runs.prepare(family, **{"eval.count": 20})
    with prepared.loader:
        for side in evaluation._sides(prepared):
            count = len(side.fake)
            whole = list(side.fake.read(range(count)))
            half = -(-count // 2)
            shares = [*side.fake.read(range(half)), *side.fake.read(range(half, count))]
            assert len(whole) == count
            assert all(torch.equal(one, other) for one, other in zip(whole, shares, strict=True))
            assert all(pixels.shape == (3, 16, 16) and pixels.dtype == torch.uint8 for pixels in whole)


@pytest.mark.parametrize("settings", [{}, {"generator.dropout_at_test": True}])
def test_translations_are_those_of_the_model_in_use(settings: dict[str, Any], runs: Runs, tmp_path: Path) -> None:
    """As `img2img translate` makes them of the same pixels, but for rounding: it takes one picture at a time."""
    settings = {**settings, "train.kimg": 0.008, "eval.count": 4}
    result = runs.train("pix2pix", tmp_path / "run", settings=settings)
    prepared = runs.prepare("pix2pix", **settings)
    assert result.best is not None
    model = Model.load(result.best.model_path, "cpu")
    with prepared.loader:
        prepared.engine.load_state_dict(load_state(tmp_path / "run" / "state" / "step-000000004").tree)
        (side,) = evaluation._sides(prepared)
        inputs = ChosenPictures(prepared.source, "a", 4, (16, 16), 1)  # type: ignore[arg-type]
        for made, pixels in zip(side.fake.read(range(4)), inputs.read(range(4)), strict=True):
            used = model.translate(pixels.permute(1, 2, 0).numpy())
            difference = made.permute(1, 2, 0).int() - torch.from_numpy(used).int()
            assert difference.abs().max() <= 1


def test_translators_that_grow_are_given_small_pictures_and_theirs_are_enlarged(runs: Runs) -> None:
    prepared = runs.prepare("pix2pixhd", **{"eval.count": 4})
    with prepared.loader:
        (side,) = evaluation._sides(prepared)
        whole = list(side.fake.read(range(4)))
        inputs = ChosenPictures(prepared.source, "a", 4, (16, 16), 1)  # type: ignore[arg-type]
        images = torch.stack(list(inputs.read(range(4)))).float() / 127.5 - 1
        with torch.no_grad():
            small = prepared.engine.ema.networks["generator"](torch.nn.functional.avg_pool2d(images, 2))
        assert small.shape == (4, 3, 8, 8)
        for made, output in zip(whole, small, strict=True):
            enlarged = output.repeat_interleave(2, 1).repeat_interleave(2, 2)
            assert (made - (enlarged + 1) * 127.5).abs().max() <= 1


def test_samples_have_the_classes_of_the_real_pictures(runs: Runs) -> None:
    prepared = runs.prepare("conditional", **{"eval.count": 8})
    with prepared.loader:
        (side,) = evaluation._sides(prepared)
        assert side.fake.labels == side.real.labels
        assert set(side.real.labels or ()) == {"cat", "dog"}
        label = [prepared.source.classes.index(name) for name in side.real.labels or ()]
        assert label == [prepared.source.label(index) for index in side.real.chosen]  # type: ignore[union-attr]


def test_pictures_become_as_many_of_each_class_as_there_are(runs: Runs) -> None:
    """Each takes the class of the next one, and follows it."""
    prepared = runs.prepare("starganv2", **{"eval.count": 8})
    with prepared.loader:
        (side,) = evaluation._sides(prepared)
        assert isinstance(side.fake, evaluation.Restyled)
        assert side.real.labels is not None
        assert side.fake.labels == side.real.labels[1:] + side.real.labels[:1]
        before = list(side.fake.read(range(8)))
        side.fake._targets = 1 - side.fake._targets
        assert not any(torch.equal(one, other) for one, other in zip(before, side.fake.read(range(8)), strict=True))


def test_a_generator_that_has_gone_wrong_does_not_end_the_run(runs: Runs) -> None:
    prepared = runs.prepare("unconditional")
    with prepared.loader, torch.no_grad():
        for parameter in prepared.engine.ema.networks["generator"].parameters():
            parameter.fill_(math.nan)
        (side,) = evaluation._sides(prepared)
        assert {int(value) for pixels in side.fake.read(range(5)) for value in pixels.unique()} == {128}


def test_scores_of_a_measure_that_has_several_are_named_in_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (Features(8, torch.randn(8, 4, generator=generator)) for _ in range(2))
    for name, scores in evaluation.SEVERAL.items():
        found = measure([name], Comparison(real, fake, EXTRACTORS["inception-2015"]))
        assert tuple(score.name for score in found) == scores


# --- how a run stands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("better", "sign"), [("lower", 1), ("higher", -1)])
def test_the_standing_counts_what_was_no_better(better: str, sign: int) -> None:
    standing = Standing()
    values = [math.nan, 5.0, 5.0, math.inf, 3.0, 4.0]
    noted = [standing.note(10 * (index + 1), sign * value, better) for index, value in enumerate(values)]
    assert noted == [False, True, False, False, True, False]
    assert (standing.best, standing.best_at, standing.measured_at, standing.worse_since) == (sign * 3.0, 50, 60, 1)
    assert [standing.is_over(patience) for patience in (0, 1, 2)] == [False, True, False]
    assert Standing.of(json.loads(json.dumps(standing.state_dict()))) == standing
    assert Standing().state_dict() == {}


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_measure_what_one_does(runs: Runs, tmp_path: Path) -> None:
    """Float32 sums of half batches differ, so scores agree to rounding; the best model and the end are the same."""
    config = runs.config("unconditional", **{"generator.norm": "layer", "train.precision": "float64"})
    from img2img.config import to_toml

    (tmp_path / "config.toml").write_text(to_toml(config))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = ["-m", "img2img_cli", "train", "--config", str(tmp_path / "config.toml")]
    words += ["--images", runs.data["images"]["images"], "--device", "cpu"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, *words, "--out", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = measured(tmp_path / "one"), measured(tmp_path / "two")
    assert list(one) == list(two) == [8, 16, 24]
    for images, entry in one.items():
        assert two[images]["measures"] == pytest.approx(entry["measures"], rel=0.02)
