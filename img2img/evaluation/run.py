"""Measure a set of pictures, or what a model makes, against real pictures; the result is a metric card."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from img2img.config import ARRAYS_SUFFIX
from img2img.data.arrays import is_arrays
from img2img.data.decode import MAX_PIXELS
from img2img.devices import choose_device
from img2img.distributed import World
from img2img.errors import Fault, UsageFault, unknown_name
from img2img.evaluation.card import Card
from img2img.evaluation.extractors import EXTRACTORS, Extractor, ExtractorSpec, load_extractor
from img2img.evaluation.features import Features, cache_folder, extract
from img2img.evaluation.image_set import ImageSet, Preparation, SampleSet, TranslatedSet, open_set
from img2img.evaluation.measures import DEFAULT_MEASURES, MEASURES, Comparison, Score, check_measures, measure
from img2img.evaluation.pairs import PAIR_MEASURES, compare_pairs, match_names
from img2img.evaluation.perceptual import LIN_WEIGHTS, NETWORKS, Perceptual, load_perceptual
from img2img.evaluation.statistics import is_statistics, read_statistics
from img2img.evaluation.weights import find_weights, network_of, weights_path
from img2img.inference.model import Model
from img2img.metrics.intervals import FEWEST
from img2img.metrics.lpips import feature_similarity
from img2img.metrics.path_length import path_length
from img2img.version import __version__

PathLike = str | Path
Progress = Callable[[str, int, int], None]

PERCEPTUAL, PRESERVATION, PATH_LENGTH = "perceptual", "preservation", "ppl"
OTHER_MEASURES = {
    PERCEPTUAL: "perceptual distance of pairs; LPIPS with its weights",
    PRESERVATION: "likeness of a translator's inputs and outputs in the extractor's eyes",
    PATH_LENGTH: "perceptual path length of a model's latent space",
}
_log = logging.getLogger(__name__)
_DEFAULT_EXTRACTOR = "inception-2015"
_RESAMPLES = 20
_SAMPLES_FOR_STATISTICS = 10_000  # a model's, where nobody says how many and REAL does not show it
_PATHS = 1000


def known_measures() -> dict[str, str]:
    """name -> one line about it, of all measures."""
    tables: Sequence[Mapping[str, Any]] = (MEASURES, PAIR_MEASURES)
    return {name: entry.help for table in tables for name, entry in table.items()} | OTHER_MEASURES


def evaluate(
    real: PathLike,
    fake: PathLike | None = None,
    *,
    model: PathLike | None = None,
    source: PathLike | None = None,
    measures: str | Sequence[str] = (),
    extractor: str | None = None,
    weights: PathLike | None = None,
    resize: str | None = None,
    perceptual: str = "vgg16",
    resolution: int | tuple[int, int] | None = None,
    fit: str = "crop",
    any_size: bool = False,
    part: str = "train",
    direction: str | None = None,
    count: int | None = None,
    seed: int = 0,
    resamples: int = _RESAMPLES,
    skip_bad: bool = False,
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
    batch: int | None = None,
    workers: int = 0,
    device: str = "auto",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Card:
    """Measure `fake`, or what `model` makes, against `real`.

    Args:
        real: folder, .npz file of pictures, or .npz statistics of another tool.
        fake: folder or .npz file.
        model: model file in its place: one that makes new pictures, or one that translates `source`.
        source: what a translator translates; with `fake`, what that was made from (for "preservation").
        measures: names of known_measures(); none takes Fréchet and kernel distance and precision to coverage, of
            statistics alone the Fréchet distance.
        extractor: name of the network that looks, see extractors.EXTRACTORS; None is that of `weights`, or else
            inception-2015.
        weights: its safetensors file; None takes what `img2img weights` brought in.
        resize: how pictures reach the extractor's size, "clean", "tf1" or "pytorch"; None is its own way.
        perceptual: the network of the measures "perceptual" and "ppl".
        resolution, fit: what every picture is brought to first; None is the model's own, or each picture's size.
        any_size: compare sets whose pictures differ in size.
        part: of an .npz file of pictures as `real`: "train" or "test".
        direction: of a translator, "a2b" or "b2a".
        count: pictures of `fake`, samples, or paths of "ppl"; None is all, as many samples as there are real pictures,
            1000 paths.
        seed: of samples, subsets, splits and resampling.
        resamples: parts of the sets that are left out in turn for the intervals, at least 8; 0 gives none.
        skip_bad: leave out files that cannot be used.
        allow_truncated, max_pixels: see decode.open_image.
        batch, workers, device: how it is computed; the result does not depend on them.
        cache: folder of features; None is features.cache_folder().
        progress: called with (what is done, pictures done, pictures in all).

    Raises:
        UsageFault: sets that cannot be compared, measures that cannot be had, no weights. Fault: a broken network.
    """
    chosen_measures = (measures,) if isinstance(measures, str) else tuple(dict.fromkeys(measures))
    names = chosen_measures or DEFAULT_MEASURES
    if extractor is not None and extractor not in EXTRACTORS:
        raise unknown_name("--extractor", extractor, EXTRACTORS)
    if perceptual not in NETWORKS:
        raise unknown_name("--perceptual", perceptual, NETWORKS)
    for name in names:
        if name not in known_measures():
            raise unknown_name("--measure", name, known_measures())
    if 0 < resamples < FEWEST:
        raise UsageFault("--resamples", f"{resamples} are too few for an interval", f"Use 0, or at least {FEWEST}")
    for path in (real, fake, source):
        if path is not None and not os.path.exists(path):
            problem = "there is no such file" if is_arrays(path) else "no such folder"
            raise UsageFault(path, problem, "Check the path")
    world, chosen = World(), choose_device(device)
    world.join(chosen)
    try:
        loaded = None if model is None else Model.load(model, str(chosen))
        _check_sides(fake, loaded, source, names, count)
        eyes = _Eyes(extractor, None if weights is None else Path(weights), resize, perceptual, chosen)
        look = _Look(eyes, cache or cache_folder(), batch, world, progress)
        look.open_what_is_needed(names)
        size = (resolution, resolution) if isinstance(resolution, int) else resolution
        preparation = Preparation(size, fit, max_pixels=max_pixels, allow_truncated=allow_truncated)
        reading = _Reading(preparation, any_size, part, direction, count, seed, skip_bad, workers, progress)
        sides = reading.open(real, fake, loaded, source, names)
        if not chosen_measures and sides.statistics is not None:
            names = tuple(name for name in names if MEASURES[name].needs == "moments")
        scores = _feature_scores(names, sides, look, seed, resamples)
        scores += _pair_scores(names, sides, look)
        if PATH_LENGTH in names and loaded is not None:
            scores.append(_path_length(loaded, look.perceptual(), count or _PATHS, seed))
    finally:
        world.leave()
    for score in scores:
        if math.isnan(score.value):
            raise Fault(score.name, "came out as no number", "Check the weights of the network that looks")
    return Card(
        scores={score.name: _described(score) for score in scores},
        real=sides.described("real"),
        fake=sides.described("fake"),
        preparation=sides.preparation.described(),
        extractor=look.described(),
        seed=seed,
        versions={"img2img": __version__, "torch": torch.__version__},
    )


def _check_sides(
    fake: PathLike | None, model: Model | None, source: PathLike | None, names: Sequence[str], count: int | None
) -> None:
    """Refuse a wrong choice of FAKE, --model and --source."""
    if (fake is None) == (model is None):
        problem = "is given beside --model" if fake is not None else "is not given, nor is --model"
        raise UsageFault("FAKE", problem, "Give a folder of pictures, or a model that makes them")
    translates = model is not None and model.info.task == "translate"
    if translates and source is None:
        raise UsageFault("--source", "is not given, and the model translates", "Give the folder of what it translates")
    if translates and model is not None and model.info.classes:
        mend = "Translate with img2img translate --style CLASS, and give what comes of it as FAKE"
        raise UsageFault("--model", f"{model.path} translates into a style, and nobody says which", mend)
    if source is not None and model is not None and not translates:
        raise UsageFault("--source", f"is given, but {model.path} makes pictures from noise", "Leave it out")
    paired = _of_pairs(names)
    if count is not None and (paired or (PRESERVATION in names and model is None)):
        raise UsageFault("--count", "would leave pictures without the partners of their names", "Leave it out")
    if source is not None and model is None and PRESERVATION not in names:
        mend = f"Give --model too, or --measure {PRESERVATION}, or leave it out"
        raise UsageFault("--source", "is given without --model, and nothing that is measured needs it", mend)
    if model is not None and model.info.task == "sample":
        for name in paired:
            problem = "compares pictures of one name, and samples have no names"
            raise UsageFault(f"--measure {name}", problem, "Leave it out, or give a model that translates")
        if "fd_per_class" in names and not model.info.classes:
            raise UsageFault("--measure fd_per_class", f"needs classes, and {model.path} has none", "Leave it out")
    if PRESERVATION in names and source is None:
        raise UsageFault(f"--measure {PRESERVATION}", "compares inputs and outputs", "Give --source, the inputs")
    if PATH_LENGTH in names and (model is None or model.info.task != "sample"):
        raise UsageFault(f"--measure {PATH_LENGTH}", "is of a model that makes pictures from noise", "Give --model")


def _of_pairs(names: Sequence[str]) -> list[str]:
    """Those measures that compare pictures two by two."""
    return [name for name in names if name in PAIR_MEASURES or name == PERCEPTUAL]


# --- the two sides ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Sides:
    """What is compared: real pictures or their statistics, fake ones, and the inputs that these were made from."""

    real: ImageSet | None
    statistics: Path | None
    fake: ImageSet
    inputs: ImageSet | None
    preparation: Preparation

    def described(self, side: str) -> dict[str, Any]:
        images = self.fake if side == "fake" else self.real
        if images is None:
            assert self.statistics is not None, "one of both is there"
            digest = hashlib.sha256(self.statistics.read_bytes()).hexdigest()
            return {"kind": "statistics", "name": self.statistics.name, "sha256": digest, "count": None}
        sizes = {f"{width}×{height}": number for (height, width), number in sorted(images.sizes.items())}
        return {**images.source, "count": len(images), "sizes": sizes}


@dataclass(frozen=True)
class _Reading:
    """How the sides are found and read; see evaluate."""

    preparation: Preparation
    any_size: bool
    part: str
    direction: str | None
    count: int | None
    seed: int
    skip_bad: bool
    workers: int
    progress: Progress | None

    def open(
        self,
        real: PathLike,
        fake: PathLike | None,
        model: Model | None,
        source: PathLike | None,
        names: Sequence[str],
    ) -> _Sides:
        """Both sides, of comparable sizes."""
        preparation = self.preparation
        direction = None
        if model is not None:
            direction = model.direction(self.direction) if model.info.task == "translate" else None
            domain = direction[-1] if direction else "image"
            preparation = dataclasses.replace(preparation, channels=min(3, model.info.channels[domain]))
            if preparation.resolution is None:
                preparation = dataclasses.replace(preparation, resolution=model.info.resolution, fit=model.info.fit)
        statistics = Path(real) if Path(real).suffix.lower() == ARRAYS_SUFFIX and is_statistics(real) else None
        images = None
        if statistics is None:
            by_class = "fd_per_class" in names or None
            images = self._open(real, "REAL", preparation, part=self.part, classes=by_class)
        inputs = None
        if source is not None:
            taken = dataclasses.replace(preparation, channels=3)
            if model is not None and direction is not None:
                channels, labels = min(3, model.info.channels[direction[0]]), model.takes_labels(direction)
                taken = dataclasses.replace(preparation, channels=channels, labels=labels)
            inputs = self._open(source, "inputs", taken, limit=self.count)
        made = self._fake(fake, model, direction, inputs, images, preparation)
        if images is not None and not self.any_size:
            _check_sizes(images, made, any_size_helps=not _of_pairs(names))
        return _Sides(images, statistics, made, inputs, preparation)

    def _fake(
        self,
        fake: PathLike | None,
        model: Model | None,
        direction: str | None,
        inputs: ImageSet | None,
        real: ImageSet | None,
        preparation: Preparation,
    ) -> ImageSet:
        if model is None:
            assert fake is not None, "one of both is given"
            return self._open(fake, "FAKE", preparation, limit=self.count)
        if inputs is not None:
            return TranslatedSet(model, inputs, direction, self.seed, preparation.channels)
        count = self.count or (len(real) if real is not None else _SAMPLES_FOR_STATISTICS)
        return SampleSet(model, count, self.seed, preparation, None if real is None else real.labels)

    def _open(self, path: PathLike, what: str, preparation: Preparation, **further: Any) -> ImageSet:
        report = _part(self.progress, f"reading {what}")
        return open_set(path, preparation, skip_bad=self.skip_bad, workers=self.workers, progress=report, **further)


def _check_sizes(real: ImageSet, fake: ImageSet, any_size_helps: bool) -> None:
    """Refuse sets whose pictures differ in size: their distance would be that of sharp from blurred."""
    if set(real.sizes) == set(fake.sizes):
        return
    raise UsageFault(
        fake.subject,
        f"its pictures are {_sizes(fake)}, those of {real.subject} {_sizes(real)}",
        "Bring all to one size by --resolution"
        + (", or compare them as they are by --any-size" if any_size_helps else ""),
    )


def _sizes(images: ImageSet) -> str:
    if len(images.sizes) > 1:
        return f"of {len(images.sizes)} sizes"
    ((height, width),) = images.sizes
    return f"{width} × {height}"


# --- what is looked at ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Eyes:
    """Which networks look at the pictures, see evaluate."""

    extractor: str | None
    weights: Path | None
    resize: str | None
    perceptual: str
    device: torch.device

    @property
    def name(self) -> str:
        if self.extractor is not None:
            return self.extractor
        return _DEFAULT_EXTRACTOR if self.weights is None else network_of(self.weights)

    def open(self) -> Extractor:
        return load_extractor(self.name, self.weights or find_weights(self.name), self.resize, self.device)

    def open_perceptual(self) -> Perceptual:
        own = self.weights if self.weights is not None and self.perceptual == self.name else None
        lin = weights_path(LIN_WEIGHTS[self.perceptual]) if self.perceptual in LIN_WEIGHTS else None
        return load_perceptual(
            self.perceptual,
            own or find_weights(self.perceptual),
            lin if lin is not None and lin.is_file() else None,
            self.device,
        )


class _Look:
    """The networks that look, each opened when first wanted."""

    def __init__(
        self,
        eyes: _Eyes,
        cache: Path,
        batch: int | None,
        world: World,
        progress: Progress | None,
    ) -> None:
        self._eyes, self._cache, self._batch = eyes, cache, batch
        self.world, self.progress = world, progress
        self._extractor: Extractor | None = None
        self._perceptual: Perceptual | None = None

    def extractor(self) -> Extractor:
        self._extractor = self._extractor or self._eyes.open()
        return self._extractor

    def perceptual(self) -> Perceptual:
        self._perceptual = self._perceptual or self._eyes.open_perceptual()
        return self._perceptual

    def open_what_is_needed(self, names: Sequence[str]) -> None:
        """Say now, rather than after all pictures were read, what is missing."""
        if PRESERVATION in names or any(name in MEASURES for name in names):
            self.extractor()
        if PERCEPTUAL in names or PATH_LENGTH in names:
            self.perceptual()

    def features(self, images: ImageSet, what: str) -> Features:
        report = _part(self.progress, f"features of {what}")
        return extract(
            images, self.extractor(), cache=self._cache, batch=self._batch, world=self.world, progress=report
        )

    def described(self) -> dict[str, Any] | None:
        """For a card: the networks that looked."""
        found: dict[str, Any] = {}
        if self._extractor is not None:
            extractor = self._extractor
            found |= {
                "name": extractor.spec.name,
                "weights": extractor.digest,
                "resize": extractor.resize,
                "features": extractor.spec.feature_dim,
            }
        if self._perceptual is not None:
            found |= {"perceptual": self._perceptual.name, "perceptual_weights": self._perceptual.digest}
        return found or None


def _feature_scores(names: Sequence[str], sides: _Sides, look: _Look, seed: int, resamples: int) -> list[Score]:
    """The scores of measures over features."""
    wanted = [name for name in names if name in MEASURES]
    if not wanted and PRESERVATION not in names:
        return []
    spec = look.extractor().spec
    scores: list[Score] = []
    real = None
    if wanted:
        if sides.real is not None:
            real = look.features(sides.real, "REAL")
        else:
            assert sides.statistics is not None, "one of both is there"
            real = read_statistics(sides.statistics, spec.feature_dim)
    fake = look.features(sides.fake, "FAKE")
    if real is not None:
        check_measures(wanted, real, fake, spec)
        if "fd" in wanted:
            _tell_of_few(real, fake, spec)
        scores += measure(wanted, Comparison(real, fake, spec, seed, resamples))
    if PRESERVATION in names:
        assert sides.inputs is not None, "refused above"
        scores.append(_preservation(sides.inputs, look.features(sides.inputs, "inputs"), sides.fake, fake, spec))
    return scores


def _tell_of_few(real: Features, fake: Features, spec: ExtractorSpec) -> None:
    """What a user should know of these counts before believing a Fréchet distance."""
    counts = [features.count for features in (real, fake) if features.count is not None]
    if len(set(counts)) > 1:
        _log.warning("REAL has %d pictures and FAKE %d: compare only with what has the same counts", *counts)
    if counts and min(counts) < spec.feature_dim:
        _log.warning(
            "%d pictures are fewer than the %d features of %s: a Fréchet distance is mostly bias, its interval not",
            min(counts),
            spec.feature_dim,
            spec.name,
        )


def _preservation(
    inputs: ImageSet, of_inputs: Features, outputs: ImageSet, of_outputs: Features, spec: ExtractorSpec
) -> Score:
    pairs = torch.tensor(match_names(inputs, outputs))
    before, after = of_inputs.values, of_outputs.values
    if before is None or after is None:
        raise UsageFault(f"--measure {PRESERVATION}", "needs the features of more pictures than fit", "Lower --count")
    likeness = feature_similarity(before[pairs[:, 0]], after[pairs[:, 1]])
    details = {"std": float(likeness.std()), "pairs": len(pairs), "inputs": inputs.source["sha256"]}
    return Score("content preservation", float(likeness.mean()), "higher", None, details)


def _pair_scores(names: Sequence[str], sides: _Sides, look: _Look) -> list[Score]:
    """The scores of measures over pairs of one name."""
    if not _of_pairs(names):
        return []
    if sides.real is None:
        raise UsageFault("REAL", "holds statistics, and pairs need pictures", "Give the folder of pictures")
    perceptual = look.perceptual() if PERCEPTUAL in names else None
    pairs = match_names(sides.real, sides.fake)
    wanted = [name for name in names if name in PAIR_MEASURES]
    return compare_pairs(wanted, sides.real, sides.fake, pairs, perceptual, _part(look.progress, "pairs"))


def _path_length(model: Model, perceptual: Perceptual, count: int, seed: int) -> Score:
    generator = model.generator()
    classes = model.class_indices()

    def generate(z: Tensor, labels: Tensor | None) -> Tensor:
        return generator(z, labels)[:, :3]  # opacity is not looked at

    try:
        found = path_length(
            generate,
            perceptual,
            generator.latent_dim,
            prior=generator.prior,
            labels=torch.tensor(classes)[torch.arange(count) % len(classes)] if classes else None,
            count=count,
            seed=seed,
            device=model.device,
        )
    except ValueError as error:  # pictures too small for the network, or values that are not finite
        raise UsageFault(f"--measure {PATH_LENGTH}", str(error), "Choose another --perceptual network") from error
    details = {key: value for key, value in dataclasses.asdict(found).items() if key not in ("mean", "std")}
    details |= {"spread": found.std, "weights": perceptual.digest}
    return Score(f"PPL-{perceptual.network}", found.mean, "lower", None, details)


def _described(score: Score) -> dict[str, Any]:
    found = dataclasses.asdict(score)
    del found["name"]
    return found


def _part(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else functools.partial(progress, what)
