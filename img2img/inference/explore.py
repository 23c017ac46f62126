"""What a generator has learned, seen from its latents: ways between pictures, mixed styles, noise, sums, neighbours.

Pictures are named by their numbers under a LatentSpace's seed, so that what was seen among samples can be named here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from img2img.data.decode import MAX_PIXELS
from img2img.data.resize import resize, to_tensor
from img2img.data.values import to_uint8
from img2img.draws import Draws
from img2img.errors import UsageFault, unknown_name
from img2img.evaluation.extractors import EXTRACTORS, load_extractor
from img2img.evaluation.features import cache_folder, extract
from img2img.evaluation.image_set import ImageSet, Preparation
from img2img.evaluation.weights import find_weights, network_of
from img2img.inference.latents import Centre, Codes, LatentSpace, Space
from img2img.inference.model import Model
from img2img.inference.styling import read_as_trained
from img2img.metrics.neighbours import nearest
from img2img.metrics.path_length import lerp, slerp

Curve = Literal["slerp", "linear"]
CURVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"slerp": slerp, "linear": lerp}

_MOST_NUMBERS = 1000
_MOST_ROWS = 16
_MOST_PICTURES = 10_000
_DEVIATION_COUNT = 16  # noises that a standard deviation is taken over
_COMPARED_SIDE = 32  # pixels: pictures are compared at this size at most
_AT_ONCE = 64


def parse_numbers(text: str, option: str) -> list[int]:
    """Numbers of pictures: "0,3,5-8" is 0, 3, 5, 6, 7, 8.

    Raises:
        UsageFault: anything else, or more than a thousand.
    """
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,15})(?:-(\d{1,15}))?\s*", part)
        if found is None:
            raise UsageFault(option, f"{text!r} names no pictures", "Give their numbers, such as 0,3,5-8")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UsageFault(option, f"{part.strip()} ends before it begins", f"Use {last}-{first}")
        if last - first + len(numbers) >= _MOST_NUMBERS:
            raise UsageFault(option, f"{text} are too many pictures", f"Name up to {_MOST_NUMBERS}")
        numbers += range(first, last + 1)
    return numbers


# --- from picture to picture -----------------------------------------------------------------------------------------


def interpolate(
    space: LatentSpace,
    numbers: Sequence[int],
    steps: int,
    *,
    within: Space | None = None,
    curve: Curve | None = None,
    closed: bool = False,
    across_classes: bool = False,
) -> list[list[np.ndarray]]:
    """Frames on the way from picture to picture, for each class of the space in turn, or one way without classes.

    Every `steps`-th frame is one of the pictures. What is random beside the latent stays that of the first picture, so
    that only the latent moves.

    Args:
        numbers: of at least two pictures.
        steps: frames from one picture to the next.
        within: where the way lies; None is w where there are styles. After a way in z, its w are truncated.
        curve: None is "slerp", the great circle, for z of N(0, 1), whose straight lines lead through lengths no latent
            has (White 2016, arXiv:1609.04468), and "linear" for w and uniform z.
        closed: lead on from the last picture to the first, which does not come a second time.
        across_classes: one way instead, with the pictures of the classes in turn; in w, since a class is no point of z.

    Raises:
        UsageFault: w where there are no styles, one picture, or more classes than fit.
    """
    within = choose_space(space, "w" if across_classes and within is None else within)
    if len(numbers) < 2:
        raise UsageFault("--pictures", "one picture leads nowhere", "Name at least two, such as 0,1")
    if across_classes and within == "z":
        raise UsageFault("--across-classes", "a class is no point of z", "Use --space w")
    if across_classes and len(space.classes) < 2:
        raise UsageFault("--across-classes", "there is one class or none", "Give --class twice, or leave it out")
    ways: list[int | None] = list(dict.fromkeys(space.classes)) or [None]
    if across_classes:
        ways = [None]
    if len(ways) > _MOST_ROWS:
        raise UsageFault("--class", f"{len(ways)} classes are too many ways at once", f"Name up to {_MOST_ROWS}")
    _check_amount("--steps", len(ways) * len(numbers) * steps)
    way = CURVES[curve or ("slerp" if within == "z" and space.generator.prior == "normal" else "linear")]
    z = space.latents(numbers)
    sequences = []
    for label in ways:
        labels = space.labels(range(len(numbers))) if across_classes else space.labelled(label, len(numbers))
        points = z if within == "z" else space.encode(z, labels, None).values
        frames = _along(points, steps, way, closed=closed)
        draws = space.draws([numbers[0]] * len(frames))
        if within == "z":
            codes = space.encode(frames, space.labelled(label, len(frames)), draws)
        else:
            codes = Codes(frames, None, draws)
        sequences.append(list(space.pixels(codes)))
    return sequences


def _along(points: Tensor, steps: int, curve: Callable[[Tensor, Tensor, Tensor], Tensor], *, closed: bool) -> Tensor:
    """Points (K, d) and `steps` - 1 places between each two that follow each other: (frames, d)."""
    # on the CPU in float64: great circles lose digits where both ends are near
    ends = points.cpu().double()
    places = (torch.arange(steps, dtype=torch.float64) / steps)[:, None]
    goals = ends.roll(-1, dims=0)
    count = len(ends) if closed else len(ends) - 1
    frames = [curve(ends[k].expand(steps, -1), goals[k].expand(steps, -1), places) for k in range(count)]
    if not closed:
        frames.append(ends[-1:])
    return torch.cat(frames).to(points.device, points.dtype)


def rows_of(frames: Sequence[np.ndarray], steps: int) -> list[Sequence[np.ndarray]]:
    """The frames of an open way in rows, each from one picture to the next with both."""
    return [frames[first : first + steps + 1] for first in range(0, len(frames) - 1, steps)]


# --- styles and noise ------------------------------------------------------------------------------------------------


def mix(
    space: LatentSpace, rows: Sequence[int], columns: Sequence[int], styles: Sequence[int] | None = None
) -> list[list[np.ndarray]]:
    """Style mixing (Karras et al. 2019, arXiv:1812.04948, section 3.1) as a table of pictures.

    The first row and the first column show the sources; every other picture has the styles with the numbers `styles`
    from its row's source and the rest, with the noise, from its column's. Early styles are coarse: pose and shape.

    Args:
        styles: None is the first four, or half of them where they are fewer than eight.

    Raises:
        UsageFault: there are no styles, or not so many.
    """
    count = space.styles.num_styles
    chosen = list(range(max(1, min(4, count // 2)))) if styles is None else list(styles)
    if max(chosen) >= count:
        raise UsageFault("--styles", f"there is no style {max(chosen)}", f"Its {count} styles are 0 to {count - 1}")
    _check_amount("--rows", len(rows) * len(columns))
    of_rows, of_columns = space.codes(rows), space.codes(columns)
    layered = of_columns.values[:, None].expand(-1, count, -1)
    corner = None
    table = []
    for index, source in enumerate(space.pixels(of_rows)):
        mixed = layered.clone()
        mixed[:, chosen] = of_rows.values[index]
        table.append([source, *space.pixels(Codes(mixed, None, of_columns.draws))])
        corner = np.full_like(source, 255)
    assert corner is not None, "there is a row"
    return [[corner, *space.pixels(of_columns)], *table]


@dataclass(frozen=True)
class Variation:
    """What noise does to pictures.

    Attributes:
        rows: for each picture: without noise, and under several noises; all with one latent.
        deviations: for each picture (H, W, 1) uint8, the standard deviation of each pixel over noises; the largest of
            all is white.
        largest: that, in levels of 255.
    """

    rows: list[list[np.ndarray]]
    deviations: list[np.ndarray]
    largest: float


def variation(space: LatentSpace, numbers: Sequence[int], noises: int = 3) -> Variation:
    """The same latents under several noises (Karras et al. 2019, section 3.2).

    Raises:
        UsageFault: nothing is random in the generator beside its latent.
    """
    rows, spreads = [], []
    for number in numbers:
        code = space.codes([number])
        quiet = next(space.pixels(Codes(code.values, code.labels, None)))
        count = max(noises, _DEVIATION_COUNT)
        # keyed by the picture and the noise's number
        draws = Draws(space.seed, f"variation/{number}", torch.arange(count, device=code.values.device))
        labels = None if code.labels is None else code.labels.expand(count)
        codes = Codes(code.values.expand(count, *code.values.shape[1:]), labels, draws)
        noisy = torch.cat(list(space.images(codes)))
        spreads.append((noisy * 127.5).std(dim=0, correction=0).mean(dim=0))
        rows.append([quiet, *map(to_uint8, noisy[:noises])])
    largest = max(spread.max().item() for spread in spreads)
    # rounding alone moves a pixel by far less than a hundredth of a level
    if largest < 0.01:
        raise UsageFault(
            space.model.path,
            "nothing is random in its pictures but the latent",
            "Use a generator with noise inputs, such as a StyleGAN's; --seed shows other latents",
        )
    deviations = [(255 * spread / largest).round().to(torch.uint8)[..., None].numpy() for spread in spreads]
    return Variation(rows, deviations, largest)


# --- sums ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """One term of an expression: the average of pictures, added (+1) or taken away (−1)."""

    sign: int
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"{'+' if self.sign > 0 else '-'} {','.join(map(str, self.numbers))}"


def parse_expression(text: str) -> list[Term]:
    """ "1,2,3 - 4,5 + 6" as terms; commas average, a minus takes away.

    Raises:
        UsageFault: anything else.
    """
    number = r"\d{1,15}"
    group = rf"{number}(?:\s*,\s*{number})*"
    if re.fullmatch(rf"\s*[+-]?\s*{group}(?:\s*[+-]\s*{group})*\s*", text) is None:
        raise UsageFault("--expr", f"{text!r} is no sum of pictures", "Write it as '1,2,3 - 4,5 + 6'")
    found = re.findall(rf"([+-]?)\s*({group})", text)
    return [Term(-1 if sign == "-" else 1, tuple(map(int, group.split(",")))) for sign, group in found]


def arithmetic(space: LatentSpace, terms: Sequence[Term], within: Space | None = None) -> list[tuple[str, np.ndarray]]:
    """A sum of averaged latents (Radford et al. 2016, arXiv:1511.06434, section 6.3.2): its terms, and its result.

    The paper averages three pictures a term, since single ones give unstable sums. Its z are uniform; the result is
    brought back into the cube here. An average of n latents of N(0, 1) is shorter than each of them by about √n, so
    averages are shown, and the result is made, at the mean length of all latents that are named. w is neither scaled
    nor cut off. What is random beside the latent is that of the first picture.

    Args:
        within: None is w where there are styles.

    Raises:
        UsageFault: w where there are no styles; z of pictures of several classes.
    """
    within = choose_space(space, within)
    if within == "z" and len(set(space.classes)) > 1:
        name = space.model.info.classes[space.classes[0]]
        raise UsageFault("--class", "latents z of several classes do not add up", f"Name one, such as --class {name}")

    def average(numbers: Sequence[int]) -> Tensor:
        points = space.latents(numbers) if within == "z" else space.codes(numbers).values
        return points.mean(dim=0)

    averages = [average(term.numbers) for term in terms]
    result = torch.stack([term.sign * mean for term, mean in zip(terms, averages)]).sum(dim=0)
    points = torch.stack([*averages, result])
    draws = space.draws([terms[0].numbers[0]] * len(points))
    if within == "w":
        codes = Codes(points, None, draws)
    else:
        label = space.classes[0] if space.classes else None
        named = space.latents([number for term in terms for number in term.numbers])
        codes = space.encode(_typical(points, named, space.generator.prior), space.labelled(label, len(points)), draws)
    texts = [*(term.text for term in terms), "="]
    return list(zip(texts, space.pixels(codes)))


def _typical(z: Tensor, latents: Tensor, prior: str) -> Tensor:
    """Sums z (N, d) of latents (n, d) where the prior has them: as long as those are, or in its cube."""
    if prior == "uniform":
        return z.clamp(-1, 1)
    length = torch.linalg.vector_norm(latents, dim=1).mean()
    return z * (length / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(1e-12))


# --- fidelity against variety ----------------------------------------------------------------------------------------


def truncations(
    space: LatentSpace, numbers: Sequence[int], values: Sequence[float], centre: Centre | None = None
) -> list[list[np.ndarray]]:
    """The same pictures under each truncation: a row for each picture, a column for each value.

    Raises:
        UsageFault: a value that is no truncation of this generator.
    """
    _check_amount("--values", len(numbers) * len(values))
    # all are looked at before the first is used
    cuts = [
        LatentSpace(space.model, seed=space.seed, label=space.classes or None, truncation=value, centre=centre)
        for value in values
    ]
    columns = [list(cut.pixels(cut.codes(numbers))) for cut in cuts]
    return [list(row) for row in zip(*columns)]


# --- nearest training pictures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """A sample and what lies nearest to it.

    Attributes:
        number, label: of the sample.
        pixels: the sample.
        names, distances, pictures: of its nearest pictures, nearest first.
    """

    number: int
    label: int | None
    pixels: np.ndarray
    names: list[str]
    distances: list[float]
    pictures: list[np.ndarray]


def preparation_for(space: LatentSpace, *, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False) -> Preparation:
    """How real pictures are brought to a model's size, as for its training; for the rest see decode.open_image."""
    info = space.model.info
    channels = 1 if info.channels["image"] == 1 else 3
    return Preparation(info.resolution, info.fit, channels, max_pixels, allow_truncated)


