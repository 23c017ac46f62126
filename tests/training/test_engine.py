"""The engine against plain PyTorch steps written out by hand, in float64, on networks small enough to follow."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.config import OptimConfig
from img2img.data.batches import Batch
from img2img.distributed import World
from img2img.growth import GrowthSchedule
from img2img.losses import ADVERSARIAL
from img2img.penalties import R1, Game, Penalty, WeightClip
from img2img.training.engine import Engine, EngineSettings, Player
from img2img.training.monitors import colour_correlation
from img2img.training.precision import choose_precision
from img2img.translators.base import DataShape, Translator
from img2img.translators.cyclegan import CycleGAN
from img2img.translators.unconditional import Unconditional

OPTIM = OptimConfig(name="adam", lr=1e-2, betas=(0.5, 0.9))
SHAPE = DataShape((4, 4), {"image": 1, "a": 1, "b": 1})


class TinyGenerator(nn.Module):
    latent_dim = 3
    num_classes = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 16)
        self.calls = 0

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: object = None) -> Tensor:
        self.calls += 1
        return torch.tanh(self.layer(z)).reshape(-1, 1, 4, 4)


class NormalisedGenerator(TinyGenerator):
    """With batch normalisation, whose running statistics keep what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: object = None) -> Tensor:
        return torch.tanh(self.norm(self.layer(z))).reshape(-1, 1, 4, 4)


class TinyTranslator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, images: Tensor, draws: object = None) -> Tensor:
        return torch.tanh(self.layer(images))


class TinyDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(16, 5), nn.Linear(5, 1)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.out(F.softplus(self.hidden(images.flatten(1)))).squeeze(1)


def make_batch(start: int, count: int, dtype: torch.dtype = torch.float64) -> Batch:
    numbers = torch.arange(start, start + count)
    batch = Batch(images={}, labels=None, numbers=numbers, seed=3)
    for name in ("image", "a", "b"):
        batch.images[name] = batch.draws(f"data/{name}").uniform(1, 4, 4).to(dtype) * 2 - 1
    return batch


def make_engine(
    kind: type[Translator] = Unconditional,
    penalties: Mapping[str, Penalty] | None = None,
    optim: OptimConfig = OPTIM,
    objective: str = "nonsaturating",
    precision: str = "float64",
    generator: type[nn.Module] = TinyGenerator,
    **settings: Any,
) -> Engine:
    torch.manual_seed(0)
    networks: dict[str, nn.Module]
    if kind is CycleGAN:
        networks = {"generator_ab": TinyTranslator(), "generator_ba": TinyTranslator()}
        networks |= {"discriminator_a": TinyDiscriminator(), "discriminator_b": TinyDiscriminator()}
        translator = kind(SHAPE, networks, ADVERSARIAL[objective](), 1.0, {"cycle": 10.0, "identity": 5.0})
    else:
        networks = {"generator": generator(), "discriminator": TinyDiscriminator()}
        translator = kind(SHAPE, networks, ADVERSARIAL[objective]())
    values = {
        "growth": GrowthSchedule(0, 0.0, 0.0, 8, 0),
        "kimg": 1.0,
        "optim": optim,
        "ema_kimg": 0.01,
        "ema_rampup": 0.0,
        **settings,
    }
    return Engine(
        translator, penalties or {}, EngineSettings(**values), choose_precision(precision, torch.device("cpu")), World()
    )


def weights(engine: Engine) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in engine.translator.parameters()]


def assert_same(first: Engine, second: Engine, tolerance: float) -> None:
    for one, other in zip(weights(first), weights(second)):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def run(engine: Engine, steps: int, micro: int = 1, critic_steps: int = 1) -> Engine:
    size = engine.stage.batch
    for step in range(engine.step, engine.step + steps):
        batches = []
        for critic in range(critic_steps):
            start = (step * critic_steps + critic) * size
            dtype, count = engine.precision.dtype, size // micro
            batches.append([make_batch(start + part * count, count, dtype) for part in range(micro)])
        engine.train_step(batches)
    return engine


