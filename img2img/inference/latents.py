"""Latent codes of a model that makes samples: drawn, truncated, and turned into pictures.

A picture is known by its seed and its number. Its latent z, and what else is random in it, are functions of these two
alone, so number 7 is the same picture in a folder of samples, in an interpolation and in a row of neighbours. The codes
of a generator with styles (networks/__init__.py) are its w, those of any other generator its z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor

from img2img.data.values import to_uint8
from img2img.draws import Draws
from img2img.errors import Fault, UsageFault
from img2img.networks.layers import draw_latents
from img2img.networks.mixture import GeneratorMixture
from img2img.networks.styles import HasStyles

if TYPE_CHECKING:
    from img2img.inference.model import Label, Model

Centre = Literal["class", "global"]
Space = Literal["z", "w"]

# Codes are turned into pictures this many at a time. Samples always come by whole batches of aligned numbers, so that a
# picture does not depend on how many are wanted.
AT_ONCE = 16
# Latents whose mean w is the centre of truncation: their mean is off by a ninetieth of w's spread
_CENTRE_COUNT = 8192
_MAPPED_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Codes:
    """What pictures are made of, a row each.

    Attributes:
        values: z (N, latent_dim); of a generator with styles w (N, w_dim) or (N, num_styles, w_dim).
        labels: (N,) int64, or None without classes. Beside w they only say what the pictures show.
        draws: of what else is random in the pictures; None leaves that out.
    """

    values: Tensor
    labels: Tensor | None
    draws: Draws | None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Codes:
        draws = self.draws
        return Codes(
            self.values[rows],
            None if self.labels is None else self.labels[rows],
            None if draws is None else Draws(draws.seed, draws.name, draws.numbers[rows]),
        )


class LatentSpace:
    """The latents of a sampling model under one seed, its classes in turn, and one truncation.

    Args:
        label: class name or index, or several, taken in turn by the pictures' numbers; None takes all in turn.
        truncation: of a generator with styles ψ in (0, 1]: w becomes centre + ψ·(w − centre) (Karras et al. 2019,
            arXiv:1812.04948). Of any other a threshold above 0, see truncate_latents. None: the whole prior.
        centre: where styles contract to: the mean w of the picture's own class, or of all. None is "class" where there
            are classes.

    Raises:
        UsageFault: the model makes no samples, does not know a class, or a truncation that is none of its kind.
    """

    def __init__(
        self,
        model: Model,
        *,
        seed: int = 0,
        label: Label | Sequence[Label] | None = None,
        truncation: float | None = None,
        centre: Centre | None = None,
    ) -> None:
        self.model = model
        self.seed = seed
        self.generator = model.generator()
        self.has_styles = isinstance(self.generator, HasStyles)
        self.classes = model.class_indices(label)
        self.truncation = truncation
        _check_truncation(model, self.has_styles, truncation, centre)
        self.centre: Centre = centre or ("class" if model.info.classes else "global")

    @property
    def styles(self) -> HasStyles:
        """The generator, if it has styles.

        Raises:
            UsageFault: it has none.
        """
        if not self.has_styles:
            raise UsageFault(
                self.model.path,
                "its generator has no styles, and so no w",
                "Use interpolate, arithmetic, truncation or neighbours, which work in its z",
            )
        return cast(HasStyles, self.generator)

    # --- codes ---

    def codes(self, numbers: Sequence[int]) -> Codes:
        """Of the samples with these numbers."""
        return self.encode(self.latents(numbers), self.labels(numbers), self.draws(numbers))

    def latents(self, numbers: Sequence[int]) -> Tensor:
        """z (N, latent_dim); truncated where there are no styles."""
        z = draw_latents(self.generator, Draws(self.seed, "sample/z", self._tensor(numbers)))
        if self.truncation is None or self.has_styles:
            return z
        cut = truncate_latents(z, self.truncation, self.generator.prior)
        if isinstance(self.generator, GeneratorMixture):
            cut[:, 0] = z[:, 0]  # it says which generator is meant: truncated, the outer ones would never be
        return cut

    def labels(self, numbers: Sequence[int]) -> Tensor | None:
        """(N,) int64: the classes in turn."""
        if not self.classes:
            return None
        return torch.tensor([self.classes[number % len(self.classes)] for number in numbers], device=self.model.device)

    def labelled(self, label: int | None, count: int) -> Tensor | None:
        """(count,) int64: one class for all rows; None without."""
        return None if label is None else torch.full((count,), label, device=self.model.device)

    def draws(self, numbers: Sequence[int]) -> Draws:
        """What is random in the pictures with these numbers beside their latents."""
        return Draws(self.seed, "sample/generator", self._tensor(numbers))

    def encode(self, z: Tensor, labels: Tensor | None, draws: Draws | None) -> Codes:
        """Codes of latents: w, truncated, where there are styles."""
        if not self.has_styles:
            return Codes(z, labels, draws)
        with torch.inference_mode():
            w = self.styles.map(z, labels).float()
        return Codes(w if self.truncation is None else self.contract(w, labels, self.truncation), labels, draws)

    def contract(self, w: Tensor, labels: Tensor | None, psi: float) -> Tensor:
        """w (N, w_dim) to centre + ψ·(w − centre); ψ = 1 leaves it as it is, to the bit."""
        if psi == 1:
            return w
        centres = self.centres(labels, len(w))
        return centres + psi * (w - centres)

    def centres(self, labels: Tensor | None, count: int) -> Tensor:
        """The centre for each of `count` rows, (count, w_dim)."""
        by_class = self.centre == "class" and labels is not None
        wanted = labels.tolist() if by_class and labels is not None else [None] * count
        return torch.stack([self._centre(label) for label in wanted])

    def _centre(self, label: int | None) -> Tensor:
        known = self.model.style_centres
        if label not in known:
            known[label] = self._mean_style(label)
        return known[label]

    def _mean_style(self, label: int | None) -> Tensor:
        """The mean of w over latents that are always the same, of one class or of all in turn."""
        num_classes = len(self.model.info.classes)
        total = torch.zeros(self.styles.w_dim, dtype=torch.float64)
        for numbers in torch.arange(_CENTRE_COUNT, device=self.model.device).split(_MAPPED_AT_ONCE):
            labels = None
            if num_classes:
                labels = numbers % num_classes if label is None else torch.full_like(numbers, label)
            with torch.inference_mode():
                w = self.styles.map(draw_latents(self.generator, Draws(0, "centre", numbers)), labels)
            total += w.cpu().double().sum(dim=0)
        return (total / _CENTRE_COUNT).to(self.model.device, torch.float32)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int64, device=self.model.device)

    # --- pictures ---

    def synthesize(self, codes: Codes) -> Tensor:
        """Floats (N, C, H, W), all at once and on the model's device; gradients pass where they are wanted."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.model.precision == "bfloat16"):
            if self.has_styles:
                return self.styles.synthesize(codes.values, codes.draws).float()
            return self.generator(codes.values, codes.labels, codes.draws).float()

    def images(self, codes: Codes) -> Iterator[Tensor]:
        """Floats (n, C, H, W) on the CPU, a few pictures at a time.

        Raises:
            Fault: one of their values is not a number.
        """
        for first in range(0, len(codes), AT_ONCE):
            with torch.inference_mode():
                images = self.synthesize(codes[first : first + AT_ONCE]).cpu()
            if not bool(images.isfinite().all()):
                raise Fault(
                    self.model.path, "it made values that are not numbers", "Use --precision float32 or another model"
                )
            yield images

    def pixels(self, codes: Codes) -> Iterator[np.ndarray]:
        """(H, W, C) uint8, one after the other.

        Raises:
            Fault: as images.
        """
        for images in self.images(codes):
            yield from map(to_uint8, images)


