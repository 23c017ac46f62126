"""The latent whose picture is nearest to a given one, found by descending through the generator; latents as files.

After Karras et al. 2020 (StyleGAN2, arXiv:1912.04958), appendix D, which projects into w: from the mean w, by Adam,
with noise on w that fades, under a perceptual distance. What is random in pictures beside w is left out here, where the
paper optimises it too, so that a projection is of the latent alone. Without styles z is sought, from the nearest of
many samples, and kept where the prior has its latents.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from img2img.atomic import write_bytes
from img2img.checkpoint import read_header
from img2img.data.decode import Picture
from img2img.data.resize import fit_to, to_tensor
from img2img.data.values import to_float, to_uint8
from img2img.draws import Draws
from img2img.errors import Fault, UsageFault, unknown_name
from img2img.evaluation.perceptual import LIN_WEIGHTS, NETWORKS, Perceptual, load_perceptual
from img2img.evaluation.weights import find_weights, network_of, weights_path
from img2img.inference.latents import AT_ONCE, Codes, LatentSpace
from img2img.inference.model import Label, Model, to_pil

ProjectionSpace = Literal["z", "w", "w+"]

_log = logging.getLogger(__name__)
_METADATA_KEY = "img2img_latent"
_FORMAT = 1
# The schedule of the paper's appendix D, as shares of the steps
_LARGEST_RATE = 0.1
_RATE_RISES, _RATE_FALLS = 0.05, 0.25
_NOISE, _NOISE_ENDS = 0.05, 0.75
NUM_CANDIDATES = 128  # samples that are looked at first
_FIRST_CANDIDATE = 1 << 40  # none that anybody makes, so that a sample of this seed is projected like any picture
_NUM_STARTS = 4  # of z, whose landscape has more pits than w's
_SMALLEST_SIDE = 8  # pixels: pictures are compared at halved sizes down to this
_LARGEST_SEEN = 256  # pixels of a side that the perceptual network sees, as in the paper
_NUM_FRAMES = 60
# of the standard normal: 99 lengths of z in a hundred lie between the 0.5 % and the 99.5 % quantile
_QUANTILE = 2.5758


@dataclass(frozen=True, eq=False)
class Latent:
    """What one picture is made of.

    Attributes:
        space: "z", "w" or, with a w for each style, "w+".
        values: (latent_dim,), (w_dim,) or (num_styles, w_dim) float32 on the CPU.
        label: the index of the class, or None without classes.
        model: digest of the model it belongs to.
    """

    space: ProjectionSpace
    values: Tensor
    label: int | None
    model: str


@dataclass(frozen=True, eq=False)
class Projection:
    """What came of a projection.

    Attributes:
        latent: where the picture lies.
        pixels, target: the projected picture and the given one at the model's size, (H, W, C) uint8.
        distance: the root mean square of their difference, in levels of 255.
        sample_distance: the same of the nearest of many samples.
        perceptual: the perceptual distance, or None where no network looked.
        frames: how it came about, from the first step to the last.
    """

    latent: Latent
    pixels: np.ndarray
    target: np.ndarray
    distance: float
    sample_distance: float
    perceptual: float | None
    frames: list[np.ndarray]

    @property
    def image(self) -> Image.Image:
        """The projected picture."""
        return to_pil(self.pixels[..., :3], self.pixels[..., 3] if self.pixels.shape[2] == 4 else None)


# --- projecting ------------------------------------------------------------------------------------------------------


def prepare_target(model: Model, picture: Picture, subject: object) -> Tensor:
    """A decoded picture as the model's own training would see it, (C, H, W) uint8.

    Raises:
        UsageFault: the model makes no samples.
    """
    model.generator()
    info = model.info
    pixels = to_tensor(np.ascontiguousarray(picture.as_channels(info.channels["image"])))
    if tuple(pixels.shape[1:]) != tuple(info.resolution):
        how = "cropped and resized" if info.fit == "crop" else "stretched"
        height, width = info.resolution
        _log.info("note: %s: %d × %d is %s to %d × %d", subject, picture.width, picture.height, how, width, height)
    return fit_to(pixels, info.resolution, info.fit)


def open_distance(network: str | None, weights: Path | None, device: torch.device) -> Perceptual | None:
    """The perceptual distance of a network: by its name, by a file of its weights, or by both; None for neither.

    Raises:
        UsageFault: an unknown network; weights that are not here or do not fit.
    """
    if network is None and weights is None:
        return None
    if network is None:
        assert weights is not None, "one of both is given"
        network = network_of(weights)
    if network not in NETWORKS:
        raise unknown_name("--perceptual", network, NETWORKS)
    lin = weights_path(LIN_WEIGHTS[network]) if network in LIN_WEIGHTS else None
    return load_perceptual(
        network, weights or find_weights(network), lin if lin is not None and lin.is_file() else None, device
    )


class Projector:
    """A search for the latent of `model` whose picture is nearest to `target`, with all that can be refused refused.

    Args:
        target: (C, H, W) uint8 of the model's size, see prepare_target.
        space: None is "w" for a generator with styles; "w+" comes nearer to pictures that the generator would not make,
            with latents that mean less. Any other generator has "z".
        label: the class; None is that of the sample which is nearest at first.
        seed: of the samples looked at first, and of the noise on w.
        perceptual: distance that is added to that of pixels at several scales.

    Raises:
        UsageFault: the model makes no samples, has no such space or class; pictures too small for the network.
    """

    def __init__(
        self,
        model: Model,
        target: Tensor,
        *,
        space: ProjectionSpace | None = None,
        label: Label | None = None,
        seed: int = 0,
        perceptual: Perceptual | None = None,
    ) -> None:
        self.latents = LatentSpace(model, seed=seed, label=label)
        spaces: tuple[ProjectionSpace, ...] = ("w", "w+") if self.latents.has_styles else ("z",)
        self.space = space or spaces[0]
        if self.space not in spaces:
            raise UsageFault("--space", f"{model.path} is not projected into {space}", f"Use {' or '.join(spaces)}")
        self._goal = to_float(target)[None].to(model.device)
        self._compare = _Distance(self._goal, perceptual)

    def run(self, steps: int = 500, progress: Callable[[int, int], None] | None = None) -> Projection:
        """Descend.

        Args:
            steps: the paper takes a thousand.
            progress: called with (steps done, steps).

        Raises:
            Fault: the descent left the numbers.
        """
        latents, compare = self.latents, self._compare
        candidates, losses = _candidates(latents, compare)
        nearest = int(losses.argmin())
        sample = next(latents.pixels(candidates[nearest : nearest + 1]))
        search = (_StyleSearch if latents.has_styles else _LatentSearch)(latents, candidates, losses, self.space)
        frames = _descend(latents, search, compare, steps, progress)
        final = search.codes()
        with torch.no_grad():
            best = int(compare(latents.synthesize(final)).argmin())
            image = latents.synthesize(final[best : best + 1])
            far = None if compare.network is None else float(compare.perceptual(image.clamp(-1, 1))[0])
        pixels, wanted = to_uint8(image[0].cpu()), to_uint8(self._goal[0].cpu())
        found = Latent(
            self.space,
            final.values[best].detach().float().cpu().clone(),
            None if final.labels is None else int(final.labels[best]),
            latents.model.digest,
        )
        return Projection(found, pixels, wanted, _rms(pixels, wanted), _rms(sample, wanted), far, [*frames, pixels])


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


class _Distance:
    """The distance of pictures (N, C, H, W) from the goal (1, C, H, W): (N,).

    The mean squared difference at full size and at each halved size, averaged over sizes: coarse ones lead where fine
    ones do not yet overlap. A perceptual distance is added.

    The StyleGANs make values beyond [-1, 1], which are shown as its ends. So they count as the end where the goal is
    there too; elsewhere they count as they are, for a value that is clipped has no gradient to bring it back.
    """

    def __init__(self, goal: Tensor, perceptual: Perceptual | None) -> None:
        self._most = torch.where(goal >= 1, 1.0, math.inf)
        self._least = torch.where(goal <= -1, -1.0, -math.inf)
        self._goals = self._sizes(goal)
        self.network = perceptual
        if perceptual is not None:
            self._seen = self._shown(goal)
            try:
                with torch.no_grad():
                    perceptual.features(self._seen)
            except ValueError as error:
                raise UsageFault("--perceptual", str(error), "Leave --perceptual and --weights out") from error

    def __call__(self, images: Tensor) -> Tensor:
        images = images.clamp(self._least, self._most)
        pairs = zip(self._sizes(images), self._goals)
        distances = torch.stack([(image - goal).square().mean(dim=(1, 2, 3)) for image, goal in pairs]).mean(dim=0)
        return distances if self.network is None else distances + self.perceptual(images)

    def perceptual(self, images: Tensor) -> Tensor:
        assert self.network is not None, "a network looks"
        shown = self._shown(images)
        return self.network.distance(shown, self._seen.expand_as(shown)).to(images.device)

    @staticmethod
    def _shown(images: Tensor) -> Tensor:
        images = images[:, :3]  # opacity is not looked at
        factor = min(1.0, _LARGEST_SEEN / max(images.shape[2:]))
        size = [round(side * factor) for side in images.shape[2:]]
        return images if factor == 1 else F.interpolate(images, size, mode="area")

    @staticmethod
    def _sizes(images: Tensor) -> list[Tensor]:
        sizes = [images]
        while min(sizes[-1].shape[2:]) >= 2 * _SMALLEST_SIDE:
            sizes.append(F.avg_pool2d(sizes[-1], 2))
        return sizes


def _candidates(latents: LatentSpace, compare: _Distance) -> tuple[Codes, Tensor]:
    """Samples without noise, and how far they are (N,)."""
    codes = latents.codes(range(_FIRST_CANDIDATE, _FIRST_CANDIDATE + NUM_CANDIDATES))
    codes = Codes(codes.values, codes.labels, None)
    with torch.inference_mode():
        losses = [
            compare(latents.synthesize(codes[first : first + AT_ONCE])) for first in range(0, len(codes), AT_ONCE)
        ]
    # outside inference mode, so that a descent may begin from them
    return Codes(codes.values.clone(), codes.labels, None), torch.cat(losses).clone()


class _StyleSearch:
    """w = centre + spread · u, from u = 0: the rate and the noise are then in units of w's own spread."""

    def __init__(self, latents: LatentSpace, candidates: Codes, losses: Tensor, space: ProjectionSpace) -> None:
        labels = candidates.labels
        self._labels = None if labels is None else labels[losses.argmin()][None]
        self._seed = latents.seed
        self._centre = latents.centres(self._labels, 1).clone()
        self._spread = (candidates.values - latents.centres(labels, len(candidates))).square().mean().sqrt().clone()
        self._dim = self._centre.shape[1]
        shape = (1, latents.styles.num_styles, self._dim) if space == "w+" else (1, self._dim)
        self.values = torch.zeros(shape, device=self._centre.device, requires_grad=True)

    def codes(self, done: float = 1.0) -> Codes:
        """Codes for the share `done` of the steps, and with its noise: 0.05 σ t², σ the root of E‖w − centre‖²."""
        u = self.values
        fading = max(0.0, 1 - done / _NOISE_ENDS)
        if fading > 0:
            number = torch.tensor([round(done * 2**32)], device=u.device)
            noise = Draws(self._seed, "projection", number).normal(*u.shape[1:])
            u = u + noise * (_NOISE * math.sqrt(self._dim) * fading**2)
        centre = self._centre if u.ndim == 2 else self._centre[:, None]
        return Codes(centre + self._spread * u, self._labels, None)

    def keep_to_prior(self) -> None:
        """w has no prior to be kept to."""


