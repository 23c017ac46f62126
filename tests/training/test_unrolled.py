"""Looking ahead is differentiating through real optimiser steps, and leaves no trace."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from theory import RATE, dirac_game, make_game, play

from img2img.data.worlds import find_world
from img2img.training.engine import Engine, Step
from img2img.training.prepare import Prepared, step_batches
from img2img.training.unrolled import unroll, with_weights

SMALL = (
    "generator.width=4",
    "generator.layers=1",
    "generator.activation=tanh",
    "discriminator.width=4",
    "discriminator.layers=1",
    "discriminator.activation=tanh",
    "loss.adversarial=nonsaturating",
    "loss.penalties=none",
    "optim.lr=0.05",
    "optim.betas=[0.5,0.9]",
    "optim.decay_share=0",
    "train.batch=6",
    "train.kimg=1",
    "train.precision=float64",
)
R1_WEIGHT = 0.3
WITH_R1 = ("loss.penalties=r1", f"loss.penalties.r1.weight={R1_WEIGHT}")


def small_game(*sets: str) -> Prepared:
    return make_game((*SMALL, *sets), [find_world("ring")])


def after(game: Prepared, steps: int) -> Engine:
    for _ in play(game, steps):
        pass
    return game.engine


def generator_step(game: Prepared) -> Step:
    """The generator's side of the engine's next step, before anything moved."""
    batch = step_batches(game)[0][0]
    return Step(game.engine, "generator", batch, game.engine.generate(batch, for_generator=True))


def generator_gradient(game: Prepared) -> list[Tensor]:
    loss = torch.stack(list(generator_step(game).main_terms().values())).sum()
    return list(torch.autograd.grad(loss, game.engine.players["generator"].parameters))


# --- K = 0 ------------------------------------------------------------------------------------------------------------


def test_no_steps_ahead_is_the_plain_engine() -> None:
    """The weights that zero steps lead to are D's own, and seen through them G's gradient is the plain one."""
    game = small_game("train.unroll=0")
    after(game, 2)
    step, player = generator_step(game), game.engine.players["discriminator"]
    weights = unroll(player.parameters, player.optimizer, player.moments(), lambda weights: weights[0].sum(), 0)
    for weight, own in zip(weights, player.parameters, strict=True):
        assert torch.equal(weight, own)
    ahead = with_weights(player.networks, weights)["discriminator"]
    loss = F.softplus(-ahead(step.views[0].fake, None)).mean()
    gradient = torch.autograd.grad(loss, game.engine.players["generator"].parameters)
    for seen_through, plain in zip(gradient, generator_gradient(game), strict=True):
        assert torch.equal(seen_through, plain)


def test_steps_ahead_of_no_length_are_the_plain_engine() -> None:
    rates = ("optim.discriminator_lr=1e-30",)
    for one, other in zip(
        after(small_game(*rates, "train.unroll=4"), 3).translator.parameters(),
        after(small_game(*rates), 3).translator.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


# --- K > 0 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_the_dirac_gan_by_hand(count: int) -> None:
    """ψ_{k+1} = ψ_k − h σ(ψ_k θ) θ, its derivative by θ carried along, and θ' = θ − h · d/dθ softplus(−ψ_K θ)."""
    game = dirac_game(("loss.adversarial=nonsaturating", "loss.penalties=none", f"train.unroll={count}"))
    after(game, 1)
    networks = game.engine.translator

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    psi = theta = 1.0
    psi -= RATE * sigmoid(psi * theta) * theta
    ahead, slope = psi, 0.0
    for _ in range(count):
        s = sigmoid(ahead * theta)
        ahead, slope = (
            ahead - RATE * s * theta,
            slope - RATE * (s + s * (1 - s) * theta * (ahead + theta * slope)),
        )
    theta += RATE * sigmoid(-ahead * theta) * (ahead + theta * slope)
    assert networks.discriminator.slope.item() == pytest.approx(psi, rel=1e-14)
    assert networks.generator.point.item() == pytest.approx(theta, rel=1e-13)


def loss_of_discriminator(network: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, r1: float) -> Tensor:
    loss = F.softplus(-network(real)).mean() + F.softplus(network(fake)).mean()
    if r1:
        points = real.detach().requires_grad_()
        (slope,) = torch.autograd.grad(network(points).sum(), points, create_graph=True)
        loss = loss + r1 / 2 * slope.square().flatten(1).sum(1).mean()
    return loss


def loss_after_real_steps(game: Prepared, count: int, r1: float) -> float:
    """G's loss beside a copy of D that torch's optimiser, in D's state, has trained `count` steps on this batch."""
    player = game.engine.players["discriminator"]
    network: nn.Module = copy.deepcopy(player.networks["discriminator"])
    optimizer = type(player.optimizer)(network.parameters(), lr=0.1)  # the state brings the real rate and the rest
    optimizer.load_state_dict(copy.deepcopy(player.state_dict()))
    step = generator_step(game)
    real, fake = step.views[0].real, step.views[0].fake.detach()
    for _ in range(count):
        optimizer.zero_grad()
        loss_of_discriminator(network, real, fake, r1).backward()
        optimizer.step()
    return F.softplus(-network(fake)).mean().item()