def truncate_latents(z: Tensor, threshold: float, prior: str) -> Tensor:
    """Latents of the prior within ±threshold, each from its latent of the whole prior: same shape, sign and order.

    BigGAN (Brock et al. 2019, arXiv:1809.11096, section 3.1) draws each coordinate anew until it is within. The same
    distribution comes without a loop: F(|z|), with F the distribution function of |z|, is even in [0, 1), so
    F⁻¹(F(|z|)·F(threshold)) is distributed as |z| is below the threshold. F(x) is erf(x/√2) for N(0, 1), and x, at most
    1, for a uniform prior. So the latent moves continuously with the threshold, and a large one leaves it where it is.
    """
    if prior == "uniform":
        return z * min(threshold, 1.0)
    root = math.sqrt(0.5)
    # float32 would lose the tail, where F is within 1e-11 of 1
    share = torch.erf(z.cpu().double() * root) * math.erf(threshold * root)
    return (torch.erfinv(share) / root).to(z.device, z.dtype)


def _check_truncation(model: Model, has_styles: bool, truncation: float | None, centre: Centre | None) -> None:
    if centre is not None:
        if truncation is None:
            raise UsageFault("--centre", "is of a truncation, and none is asked for", "Add --truncation 0.7")
        if not has_styles:
            raise UsageFault("--centre", f"{model.path} has no styles, so its z is cut off around 0", "Leave it out")
        if centre == "class" and not model.info.classes:
            raise UsageFault("--centre", f"{model.path} knows no classes", "Leave it out")
    if truncation is None:
        return
    if has_styles and not 0 < truncation <= 1:
        raise UsageFault(
            "--truncation",
            f"{truncation:g} is no ψ: w shrinks to that share of its distance from the centre",
            "Give a number above 0, at most 1, such as 0.7",
        )
    if not 0 < truncation < math.inf:
        raise UsageFault(
            "--truncation",
            f"{truncation:g} is no threshold for z",
            "Give a number above 0, such as 0.5 (2 cuts little)",
        )