class _LatentSearch:
    """z from the nearest candidates."""

    def __init__(self, latents: LatentSpace, candidates: Codes, losses: Tensor, space: ProjectionSpace) -> None:
        nearest = losses.argsort()[:_NUM_STARTS]
        self._labels = None if candidates.labels is None else candidates.labels[nearest]
        self._prior = latents.generator.prior
        self.values = candidates.values[nearest].clone().requires_grad_()

    def codes(self, done: float = 1.0) -> Codes:
        return Codes(self.values, self._labels, None)

    @torch.no_grad()
    def keep_to_prior(self) -> None:
        """Into the cube of a uniform prior; to lengths that 99 in a hundred of normal latents have."""
        if self._prior == "uniform":
            self.values.clamp_(-1, 1)
            return
        lengths = torch.linalg.vector_norm(self.values, dim=1, keepdim=True).clamp_min(1e-12)
        self.values.mul_(lengths.clamp(*usual_lengths(self.values.shape[1])) / lengths)


def usual_lengths(dim: int) -> tuple[float, float]:
    """Between which 99 in a hundred latents of N(0, 1) in `dim` dimensions have their length.

    By Wilson and Hilferty (1931): (χ²/d)^(1/3) is about N(1 − 2/(9d), 2/(9d)).
    """
    spread = 2 / (9 * dim)
    low, high = (max(0.0, 1 - spread + sign * _QUANTILE * math.sqrt(spread)) for sign in (-1, 1))
    return math.sqrt(dim * low**3), math.sqrt(dim * high**3)


