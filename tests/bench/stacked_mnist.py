"""Count the modes of a model trained on Stacked MNIST: the figures of docs/results/objectives.md.

    img2img train dcgan-stacked-mnist --images mnist.npz --out run
    python tests/bench/stacked_mnist.py run/model.safetensors --images mnist.npz --grid samples.jpg

Each channel of a sample is a digit, so a sample is one of 10 × 10 × 10 modes (Metz et al. 2017, arXiv:1611.02163). A
small classifier, trained here in about a minute, says which digit a channel shows. Of 26,000 samples, as in PacGAN
(Lin et al. 2018, arXiv:1712.04086), it counts the modes that occur and takes the reverse Kullback-Leibler divergence
from the modes of the samples to those of the training pictures. The training pictures themselves, scored as if they
were samples, are the reference: no sampler does better than chance allows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.data.arrays import read_arrays
from img2img.data.encode import save_image
from img2img.data.lanes import StackedLane
from img2img.data.sources import open_source
from img2img.data.values import to_float
from img2img.errors import Fault
from img2img.inference.model import Model
from img2img.inference.sheets import make_grid

NUM_MODES = 1000
NUM_SAMPLES = 26_000
_BATCH = 100
_EPOCHS = 3


@dataclass(frozen=True)
class Coverage:
    """What a set of samples covers.

    Attributes:
        modes: how many of the 1000 occur.
        kl: Kullback-Leibler divergence of the samples' modes from the data's, KL(samples ‖ data), in nats.
    """

    modes: int
    kl: float


def coverage(sampled: np.ndarray, data: np.ndarray) -> Coverage:
    """Compare modes (n,) with modes (m,), both in 0…999; every mode must occur in the data."""
    p, q = (np.bincount(modes, minlength=NUM_MODES) / len(modes) for modes in (sampled, data))
    assert q.min() > 0, "a mode that the data lack makes the divergence infinite"
    found = p > 0
    return Coverage(int(found.sum()), float((p[found] * np.log(p[found] / q[found])).sum()))


def as_modes(digits: np.ndarray) -> np.ndarray:
    """(n, 3) digits to (n,) modes 0…999."""
    return digits @ np.array([100, 10, 1])


def read_digits(path: Path, part: str) -> tuple[Tensor, Tensor]:
    """Grey pictures (n, 1, h, w) in [-1, 1] and their digits (n,)."""
    arrays = read_arrays(path, part, labels=True)
    images = torch.from_numpy(arrays.images.copy()).permute(0, 3, 1, 2)
    return to_float(images), torch.from_numpy(arrays.labels.copy())


def train_classifier(images: Tensor, digits: Tensor, seed: int = 0) -> nn.Module:
    """Two convolutions and two linear layers for 28 × 28, three times through the data."""
    torch.manual_seed(seed)
    classifier = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )
    optimizer = torch.optim.Adam(classifier.parameters())
    steps = _EPOCHS * (len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(images)).split(_BATCH)[: steps // _EPOCHS]:
            optimizer.zero_grad()
            F.cross_entropy(classifier(images[chosen]), digits[chosen]).backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


def classify(classifier: nn.Module, images: Tensor) -> Tensor:
    """(n, 1, h, w) -> (n,) digits."""
    with torch.inference_mode():
        return torch.cat([classifier(part).argmax(dim=1) for part in images.split(500)])


def modes_of(classifier: nn.Module, stacked: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) uint8 -> (n,) modes."""
    channels = to_float(torch.from_numpy(stacked).permute(0, 3, 1, 2)).flatten(0, 1)[:, None]
    return as_modes(classify(classifier, channels).reshape(-1, 3).numpy())


def stacked_data(path: Path, digits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, h, w, 3) uint8 as training sees them, and their modes (n,) by their labels."""
    source = open_source(images=path, resolution=(28, 28), stacked=True)
    lane = source.lanes["image"]
    assert isinstance(lane, StackedLane), "asked for"
    pictures = torch.stack([source.read("image", index) for index in range(NUM_SAMPLES)])
    return pictures.permute(0, 2, 3, 1).numpy(), as_modes(digits.numpy()[lane.parts])


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the modes of models trained on Stacked MNIST.")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, required=True, help="mnist.npz")
    parser.add_argument("--grid", type=Path, help="picture of samples to write, with one model")
    parser.add_argument("--seed", type=int, default=0, help="of the samples and of the classifier")
    options = parser.parse_args()
    try:
        images, digits = read_digits(options.images, "train")
        began = time.perf_counter()
        classifier = train_classifier(images, digits, options.seed)
        seconds = time.perf_counter() - began
        unseen, answers = read_digits(options.images, "test")
        accuracy = float((classify(classifier, unseen) == answers).float().mean())
        print(json.dumps({"classifier": {"test_accuracy": round(accuracy, 4), "seconds": round(seconds)}}), flush=True)
        pictures, modes = stacked_data(options.images, digits)
        print(json.dumps({"training pictures": asdict(coverage(modes_of(classifier, pictures), modes))}), flush=True)
        for path in options.models:
            model = Model.load(path, "cpu")
            samples = np.stack([pixels for _, pixels in model.samples(NUM_SAMPLES, seed=options.seed)])
            found = coverage(modes_of(classifier, samples), modes)
            print(json.dumps({str(path): {"images_seen": model.info.images_seen, **asdict(found)}}), flush=True)
            if options.grid is not None:
                save_image(options.grid, make_grid([list(row) for row in samples[:128].reshape(8, 16, 28, 28, 3)]))
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main()
