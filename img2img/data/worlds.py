"""Toy worlds: distributions of points in one or two dimensions, drawn as fast as they are trained on.

A point is an "image" of shape (dim, 1, 1) in its own coordinates. Several worlds, or one several times, make the data
of several independent games that are trained as one batched network (its members).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.data.batches import Batch
from img2img.draws import Draws
from img2img.errors import ImageFault, UsageFault, unknown_name

# Between the numbers of one member's images and the next one's; a run has fewer images
MEMBER_STRIDE = 1 << 40
_BATCHES_AHEAD = 16


@dataclass(frozen=True)
class PointWorld(ABC):
    """A distribution of points.

    Attributes:
        name: what people call it.
        extent: (least, greatest) coordinate that a picture shows, on every axis.
        std: of the normal noise on each coordinate; 0 where there is none.
        dim: coordinates of a point, 1 or 2.
        modes: (M, dim) float64 centres of clusters that are equally likely, or None.
    """

    name: str
    extent: tuple[float, float]
    std: float

    @property
    def dim(self) -> int:
        return 2

    @property
    def modes(self) -> Tensor | None:
        return None

    @abstractmethod
    def points(self, draws: Draws) -> Tensor:
        """(N, dim) float32, row i a function of draws.numbers[i] alone."""

    @abstractmethod
    def density(self, points: Tensor) -> Tensor | None:
        """(N, dim) -> (N,) in the points' dtype; None where there is none (a point mass)."""


def _normal_density(squared_distance: Tensor, std: float, dim: int) -> Tensor:
    return (squared_distance / (-2 * std**2)).exp() / (2 * math.pi * std**2) ** (dim / 2)


@dataclass(frozen=True)
class Mixture(PointWorld):
    """Equal parts of N(c, std²) around each of the `centres` c; a point mass where std is 0."""

    centres: tuple[tuple[float, ...], ...]

    @property
    def dim(self) -> int:
        return len(self.centres[0])

    @cached_property
    def modes(self) -> Tensor:
        return torch.tensor(self.centres, dtype=torch.float64)

    def points(self, draws: Draws) -> Tensor:
        centres = self.modes.to(draws.numbers.device, torch.float32)
        which = draws.stream("mode").integers(len(centres))
        return torch.add(centres[which], draws.normal(self.dim), alpha=self.std)

    def density(self, points: Tensor) -> Tensor | None:
        if self.std == 0:
            return None
        offsets = points[:, None] - self.modes.to(points)
        return _normal_density(offsets.square().sum(2), self.std, self.dim).mean(1)


@dataclass(frozen=True)
class SwissRoll(PointWorld):
    """a·(cos a, sin a)·scale and noise, a uniform in [1.5π, 4.5π): a spiral of one and a half turns."""

    scale: float

    def _spiral(self, share: Tensor) -> Tensor:
        """Shares (N,) of the way along the angle -> (N, 2)."""
        angle = math.pi * (1.5 + 3 * share)
        return self.scale * angle[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)

    def points(self, draws: Draws) -> Tensor:
        spiral = self._spiral(draws.stream("angle").uniform(1)[:, 0])
        return torch.add(spiral, draws.normal(2), alpha=self.std)

    def density(self, points: Tensor) -> Tensor:
        """By the midpoint rule along the angle, with steps of less than std."""
        nodes = self._spiral((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).to(points)
        return torch.cat(
            [
                _normal_density(torch.cdist(part, nodes).square(), self.std, 2).mean(1)
                for part in points.split(4096)  # each with all nodes takes tens of megabytes
            ]
        )


@dataclass(frozen=True)
class Halo(PointWorld):
    """z/10 + z/‖z‖ of z ~ N(0, I): a ring that one line of code makes of Gaussian noise.

    The example of Doersch's tutorial on variational autoencoders (2016, arXiv:1606.05908).
    """

    def points(self, draws: Draws) -> Tensor:
        z = draws.normal(2)
        return z / 10 + F.normalize(z, dim=1)

    def density(self, points: Tensor) -> Tensor:
        """The radius r = ‖z‖/10 + 1, where ‖z‖ has the Rayleigh density ρ·exp(−ρ²/2), and every angle is alike."""
        radius = points.norm(dim=1)
        rho = (10 * (radius - 1)).clamp_min(0)
        return 10 * rho * (-rho.square() / 2).exp() / (2 * math.pi * radius.clamp_min(1))


def _on_circle(count: int) -> tuple[tuple[float, ...], ...]:
    return tuple((math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)) for k in range(count))


def shifted(shift: float, std: float = 0.25) -> PointWorld:
    """N(shift, std²) on the line: two of them differ by a shift alone, and far apart they hardly overlap."""
    reach = 4 * std
    return Mixture(f"shifted by {shift:g}", (min(0.0, shift) - reach, max(0.0, shift) + reach), std, ((shift,),))