def test_two_steps_equal_the_algorithm_written_out() -> None:
    engine = make_engine()
    generator, discriminator = (
        copy.deepcopy(engine.translator.generator),
        copy.deepcopy(engine.translator.discriminator),
    )
    average = copy.deepcopy(generator)
    players = [
        torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.5, 0.9)) for network in (generator, discriminator)
    ]
    for step in range(2):
        batch = make_batch(8 * step, 8)
        fake = generator(batch.draws("z").normal(3).double())
        players[1].zero_grad()
        loss = F.softplus(-discriminator(batch["image"])).mean() + F.softplus(discriminator(fake.detach())).mean()
        loss.backward()
        players[1].step()
        players[0].zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        players[0].step()
        with torch.no_grad():
            for kept, now in zip(average.parameters(), generator.parameters()):
                kept.lerp_(now, 1 - 0.5 ** (8 / 10))
    run(engine, 2)
    for network, expected in (
        (engine.translator.generator, generator),
        (engine.translator.discriminator, discriminator),
        (engine.ema.networks["generator"], average),
    ):
        for got, wanted in zip(network.parameters(), expected.parameters()):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_both_players_share_one_generator_pass() -> None:
    engine = run(make_engine(), 3)
    assert engine.translator.generator.calls == 3


@pytest.mark.parametrize("kind", [Unconditional, CycleGAN])
def test_accumulated_micro_batches_equal_one_batch(kind: type[Translator]) -> None:
    penalties = {"r1": R1(weight=0.5, every=2)}
    whole = run(make_engine(kind, penalties), 4)
    parts = run(make_engine(kind, penalties), 4, micro=4)
    assert_same(whole, parts, 1e-11)


def test_critic_steps_update_the_discriminator_more_often() -> None:
    engine = run(make_engine(), 2, critic_steps=3)
    steps = {
        name: next(iter(player.optimizer.state.values()))["step"].item() for name, player in engine.players.items()
    }
    assert steps == {"generator": 2, "discriminator": 6}
    assert engine.images_seen == 16


def test_a_lazy_penalty_is_a_step_of_its_own_with_corrected_adam() -> None:
    """R1 every 2nd step, 2 times as heavy, Adam with lr·c and β^c, c = 2/3 (StyleGAN2, appendix B)."""
    engine = make_engine(penalties={"r1": R1(weight=0.7, every=2)})
    generator, discriminator = (
        copy.deepcopy(engine.translator.generator),
        copy.deepcopy(engine.translator.discriminator),
    )
    c = 2 / 3
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=1e-2 * c, betas=(0.5**c, 0.9**c))
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-2, betas=(0.5, 0.9))
    for step in range(3):
        batch = make_batch(8 * step, 8)
        fake = generator(batch.draws("z").normal(3).double())
        optimizer_d.zero_grad()
        (F.softplus(-discriminator(batch["image"])).mean() + F.softplus(discriminator(fake.detach())).mean()).backward()
        optimizer_d.step()
        if step % 2 == 0:
            images = batch["image"].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
            optimizer_d.zero_grad()
            (2 * 0.7 * 0.5 * gradient.square().flatten(1).sum(1)).mean().backward()
            optimizer_d.step()
        optimizer_g.zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        optimizer_g.step()
    run(engine, 3)
    for got, wanted in zip(engine.translator.discriminator.parameters(), discriminator.parameters()):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


def test_weight_clip_holds_after_each_step() -> None:
    optim = OptimConfig(name="rmsprop", lr=1e-1)
    engine = run(make_engine(penalties={"weight_clip": WeightClip(c=0.02)}, objective="wgan", optim=optim), 2)
    assert max(parameter.abs().max() for parameter in engine.translator.discriminator.parameters()) <= 0.02


@dataclass(frozen=True)
class Consensus(Penalty):
    """½(‖∇_D L_D‖² + ‖∇_G L_G‖²) (Mescheder et al. 2017): a penalty that needs both losses, not only views."""

    def terms(self, game: Game) -> dict[str, Tensor]:
        value = torch.zeros((), dtype=torch.float64)
        for loss, player in ((game.discriminator_loss(), "discriminator"), (game.generator_loss(), "generator")):
            gradients = torch.autograd.grad(loss, game.parameters(player), create_graph=True)
            value = value + torch.stack([0.5 * gradient.square().sum() for gradient in gradients]).sum()
        return {"both": value}


