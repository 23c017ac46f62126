"""Measures during training: what the averaged generators make, against pictures that training reads.

Nothing here changes what is learned. Which pictures are compared, from which noise, follows from keys of their own; the
generators run without gradients and in the mode in which they are deployed.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from img2img.config import Config
from img2img.data.sources import TIMEOUT, Source
from img2img.data.threads import map_in_threads
from img2img.data.values import reduce_depth, to_float, to_uint8
from img2img.draws import Draws, permutation
from img2img.errors import Fault, UsageFault, suggestion, unknown_name
from img2img.evaluation.extractors import EXTRACTORS, Extractor, load_extractor
from img2img.evaluation.features import Features, cache_folder, extract
from img2img.evaluation.image_set import ImageSet, digest_of
from img2img.evaluation.measures import MEASURES, Comparison, Score, measure
from img2img.evaluation.weights import find_weights
from img2img.networks.growing import enlarge
from img2img.networks.layers import draw_latents
from img2img.training.prepare import Prepared
from img2img.translators import TRANSLATORS

Report = Callable[[int, int], None]

# Scores of a measure that has several, none of which stands for it
SEVERAL = {"prdc": ("precision", "recall", "density", "coverage")}
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 8, 64


# --- what a configuration asks for -----------------------------------------------------------------------------------


def measure_names(config: Config) -> list[str]:
    """The names in eval.measures."""
    return list(dict.fromkeys(name.strip() for name in config.eval.measures.split(",") if name.strip()))


def check(config: Config) -> list[Fault]:
    """What is wrong with the keys of `eval`, as far as it shows before data and weights are looked for."""
    kind = TRANSLATORS.get(config.translator)
    names = measure_names(config)
    faults: list[Fault] = []
    if config.train.eval_kimg and kind is not None and kind.task == "points":
        problem = "measures pictures, and points of a toy world are none"
        faults.append(UsageFault("train.eval_kimg", problem, "Set train.eval_kimg=0"))
    if not names:
        faults.append(UsageFault("eval.measures", "names nothing", f"Name some of {', '.join(MEASURES)}"))
    faults += [unknown_name("eval.measures", name, MEASURES) for name in names if name not in MEASURES]
    if faults:
        return faults
    if config.eval.extractor not in EXTRACTORS:
        faults.append(unknown_name("eval.extractor", config.eval.extractor, EXTRACTORS))
    else:
        faults += _unfit_extractor(config, names)
    for name in names:
        if MEASURES[name].needs == "labels" and kind is not None and kind.source != "classes":
            problem = f"{name} needs classes, and {config.translator} has none"
            faults.append(UsageFault("eval.measures", problem, "Leave it out"))
    faults += _unfit_best(config.eval.best, names)
    if config.train.eval_kimg and not faults:
        try:
            _find_weights(config)
        except UsageFault as fault:
            faults.append(fault)
    return faults


def _unfit_extractor(config: Config, names: Sequence[str]) -> Iterator[Fault]:
    spec = EXTRACTORS[config.eval.extractor]
    if config.eval.resize not in ("", *spec.resizes):
        problem = f"{spec.name} does not know {config.eval.resize!r}"
        yield UsageFault("eval.resize", problem, suggestion(config.eval.resize, spec.resizes))
    for name in names:
        if MEASURES[name].needs == "logits" and not spec.has_logits:
            problem = f"{name} needs class scores, which {spec.name} does not give"
            yield UsageFault("eval.measures", problem, "Leave it out, or choose another eval.extractor")


def _unfit_best(best: str, names: Sequence[str]) -> Iterator[Fault]:
    chosen = best or names[0]
    known = [score for name in names for score in SEVERAL.get(name, (name,))]
    if chosen in SEVERAL and chosen in names:
        scores = SEVERAL[chosen]
        yield UsageFault("eval.best", f"{chosen} is {len(scores)} scores", f"Name one of {', '.join(scores)}")
    elif chosen not in known:
        yield UsageFault("eval.best", f"{chosen!r} is not among what is measured", suggestion(chosen, known))


def _find_weights(config: Config) -> Path:
    """The extractor's weights file."""
    if config.eval.weights:
        path = Path(config.eval.weights)
        if not path.is_file():
            raise UsageFault("eval.weights", f"there is no file {path}", "Check the path")
        return path
    try:
        return find_weights(config.eval.extractor)
    except UsageFault as fault:
        mend = f"{fault.mend}; or set eval.weights to a .safetensors file, or train.eval_kimg=0"
        raise UsageFault("eval.weights", f"{fault.subject}: {fault.problem}", mend) from fault


