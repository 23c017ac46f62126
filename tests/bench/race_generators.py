"""Time a training step of a generator beside a peer's checkout, in turn on the same machine.

    python tests/bench/race_generators.py stylegan2 PEER --resolution 64 --batch 8 [--precision auto] ...
    python tests/bench/race_generators.py biggan PEER --resolution 64 --batch 16 [--precision auto] ...

PEER is a checkout of NVlabs/stylegan2-ada-pytorch or of ajbrock/BigGAN-PyTorch. Nothing of it is copied: its own loss
and its own training function are timed, on noise, StyleGAN2 with its reference operations where there is no CUDA.
Networks, objective, penalties and batch are the same on both sides; what our recipe has otherwise is set here. As in
race.py each side has a process of its own, they take turns, and what counts is the median of the ratios in a round.

A step of StyleGAN2 is one of each player, with R1 in every 16th and path length in every 4th. A round times one of each
kind of step, and its mean counts each as often as training has it. The peer's path length is over half the batch, ours
over all of it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from race import Work, make_engine, race_in_turn, run_side, tell

from img2img.errors import Fault, UsageFault

_NUM_CLASSES = 1000
# the steps of a round and how often training has their like: with R1 and path length, with neither, with path length
STYLEGAN2_STEPS = {0: 1 / 16, 1: 12 / 16, 4: 3 / 16}
# our recipe -> files that tell a checkout of the peer
PEERS = {"stylegan2": ("training/loss.py", "torch_utils/ops/upfirdn2d.py"), "biggan": ("BigGAN.py", "train_fns.py")}


@dataclass(frozen=True)
class Race:
    """What both sides run."""

    family: str
    peer: Path
    resolution: int
    batch: int
    width: int
    precision: str
    device: str


def our_step(race: Race) -> Work:
    """One `Engine.train_step` of our recipe on noise."""
    import torch

    from img2img import config
    from img2img.data.batches import Batch
    from img2img.translators.base import DataShape

    own = {
        "stylegan2": {"generator.channel_base": race.width, "discriminator.channel_base": race.width},
        "biggan": {
            "loss.penalties": "none",  # orthogonal regularisation is off in the peer's own scripts
            "generator.width": race.width,
            "discriminator.width": race.width,
            "generator.attention": race.resolution // 2,
            "discriminator.attention": race.resolution // 2,
        },
    }[race.family]
    sets = {"data.resolution": race.resolution, "train.batch": race.batch, "train.precision": race.precision, **own}
    settings = config.resolve(race.family, None, sets)
    classes = tuple(map(str, range(_NUM_CLASSES))) if race.family == "biggan" else ()
    engine = make_engine(settings, DataShape(settings.data.resolution, {"image": 3}, classes), race.device)
    images = (torch.rand(race.batch, 3, race.resolution, race.resolution) * 2 - 1).to(race.device)
    labels = torch.arange(race.batch, device=race.device) if classes else None
    numbers = itertools.cycle(STYLEGAN2_STEPS) if race.family == "stylegan2" else itertools.count()

    def step() -> None:
        engine.step = next(numbers)
        first = engine.images_seen
        batch = Batch({"image": images}, labels, torch.arange(first, first + race.batch, device=race.device), seed=0)
        engine.train_step([[batch]])

    return step


def stylegan2_step(race: Race) -> Work:
    """The peer's loss, phases and Adam as its training loop has them, without its augmentation."""
    import torch
    from training.loss import StyleGAN2Loss  # type: ignore[import-not-found]
    from training.networks import Discriminator, Generator  # type: ignore[import-not-found]

    torch.manual_seed(0)
    device = torch.device(race.device)
    side, batch = race.resolution, race.batch
    common = {"channel_base": race.width, "channel_max": 512}
    generator = Generator(512, 0, 512, side, 3, {"num_layers": 8}, dict(common)).to(device).train()
    discriminator = Discriminator(0, side, 3, **common, epilogue_kwargs={"mbstd_group_size": 4}).to(device).train()
    loss = StyleGAN2Loss(device, generator.mapping, generator.synthesis, discriminator, r1_gamma=10)
    average = [parameter.detach().clone() for parameter in generator.parameters()]
    optimizers = {}
    for name, network, interval in (("G", generator, 4), ("D", discriminator, 16)):
        share = interval / (interval + 1)
        betas = (0.0, 0.99**share)
        optimizers[name] = torch.optim.Adam(network.parameters(), lr=0.002 * share, betas=betas)
    images = (torch.rand(batch, 3, side, side) * 2 - 1).to(device)
    labels = torch.zeros(batch, 0, device=device)
    numbers = itertools.cycle(STYLEGAN2_STEPS)

    def phase(name: str, gain: int) -> None:
        network = generator if name[0] == "G" else discriminator
        network.requires_grad_(True)
        optimizers[name[0]].zero_grad(set_to_none=True)
        z = torch.randn(batch, 512, device=device)
        loss.accumulate_gradients(name, images, labels, z, labels, sync=True, gain=gain)
        network.requires_grad_(False)
        optimizers[name[0]].step()

    def step() -> None:
        number = next(numbers)
        generator.requires_grad_(False)
        discriminator.requires_grad_(False)
        phase("Gmain", 1)
        if number % 4 == 0:
            phase("Greg", 4)
        phase("Dmain", 1)
        if number % 16 == 0:
            phase("Dreg", 16)
        with torch.no_grad():
            for mean, parameter in zip(average, generator.parameters()):
                mean.copy_(parameter.lerp(mean, 0.999))

    return step