def test_a_penalty_may_differentiate_both_players_losses() -> None:
    engine = make_engine(penalties={"consensus": Consensus(weight=0.3)}, optim=OptimConfig(name="adam", lr=1e-30))
    batch = make_batch(0, 8)
    run(engine, 1)
    got = [parameter.grad.clone() for parameter in engine.translator.discriminator.parameters()]

    generator, discriminator = engine.translator.generator, engine.translator.discriminator
    fake = generator(batch.draws("z").normal(3).double())
    loss_d = (F.softplus(-discriminator(batch["image"])) + F.softplus(discriminator(fake.detach()))).mean()
    loss_g = F.softplus(-discriminator(fake)).mean()
    own = torch.autograd.grad(loss_d, list(discriminator.parameters()), create_graph=True)
    other = torch.autograd.grad(loss_g, list(generator.parameters()), create_graph=True)
    total = loss_d + 0.3 * 0.5 * sum(gradient.square().sum() for gradient in (*own, *other))
    for one, wanted in zip(got, torch.autograd.grad(total, list(discriminator.parameters()))):
        torch.testing.assert_close(one, wanted, rtol=1e-11, atol=1e-12)


def test_a_step_that_is_not_finite_changes_nothing_and_ten_in_a_row_are_divergence() -> None:
    engine = run(make_engine(), 1)
    before, average = weights(engine), [p.clone() for p in engine.ema.networks["generator"].parameters()]
    poisoned = make_batch(8, 8)
    poisoned.images["image"][0, 0, 0, 0] = float("nan")
    for network in (engine.translator.generator,):
        network.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    for _ in range(10):
        assert not engine.has_diverged
        engine.train_step([[poisoned]])
    # a step counts once, although both players' updates were left out
    assert engine.skips_in_a_row == len(engine.skipped_steps) == 10
    assert engine.has_diverged
    assert engine.first_bad == "the output of generator"
    for kept, now in zip(before, weights(engine)):
        assert torch.equal(kept, now)
    for kept, now in zip(average, engine.ema.networks["generator"].parameters()):
        assert torch.equal(kept, now)


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_an_infinite_gradient_is_skipped_and_training_goes_on(precision: str) -> None:
    """Of one player, in one step. There is no float16, and so no scaler that would skip it."""
    engine = run(make_engine(precision=precision), 2)
    discriminator, generator = engine.translator.discriminator, engine.translator.generator
    before, other = discriminator.out.weight.detach().clone(), generator.layer.weight.detach().clone()
    hook = discriminator.out.weight.register_hook(lambda gradient: gradient * float("inf"))
    run(engine, 1)
    hook.remove()
    assert list(engine.skipped_steps) == [2]
    assert torch.equal(discriminator.out.weight, before)
    assert not torch.equal(generator.layer.weight, other)
    run(engine, 2)
    assert list(engine.skipped_steps) == [2]
    assert not engine.has_diverged
    assert not torch.equal(discriminator.out.weight, before)
    assert all(torch.isfinite(weight).all() for weight in weights(engine))


@pytest.mark.parametrize("ema_kimg", [0.01, 0.0])
def test_running_statistics_keep_nothing_of_a_skipped_step(ema_kimg: float) -> None:
    """They would stay not finite for ever, in the network and in its average, which is the model."""
    engine = run(make_engine(generator=NormalisedGenerator, ema_kimg=ema_kimg), 2)
    network, average = engine.translator.generator, engine.ema.networks["generator"]
    before, before_average = copy.deepcopy(network.state_dict()), copy.deepcopy(average.state_dict())
    hook = network.layer.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    run(engine, 1)
    hook.remove()
    assert list(engine.skipped_steps) == [2]
    for now, then in ((network, before), (average, before_average)):
        for key, value in now.state_dict().items():
            assert key.endswith("num_batches_tracked") or torch.equal(value, then[key]), key
    # what the step after it adds is written out: the batch's moments, then the average of both
    moment = network.layer(make_batch(24, 8).draws("z").normal(3).double()).var(0)
    expected = 0.9 * before["norm.running_var"] + 0.1 * moment
    run(engine, 1)
    torch.testing.assert_close(network.norm.running_var, expected, rtol=1e-12, atol=1e-14)
    if ema_kimg:
        expected = torch.lerp(before_average["norm.running_var"], expected, 1 - 0.5 ** (8 / 10))
    torch.testing.assert_close(average.norm.running_var, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [Unconditional, CycleGAN])
