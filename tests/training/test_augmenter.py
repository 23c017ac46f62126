"""Augmentation in the engine: who sees what, and how the probability follows what discriminators say."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from test_engine import make_batch, make_engine, run

from img2img.augmentation import ada, diffaugment
from img2img.config import AugmentConfig
from img2img.data.batches import Batch
from img2img.draws import Draws
from img2img.losses import ADVERSARIAL
from img2img.penalties import R1, Consensus, Penalty, View, squared_gradient_norm
from img2img.training.augmenter import Augmenter
from img2img.training.engine import Engine, Step
from img2img.translators.base import DataShape
from img2img.translators.cyclegan import CycleGAN
from img2img.translators.pix2pix import Pix2Pix
from img2img.translators.unconditional import Unconditional

DEFAULT = ("blit", "geometry", "colour")
FIXED = AugmentConfig(discriminator="ada", p=0.7, target=0.0)
# p moves by 8 · 3 / 240 = 0.1 after every third step
MOVING = AugmentConfig(discriminator="ada", p=0.3, target=0.1, speed_kimg=0.24, interval=3)


def make(augment: AugmentConfig = FIXED, **more: Any) -> Engine:
    return make_engine(augment=augment, **more)


def step_of(engine: Engine, player: str) -> Step:
    batch = make_batch(0, 8)
    return Step(engine, player, batch, engine.generate(batch, for_generator=player == "generator"))


def test_both_players_see_augmented_images_by_draws_of_their_own() -> None:
    engine = make()
    seen = {}
    for player in ("discriminator", "generator"):
        step = step_of(engine, player)
        (view,) = step.views
        for side, images in (("real", step.batch["image"]), ("fake", step.outputs["fake"])):
            own = step.batch.draws(f"{player}/augment/discriminator/{side}")
            seen[player, side] = ada(images, own, parts=DEFAULT, p=0.7)
        torch.testing.assert_close(view.fake, seen[player, "fake"], rtol=0, atol=1e-12)
        assert view.fake.requires_grad == (player == "generator")
        # nobody asks a non-saturating generator's opponent about real images
        expected = seen[player, "real"] if player == "discriminator" else step.batch["image"]
        torch.testing.assert_close(view.real, expected, rtol=0, atol=1e-12)
    assert not torch.equal(seen["discriminator", "fake"], seen["generator", "fake"])


@pytest.mark.parametrize(
    "more",
    [{"objective": "relativistic"}, {"unroll": 1}, {"penalties": {"consensus": Consensus()}}],
    ids=["relativistic", "unroll", "consensus"],
)
def test_real_images_are_augmented_for_a_generator_that_is_compared_with_them(more: dict[str, Any]) -> None:
    step = step_of(make(**more), "generator")
    own = step.batch.draws("generator/augment/discriminator/real")
    expected = ada(step.batch["image"], own, parts=DEFAULT, p=0.7)
    torch.testing.assert_close(step.views[0].real, expected, rtol=0, atol=1e-12)


def test_penalties_see_what_the_discriminator_sees_lazy_ones_too() -> None:
    r1 = R1(weight=2.0, every=4)
    engine = make(penalties={"r1": r1})
    step = step_of(engine, "discriminator")
    (term,) = step.lazy_terms("r1", r1).values()
    own = step.batch.draws("discriminator/augment/discriminator/real")
    seen = ada(step.batch["image"], own, parts=DEFAULT, p=0.7)
    slope = squared_gradient_norm(engine.translator.discriminator, seen, None)
    torch.testing.assert_close(term, 2.0 * 4 * 0.5 * slope.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "penalties", [{"consensus": Consensus()}, {"r1": R1(every=2)}, {}], ids=["consensus", "r1", ""]
)
@pytest.mark.parametrize("unroll", [0, 2])
def test_what_differentiates_through_it_stays_finite(penalties: dict[str, Penalty], unroll: int) -> None:
    if "consensus" in penalties and unroll:
        return  # refused by check()
    engine = run(make(MOVING, penalties=penalties, unroll=unroll), 4)
    assert not engine.skipped_steps
    assert all(torch.isfinite(parameter).all() for parameter in engine.translator.parameters())


@pytest.mark.parametrize("method", ["ada", "diffaugment"])
def test_an_image_that_is_a_condition_changes_as_its_picture(method: str) -> None:
    config = AugmentConfig(discriminator=method, **({"p": 0.9, "target": 0.0} if method == "ada" else {}))
    augmenter = Augmenter(config, packing=1, boundary=None)
    batch = make_batch(0, 8)
    a, b = batch["a"], batch["b"]
    view = View("discriminator", torch.nn.Identity(), a, b, a, b)
    seen = augmenter.augment(view, {}, lambda stream, count: batch.draws(stream), True)
    assert torch.equal(seen.real, seen.real_condition)
    assert torch.equal(seen.fake, seen.fake_condition)
    assert not torch.equal(seen.real, a)
    labels = torch.arange(8)
    labelled = View("discriminator", torch.nn.Identity(), a, b, labels, labels)
    assert augmenter.augment(labelled, {}, lambda stream, count: batch.draws(stream), True).real_condition is labels


class Repeat(torch.nn.Module):
    """Grey to colours: each pixel three times."""

    def forward(self, images: Tensor, draws: object = None) -> Tensor:
        return images.repeat(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("method", "parts"), [("ada", "blit,geometry,filter"), ("ada", "cutout"), ("diffaugment", "translation,cutout")]
)
def test_pix2pix_shows_pairs_that_still_lie_upon_each_other(method: str, parts: str) -> None:
    """Of a grey input and its colours, real and generated, every pixel goes where its partner goes."""
    shape = DataShape((16, 16), {"a": 1, "b": 3})
    networks = {"generator": Repeat(), "discriminator": torch.nn.Identity()}
    translator = Pix2Pix(shape, networks, ADVERSARIAL["hinge"](), weights={"l1": 1.0})
    numbers = torch.arange(8)
    batch = Batch({}, None, numbers, seed=3)
    batch.images["a"] = batch.draws("data/a").uniform(1, 16, 16).double() * 2 - 1
    batch.images["b"] = batch["a"].repeat(1, 3, 1, 1)
    adaptive = {"p": 0.9, "target": 0.0} if method == "ada" else {}
    augmenter = Augmenter(AugmentConfig(discriminator=method, parts=parts, **adaptive), packing=1, boundary=0.0)
    (view,) = translator.views(batch, translator.generate(batch, for_generator=False))
    seen = augmenter.augment(view, {}, lambda stream, count: batch.draws(stream), True)
    for images, condition in ((seen.real, seen.real_condition), (seen.fake, seen.fake_condition)):
        torch.testing.assert_close(images, condition.repeat(1, 3, 1, 1), rtol=0, atol=1e-12)
        assert not torch.equal(condition, batch["a"])
    assert not torch.equal(seen.real_condition, seen.fake_condition)  # each pair by itself


def test_samples_that_are_judged_together_are_augmented_one_by_one() -> None:
    batch = make_batch(0, 8)
    packed = batch["a"].unflatten(0, (-1, 2)).flatten(1, 2)
    augmenter = Augmenter(AugmentConfig(discriminator="diffaugment"), packing=2, boundary=0.0)

    def draws(stream: str, count: int) -> Draws:
        assert count == 8
        return batch.draws(stream)

    seen = augmenter.augment(View("d", torch.nn.Identity(), packed, packed), {}, draws, True)
    own = batch.draws("augment/d/real")
    alone = diffaugment(batch["a"], own, parts=("colour", "translation", "cutout"))
    torch.testing.assert_close(seen.real, alone.unflatten(0, (-1, 2)).flatten(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("micro", "critic_steps"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kind", [Unconditional, CycleGAN])
def test_p_follows_the_signs_as_written_out(kind: type[Any], micro: int, critic_steps: int) -> None:
    """After every third discriminator step p goes by 8 · 3 / 240 towards more where E sign(D(real)) exceeds 0.1."""
    engine = make(MOVING, kind=kind, objective="lsgan" if kind is CycleGAN else "nonsaturating")
    names = list(engine.players["discriminator"].networks)
    boundary = 0.5 if kind is CycleGAN else 0.0
    for network in engine.players["discriminator"].networks.values():
        # so that it begins by calling everything real
        network.out.bias.data += boundary + 0.2
    p, signs = dict.fromkeys(names, 0.3), {name: [] for name in names}
    said: dict[str, list[Tensor]] = {name: [] for name in names}
    watch = engine.watch

    def listen(verdicts: Any) -> None:
        for verdict in verdicts:
            said[verdict.name].append(verdict.real.detach())
        watch(verdicts)

    engine.watch = listen  # type: ignore[method-assign]
    moves = set()
    for number in range(12):
        for heard in said.values():
            heard.clear()
        run(engine, 1, micro=micro, critic_steps=critic_steps)
        for name in names:
            # micro-batches of one discriminator step follow each other
            for step in range(critic_steps):
                rows = torch.cat(said[name][step * micro : (step + 1) * micro])
                signs[name].append(torch.sign(rows - boundary).mean().item())
                if (number * critic_steps + step + 1) % 3 == 0:
                    move = 0.1 if sum(signs[name]) / 3 > 0.1 else -0.1
                    moves.add(move)
                    p[name] = min(1.0, max(0.0, p[name] + move))
                    signs[name].clear()
            assert engine.variables[f"augment/{name}/p"].item() == pytest.approx(p[name], abs=1e-12)
    assert engine.monitors.take(engine.world)[f"{names[0]}_augment_p"] >= 0
    assert moves == {0.1, -0.1}


def test_a_run_resumed_between_two_moves_of_p_is_the_uninterrupted_one() -> None:
    straight, first, second = (make(MOVING, penalties={"r1": R1(every=2)}) for _ in range(3))
    run(straight, 10)
    run(first, 4)
    assert first.variables["augment/discriminator/excess"].abs() > 0
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, 6)
    assert second.variables.keys() == straight.variables.keys()
    for name, value in straight.variables.items():
        assert torch.equal(second.variables[name], value)
    for mine, theirs in zip(second.translator.parameters(), straight.translator.parameters()):
        assert torch.equal(mine, theirs)


def test_a_judgement_that_is_not_finite_does_not_move_p() -> None:
    augmenter = Augmenter(MOVING, packing=1, boundary=0.0)
    variables = {"augment/d/p": torch.tensor([0.3])}
    for number, sign in enumerate((float("nan"), 1.0, -0.5)):
        augmenter.adapt("d", torch.tensor(sign), variables, number, batch=8)
    # 0.9 − 0.6 above the target in all
    assert variables["augment/d/p"].item() == pytest.approx(0.4)
    assert variables["augment/d/excess"].item() == 0


@pytest.mark.parametrize(("sign", "end"), [(1.0, 1.0), (-1.0, 0.0)])
def test_p_stays_a_probability(sign: float, end: float) -> None:
    augmenter = Augmenter(MOVING, packing=1, boundary=0.0)
    variables = {"augment/d/p": torch.tensor([0.55])}
    for number in range(60):
        augmenter.adapt("d", torch.tensor(sign), variables, number, batch=8)
    assert variables["augment/d/p"].item() == end


def test_a_fixed_probability_keeps_no_state() -> None:
    engine = run(make(FIXED), 3)
    assert engine.variables == {}
    assert "discriminator_augment_p" not in engine.monitors.take(engine.world)
