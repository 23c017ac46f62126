"""The measures that `img2img evaluate` knows, by name: each makes one or more scores out of what was extracted once.

A new measure over features is a function here, an entry in MEASURES and a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from img2img.errors import UsageFault, unknown_name
from img2img.evaluation.extractors import ExtractorSpec
from img2img.evaluation.features import Features
from img2img.metrics.frechet import frechet_distance, frechet_distance_of, frechet_infinity, frechet_per_class
from img2img.metrics.inception_score import inception_score
from img2img.metrics.intervals import FEWEST, Interval, frechet_interval, kernel_interval
from img2img.metrics.kernel_distance import kernel_distance
from img2img.metrics.manifold import prdc
from img2img.metrics.neighbours import memorisation

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes:
        name: what it is called, with the extractor where it is not the one the name stands for.
        value: the number.
        better: which way is better.
        interval: where the true value lies, if that was asked for.
        details: counts and choices that the number depends on, and its parts.
        counts_matter: it can be compared only with what was taken of as many pictures.
    """

    name: str
    value: float
    better: Better
    interval: Interval | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    counts_matter: bool = True


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sets as one extractor sees them, real first, and the choices that measures share."""

    real: Features
    fake: Features
    extractor: ExtractorSpec
    seed: int = 0
    resamples: int = 0

    @property
    def has_intervals(self) -> bool:
        """Whether intervals are asked for, and there are pictures enough for any."""
        counts = (self.real.count, self.fake.count)
        return self.resamples > 0 and all(count is not None and count >= FEWEST for count in counts)

    def called(self, name: str) -> str:
        """`name` as it may be called with this extractor: KID is of Inception alone."""
        if self.extractor.distance_name == "FID":
            return name
        return f"{name}-{self.extractor.distance_name.removeprefix('FD-')}"


@dataclass(frozen=True)
class Measure:
    """A measure over features.

    Attributes:
        compute: its scores.
        needs: "moments", "values", "logits" or "labels": what it cannot do without.
        help: one line.
    """

    compute: Callable[[Comparison], list[Score]]
    needs: Literal["moments", "values", "logits", "labels"]
    help: str


def _frechet(sets: Comparison) -> list[Score]:
    real, fake, interval = sets.real, sets.fake, None
    if real.values is not None and fake.values is not None:
        value = frechet_distance_of(real.values, fake.values)
        if sets.has_intervals:
            interval = frechet_interval(real.values, fake.values, resamples=sets.resamples, seed=sets.seed)
    else:
        value = frechet_distance(real.gaussian, fake.gaussian)
    return [Score(sets.extractor.distance_name, value, "lower", interval)]


def _frechet_infinity(sets: Comparison) -> list[Score]:
    real, fake = _values(sets)
    found = frechet_infinity(real, fake, seed=sets.seed)
    details = {"slope": found.slope, "sizes": list(found.sizes), "values": list(found.values)}
    return [Score(f"{sets.extractor.distance_name}∞", found.value, "lower", None, details, counts_matter=False)]


def _frechet_per_class(sets: Comparison) -> list[Score]:
    real, fake = _values(sets)
    assert sets.real.labels is not None, "asked for by needs"
    assert sets.fake.labels is not None, "asked for by needs"
    found = frechet_per_class(real, sets.real.labels, fake, sets.fake.labels)
    name = f"intra-class {sets.extractor.distance_name}"
    return [Score(name, found.mean, "lower", None, {"classes": dict(found.distances)})]


def _kernel(sets: Comparison) -> list[Score]:
    real, fake = _values(sets)
    found = kernel_distance(real, fake, seed=sets.seed)
    interval = None
    if sets.has_intervals:
        interval = kernel_interval(real, fake, resamples=sets.resamples, seed=sets.seed)
    is_whole = found.subset_size == len(real) == len(fake)
    details = {
        **({} if is_whole else {"std": found.std}),  # every subset is then the same set
        "subsets": found.subsets,
        "subset_size": found.subset_size,
        "whole_sets": found.unbiased,
    }
    return [Score(sets.called("KID"), found.value, "lower", interval, details, counts_matter=False)]


def _inception(sets: Comparison) -> list[Score]:
    assert sets.fake.logits is not None, "asked for by needs"
    found = inception_score(sets.fake.logits, seed=sets.seed)
    return [Score(sets.called("IS"), found.mean, "higher", None, {"std": found.std, "splits": found.splits})]


def _prdc(sets: Comparison) -> list[Score]:
    real, fake = _values(sets)
    found = prdc(real, fake)
    return [
        Score(sets.called("precision"), found.precision, "higher", None, {"k": found.pr_k}),
        Score(sets.called("recall"), found.recall, "higher", None, {"k": found.pr_k}),
        Score(sets.called("density"), found.density, "higher", None, {"k": found.dc_k}),
        Score(sets.called("coverage"), found.coverage, "higher", None, {"k": found.dc_k}),
    ]


def _memorisation(sets: Comparison) -> list[Score]:
    real, fake = _values(sets)
    found = memorisation(real, fake)
    nearest = torch.argsort(found.distances)[:10].tolist()
    details = {
        "expected": found.expected_share,
        "copies": int(found.copies),
        "z": found.z,
        "nearest": [
            {
                "fake": sets.fake.names[index],
                "real": sets.real.names[int(found.indices[index])],
                "distance": float(found.distances[index]),
            }
            for index in nearest
        ],
    }
    return [Score(sets.called("memorised"), found.share, "lower", None, details)]


MEASURES: dict[str, Measure] = {
    "fd": Measure(_frechet, "moments", "Fréchet distance; FID with inception-2015"),
    "kid": Measure(_kernel, "values", "kernel distance: unbiased at any count"),
    "prdc": Measure(_prdc, "values", "precision, recall, density, coverage"),
    "is": Measure(_inception, "logits", "Inception Score of FAKE alone"),
    "fd_infinity": Measure(_frechet_infinity, "values", "Fréchet distance carried on to infinitely many pictures"),
    "fd_per_class": Measure(_frechet_per_class, "labels", "Fréchet distance of each class, and their mean"),
    "memorisation": Measure(_memorisation, "values", "share of FAKE nearer to a training picture than is usual"),
}
DEFAULT_MEASURES = ("fd", "kid", "prdc")


def check_measures(names: Sequence[str], real: Features, fake: Features, extractor: ExtractorSpec) -> None:
    """Refuse measures that cannot be had of these sets.

    Raises:
        UsageFault: naming the measure and what is missing.
    """
    for name in names:
        if name not in MEASURES:
            raise unknown_name("--measure", name, MEASURES)
        needs = MEASURES[name].needs
        if needs == "logits" and fake.logits is None:
            raise UsageFault(
                "--measure", f"{name} needs class scores, which {extractor.name} does not give here", "Leave it out"
            )
        for side, features in (("REAL", real), ("FAKE", fake)):
            if needs in ("values", "labels") and features.values is None:
                raise UsageFault(
                    "--measure",
                    f"{name} needs the features of {side}, of which only mean and covariance are known",
                    "Use --measure fd, or give the pictures",
                )
            if needs == "labels" and features.labels is None:
                raise UsageFault(
                    "--measure",
                    f"{name} needs classes, and {side} has none",
                    "Give a folder of class folders, or a model of classes",
                )


def measure(names: Sequence[str], sets: Comparison) -> list[Score]:
    """The scores of these measures, in their order.

    Raises:
        UsageFault: too few pictures for a measure.
    """
    scores: list[Score] = []
    for name in names:
        try:
            scores += MEASURES[name].compute(sets)
        except ValueError as error:  # the mathematics says what is too few
            raise UsageFault(f"--measure {name}", str(error), "Give more pictures, or leave it out") from error
    return scores


def _values(sets: Comparison) -> tuple[Tensor, Tensor]:
    assert sets.real.values is not None, "asked for by needs"
    assert sets.fake.values is not None, "asked for by needs"
    return sets.real.values, sets.fake.values
