"""The Parzen-window log-likelihood of a model's samples, beside that of the pictures it was trained on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from img2img.data.arrays import read_arrays
from img2img.draws import permutation
from img2img.errors import UsageFault
from img2img.inference.model import Model
from img2img.metrics.parzen import ParzenScore, score

# So many validation pictures choose the bandwidth in the released code of Goodfellow et al.
_NUM_VALIDATION = 1000
_MOST_TESTED = 10_000


@dataclass(frozen=True)
class ParzenReport:
    """Scores of as many samples of the model and training pictures, and what they were taken from.

    Attributes:
        model: of the model's samples.
        training: of training pictures, as if a model had made them.
        samples, validation, test: how many samples, pictures for the bandwidth, and pictures that were scored.
    """

    model: ParzenScore
    training: ParzenScore
    samples: int
    validation: int
    test: int

    @property
    def protocol(self) -> str:
        """How it was measured, in one sentence."""
        return (
            f"Gaussian Parzen window around {self.samples} samples, values in [0, 1], float64; bandwidth, of ten from "
            f"0.1 to 1, by {self.validation} training pictures; mean and standard error over {self.test} test pictures"
        )


def measure(model: Model, path: str | os.PathLike[str], num_samples: int = 10_000, seed: int = 0) -> ParzenReport:
    """Score a model without classes by the protocol of Goodfellow et al. 2014 (arXiv:1406.2661, section 5).

    Args:
        path: an .npz file with train_images and test_images of the size that the model makes.
        num_samples: of the model, and of training pictures where there are as many besides those for the bandwidth.
        seed: of the samples.

    Raises:
        UsageFault: the model makes other pictures than the file holds, or has classes, or makes none from noise.
    """
    if model.class_indices():
        raise UsageFault(model.path, "is a model with classes, whose shares nobody knows", "Give one without classes")
    train, test = read_arrays(path).images, read_arrays(path, "test").images
    height, width = model.info.resolution
    made = (height, width, model.info.channels["image"])
    for name, images in (("training", train), ("test", test)):
        if images.shape[1:] != made:
            raise UsageFault(
                path,
                f"its {name} pictures are {_shown(images.shape[1:])}, the model makes {_shown(made)}",
                "Give the file that the model was trained on",
            )
    # files are sorted by class, so the parts are drawn at random
    train, test = (images[permutation(0, "parzen", 0, len(images))] for images in (train, test))
    num_validation = min(_NUM_VALIDATION, max(1, len(train) // 6))
    samples = np.stack([pixels for _, pixels in model.samples(num_samples, seed=seed)])
    validation, tested = _values(train[-num_validation:]), _values(test[:_MOST_TESTED])
    return ParzenReport(
        model=score(_values(samples), validation, tested),
        training=score(_values(train[:-num_validation][:num_samples]), validation, tested),
        samples=num_samples,
        validation=len(validation),
        test=len(tested),
    )


def _shown(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width}×{height} with {channels} {'channel' if channels == 1 else 'channels'}"


def _values(images: np.ndarray) -> Tensor:
    """(n, h, w, c) uint8 to (n, h·w·c) in [0, 1]."""
    return torch.from_numpy(images.reshape(len(images), -1)).double() / 255