def find_neighbours(
    space: LatentSpace,
    numbers: Sequence[int],
    real: ImageSet,
    k: int,
    *,
    extractor: str | None = None,
    weights: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Neighbours]:
    """The k pictures of `real`, prepared as preparation_for says, nearest to each sample.

    Args:
        extractor, weights: of the network whose features are compared, as for evaluate; without both it is pixels.
        progress: called with (pictures of `real` looked at, all of them).

    Raises:
        UsageFault: `real` has fewer than k pictures; the network or its weights are not here.
    """
    if k > len(real):
        raise UsageFault("-k", f"{real.subject} has {len(real)} pictures, not {k}", f"Use -k {len(real)} or less")
    codes = space.codes(numbers)
    labels: list[int | None] = [None] * len(numbers) if codes.labels is None else codes.labels.tolist()
    samples = list(space.pixels(codes))
    channels = 1 if samples[0].shape[2] == 1 else 3
    stacked = torch.stack([to_tensor(pixels)[:channels] for pixels in samples])
    if extractor is None and weights is None:
        features, of_real = pixel_features(stacked), _pixel_features_of(real, progress)
    else:
        features, of_real = _seen_features(stacked, real, extractor, weights, space.model.device, progress)
    distances, indices = nearest(features, of_real, k)
    wanted = sorted(set(indices.flatten().tolist()))
    pictures = {
        index: np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        for index, picture in zip(wanted, real.read(wanted))
    }
    return [
        Neighbours(
            number,
            label,
            pixels[..., :channels],
            [real.names[index] for index in row],
            near,
            [pictures[index] for index in row],
        )
        for number, label, pixels, near, row in zip(numbers, labels, samples, distances.tolist(), indices.tolist())
    ]