def test_state_round_trip_is_exact(kind: type[Translator]) -> None:
    penalties = {"r1": R1(weight=0.5, every=3)}
    settings = {"image_pool": 12, "kimg": 0.1}
    straight = run(make_engine(kind, penalties, **settings), 6)
    first = run(make_engine(kind, penalties, **settings), 3)
    second = make_engine(kind, penalties, **settings)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, 3)
    for one, other in zip(weights(straight), weights(second)):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_the_optimiser_gives_the_same_in_every_memory_layout(name: str) -> None:
    """Against torch's optimiser on contiguous weights, with a state saved and restored on the way."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ConvTranspose2d(4, 2, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2)
    ).double()
    images = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    network(images)
    reference = copy.deepcopy(network)
    network.to(memory_format=torch.channels_last)
    optim = OptimConfig(name=name, lr=1e-2, betas=(0.5, 0.9))

    def make_player() -> Player:
        return Player({"generator": network}, optim, 1e-2, lazy=[])

    player = make_player()
    theirs: torch.optim.Optimizer
    if name == "adam":
        theirs = torch.optim.Adam(reference.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=False)
    else:
        theirs = torch.optim.RMSprop(reference.parameters(), lr=1e-2, foreach=False)
    for step in range(4):
        for model in (network, reference):
            model.zero_grad()
            model(images).square().mean().backward()
        player.update()
        theirs.step()
        if step == 1:
            state = player.state_dict()
            for moments, parameter in zip(state["state"].values(), reference.parameters(), strict=True):
                assert {value.shape for value in moments.values() if value.ndim} == {parameter.shape}
            player = make_player()
            player.load_state_dict(copy.deepcopy(state))
    for got, wanted in zip(network.parameters(), reference.parameters()):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_lies_otherwise_than_its_weight_is_put_in_order() -> None:
    """torch's fused Adam alone would add each value to another weight, silently."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(6, 8, 3, bias=False).to(memory_format=torch.channels_last)
    expected = copy.deepcopy(layer)
    player = Player({"generator": layer}, OptimConfig(), 1e-2, lazy=[])
    theirs = torch.optim.Adam(expected.parameters(), lr=1e-2, betas=OptimConfig().betas, fused=False)
    gradient = torch.randn(8, 6, 3, 3)
    layer.weight.grad, expected.weight.grad = gradient, gradient.contiguous(memory_format=torch.channels_last)
    player.update()
    theirs.step()
    torch.testing.assert_close(layer.weight, expected.weight)


@pytest.mark.parametrize("ema_kimg", [0.01, 0.0])
def test_watching_translations_changes_nothing_that_is_trained(ema_kimg: float) -> None:
    watched, alone = (make_engine(CycleGAN, objective="lsgan", ema_kimg=ema_kimg) for _ in range(2))
    for _ in range(3):
        run(watched, 1)
        run(alone, 1)
        watched.watch_outputs(make_batch(0, 8).first(4))
    for mine, theirs in zip(weights(watched), weights(alone)):
        assert torch.equal(mine, theirs)
    assert watched.state_dict()["engine"]["variables"] == {}
    monitors = watched.monitors.take(watched.world)
    for direction in ("a2b", "b2a"):
        for key in ("colour_correlation", "change", "diversity", "hidden"):
            assert math.isfinite(monitors[f"{direction}_{key}"])


def test_what_is_watched_of_translations_is_the_averages_of_now() -> None:
    engine = run(make_engine(CycleGAN, objective="lsgan"), 2)
    batch = make_batch(0, 4)
    engine.watch_outputs(batch)
    expected = colour_correlation(batch["a"], engine.ema.networks["generator_ab"](batch["a"]))
    assert engine.monitors.take(engine.world)["a2b_colour_correlation"] == pytest.approx(expected.item(), abs=1e-6)


def test_undecided_is_the_share_of_the_loss_of_one_that_cannot_tell() -> None:
    engine = make_engine(CycleGAN, objective="lsgan")
    for network in engine.players["discriminator"].networks.values():
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
        network.out.bias.data.fill_(0.5)  # says the same of all
    run(engine, 1)
    shares = engine.undecided(engine.terms.take(engine.world))
    assert shares == {"discriminator_a_undecided": pytest.approx(1), "discriminator_b_undecided": pytest.approx(1)}
    assert make_engine(objective="wgan").undecided({"discriminator": 3.0}) == {}