def biggan_step(race: Race) -> Work:
    """The peer's training function: hinge, spectral norm, average."""
    import torch

    # its data sets and its score are not needed here, and ask for packages of their own
    for name in ("datasets", "animal_hash"):
        sys.modules[name] = MagicMock()
    import utils  # type: ignore[import-not-found]
    from BigGAN import G_D, Discriminator, Generator  # type: ignore[import-not-found]
    from train_fns import GAN_training_function  # type: ignore[import-not-found]

    torch.manual_seed(0)
    device, side, batch = race.device, race.resolution, race.batch
    attention = str(side // 2)
    common = {"resolution": side, "n_classes": _NUM_CLASSES}

    def make() -> Any:
        return Generator(
            G_ch=race.width, dim_z=120, G_attn=attention, G_shared=True, shared_dim=128, hier=True, G_init="ortho",
            G_activation=torch.nn.ReLU(inplace=True), G_lr=5e-5, G_B1=0.0, adam_eps=1e-8, BN_eps=1e-5, SN_eps=1e-8,
            **common,
        ).to(device)  # fmt: skip

    generator = make()
    discriminator = Discriminator(
        D_ch=race.width, D_attn=attention, D_activation=torch.nn.ReLU(inplace=True), D_init="ortho", D_lr=2e-4,
        D_B1=0.0, adam_eps=1e-8, SN_eps=1e-8, **common,
    ).to(device)  # fmt: skip
    state = {"itr": 30_000}
    average = utils.ema(generator, make(), 0.9999, 20_000)
    settings = {
        "batch_size": batch, "num_D_steps": 1, "num_D_accumulations": 1, "num_G_accumulations": 1, "ema": True,
        "toggle_grads": True, "split_D": False, "D_ortho": 0.0, "G_ortho": 0.0,
    }  # fmt: skip
    z, y = utils.prepare_z_y(batch, 120, _NUM_CLASSES, device=device)
    train = GAN_training_function(
        generator, discriminator, G_D(generator, discriminator), z, y, average, state, settings
    )
    images = (torch.rand(batch, 3, side, side) * 2 - 1).to(device)
    labels = torch.arange(batch, device=device)
    return lambda: train(images, labels)


def make_work(side: str, race: Race) -> Work:
    if side == "ours":
        return our_step(race)
    sys.path.insert(0, str(race.peer))
    return {"stylegan2": stylegan2_step, "biggan": biggan_step}[race.family](race)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Time a generator's training step beside a peer's, in turn.")
    parser.add_argument("family", choices=tuple(PEERS))
    parser.add_argument("peer", type=Path, metavar="PEER", help="root of the peer's checkout")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, help="channel_base of StyleGAN2 (16384), width of BigGAN (64)")
    parser.add_argument("--precision", default="auto", help="ours; auto is the default of training")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    is_style = options.family == "stylegan2"
    race = Race(
        family=options.family,
        peer=options.peer.resolve(),
        resolution=options.resolution,
        batch=options.batch,
        width=options.width or (16384 if is_style else 64),
        precision=options.precision,
        device=options.device,
    )
    if options.side:
        shares = tuple(STYLEGAN2_STEPS.values()) if is_style else (1.0,)
        run_side(partial(make_work, options.side, race), shares, race.device)
        return 0
    try:
        for name in PEERS[race.family]:
            if not (race.peer / name).is_file():
                raise UsageFault(race.peer, f"{name} is not there", f"Give the root of a checkout for {race.family}")
        ours, peers = race_in_turn(__file__, arguments, options.rounds)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    import torch

    size = f"{race.resolution} x {race.resolution}, batch {race.batch}, width {race.width}"
    print(f"{race.family}, a step, {size}; {race.device}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    tell(ours, peers, race.precision)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
