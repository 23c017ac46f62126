"""What is only watched: how much the layers of a network can stretch their input, and what translators make of it.

`diagnosis` says which of these numbers tell of a fault.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from img2img.draws import Draws
from img2img.networks.layers import filter_matrices
from img2img.translators.base import Translation

_STEPS = 8
_THUMBNAIL = 16  # pixels along a side
_LONGEST_PERIOD = 8  # pixels; coarser grids cannot be told from what a picture shows
_NOISE = 4 / 255  # in [-1, 1]: two of the 255 steps of a picture
_LOBE = 3  # places of a spectrum over which a window of Hann spreads a frequency
_RING = (2, 6)  # neighbours of a frequency, in places: beyond the first, up to the second


@torch.no_grad()
def largest_singular_value(matrices: Tensor) -> Tensor:
    """The largest singular value of each of (..., m, n), as seen by 8 steps of Golub & Kahan's bidiagonalisation.

    From one fixed start; NaN where a weight is not finite. Never above the true value but for rounding; below it by 4 %
    at most in the recipes' fresh weights, whose values lie close together: nearer than 20 steps of power iteration,
    which take three times as long.
    """
    matrices = matrices.float()
    start = torch.linspace(1.0, 2.0, matrices.shape[-1], device=matrices.device)
    right = functional.normalize(start.expand(*matrices.shape[:-2], -1), dim=-1).unsqueeze(-1)
    left, above = torch.zeros_like(matrices[..., :1]), torch.zeros_like(matrices[..., :1, :1])
    bidiagonal = matrices.new_zeros(*matrices.shape[:-2], _STEPS, _STEPS)
    for step in range(_STEPS):
        left, diagonal = _direction_and_length(matrices @ right - above * left)
        bidiagonal[..., step, step] = diagonal[..., 0, 0]
        if step + 1 < _STEPS:
            right, above = _direction_and_length(matrices.mT @ left - diagonal * right)
            bidiagonal[..., step, step + 1] = above[..., 0, 0]
    finite = bidiagonal.isfinite().all(-1).all(-1)
    # of what is not finite torch takes no singular values
    values = torch.linalg.matrix_norm(bidiagonal.where(finite[..., None, None], 0.0), ord=2)
    return values.where(finite, torch.nan)


def _direction_and_length(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n, 1) -> unit vectors (zero where there is nothing) and lengths (..., 1, 1)."""
    return functional.normalize(vectors, dim=-2), torch.linalg.vector_norm(vectors, dim=-2, keepdim=True)