def pixel_features(pictures: Tensor) -> Tensor:
    """(N, C, H, W) uint8 to (N, d), whose distances are root mean squares of levels at 32 pixels a side at most."""
    height, width = pictures.shape[2:]
    factor = min(1.0, _COMPARED_SIDE / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = resize(pictures, size).flatten(1).float()
    return small / small.shape[1] ** 0.5


def _pixel_features_of(real: ImageSet, progress: Callable[[int, int], None] | None = None) -> Tensor:
    """pixel_features of a whole set; its pictures are of one size."""
    parts: list[Tensor] = [torch.empty(0)] * len(real)
    done = 0
    for indices, pictures in real.batches(range(len(real)), _AT_ONCE):
        for index, features in zip(indices, pixel_features(pictures)):
            parts[index] = features
        done += len(indices)
        if progress is not None:
            progress(done, len(real))
    return torch.stack(parts)


def _seen_features(
    samples: Tensor,
    real: ImageSet,
    name: str | None,
    weights: Path | None,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> tuple[Tensor, Tensor]:
    """What a network sees in the samples and in the real pictures."""
    if name is None:
        assert weights is not None, "one of both is given"
        name = network_of(weights)
    elif weights is None and name in EXTRACTORS:
        weights = find_weights(name)
    network = load_extractor(name, weights or Path(), device=device)
    features = extract(real, network, cache=cache_folder(), progress=progress).values
    if features is None:
        raise UsageFault(real.subject, "holds more pictures than their features fit into memory", "Give fewer")
    return network(samples).features, features


# --- styles of translators -------------------------------------------------------------------------------------------


def restyle(
    model: Model, sources: Sequence[Path], references: Sequence[Path], label: str | int | None = None
) -> list[list[np.ndarray]]:
    """The sources in the style of each reference, a table of pictures (H, W, C) of the size the model was trained at.

    Its first row are the sources, its first column the references; their corner is white.

    Args:
        label: class of all references; None is that of each one's folder.

    Raises:
        UsageFault: as Model.with_style. ImageFault: a picture cannot be used.
    """
    styled = [model.with_style(label, reference=reference) for reference in references]
    pictures, shown = (
        [np.ascontiguousarray(read_as_trained(path, model.info).permute(1, 2, 0).numpy()) for path in paths]
        for paths in (sources, references)
    )
    rows = [[np.full_like(pictures[0], 255), *pictures]]
    for own, reference in zip(styled, shown):
        rows.append([reference, *(np.asarray(own.translate(picture)) for picture in pictures)])
    return rows


def _check_amount(option: str, count: int) -> None:
    """Refuse more pictures than memory and eyes take."""
    if count > _MOST_PICTURES:
        raise UsageFault(option, f"asks for {count} pictures", f"Stay within {_MOST_PICTURES}")


def choose_space(space: LatentSpace, name: Space | None) -> Space:
    """The space that is meant by `name`; None is w where there is one.

    Raises:
        UsageFault: w, and there is none.
    """
    if name not in (None, "z", "w"):
        raise unknown_name("--space", name, ("z", "w"))
    if name == "w":
        _ = space.styles
    return name or ("w" if space.has_styles else "z")
