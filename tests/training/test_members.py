"""Several games trained as one batched network are the games trained one by one, whatever is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from img2img import translators
from img2img.config import Config, DataPaths, resolve
from img2img.data.batches import Batch
from img2img.data.worlds import PointBatch
from img2img.distributed import World
from img2img.losses import ADVERSARIAL
from img2img.training.engine import Engine, EngineSettings
from img2img.training.precision import choose_precision
from img2img.training.prepare import Prepared, prepare
from img2img.translators import DataShape

WORLDS = ("ring", "grid", "swissroll")
SMALL = (
    "generator.width=8",
    "discriminator.width=8",
    "train.batch=12",
    "train.kimg=0.6",
    "train.ema_kimg=0.05",
    "train.precision=float64",
    "optim.decay_share=0",
)
PLAIN = (*SMALL, "loss.adversarial=nonsaturating", "loss.penalties=none")
AUTOENCODER = ("discriminator=mlp_autoencoder", "discriminator.width=8", "discriminator.code_dim=3")


def make(sets: Sequence[str], worlds: Sequence[str] = WORLDS) -> Prepared:
    config = resolve("points", None, sets)
    assert translators.check(config) == []
    precision = choose_precision("float64", torch.device("cpu"))
    return prepare(config, DataPaths(worlds=tuple(worlds)), precision, World(), None)


def member_of(tensor: Tensor, member: int) -> Tensor:
    return tensor.unflatten(0, (len(WORLDS), -1))[member]


def alone(config: Config, together: Engine, member: int) -> Engine:
    """An engine of one game that starts with the weights of one member."""
    translator, _ = translators.build(config, DataShape((1, 1), {"image": 2}))
    settings = EngineSettings.of(config)
    precision = together.precision
    translator.to(precision.dtype)
    state = {
        # what belongs to all members (counters) is taken whole, batch statistics and spectral vectors by their shape
        key: value if value.shape == mine.shape else value.reshape(len(WORLDS), *mine.shape)[member]
        for (key, value), mine in zip(together.translator.state_dict().items(), translator.state_dict().values())
    }
    translator.load_state_dict(state)
    return Engine(translator, translators.make_penalties(config), settings, precision, World())


def rows_of(batch: PointBatch, member: int) -> Batch:
    return Batch({"image": member_of(batch["image"], member)}, None, member_of(batch.numbers, member), batch.seed)


@pytest.mark.parametrize(
    "sets",
    [
        *((*PLAIN, f"loss.adversarial={name}") for name, kind in ADVERSARIAL.items() if kind.judges_by == "logit"),
        *(
            (*PLAIN, f"loss.adversarial={name}", *AUTOENCODER)
            for name, kind in ADVERSARIAL.items()
            if kind.judges_by == "energy"
        ),
        (*PLAIN, "loss.penalties=r1,r2"),
        (*PLAIN, "loss.penalties.r1.every=2", "loss.penalties.r1.weight=0.1"),
        (*PLAIN, "loss.penalties=gradient_penalty,zero_centered_gp,dragan,drift,lecam,instance_noise"),
        (*PLAIN, "loss.penalties=consensus"),
        (*PLAIN, "loss.penalties=weight_clip", "train.critic_steps=2", "optim.name=rmsprop"),
        (*PLAIN, "loss.penalties=orthogonal,path_length"),
        (*PLAIN, "train.unroll=2"),
        (*PLAIN, "train.unroll=2", "loss.penalties=r1,lecam", "optim.name=rmsprop"),
        (*PLAIN, "train.packing=3", "loss.penalties=gradient_penalty"),
        (*PLAIN, "train.generators=3"),
        (*PLAIN, "train.image_pool=20"),
        (*PLAIN, "train.top_k=0.4"),
        (*PLAIN, "loss.feature_matching=0.5"),
        (*PLAIN, "discriminator.minibatch_discrimination=true"),
        (*PLAIN, "discriminator.minibatch_std=true"),
        (*PLAIN, "generator.norm=batch", "discriminator.norm=batch"),
        (*PLAIN, "discriminator.spectral_norm=true"),
        (*PLAIN, "train.accumulate=2", "loss.adversarial=began", *AUTOENCODER),
    ],
    ids=lambda sets: " ".join(sets[len(PLAIN) :]),
)
def test_a_member_is_the_game_alone(sets: tuple[str, ...]) -> None:
    together = make(sets)
    engine, config = together.engine, together.config
    singles = [alone(config, engine, member) for member in range(len(WORLDS))]
    micro = config.train.batch // config.train.accumulate
    for step in range(6):
        rows = np.arange(step * 24, step * 24 + 24).reshape(config.train.critic_steps, -1)[:, : config.train.batch]
        batches = [
            [together.loader.batch(part) for part in np.split(numbers, config.train.batch // micro)] for numbers in rows
        ]
        engine.train_step(batches)
        for member, single in enumerate(singles):
            single.train_step([[rows_of(batch, member) for batch in parts] for parts in batches])
    for name, parameter in engine.translator.named_parameters():
        for member, single in enumerate(singles):
            own = single.translator.get_parameter(name)
            torch.testing.assert_close(parameter.reshape(len(WORLDS), *own.shape)[member], own, rtol=1e-7, atol=1e-9)
    for name, variable in engine.variables.items():
        torch.testing.assert_close(variable, torch.cat([single.variables[name] for single in singles]))


def test_the_first_member_s_data_do_not_depend_on_how_many_there_are() -> None:
    numbers = np.arange(5)
    one, three = make(PLAIN, ("ring",)).loader.batch(numbers), make(PLAIN).loader.batch(numbers)
    assert torch.equal(one["image"], three["image"][:5])
    assert torch.equal(one.draws("z").normal(2), three.draws("z").normal(2)[:5])
    assert not torch.equal(three.draws("z").normal(2)[:5], three.draws("z").normal(2)[5:10])
