"""How evenly a generator moves through its latent space: perceptual path length (Karras et al. 2019, arXiv:1812.04948).

    E[ distance(G(z(t)), G(z(t + ε))) / ε² ]

over pairs of latents and places t on the path z between them. A low value says that nothing appears or disappears all
at once on the way. It is lowest for a generator that makes one picture only, so it is of use only beside a measure of
variety, and compares only generators of one resolution, under one distance.

ε = 1e-4 is small against float32, so the path is followed in float64 and only its points are rounded. What remains is
rounding inside a float32 generator and a float32 network: measured on a DCGAN with a perceptual distance, 2e-5 of a
length of 90, 8e-5 of one of 8, and 2 % of one of 0.06, since rounding adds about 1e-3 of its own. A larger ε would be
worse: 1e-3 takes 1 % off the length of 90, and 1e-2 takes 12 %. TF32 would round ε away, and is off meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from img2img.devices import whole_float32
from img2img.draws import Draws

Generate = Callable[[Tensor, Tensor | None], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
Sampling = Literal["full", "end"]


@dataclass(frozen=True)
class PathLength:
    """Perceptual path length, and what it depends on.

    Attributes:
        mean, std: over the paths that were kept; std as of a population.
        count: paths that were drawn.
        discarded: how many of them, the shortest and the longest, were left out.
        epsilon, sampling: as in path_length.
        space: "z", the prior's, or "w", where a mapping leads.
    """

    mean: float
    std: float
    count: int
    discarded: int
    epsilon: float
    sampling: Sampling
    space: Literal["z", "w"]


@whole_float32()
@torch.inference_mode()
def path_length(
    generate: Generate,
    distance: Distance,
    latent_dim: int,
    *,
    prior: Literal["normal", "uniform"] = "normal",
    mapping: Callable[[Tensor], Tensor] | None = None,
    labels: Tensor | None = None,
    count: int = 10_000,
    sampling: Sampling = "full",
    epsilon: float = 1e-4,
    discard: float = 0.01,
    seed: int = 0,
    batch: int = 16,
    device: torch.device | str = "cpu",
) -> PathLength:
    """The perceptual path length of a generator.

    Normal latents are joined by slerp, since the middle of a straight line is shorter than any latent the generator has
    seen; uniform ones, and those that went through a mapping, by a straight line.

    Args:
        generate: (N, latent_dim) float32 latents, and their labels if there are any, to pictures (N, C, H, W); the same
            pictures for the same latents.
        distance: pictures twice to (N,), growing as the square of a small change: LPIPS, or squared differences.
        prior: N(0, 1) or even in [-1, 1).
        mapping: takes latents to a space of its own, where the path then lies and from where `generate` starts.
        labels: (count,) int64, the class of each path.
        sampling: t even in [0, 1), or "end" for t = 0.
        epsilon: step along the path.
        discard: share left out at either end, as in the authors' code.
        seed: of latents and places.
        batch: paths at a time; the result does not depend on it, but for rounding.
        device: where `mapping` and `generate` take their latents.

    Raises:
        ValueError: a distance that is not finite.
    """
    interpolate = lerp if mapping is not None or prior == "uniform" else slerp
    lengths = []
    for numbers in torch.arange(count).split(batch):
        draws = Draws(seed, "path length", numbers)
        ends = [_draw(draws.stream(end), latent_dim, prior) for end in ("from", "to")]
        first, second = (end if mapping is None else mapping(end.to(device)).cpu() for end in ends)
        place = draws.stream("place").uniform(1).double()
        if sampling == "end":
            place.zero_()
        points = [interpolate(first.double(), second.double(), t) for t in (place, place + epsilon)]
        classes = None if labels is None else labels[numbers].to(device)
        # one call each, so that a picture and its neighbour stand at the same place of equal batches
        near, far = (generate(point.to(device, torch.float32), classes) for point in points)
        lengths.append(distance(near, far).double().cpu() / epsilon**2)
    kept = _trimmed(torch.cat(lengths), discard)
    return PathLength(
        mean=kept.mean().item(),
        std=kept.std(correction=0).item(),
        count=count,
        discarded=count - len(kept),
        epsilon=epsilon,
        sampling=sampling,
        space="z" if mapping is None else "w",
    )


def lerp(first: Tensor, second: Tensor, t: Tensor) -> Tensor:
    """The point at `t` (N, 1) of the straight line: (N, d) twice -> (N, d)."""
    return first + t * (second - first)


def slerp(first: Tensor, second: Tensor, t: Tensor) -> Tensor:
    """The point at `t` (N, 1) of the arc: (N, d) twice -> (N, d).

    The direction turns evenly along the great circle (Shoemake 1985), the length changes evenly. In one dimension,
    where there is no circle, it leads through zero to the other side.
    """
    start_length, goal_length = (torch.linalg.vector_norm(end, dim=1, keepdim=True) for end in (first, second))
    start, goal = first / start_length, second / goal_length
    cosine = (start * goal).sum(dim=1, keepdim=True)
    across = goal - cosine * start
    sine = torch.linalg.vector_norm(across, dim=1, keepdim=True)
    angle = t * torch.atan2(sine, cosine)
    direction = torch.cos(angle) * start + torch.sin(angle) * across / sine.clamp_min(1e-300)
    return lerp(start_length, goal_length, t) * direction


def _draw(draws: Draws, latent_dim: int, prior: str) -> Tensor:
    return draws.uniform(latent_dim) * 2 - 1 if prior == "uniform" else draws.normal(latent_dim)


def _trimmed(values: Tensor, share: float) -> Tensor:
    """Without the `share` of smallest and the `share` of largest."""
    if not values.isfinite().all():
        raise ValueError(f"the distance of {int((~values.isfinite()).sum())} pairs of pictures is not finite")
    left_out = math.floor(share * (len(values) - 1))
    return values.sort().values[left_out : len(values) - left_out]
