from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from img2img.data.worlds import MEMBER_STRIDE, WORLDS, PointLoader, PointSource, PointWorld, find_world, shifted
from img2img.draws import Draws
from img2img.errors import UsageFault

PLANE = [world for world in WORLDS.values() if world.dim == 2]
LINE = [world for world in WORLDS.values() if world.dim == 1]


def draw(world: PointWorld, numbers: Tensor | int, seed: int = 0) -> Tensor:
    numbers = torch.arange(numbers) if isinstance(numbers, int) else numbers
    return world.points(Draws(seed, "points", numbers))


def grid(world: PointWorld, steps: int) -> tuple[Tensor, float]:
    """Midpoints of even cells that cover the extent, (steps**dim, dim) float64, and the size of a cell."""
    low, high = world.extent
    axis = low + (high - low) * (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    return torch.cartesian_prod(*[axis] * world.dim).reshape(-1, world.dim), ((high - low) / steps) ** world.dim


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_row_depends_on_its_number_alone(world: PointWorld) -> None:
    every = draw(world, 20)
    assert every.shape == (20, world.dim)
    assert every.dtype == torch.float32
    some = torch.tensor([7, 3, 19])
    assert torch.equal(draw(world, some), every[some])


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_picture_shows_nearly_all_points(world: PointWorld) -> None:
    low, high = world.extent
    points = draw(world, 20_000)
    assert ((points > low) & (points < high)).all(1).double().mean() > 0.998


@pytest.mark.parametrize(("name", "count", "std"), [("ring", 8, 0.01), ("grid", 25, 0.05)])
def test_mixtures_are_pacgans(name: str, count: int, std: float) -> None:
    """Equal shares, and offsets with the moments of N(0, std²) on both axes, each to five standard errors."""
    world, n = WORLDS[name], 40_000
    points = draw(world, n).double()
    assert world.modes is not None
    assert world.modes.shape == (count, 2)
    nearest = torch.cdist(points, world.modes).argmin(1)
    shares = torch.bincount(nearest, minlength=count) / n
    assert (shares - 1 / count).abs().max() < 5 * math.sqrt(1 / count / n)
    offsets = (points - world.modes[nearest]) / std
    assert offsets.mean(0).abs().max() < 5 / math.sqrt(n)
    assert (offsets.square().mean(0) - 1).abs().max() < 5 * math.sqrt(2 / n)
    # a perfect sampler's score: P(‖N(0, I)‖ < 3) = 1 − exp(−4.5)
    assert (offsets.norm(dim=1) < 3).double().mean().item() == pytest.approx(1 - math.exp(-4.5), abs=0.003)


def test_modes_lie_where_the_papers_put_them() -> None:
    ring, modes = WORLDS["ring"].modes, WORLDS["grid"].modes
    assert ring is not None
    assert modes is not None
    torch.testing.assert_close(ring.norm(dim=1), torch.ones(8, dtype=torch.float64))
    neighbours = (ring - ring.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(neighbours, torch.full_like(neighbours, 2 * math.sin(math.pi / 8)))
    assert {tuple(mode) for mode in modes.tolist()} == {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}


def test_dirac_is_one_point_without_a_density() -> None:
    world = WORLDS["dirac"]
    assert not draw(world, 100).any()
    assert world.density(torch.zeros(3, 1)) is None


@pytest.mark.parametrize("world", [w for w in LINE if w.std], ids=lambda world: world.name)
def test_densities_on_the_line_are_of_mass_one(world: PointWorld) -> None:
    places, cell = grid(world, 4000)
    density = world.density(places)
    assert density is not None
    assert density.sum().item() * cell == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["swissroll", "halo"])
def test_densities_in_the_plane_say_how_many_points_lie_where(name: str) -> None:
    """Mass one in all, and in each of 16 squares the share of 40,000 points, to five standard errors."""
    world, n, steps = WORLDS[name], 40_000, 120
    places, cell = grid(world, steps)
    density = world.density(places)
    assert density is not None
    mass = density.reshape(4, steps // 4, 4, steps // 4).sum((1, 3)) * cell
    assert mass.sum().item() == pytest.approx(1, abs=2e-3)
    low, high = world.extent
    counts, _ = torch.histogramdd(draw(world, n).double(), 4, range=[low, high, low, high])
    assert ((counts / n - mass).abs() < 5 * (mass / n).sqrt() + 1e-3).all()


def test_density_of_the_ring_at_a_mode() -> None:
    world = WORLDS["ring"]
    assert world.modes is not None
    density = world.density(world.modes)
    assert density is not None
    torch.testing.assert_close(density, torch.full_like(density, 1 / (8 * 2 * math.pi * 0.01**2)))


def test_halo_is_the_image_of_gaussian_noise() -> None:
    """‖x‖ = ‖z‖/10 + 1, so P(‖x‖ < 1.1) = P(‖z‖ < 1) = 1 − exp(−½)."""
    radius = draw(WORLDS["halo"], 40_000).norm(dim=1)
    assert radius.min() >= 1
    assert (radius < 1.1).double().mean().item() == pytest.approx(1 - math.exp(-0.5), abs=0.012)


def test_shifted_worlds_differ_by_the_shift_alone() -> None:
    torch.testing.assert_close(draw(shifted(2.5), 100) - 2.5, draw(shifted(0.0), 100), atol=1e-6, rtol=0)


def test_an_unknown_world_is_refused_with_a_suggestion() -> None:
    assert find_world("ring") is WORLDS["ring"]
    with pytest.raises(UsageFault, match=r"--world: 'rings' is unknown. Did you mean ring\?"):
        find_world("rings")
    with pytest.raises(UsageFault, match=r"Known: gaussian, .*, halo"):
        find_world("xyz")


def test_worlds_of_different_dimensions_are_refused() -> None:
    with pytest.raises(UsageFault, match=r"--world: dirac lies on a line and ring in the plane"):
        PointSource([WORLDS["ring"], WORLDS["dirac"]])


def test_what_training_reads_of_a_source() -> None:
    source = PointSource([WORLDS["ring"], WORLDS["grid"], WORLDS["ring"]])
    assert source.members == 3
    assert source.channels == {"image": 2}
    assert source.names == {"image": "ring, grid"}
    assert (source.kind, source.classes, source.notes, source.bad) == ("points", (), [], [])


def test_the_fingerprint_is_of_names_and_constants() -> None:
    prints = [
        PointSource(worlds).fingerprint
        for worlds in (
            [WORLDS["ring"]],
            [WORLDS["ring"]] * 2,
            [WORLDS["grid"]],
            [WORLDS["halo"]],
            [shifted(1.0)],
            [shifted(1.0, std=0.5)],
        )
    ]
    assert len(set(prints)) == len(prints)
    assert PointSource([shifted(1.0)]).fingerprint == prints[4]


# --- the loader -------------------------------------------------------------------------------------------------------


def test_members_draw_different_points_and_the_first_one_its_own() -> None:
    numbers = np.arange(5, 12)
    alone = PointLoader(PointSource([WORLDS["ring"]]), seed=3).batch(numbers)
    with PointLoader(PointSource([WORLDS["ring"]] * 3), seed=3) as loader:
        batch = loader.batch(numbers)
        assert loader.waited == 0
    assert batch["image"].shape == (21, 2, 1, 1)
    assert batch.labels is None
    assert torch.equal(batch["image"][:7], alone["image"])
    assert torch.equal(batch.numbers[:7], alone.numbers)
    members = batch["image"].reshape(3, -1)
    assert not torch.equal(members[0], members[1])
    assert not torch.equal(members[1], members[2])
    assert batch.numbers.reshape(3, 7)[:, 0].tolist() == [5, 5 + MEMBER_STRIDE, 5 + 2 * MEMBER_STRIDE]
    # what is keyed by the batch, such as noise, differs between members too
    noise = batch.draws("z").normal(2)
    assert torch.equal(noise[:7], alone.draws("z").normal(2))
    assert len(noise.unique(dim=0)) == 21


def test_members_may_live_in_different_worlds() -> None:
    worlds = [WORLDS["ring"], WORLDS["halo"], WORLDS["ring"]]
    numbers = np.arange(6)
    batch = PointLoader(PointSource(worlds), seed=1).batch(numbers)
    assert batch.worlds == tuple(worlds)
    for member, (world, points) in enumerate(zip(worlds, batch["image"].reshape(3, 6, 2))):
        assert torch.equal(points, draw(world, torch.arange(6) + member * MEMBER_STRIDE, seed=1))


def test_a_batch_is_the_sum_of_its_parts() -> None:
    """Micro-batches and ranks ask for slices of the numbers: member by member they hold slices of the batch."""
    loader = PointLoader(PointSource([WORLDS["grid"]] * 2), seed=0, dtype=torch.float64)
    whole = loader.batch(np.arange(8))["image"].unflatten(0, (2, 8))
    parts = [loader.batch(part)["image"].unflatten(0, (2, 4)) for part in np.arange(8).reshape(2, 4)]
    assert whole.dtype == torch.float64
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_seeds_give_different_points() -> None:
    source = PointSource([WORLDS["ring"]])
    first, second = (PointLoader(source, seed=seed).batch(np.arange(4))["image"] for seed in (0, 1))
    assert not torch.equal(first, second)
