"""What changes with time beside the weights: control variables, running means, pools, noise, shares of samples."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from theory import make_game, play

from img2img.data.worlds import find_world
from img2img.training.engine import Engine, Step
from img2img.training.prepare import Prepared, step_batches

BATCH = 12
STEPS = 8
COMMON = (
    "generator.width=8",
    "loss.adversarial=nonsaturating",
    "loss.penalties=none",
    f"train.batch={BATCH}",
    f"train.kimg={BATCH * STEPS / 1000}",
    "train.ema_kimg=0.02",
    "optim.decay_share=0.5",
)
LOGITS = (*COMMON, "discriminator.width=8")
AUTOENCODER = ("discriminator=mlp_autoencoder", "discriminator.width=8", "discriminator.code_dim=2")
BEGAN = (*COMMON, *AUTOENCODER, "loss.adversarial=began", "loss.adversarial.gamma=0.7", "loss.adversarial.rate=0.2")


def make(*sets: str) -> Prepared:
    return make_game(sets, [find_world("ring"), find_world("swissroll")])


def judge_next(game: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
    """What the discriminators say of the next step's data and fakes, (R, N) each, before anything moved."""
    batch = step_batches(game)[0][0]
    step = Step(game.engine, "discriminator", batch, game.engine.generate(batch, for_generator=False))
    (verdict,) = step.verdicts()
    assert verdict.real is not None
    return verdict.real.detach().view(2, -1), verdict.fake.detach().view(2, -1)


def test_began_s_control_moves_as_its_formula_in_each_game() -> None:
    """k ← clip(k + λ(γL(x) − L(G(z))), 0, 1), from 0, on what D said before it moved."""
    game = make(*BEGAN, "train.precision=float64")
    control = torch.zeros(2, dtype=torch.float64)
    for _ in range(STEPS):
        real, fake = judge_next(game)
        control = (control + 0.2 * (0.7 * real.mean(1) - fake.mean(1))).clamp(0, 1)
        next(play(game, 1))
        torch.testing.assert_close(game.engine.variables["control/discriminator"], control, rtol=1e-12, atol=1e-14)
    assert (control > 0).all()
    assert control[0] != control[1]


def test_lecam_s_running_means_follow_each_game_s_judgements() -> None:
    """They begin with the first step's means, then mean ← 0.9 · mean + 0.1 · new."""
    game = make(*LOGITS, "loss.penalties=lecam", "loss.penalties.lecam.decay=0.9", "train.precision=float64")
    means: dict[str, torch.Tensor] = {}
    for _ in range(STEPS):
        for side, said in zip(("real", "fake"), judge_next(game)):
            new = said.mean(1)
            means[side] = 0.9 * means.get(side, new) + 0.1 * new
        next(play(game, 1))
        for side, mean in means.items():
            remembered = game.engine.variables[f"lecam/discriminator/{side}"]
            torch.testing.assert_close(remembered, mean, rtol=1e-12, atol=1e-14)


def leaves(tree: object) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree, key=str) for leaf in leaves(tree[key])]
    return [leaf for item in tree for leaf in leaves(item)] if isinstance(tree, (list, tuple)) else []


def assert_equal_states(one: Engine, other: Engine) -> None:
    first, second = leaves(one.state_dict()), leaves(other.state_dict())
    assert len(first) == len(second) > 10
    for mine, theirs in zip(first, second):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "sets",
    [
        (*LOGITS, "train.unroll=2", "train.packing=2", "train.image_pool=16"),
        (*LOGITS, "loss.penalties=r1,lecam,instance_noise,path_length", "optim.name=rmsprop", "train.critic_steps=2"),
        (*LOGITS, "loss.penalties=consensus,drift", "train.top_k=0.5", "train.generators=2"),
        (*LOGITS, "loss.adversarial=wgan", "loss.penalties=weight_clip", "train.image_pool=20", "train.accumulate=2"),
        (*BEGAN, "train.image_pool=16"),
        (*COMMON, *AUTOENCODER, "loss.adversarial=ebgan", "train.packing=3", "train.unroll=1"),
    ],
    ids=lambda sets: " ".join(text for text in sets if text not in COMMON),
)
def test_a_resumed_game_is_the_uninterrupted_one(sets: tuple[str, ...]) -> None:
    straight, first, second = make(*sets), make(*sets), make(*sets)
    for _ in play(straight, STEPS):
        pass
    for _ in play(first, STEPS // 2):
        pass
    second.engine.load_state_dict(copy.deepcopy(first.engine.state_dict()))
    for _ in play(second, STEPS // 2):
        pass
    assert second.engine.step == straight.engine.step == STEPS
    assert_equal_states(second.engine, straight.engine)


def test_instance_noise_falls_linearly_with_progress() -> None:
    """std · (1 − progress / share), the same unit noise for the same images."""
    game = make(*LOGITS, "loss.penalties=instance_noise", "loss.penalties.instance_noise.share=0.5")
    engine, batch = game.engine, step_batches(game)[0][0]
    outputs = engine.generate(batch, for_generator=False)
    noise = []
    for step in range(STEPS):
        engine.go_to(step * BATCH)
        (view,) = Step(engine, "discriminator", batch, outputs).views
        noise.append([view.real - batch["image"], view.fake - outputs["fake"]])
    for side in (0, 1):
        unit = noise[0][side] / 0.1
        assert 0.5 < unit.std() < 1.5
        for step, both in enumerate(noise):
            expected = 0.1 * max(0.0, 1 - step / STEPS / 0.5) * unit
            torch.testing.assert_close(both[side], expected, rtol=0, atol=1e-6)


def test_top_k_narrows_over_the_first_half_and_the_generator_learns_from_the_best_only() -> None:
    """The kept share falls from 1 to train.top_k; the gradient is that of the losses of the highest logits."""
    game = make(*LOGITS, "train.top_k=0.25", "train.precision=float64")
    engine, batch = game.engine, step_batches(game)[0][0]
    for step in range(STEPS):
        engine.go_to(step * BATCH)
        kept = 1 - 0.75 * min(1.0, 2 * step / STEPS)
        assert engine.kept_share == pytest.approx(kept)
        outputs = engine.generate(batch, for_generator=True)
        (term,) = Step(engine, "generator", batch, outputs).generator_terms().values()
        logits = engine.translator.discriminator(outputs["fake"]).view(2, -1)
        count = -(-kept * BATCH // 1)
        best = logits.sort(dim=1, descending=True).values[:, : int(count)]
        torch.testing.assert_close(term, torch.nn.functional.softplus(-best).mean(), rtol=1e-12, atol=0)
