"""Statistics that other tools keep as .npz: mean and covariance of features, or the features themselves.

pytorch-fid and clean-fid write `mu` and `sigma`; clean-fid writes the features for its kernel distance as `feats`. Such
a file says neither which network nor which resize it was made with: that is the user's to know, and a card records it.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from img2img.data.arrays import UNREADABLE, read_member
from img2img.errors import UsageFault
from img2img.evaluation.features import Features
from img2img.metrics.frechet import Gaussian

_LARGEST = 8 << 30  # bytes of one array
_MEND = "Copy it again, or write it by numpy.savez with mu and sigma, or with feats"


def is_statistics(path: str | Path) -> bool:
    """Whether an .npz file holds mu and sigma, or feats; pictures do not."""
    if not Path(path).is_file():  # a pipe would block
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return {"mu.npy", "sigma.npy"} <= names or "feats.npy" in names


def read_statistics(path: str | Path, dimension: int) -> Features:
    """Features, or mean and covariance, of `dimension` numbers a picture.

    Raises:
        UsageFault: damaged, pickled, not finite, of another size, or not a covariance.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if "feats.npy" in archive.namelist():
                values = _array(archive, path, "feats", (None, dimension)).astype(np.float32)
                return Features(
                    len(values),
                    torch.from_numpy(values),
                    names=[str(number) for number in range(len(values))],
                )
            mean = _array(archive, path, "mu", (dimension,)).astype(np.float64)
            covariance = _array(archive, path, "sigma", (dimension, dimension)).astype(np.float64)
    except UNREADABLE as error:
        raise UsageFault(path, f"is no usable .npz file of statistics ({error})", _MEND) from error
    spread = float(np.abs(covariance).max())
    if float(np.abs(covariance - covariance.T).max()) > 1e-4 * spread or (np.diag(covariance) < 0).any():
        raise UsageFault(path, "its sigma is no covariance: not symmetric, or with negative variances", _MEND)
    gaussian = Gaussian(torch.from_numpy(mean), torch.from_numpy((covariance + covariance.T) / 2), 0)
    return Features(None, None, moments=gaussian)


def _array(archive: zipfile.ZipFile, path: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A finite array of numbers of this shape (None: any)."""

    def judge(found: tuple[int, ...], dtype: np.dtype) -> None:
        if dtype.hasobject:
            raise UsageFault(path, f"its {name} is pickled, which can run code when read", "Save it as plain numbers")
        if dtype.kind not in "fiu":
            raise UsageFault(path, f"its {name} holds {dtype}, not numbers", _MEND)
        if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found)):
            wanted = " × ".join("n" if want is None else str(want) for want in shape)
            raise UsageFault(
                path,
                f"its {name} has shape {found}, not {wanted}",
                "Use the extractor that the statistics were made with (--extractor)",
            )
        size = math.prod(found) * dtype.itemsize
        if size > _LARGEST:
            raise UsageFault(path, f"its {name} is of {size / 1e9:.1f} GB", "Give statistics of fewer pictures")

    array = read_member(archive, name, judge)
    if not np.isfinite(array).all():
        raise UsageFault(path, f"its {name} holds values that are not finite", _MEND)
    return array
