"""How much of a folder's translation is the network: both measured in turns, so that other load hits both alike.

    python tests/bench/translate_speed.py PHOTOS [--count 200] [--precision float32|bfloat16] [--device auto]

The model is an untrained CycleGAN generator (ResNet-6, width 32); its speed does not depend on its weights. Photos are
read, translated at their own size and written; then the same network runs on tensors of the same sizes alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.data.decode import open_image
from img2img.data.files import list_images
from img2img.inference.folder import translate_folder
from img2img.inference.model import Model
from img2img.networks import GENERATORS

_PHOTOS_PER_TURN = 8


def write_resnet(path: Path, *, width: int = 32, blocks: int = 6) -> None:
    """A model file a → b with a ResNet and random weights."""
    arguments = {"in_channels": 3, "out_channels": 3, "width": width, "blocks": blocks}
    info = ModelInfo(
        translator="pix2pix",
        task="translate",
        networks={"generator": NetworkSpec("resnet", arguments)},
        directions={"a2b": "generator"},
        domains={"a": "photos", "b": "noise"},
        channels={"a": 3, "b": 3},
        resolution=(256, 256),
    )
    torch.manual_seed(0)
    write_model(path, {"generator": GENERATORS["resnet"](**arguments)}, info)


def network_alone(model: Model, sizes: list[tuple[int, int]]) -> float:
    """Seconds the network takes for inputs of these sizes, one after the other."""
    images = {size: torch.rand(1, 3, *size) * 2 - 1 for size in set(sizes)}
    started = time.perf_counter()
    for size in sizes:
        model.run_each(images[size], "a2b")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of translate beside that of its network.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    photos = list_images(options.photos)[: options.count]
    whole: list[float] = []
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        write_resnet(Path(folder) / "model.safetensors")
        model = Model.load(Path(folder) / "model.safetensors", options.device, options.precision)
        network_alone(model, [(256, 256)])
        for first in range(0, len(photos), _PHOTOS_PER_TURN):
            source = Path(folder) / f"in-{first}"
            source.mkdir()
            turn = photos[first : first + _PHOTOS_PER_TURN]
            for path in turn:
                (source / path.name).symlink_to(path.resolve())
            pictures = [open_image(path) for path in turn]
            sizes = [(picture.height, picture.width) for picture in pictures]
            alone.append(network_alone(model, sizes) / len(turn))
            whole.append(translate_folder(model, source, Path(folder) / f"out-{first}").seconds / len(turn))
    print(f"device {model.device}, {model.precision}, {torch.get_num_threads()} threads, {len(photos)} photos")
    # medians over the turns: a moment of other load must not decide
    with_files, network = statistics.median(whole), statistics.median(alone)
    print(f"translate      {1 / with_files:.2f} images/s")
    print(f"network alone  {1 / network:.2f} images/s")
    print(f"ratio          {network / with_files:.3f}")


if __name__ == "__main__":
    main()