def largest_of(network: nn.Module) -> dict[str, Tensor]:
    """The largest singular values among the weights of `network` (a convolution's as one filter a row), scalars.

    "spectral_norm" is that of the weights as they are used. Where spectral normalisation holds that at one,
    "raw_spectral_norm" is that of the weights that it divides, whose growth tells of a game that is going wrong
    (Brock et al. 2018, arXiv:1809.11096, section 4).
    """
    was_training = network.training
    network.eval()  # while it trains, even a look at a weight moves the vectors of spectral normalisation
    used = [largest_singular_value(matrix).max() for matrix in filter_matrices(network)]
    network.train(was_training)
    found = {"spectral_norm": torch.stack(used).max() if used else torch.zeros(())}
    raw = [
        largest_singular_value(layer.parametrizations.weight.original.flatten(1))  # type: ignore[operator, union-attr]
        for layer in network.modules()
        if parametrize.is_parametrized(layer, "weight") and isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    return found | ({"raw_spectral_norm": torch.stack(raw).max()} if raw else {})


# --- what translators make ------------------------------------------------------------------------------------------


@torch.no_grad()
def watch_translation(translation: Translation, *, is_paired: bool, stride: int, draws: Draws) -> dict[str, Tensor]:
    """Scalars by name, those that such a translation has: see the functions below.

    Args:
        is_paired: the targets belong to the inputs.
        stride: of the generator, which halves and doubles by it.
        draws: random numbers for each image.
    """
    inputs, outputs, targets = (
        _colours(images) for images in (translation.inputs, translation.outputs, translation.targets)
    )
    found: dict[str, Tensor] = {}
    if inputs is not None and outputs is not None and not is_paired:
        found["colour_correlation"] = colour_correlation(inputs, outputs)
    if outputs is None or targets is None:
        return found
    if inputs is not None:
        found["change"] = relative_change(inputs, outputs, targets if is_paired else targets.roll(1, 0))
    if len(outputs) > 1:
        found["diversity"] = diversity(outputs, targets)
    periods = grid_periods(outputs, stride)
    if periods:
        found["grid"] = grid(outputs, periods)
        found["checkerboard"] = checkerboard(outputs, targets, periods)
    if translation.way_back is not None:
        found["hidden"] = hidden(translation, draws)
    return found


def colour_correlation(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Of each channel of thumbnails, over places and images, then the mean: -1 where outputs are negatives.

    0 where one of the two is plain.
    """
    pairs = [_thumbnails(images).transpose(0, 1).flatten(1) for images in _alike(inputs, outputs)]
    x, y = (values - values.mean(1, keepdim=True) for values in pairs)
    scale = (x.square().sum(1) * y.square().sum(1)).sqrt()
    return ((x * y).sum(1) / scale.clamp_min(1e-12)).mean()


def relative_change(inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean distance from inputs to outputs, relative to that from inputs to targets: 0 where inputs are copied."""
    changes = [(first - second).abs().mean() for first, second in (_alike(inputs, outputs), _alike(inputs, targets))]
    return changes[0] / changes[1].clamp_min(1e-12)


def diversity(outputs: Tensor, targets: Tensor) -> Tensor:
    """How much thumbnails of outputs differ from their mean, relative to those of targets: 0 where all are the same."""
    spreads = [_thumbnails(images).var(0, correction=0).mean().sqrt() for images in (outputs, targets)]
    return spreads[0] / spreads[1].clamp_min(1e-12)


def grid_periods(outputs: Tensor, stride: int) -> list[int]:
    """The periods in pixels, 2 to 8, of the grids that a generator of this stride may leave; those that can be told."""
    fitting = (2, 4, _LONGEST_PERIOD)
    return [period for period in fitting if stride % period == 0 and min(outputs.shape[-2:]) >= 16 * period]


def checkerboard(outputs: Tensor, targets: Tensor, periods: list[int]) -> Tensor:
    """How much outputs have of the frequencies of grids of these periods, relative to targets.

    Of the power spectrum at the multiples of 1 / period, each relative to that of the frequencies around it: the mean
    over those that a period brings, outputs' over targets', of the period with the largest. 1 where outputs have no
    more of a grid than real images (whose files may have one: JPEG's).
    """
    found = [_Spectrum(images, periods) for images in (outputs, targets)]
    of_outputs, of_targets = ([(peak / ring).mean() for peak, ring in spectrum.by_period] for spectrum in found)
    return torch.stack([mine / theirs for mine, theirs in zip(of_outputs, of_targets)]).max()


def grid(outputs: Tensor, periods: list[int]) -> Tensor:
    """Root mean square of the grids of these periods, in steps of a picture's 255; below about 1 nobody sees it."""
    spectrum = _Spectrum(outputs, periods)
    above = torch.stack([(peak - ring).sum() for peak, ring in spectrum.by_period]).sum()
    return 127.5 * (_LOBE**2 * above / spectrum.whole).clamp_min(0).sqrt()


def hidden(translation: Translation, draws: Draws) -> Tensor:
    """By how much noise that nobody sees puts the way back wrong, of the noise: 1 where that only hands it on.

    A cycle is satisfied as well by an output that hides its input in faint texture, which the way back amplifies (Chu
    et al. 2017, arXiv:1712.02950).
    """
    assert translation.way_back is not None, "only a cycle has one"
    outputs = translation.outputs
    noise = _NOISE * draws.stream("hidden").normal(*outputs.shape[1:]).to(outputs.dtype)
    plain, disturbed = (
        (translation.way_back(images).to(outputs.dtype) - translation.inputs).abs().mean()
        for images in (outputs, outputs + noise)
    )
    return (disturbed - plain) / noise.abs().mean()


def _colours(images: Tensor) -> Tensor | None:
    """Grey or RGB without opacity; None of what is no picture, such as a map of labels."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    return images[:, :3] if images.shape[1] in (1, 3, 4) else None


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both with as many channels: grey where one of them is."""
    if first.shape[1] == second.shape[1]:
        return first, second
    return first.mean(1, keepdim=True), second.mean(1, keepdim=True)


def _thumbnails(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return functional.adaptive_avg_pool2d(images, (min(height, _THUMBNAIL), min(width, _THUMBNAIL)))


class _Spectrum:
    """The mean power spectrum of images in grey, at the frequencies of grids.

    Attributes:
        by_period: for each period the power at the frequencies that it brings, which shorter ones have not, and that
            around each of them: the means over _LOBE × _LOBE places and over a ring about them.
        whole: what the power of all frequencies would be if the images were 1 throughout.
    """

    def __init__(self, images: Tensor, periods: list[int]) -> None:
        longest = periods[-1]
        height, width = (side - side % longest for side in images.shape[-2:])
        rows, columns = (torch.hann_window(side, dtype=images.dtype, device=images.device) for side in (height, width))
        window = rows[:, None] * columns
        power = torch.fft.fft2(images.mean(1)[:, :height, :width] * window).abs().square().mean(0)
        self.whole = height * width * window.square().sum()
        near, far = _RING
        sums = [_around(power, reach) for reach in (_LOBE // 2, near, far)]
        places = (slice(None, None, height // longest), slice(None, None, width // longest))
        peak = (sums[0] / _LOBE**2)[places]
        ring = ((sums[2] - sums[1]) / ((2 * far + 1) ** 2 - (2 * near + 1) ** 2))[places].clamp_min(1e-20)
        self.by_period = []
        for period in periods:
            brought = torch.zeros_like(peak, dtype=torch.bool)
            step = longest // period
            brought[::step, ::step] = True
            brought[:: 2 * step, :: 2 * step] = False
            self.by_period.append((peak[brought], ring[brought]))


def _around(power: Tensor, reach: int) -> Tensor:
    """The sum over a square of neighbours of each frequency; frequencies go round."""
    padded = functional.pad(power[None, None], [reach] * 4, mode="circular")
    return functional.avg_pool2d(padded, 2 * reach + 1, stride=1)[0, 0] * (2 * reach + 1) ** 2
