"""Trains some families for a few steps in float64, in memory, and writes each rank's weights; run by torchrun or alone.

By torchrun also once with a picture at one rank that is not a number in one step.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch.utils.hooks import RemovableHandle

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arguments, make_data

from img2img.config import DataPaths, resolve
from img2img.distributed import World
from img2img.training.precision import choose_precision
from img2img.training.prepare import prepare, step_batches

# nothing here mixes the samples of a batch
SETTINGS = {
    "growing": {"discriminator.minibatch_std": False, "growth.max_batch": 16, "train.kimg": 0.04},
    "styles": {"discriminator.minibatch_std": False},
    "starganv2": {"loss.penalties.r1.every": 2},
    "unconditional": {
        "generator.norm": "layer",
        "loss.penalties": ["r1", "gradient_penalty"],
        "loss.penalties.r1.every": 2,
    },
    "pix2pix": {"generator.dropout": 0.5},
    "cut": {"train.accumulate": 2},
    "cyclegan": {
        "train.image_pool": 6,
        "train.accumulate": 2,
        "augment.discriminator": "ada",
        "augment.parts": "blit,geometry,colour,filter,noise,cutout",
        "augment.p": 0.3,
        "augment.speed_kimg": 0.1,
        "augment.interval": 2,
    },
}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    world = World()
    world.join(device)
    data = {
        option: {key: Path(value) if key != "pairs" else (Path(value),) for key, value in folders.items()}
        for option, folders in make_data(out / f"data-{world.rank}-of-{world.size}").items()
    }
    runs = {family: (family, own, -1) for family, own in SETTINGS.items()}
    if world.size > 1:
        # batch normalisation in the generator, which learns through it what the discriminator says
        runs["poisoned"] = ("conditional", {"train.critic_steps": 1}, 2)
    for name, (family, own, poisoned_step) in runs.items():
        call = arguments(family, data, **{"train.batch": 8, "train.precision": "float64", **own})
        config = resolve(call.pop("recipe"), None, call.pop("set"))
        call.pop("device")
        prepared = prepare(config, DataPaths(**call), choose_precision("float64", device), world, None)
        engine = prepared.engine
        for step in range(5):
            batches = step_batches(prepared)
            if step == poisoned_step:
                hook = poison(engine.translator.generator) if world.rank == 1 else None
                engine.train_step(batches)
                if hook is not None:
                    hook.remove()
            else:
                engine.train_step(batches)
        weights = {
            **{f"now.{key}": value.contiguous() for key, value in engine.translator.state_dict().items()},
            **{
                f"ema.{name}.{key}": value.contiguous()
                for name, state in engine.ema.state_dict().items()
                for key, value in state.items()
            },
            "skipped_steps": torch.tensor(list(engine.skipped_steps), dtype=torch.int64),
        }
        safetensors.torch.save_file(weights, out / f"{name}-{world.rank}-of-{world.size}.safetensors")
    world.leave()


def poison(generator: torch.nn.Module) -> RemovableHandle:
    """Let the generator see no numbers behind its first layer, so that its running statistics are none either."""
    first = next(module for module in generator.modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)))
    return first.register_forward_hook(lambda module, inputs, output: output * float("nan"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
