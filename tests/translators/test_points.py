"""The points translator on networks whose outputs are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from img2img.data.pictures import draw_points, field_points
from img2img.data.values import to_uint8
from img2img.data.worlds import WORLDS, PointBatch, PointLoader, PointSource
from img2img.losses import ADVERSARIAL
from img2img.translators import TRANSLATORS
from img2img.translators.base import DataShape
from img2img.translators.points import Points

RING, GRID = WORLDS["ring"], WORLDS["grid"]


class Generator(nn.Module):
    """Member r adds r to z; points (R·N, 2, 1, 1)."""

    latent_dim = 2
    prior = "normal"

    def __init__(self, members: int = 1) -> None:
        super().__init__()
        self.members = members

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: object = None) -> Tensor:
        assert labels is None
        return (z.reshape(self.members, -1, 2) + torch.arange(self.members)[:, None, None]).reshape(-1, 2, 1, 1)


class Judge(nn.Module):
    """A function of rows (N, C); remembers in which mode and with how many rows it was called."""

    judges_by = "logit"

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.calls: list[tuple[bool, int]] = []

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is None
        self.calls.append((self.training, len(images)))
        return self.function(images.flatten(1))


def make(judge: nn.Module, members: int = 1, packing: int = 1, objective: str = "nonsaturating") -> Points:
    shape = DataShape((1, 1), {"image": 2}, members=members, packing=packing)
    return Points(shape, {"generator": Generator(members), "discriminator": judge}, ADVERSARIAL[objective]())


def load(*worlds: str, count: int = 40) -> PointBatch:
    return PointLoader(PointSource([WORLDS[world] for world in worlds]), seed=0).batch(np.arange(count))


def pictures(points: Points, batch: PointBatch) -> list[np.ndarray]:
    return [to_uint8(picture) for picture in points.preview(batch, {"generator": points.generator})["points"]]  # type: ignore[dict-item]


def test_the_plan_is_for_points_and_members() -> None:
    plan = Points.plan(DataShape((64, 64), {"image": 2}, members=5, packing=4))
    assert plan["generator"].arguments == {
        "resolution": (1, 1),
        "out_channels": 2,
        "num_classes": 0,
        "members": 5,
    }
    assert plan["discriminator"].arguments == {"resolution": (1, 1), "in_channels": 8, "num_classes": 0, "members": 5}
    assert TRANSLATORS["points"] is Points


def test_both_players_see_points_member_by_member() -> None:
    batch = load("ring", "grid")
    points = make(Judge(lambda rows: rows[:, 0]), members=2)
    outputs = points.generate(batch, for_generator=True)
    (view,) = points.views(batch, outputs)
    assert view.real is batch["image"]
    assert view.fake.shape == (80, 2, 1, 1)
    noise = batch.draws("z").normal(2)
    torch.testing.assert_close(view.fake.flatten(1), noise + torch.arange(2).repeat_interleave(40)[:, None])


def test_a_picture_shows_points_and_field() -> None:
    """One picture a member, each over its own world, of what the networks made and said."""
    batch = load("ring", "grid")
    points = make(Judge(lambda rows: rows[:, 0]), members=2)
    first, second = pictures(points, batch)
    noise = batch.draws("preview/z").normal(2).reshape(2, 40, 2)
    real = batch["image"].reshape(2, 40, 2)
    assert np.array_equal(first, draw_points(RING, real[0], noise[0], _centred(RING, real[0], noise[0])))
    assert np.array_equal(second, draw_points(GRID, real[1], noise[1] + 1, _centred(GRID, real[1], noise[1] + 1)))


def _centred(world: object, real: Tensor, fake: Tensor) -> Tensor:
    on_real, on_fake = real[:, 0].mean(), fake[:, 0].mean()
    middle = (on_real + on_fake) / 2 if on_real * on_fake > 0 else 0
    return field_points(world)[:, 0] - middle  # type: ignore[arg-type]


def test_a_member_is_drawn_as_it_would_be_alone() -> None:
    """Their worlds and noise are the same; the first of three games does not see the others."""
    alone = pictures(make(Judge(lambda rows: rows.square().sum(1) - 1)), load("ring"))
    together = pictures(make(Judge(lambda rows: rows.square().sum(1) - 1), members=3), load("ring", "ring", "ring"))
    assert np.array_equal(alone[0], together[0])


@pytest.mark.parametrize("offset", [30.0, -30.0])
def test_a_constant_added_to_a_critic_changes_nothing(offset: float) -> None:
    """Where zero does not lie between what is said of real and of generated points their middle is neutral."""
    batch = load("ring")
    moved, back = (
        make(Judge(lambda rows, c=c: rows[:, 0] + c), objective="wgan")._fields(batch, *_sides(batch))[0]  # type: ignore[misc]
        for c in (offset, 2 * offset)
    )
    assert moved is not None
    assert back is not None
    torch.testing.assert_close(moved, back, atol=1e-4, rtol=0)
    on_real, on_fake = (side[0, :, 0].mean() for side in _sides(batch))
    torch.testing.assert_close(moved, field_points(RING)[:, 0] - (on_real + on_fake) / 2, atol=1e-4, rtol=0)


def test_zero_stays_zero_where_it_parts_real_from_generated() -> None:
    batch = load("ring")
    real, fake = _sides(batch)
    (field,) = make(Judge(lambda rows: rows.norm(dim=1) - 0.9))._fields(batch, real, fake - 0.5 * fake)
    assert field is not None
    torch.testing.assert_close(field, field_points(RING).norm(dim=1) - 0.9)


def _sides(batch: PointBatch) -> tuple[Tensor, Tensor]:
    """Real points and generated ones near the origin, (1, N, 2) each."""
    return batch["image"].reshape(1, -1, 2), 0.2 * batch.draws("preview/z").normal(2)[None]


def test_low_energy_says_real() -> None:
    """The ring's points have energy 0, those about the origin nearly 1: the middle is about ½."""
    batch = load("ring")
    judge = Judge(lambda rows: (rows.norm(dim=1) - 1).abs())
    judge.judges_by = "energy"
    (field,) = make(judge, objective="ebgan")._fields(batch, *_sides(batch))
    assert field is not None
    distance = (field_points(RING).norm(dim=1) - 1).abs()
    assert (field[distance < 0.1] > 0).all()
    assert (field[distance > 0.8] < 0).all()