@pytest.mark.parametrize("r1", [(), WITH_R1], ids=["plain", "r1"])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_the_gradient_is_that_of_the_loss_after_real_steps(optimizer: str, r1: tuple[str, ...]) -> None:
    """Central differences of G's loss, each time with real optimiser steps on a copy; D's optimiser has a history."""
    game = small_game(*r1, f"optim.name={optimizer}", "train.unroll=3")
    after(game, 3)
    reach, weight = 1e-5, R1_WEIGHT if r1 else 0.0
    gradient = generator_gradient(game)
    for parameter, got in zip(game.engine.players["generator"].parameters, gradient, strict=True):
        for index in range(0, parameter.numel(), 3):
            entry = parameter.detach().view(-1)[index : index + 1]
            start = entry.item()
            losses = []
            for way in (reach, -reach):
                entry.fill_(start + way)
                losses.append(loss_after_real_steps(game, 3, weight))
            entry.fill_(start)
            slope = (losses[0] - losses[1]) / (2 * reach)
            assert got.view(-1)[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_gradient_is_that_of_the_algorithm_written_out(optimizer: str) -> None:
    """Adam (bias-corrected) and RMSprop as their papers write them, unrolled from D's state with autograd."""
    game = small_game(f"optim.name={optimizer}", "train.unroll=4")
    after(game, 2)
    player = game.engine.players["discriminator"]
    network, lr = player.networks["discriminator"], player.optimizer.param_groups[0]["lr"]
    names = [name for name, _ in network.named_parameters()]
    moments = player.moments()
    first = [moments[i].get("exp_avg", torch.zeros(())).clone() for i in range(len(names))]
    second = [moments[i]["exp_avg_sq" if optimizer == "adam" else "square_avg"].clone() for i in range(len(names))]
    weights = [parameter.detach().clone().requires_grad_() for parameter in network.parameters()]
    step = generator_step(game)
    real, fake = step.views[0].real, step.views[0].fake

    def judge(images: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, weights)), (images,))

    for t in range(3, 7):  # two steps lie behind
        gradients = torch.autograd.grad(loss_of_discriminator(judge, real, fake, 0.0), weights, create_graph=True)
        if optimizer == "adam":
            first = [0.5 * m + 0.5 * g for m, g in zip(first, gradients)]
            second = [0.9 * v + 0.1 * g**2 for v, g in zip(second, gradients)]
            changes = [(m / (1 - 0.5**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8) for m, v in zip(first, second)]
        else:
            second = [0.99 * v + 0.01 * g**2 for v, g in zip(second, gradients)]
            changes = [g / (v.sqrt() + 1e-8) for g, v in zip(gradients, second)]
        weights = [weight - lr * change for weight, change in zip(weights, changes)]
    expected = torch.autograd.grad(F.softplus(-judge(fake)).mean(), game.engine.players["generator"].parameters)
    for got, wanted in zip(generator_gradient(game), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


# --- no trace ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_looking_ahead_leaves_the_discriminator_and_what_it_remembers(optimizer: str) -> None:
    """Up to the generator's first step a game that looks ahead is the plain game, to the last bit."""
    sets = (f"optim.name={optimizer}", "loss.penalties=r1,lecam")
    ahead, plain = (after(small_game(*sets, f"train.unroll={count}"), 1) for count in (3, 0))
    one, other = (engine.players["discriminator"] for engine in (ahead, plain))
    for mine, theirs in zip(one.parameters, other.parameters, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.requires_grad
    for index, values in other.moments().items():
        for key, value in values.items():
            assert torch.equal(one.moments()[index][key], value)
    assert {"lecam/discriminator/real", "lecam/discriminator/fake"} == ahead.variables.keys() == plain.variables.keys()
    for name, value in plain.variables.items():
        assert torch.equal(ahead.variables[name], value)
    generators = [engine.players["generator"].parameters for engine in (ahead, plain)]
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(*generators, strict=True))


def test_began_looks_ahead_with_its_control_and_does_not_move_it() -> None:
    autoencoder = ("discriminator=mlp_autoencoder", "discriminator.width=4", "discriminator.code_dim=2")
    common = (text for text in SMALL if not text.startswith(("discriminator", "loss.adversarial")))
    sets = (*common, *autoencoder, "loss.adversarial=began", "loss.adversarial.rate=0.5", "loss.adversarial.gamma=1")
    ahead, plain = (after(make_game((*sets, f"train.unroll={count}"), [find_world("ring")]), 1) for count in (3, 0))
    assert torch.equal(ahead.variables["control/discriminator"], plain.variables["control/discriminator"])
    assert ahead.variables["control/discriminator"] > 0
    for mine, theirs in zip(*(engine.players["discriminator"].parameters for engine in (ahead, plain)), strict=True):
        assert torch.equal(mine, theirs)
