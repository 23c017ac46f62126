"""Measures of pictures that belong together: a translation beside its target, an input beside its output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from img2img.data.values import to_float
from img2img.errors import UsageFault
from img2img.evaluation.image_set import ImageSet
from img2img.evaluation.measures import Better, Score
from img2img.evaluation.perceptual import Perceptual
from img2img.metrics.paired import ms_ssim, psnr, ssim

Distance = Callable[[Tensor, Tensor], Tensor]
_NUM_NAMES_SHOWN = 5


@dataclass(frozen=True)
class PairMeasure:
    """A measure of two pictures: (N, C, H, W) twice, floats in [−1, 1], to (N,)."""

    compute: Distance
    better: Better
    help: str


PAIR_MEASURES: dict[str, PairMeasure] = {
    "psnr": PairMeasure(psnr, "higher", "peak signal-to-noise ratio of pairs, in decibels"),
    "ssim": PairMeasure(ssim, "higher", "structural similarity of pairs"),
    "ms_ssim": PairMeasure(ms_ssim, "higher", "structural similarity of pairs over five scales"),
}
_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}
PAIR_NAMES = frozenset(_NAMES.values())


def match_names(real: ImageSet, fake: ImageSet) -> list[tuple[int, int]]:
    """(place in real, place in fake) of pictures of one name, in the order of their names.

    Raises:
        UsageFault: a picture has no partner, or two have one name.
    """
    of_real, of_fake = ({name: index for index, name in enumerate(side.names)} for side in (real, fake))
    for side, found in ((real, of_real), (fake, of_fake)):
        if len(found) < len(side):
            raise UsageFault(side.subject, "two of its pictures share a name but for the suffix", "Rename one of them")
    lonely = [
        f"{len(alone)} only in {side.subject} ({', '.join(alone[:_NUM_NAMES_SHOWN])})"
        for side, alone in ((real, sorted(set(of_real) - set(of_fake))), (fake, sorted(set(of_fake) - set(of_real))))
        if alone
    ]
    if lonely:
        raise UsageFault(
            "pairs", f"pictures without a partner of their name: {'; '.join(lonely)}", "Add or remove these"
        )
    return [(of_real[name], of_fake[name]) for name in sorted(of_real)]


def compare_pairs(
    names: Sequence[str],
    real: ImageSet,
    fake: ImageSet,
    pairs: Sequence[tuple[int, int]],
    perceptual: Perceptual | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """The means of pair measures, and of a perceptual distance if one is given.

    Raises:
        UsageFault: a pair's pictures differ in size, or are too small for a measure.
    """
    measures = {_NAMES[name]: (PAIR_MEASURES[name].compute, PAIR_MEASURES[name].better) for name in names}
    if perceptual is not None:
        measures[perceptual.name] = (perceptual, "lower")
    values: dict[str, list[float]] = {name: [] for name in measures}
    of_real, of_fake = real.read([pair[0] for pair in pairs]), fake.read([pair[1] for pair in pairs])
    for number, (one, other) in enumerate(zip(of_real, of_fake, strict=True)):
        if one.shape != other.shape:
            raise UsageFault(
                real.names[pairs[number][0]],
                f"is {one.shape[2]} × {one.shape[1]} in {real.subject} and {other.shape[2]} × {other.shape[1]} "
                f"in {fake.subject}",
                "Bring both to one size by --resolution",
            )
        a, b = to_float(one)[None], to_float(other)[None]
        for name, (compute, _) in measures.items():
            try:
                values[name].append(float(compute(a, b)))
            except ValueError as error:
                raise UsageFault(
                    real.names[pairs[number][0]], f"{name}: {error}", "Leave this measure out, or use --resolution"
                ) from error
        if progress is not None:
            progress(number + 1, len(pairs))
    weights = {} if perceptual is None else {perceptual.name: {"weights": perceptual.digest}}
    return [_mean(name, values[name], better, weights.get(name, {})) for name, (_, better) in measures.items()]


def _mean(name: str, values: Sequence[float], better: Better, choices: Mapping[str, str]) -> Score:
    """The mean, and beside an infinite one (of equal pictures) the mean of the finite ones."""
    finite = [value for value in values if math.isfinite(value)]
    details: dict[str, float | int | str] = {"pairs": len(values), **choices}
    if len(finite) > 1:
        details["std"] = float(torch.tensor(finite, dtype=torch.float64).std())
    if len(finite) < len(values):
        details |= {"equal_pairs": len(values) - len(finite)}
        if finite:
            details["mean_of_others"] = math.fsum(finite) / len(finite)
    return Score(name, math.fsum(values) / len(values), better, None, details)