def _load_extractor(config: Config, device: torch.device) -> Extractor:
    weights = _find_weights(config)
    try:
        return load_extractor(config.eval.extractor, weights, config.eval.resize or None, device)
    except UsageFault as fault:
        raise UsageFault("eval.weights", f"{fault.subject}: {fault.problem}", fault.mend) from fault


# --- the pictures ----------------------------------------------------------------------------------------------------


class ChosenPictures(ImageSet):
    """Some of the pictures that training reads, as it sees them but for chance: uncropped at random, never mirrored.

    Which ones depends on the data alone, so that runs with other seeds are compared with the same.

    Args:
        domain: "image", "a" or "b".
        count: how many, at most as many as there are.
        resolution: (height, width) of the middle that is cut out of each.
    """

    def __init__(self, source: Source, domain: str, count: int, resolution: tuple[int, int], workers: int) -> None:
        lane = source.lane_of(domain)
        # by lane, so that of pairs both halves are the same ones
        chosen = permutation(0, f"eval/{lane}", 0, source.count(domain))[:count]
        self._source, self.domain, self._resolution, self._workers = source, domain, resolution, workers
        self.chosen = [int(index) for index in chosen]
        self.subject = source.names[domain]
        self.names = [str(index) for index in self.chosen]
        if source.labels is not None:
            self.labels = [source.classes[source.label(index)] for index in self.chosen]
        self.sizes = {resolution: len(self.chosen)}
        facts = [
            source.fingerprint,
            source.direction,
            domain,
            source.fit,
            source.size,
            source.channels[domain],
            resolution,
            self.chosen,
            *(["16 bits"] if torch.uint16 in source.lanes[lane].dtypes else []),
        ]
        self.identity = digest_of(facts)
        self.source = {"kind": "training pictures", "name": self.subject, "sha256": self.identity}

    def read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        for pixels in self.read_whole(indices):
            yield reduce_depth(pixels[:3])

    def read_whole(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """As `read`, with opacity where there is any, and all bits of grey."""
        height, width = self._resolution
        top, left = (self._source.size[0] - height) // 2, (self._source.size[1] - width) // 2
        whole = map_in_threads(
            lambda index: self._source.read(self.domain, self.chosen[index]),
            indices,
            workers=self._workers,
            timeout=TIMEOUT,
            subject=lambda index: f"picture {self.chosen[index]} of {self.subject}",
        )
        for pixels in whole:
            yield pixels[:, top : top + height, left : left + width]


class MadePictures(ImageSet):
    """What a generator makes now. A picture depends neither on how many are wanted nor on which process makes it."""

    identity = ""  # never kept: the generator changes

    def __init__(self, network: nn.Module, like: ChosenPictures, prepared: Prepared) -> None:
        train = prepared.config.train
        self._network, self._seed, self._precision = network, train.seed, prepared.precision
        self._at_once = min(_MOST_AT_ONCE, max(_FEWEST_AT_ONCE, train.batch // train.accumulate))
        self.subject = "what the generator makes"
        self.names = [str(number) for number in range(len(like))]
        self.labels, self.sizes = like.labels, like.sizes
        self.source = {"kind": "made in training"}

    @abstractmethod
    def make(self, numbers: range) -> Tensor:
        """Pictures `numbers`, (N, C, H, W) in [−1, 1]."""

    def read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        wanted = set(indices)
        for first in sorted({index - index % self._at_once for index in indices}):
            numbers = range(first, min(first + self._at_once, len(self)))
            with torch.inference_mode(), self._precision.context():
                images = self.make(numbers).float().cpu()
            for number, image in zip(numbers, images):
                if number in wanted:
                    # a generator that has gone wrong scores badly, it does not end the run
                    yield torch.from_numpy(to_uint8(image.nan_to_num(0.0))).permute(2, 0, 1)[:3]


class Samples(MadePictures):
    """New pictures from noise that stays the same throughout the run, of the classes of the real ones."""

    def __init__(self, network: nn.Module, like: ChosenPictures, prepared: Prepared) -> None:
        super().__init__(network, like, prepared)
        classes = prepared.source.classes
        self._resolution = prepared.config.data.resolution
        self._labels = None if self.labels is None else torch.tensor([classes.index(name) for name in self.labels])

    def make(self, numbers: range) -> Tensor:
        device = self._precision.device
        z, draws = (
            Draws(self._seed, f"eval/{what}", torch.tensor(numbers, device=device)) for what in ("z", "generator")
        )
        labels = None if self._labels is None else self._labels[numbers.start : numbers.stop].to(device)
        images: Tensor = self._network(draw_latents(self._network, z).to(self._precision.dtype), labels, draws)
        return enlarge(images, self._resolution)


class Translations(MadePictures):
    """Pictures of the other domain, translated."""

    def __init__(self, network: nn.Module, inputs: ChosenPictures, prepared: Prepared) -> None:
        super().__init__(network, inputs, prepared)
        self._inputs, self._engine, self._resolution = inputs, prepared.engine, prepared.config.data.resolution

    def make(self, numbers: range) -> Tensor:
        device = self._precision.device
        pixels = torch.stack(list(self._inputs.read_whole(numbers))).to(device)
        draws = None
        if getattr(self._network, "dropout_at_test", False):
            # number 0 for every picture, as in use
            draws = Draws(self._seed, "dropout", torch.zeros(len(pixels), dtype=torch.int64, device=device))
        images = self._engine.shrunk(self._inputs.domain, to_float(pixels, self._precision.dtype))
        return enlarge(self._network(images, draws), self._resolution)


class Restyled(MadePictures):
    """Pictures translated into the class of the next one, from noise that stays the same throughout the run."""

    def __init__(self, networks: Mapping[str, nn.Module], inputs: ChosenPictures, prepared: Prepared) -> None:
        super().__init__(networks["generator"], inputs, prepared)
        assert inputs.labels is not None, "check refuses data without classes"
        classes = prepared.source.classes
        self.labels = [*inputs.labels[1:], *inputs.labels[:1]]
        self._mapping, self._inputs = networks["generator_mapping"], inputs
        self._targets = torch.tensor([classes.index(name) for name in self.labels])

    def make(self, numbers: range) -> Tensor:
        device, dtype = self._precision.device, self._precision.dtype
        pixels = torch.stack(list(self._inputs.read_whole(numbers))).to(device)
        draws = Draws(self._seed, "eval/z", torch.tensor(numbers, device=device))
        targets = self._targets[numbers.start : numbers.stop].to(device)
        styles = self._mapping(draw_latents(self._mapping, draws).to(dtype), targets)
        images: Tensor = self._network(to_float(pixels, dtype), styles)
        return images


# --- an evaluation ---------------------------------------------------------------------------------------------------


class _Side:
    """One comparison: what one generator makes, and the real pictures of its kind."""

    def __init__(self, suffix: str, real: ChosenPictures, fake: MadePictures) -> None:
        self.suffix, self.real, self.fake = suffix, real, fake
        self.seen: Features | None = None  # of the real ones


def _sides(prepared: Prepared) -> list[_Side]:
    config, source, translator = prepared.config, prepared.source, prepared.engine.translator
    assert isinstance(source, Source), "check refuses points"
    networks = prepared.engine.ema.networks

    def choose(domain: str) -> ChosenPictures:
        return ChosenPictures(source, domain, config.eval.count, config.data.resolution, config.data.workers)

    if translator.task == "sample":
        real = choose("image")
        return [_Side("", real, Samples(networks["generator"], real, prepared))]
    if translator.source == "classes":
        real = choose("image")
        return [_Side("", real, Restyled(networks, real, prepared))]
    several = len(translator.directions) > 1
    return [
        _Side(
            f" {direction}" if several else "",
            choose(direction[-1]),
            Translations(networks[name], choose(direction[0]), prepared),
        )
        for direction, name in translator.directions.items()
    ]


class Evaluation:
    """What train.eval_kimg asks for: the averaged generators' pictures measured against real ones.

    Attributes:
        decisive: name of the score by which the best model is chosen; of several directions, their mean.
        better: which way it is better, "lower" or "higher".
        ruler: what is measured with what.

    Raises:
        UsageFault: no weights, or too few pictures for a measure.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._names = measure_names(prepared.config)
        self._extractor = _load_extractor(prepared.config, prepared.precision.device)
        self._sides = _sides(prepared)
        for side in self._sides:
            for images in (side.real, side.fake):
                if len(images) < 2:
                    problem = f"{images.subject} has 1 picture, and a measure needs at least two"
                    raise UsageFault("train.eval_kimg", problem, "Add pictures, or set train.eval_kimg=0")
        began = time.perf_counter()
        deciding = [self._measure_noise(side) for side in self._sides]
        self._measuring = time.perf_counter() - began
        self.decisive, self.better = deciding[0].name, deciding[0].better
        self.ruler = {
            "score": self.decisive,
            "extractor": self._extractor.spec.name,
            "weights": self._extractor.digest,
            "resize": self._extractor.resize,
            "pictures": [side.real.identity for side in self._sides],
        }

    @property
    def count(self) -> int:
        """Pictures that each evaluation makes."""
        return sum(len(side.fake) for side in self._sides)

    def look_at_real(self, report: Report) -> None:
        """Extract the features of the real pictures, or take them from the cache."""
        for side in self._sides:
            if side.seen is None:
                side.seen = self._look(side.real, cache_folder(), report)

    def measure(self, report: Report) -> list[Score]:
        """The scores of what the generators make now, in the first process; nothing in the others.

        Args:
            report: called with (pictures looked at, pictures in all) now and then.
        """
        self.look_at_real(report)
        scores: list[Score] = []
        done = 0
        world = self._prepared.world
        for side in self._sides:

            def report_part(part: int, _: int, before: int = done) -> None:
                report(min(self.count, before + part * world.size), self.count)

            fake = self._look(side.fake, None, report_part)
            done += len(side.fake)
            if world.is_first:
                assert side.seen is not None, "seen above"
                scores += self._scores(side, side.seen, fake)
        return scores

    def value(self, scores: Sequence[Score]) -> float:
        """The deciding score, the mean of the directions."""
        names = [self.decisive + side.suffix for side in self._sides]
        return math.fsum(score.value for score in scores if score.name in names) / len(names)

    def seconds(self) -> float:
        """About how long an evaluation takes, from some of its pictures and from measures of noise."""
        total = self._measuring
        for side in self._sides:
            few = range(min(len(side.fake), 2 * _FEWEST_AT_ONCE))
            for _ in range(2):  # the first time memory is laid out
                began = time.perf_counter()
                for _, pictures in side.fake.batches(few, len(few)):
                    self._extractor(pictures)
            total += (time.perf_counter() - began) * len(side.fake) / len(few)
        return total

    def _look(self, images: ImageSet, cache: Path | None, report: Report) -> Features:
        return extract(images, self._extractor, cache=cache, world=self._prepared.world, progress=report)

    def _scores(self, side: _Side, real: Features, fake: Features) -> list[Score]:
        scores = measure(self._names, Comparison(real, fake, self._extractor.spec))
        return [Score(f"{score.name}{side.suffix}", score.value, score.better) for score in scores]

    def _measure_noise(self, side: _Side) -> Score:
        """The score that decides, of noise in place of features: refuses measures for which there are too few."""
        generator = torch.Generator().manual_seed(0)

        def noise(images: ImageSet) -> Features:
            shape = len(images), self._extractor.spec.feature_dim
            values, logits = (torch.randn(shape, generator=generator) for _ in range(2))
            return Features(len(images), values, logits, images.names, images.labels)

        sets = Comparison(noise(side.real), noise(side.fake), self._extractor.spec)
        best = self._prepared.config.eval.best or self._names[0]
        deciding = None
        for name in self._names:
            try:
                scores = measure([name], sets)
            except UsageFault as fault:
                mend = f"Raise eval.count, add pictures, or leave {name} out of eval.measures"
                raise UsageFault("eval.measures", f"{name}: {fault.problem}", mend) from fault
            if best in (name, *SEVERAL.get(name, ())):
                deciding = scores[SEVERAL[name].index(best)] if name in SEVERAL else scores[0]
        assert deciding is not None, "check refuses another"
        return deciding