_GRID = tuple((float(x), float(y)) for x in range(-4, 5, 2) for y in range(-4, 5, 2))

# ring and grid are PacGAN's 2D-ring and 2D-grid (Lin et al. 2017, arXiv:1712.04086, and its code)
WORLDS: dict[str, PointWorld] = {
    world.name: world
    for world in (
        Mixture("gaussian", (-1.5, 3.5), 0.5, ((1.0,),)),
        Mixture("two-gaussians", (-3.0, 3.0), 0.3, ((-1.5,), (1.5,))),
        Mixture("dirac", (-1.5, 1.5), 0.0, ((0.0,),)),
        Mixture("ring", (-1.5, 1.5), 0.01, _on_circle(8)),
        Mixture("grid", (-5.0, 5.0), 0.05, _GRID),
        SwissRoll("swissroll", (-2.4, 2.4), 0.03, 2 / (4.5 * math.pi)),
        Halo("halo", (-1.8, 1.8), 0.0),
    )
}


def find_world(name: str) -> PointWorld:
    """The world called `name`.

    Raises:
        UsageFault: there is none.
    """
    if name not in WORLDS:
        raise unknown_name("--world", name, WORLDS)
    return WORLDS[name]


class PointSource:
    """Worlds as the data of a run, one for each member; what training reads of a Source, without files.

    Attributes:
        worlds: one for each member; all of one dimension.
        fingerprint: sha256 over the worlds with all their constants.

    Raises:
        UsageFault: worlds on the line and in the plane together.
    """

    kind = "points"
    classes: tuple[str, ...] = ()

    def __init__(self, worlds: Sequence[PointWorld]) -> None:
        self.worlds = tuple(worlds)
        dims = {world.dim: world.name for world in self.worlds}
        if len(dims) > 1:
            raise UsageFault(
                "--world",
                f"{dims[1]} lies on a line and {dims[2]} in the plane, and one network cannot learn both",
                "Give worlds of one dimension",
            )
        self.channels = {"image": self.worlds[0].dim}
        self.names = {"image": ", ".join(dict.fromkeys(world.name for world in self.worlds))}
        self.fingerprint = hashlib.sha256("\n".join(map(repr, self.worlds)).encode()).hexdigest()
        self.notes: list[str] = []
        self.bad: list[ImageFault] = []

    @property
    def members(self) -> int:
        return len(self.worlds)


@dataclass(eq=False)
class PointBatch(Batch):
    """Points of the members' worlds, member-major: images["image"] (R·N, dim, 1, 1), numbers (R·N,).

    Attributes:
        worlds: the members' (R).
    """

    worlds: tuple[PointWorld, ...]


class PointLoader:
    """Draws the points of a run by their numbers; used as a Loader is.

    Point n of member r has the number n + r · MEMBER_STRIDE: members draw different points and noise, and the first one
    draws what it would draw alone.
    """

    waited = 0.0

    def __init__(
        self,
        source: PointSource,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.source = source
        self.seed = seed
        self.device = torch.device(device)
        self.dtype = dtype
        self._starts = torch.arange(source.members, device=self.device)[:, None] * MEMBER_STRIDE
        self._first = 0
        self._ahead = (torch.empty(0), torch.empty(source.members, 0))
        # members of one world are drawn together
        self._members_of = {
            world: [member for member, other in enumerate(source.worlds) if other == world]
            for world in dict.fromkeys(source.worlds)
        }

    def batch(self, numbers: np.ndarray) -> PointBatch:
        """The points with these numbers (N,) int64 of every member."""
        first, count = int(numbers[0]), len(numbers)
        if not np.array_equal(numbers, np.arange(first, first + count)):
            points, every = self._draw(numbers)
        else:
            offset = first - self._first
            if offset < 0 or offset + count > self._ahead[1].shape[1]:
                # the hash behind every number costs per call more than per point
                self._first, offset = first, 0
                self._ahead = self._draw(np.arange(first, first + count * _BATCHES_AHEAD))
            points, every = (rows[:, offset : offset + count] for rows in self._ahead)
        images = points.reshape(-1, points.shape[-1], 1, 1)
        return PointBatch({"image": images}, None, every.flatten(), self.seed, self.source.worlds)

    def _draw(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Every member's points with these numbers (members, N, dim), and their own numbers (members, N)."""
        every = self._starts + torch.from_numpy(np.ascontiguousarray(numbers, np.int64)).to(self.device)
        points = torch.empty(*every.shape, self.source.channels["image"], device=self.device, dtype=self.dtype)
        for world, members in self._members_of.items():
            own = every[members]
            points[members] = world.points(Draws(self.seed, "points", own.flatten())).unflatten(0, own.shape).to(points)
        return points, every

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> PointLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