def _descend(
    latents: LatentSpace,
    search: _StyleSearch | _LatentSearch,
    compare: _Distance,
    steps: int,
    progress: Callable[[int, int], None] | None,
) -> list[np.ndarray]:
    """Adam on search.values; the nearest picture every few steps."""
    optimizer = torch.optim.Adam([search.values], betas=(0.9, 0.999))
    every = -(-steps // _NUM_FRAMES)
    frames = []
    for step in range(steps):
        done = (step + 0.5) / steps
        optimizer.param_groups[0]["lr"] = _LARGEST_RATE * rate_at(done)
        images = latents.synthesize(search.codes(done))
        losses = compare(images)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        search.keep_to_prior()
        best = int(losses.argmin())
        if not bool(losses[best].isfinite()):
            raise Fault(latents.model.path, "its pictures left the numbers during the descent", "Use another --seed")
        if step % every == 0:
            frames.append(to_uint8(images[best].detach().cpu()))
        if progress is not None:
            progress(step + 1, steps)
    return frames


def rate_at(done: float) -> float:
    """The share of the largest rate at the share `done` of the steps: a linear rise, and a fall by half a cosine."""
    falling = min(1.0, (1 - done) / _RATE_FALLS)
    return min(1.0, done / _RATE_RISES) * (0.5 - 0.5 * math.cos(math.pi * falling))


# --- latents as files ------------------------------------------------------------------------------------------------


def write_latent(path: str | os.PathLike[str], latent: Latent) -> None:
    """Write a latent as a safetensors file, which says which model it belongs to.

    Raises:
        Fault: it cannot be written.
    """
    facts = {"format": _FORMAT, "space": latent.space, "label": latent.label, "model": latent.model}
    content = safetensors.torch.save({"latent": latent.values.contiguous()}, {_METADATA_KEY: json.dumps(facts)})
    write_bytes(path, content)


def read_latent(path: str | os.PathLike[str], model: Model) -> Latent:
    """Read a latent of `model`.

    Raises:
        UsageFault: no such file, no latent, damaged, or of another model.
    """
    path = Path(path)
    foreign = "Give a latent.safetensors written by img2img project"
    header = read_header(path, foreign)
    try:
        facts = json.loads(header["__metadata__"][_METADATA_KEY])
        values = safetensors.torch.load(path.read_bytes())["latent"].float()
        latent = Latent(facts["space"], values, facts["label"], str(facts["model"]))
        known = facts["format"] == _FORMAT
    except (KeyError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise UsageFault(path, "holds no latent", foreign) from error
    if not known:
        raise UsageFault(path, "is written by another version", "Update img2img-toolkit, or project again")
    if latent.model != model.digest:
        raise UsageFault(path, f"is a latent of another model than {model.path}", "Give its own, or project again")
    space = LatentSpace(model)
    shapes: dict[str, tuple[int, ...]] = {"z": (space.generator.latent_dim,)}
    if space.has_styles:
        shapes = {"w": (space.styles.w_dim,), "w+": (space.styles.num_styles, space.styles.w_dim)}
    classes = range(len(model.info.classes)) if model.info.classes else [None]
    fits = latent.space in shapes and tuple(values.shape) == shapes[latent.space] and latent.label in classes
    if not fits or not bool(values.isfinite().all()):
        raise UsageFault(path, "does not fit its model", "Project again")
    return latent


def picture_of(model: Model, latent: Latent) -> np.ndarray:
    """(H, W, C) uint8: the picture of a latent, without noise, as it was projected."""
    space = LatentSpace(model)
    codes = Codes(latent.values[None].to(model.device), space.labelled(latent.label, 1), None)
    return next(space.pixels(codes))