def test_a_judge_of_packs_sees_every_place_beside_real_points() -> None:
    batch = load("ring", "grid", count=12)
    judge = Judge(lambda rows: rows[:, 0] + rows[:, 2:].sum(1) - rows[:, 2:].sum(1).mean())
    points = make(judge, members=2, packing=3)
    real = batch["image"].reshape(2, 12, 2)
    said = points._judge(torch.zeros(2, 5, 2), real[:, :2])
    assert judge.calls == [(False, 10)]
    beside = real[:, :2].sum((1, 2))
    torch.testing.assert_close(said, (beside - beside.mean())[:, None].expand(2, 5))
    assert len(pictures(points, batch)) == 2


def test_looking_leaves_the_discriminator_as_it_was() -> None:
    judge = Judge(lambda rows: rows[:, 0])
    points = make(judge)
    points.train()
    pictures(points, load("ring"))
    assert judge.training
    assert judge.calls == [(False, 64**2 + 80)]


def test_no_field_where_samples_are_judged_together() -> None:
    batch = load("ring")
    judge = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 1))
    (picture,) = pictures(make(judge), batch)
    fake = batch.draws("preview/z").normal(2)
    assert np.array_equal(picture, draw_points(RING, batch["image"].flatten(1), fake))


def test_float64_stays_float64() -> None:
    batch = PointLoader(PointSource([RING]), seed=0, dtype=torch.float64).batch(np.arange(8))
    points = make(Judge(lambda rows: rows[:, 0]))
    assert points.generate(batch, for_generator=True)["fake"].dtype == torch.float64
    assert len(pictures(points, batch)) == 1
