"""Features of a set of pictures: extracted once, kept in a cache, and the ground of every measure over them.

The cache's key is made of the pictures' contents, how they are prepared, the extractor's weights and its resize, and of
the version of this code; a damaged file of it is noticed by its checksum and made anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from img2img.atomic import write_bytes
from img2img.distributed import World
from img2img.errors import Fault, UsageFault
from img2img.evaluation.extractors import Extractor
from img2img.evaluation.folders import user_cache
from img2img.evaluation.image_set import ImageSet, digest_of
from img2img.metrics.frechet import Gaussian, Moments, fit
from img2img.version import __version__

_log = logging.getLogger(__name__)
_FORMAT = 1
_METADATA_KEY = "img2img"
_FOLDER_VARIABLE = "IMG2IMG_CACHE"
_SUFFIX = ".safetensors"
# Of larger sets only mean and covariance are kept: half a million pictures of 2048 features
LARGEST_IN_MEMORY = 4 << 30
# The oldest files are removed beyond this
LARGEST_CACHE = 20 << 30


@dataclass(eq=False)
class Features:
    """What an extractor sees in a set of pictures.

    Attributes:
        count: number of pictures.
        values: (n, d) float32, or None where only mean and covariance are known.
        logits: (n, k) float32 of a classifier, or None.
        names, labels: of each picture, see ImageSet.
        moments: mean and covariance where there are no `values`.
    """

    count: int | None
    values: Tensor | None
    logits: Tensor | None = None
    names: Sequence[str] = ()
    labels: Sequence[str] | None = None
    moments: Gaussian | None = None

    @functools.cached_property
    def gaussian(self) -> Gaussian:
        """Mean and covariance."""
        if self.moments is not None:
            return self.moments
        assert self.values is not None, "features have values or moments"
        return fit(self.values)


def extract(
    images: ImageSet,
    extractor: Extractor,
    *,
    cache: Path | None = None,
    batch: int | None = None,
    world: World | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """The features of `images`, from the cache where they are there.

    Args:
        cache: folder of cached features; None keeps none.
        batch: pictures at a time; None is what suits the extractor's device. The features do not depend on it.
        world: the processes that share the work; every one of them gets all features.
        progress: called with (pictures done, pictures of this process).

    Raises:
        UsageFault: fewer than two pictures. Faults: pictures that cannot be decoded.
    """
    if len(images) < 2:
        raise UsageFault(
            images.subject, f"{len(images)} picture makes no set to measure", "Give at least two, better thousands"
        )
    world = world or World()
    # what a module of the user's computes is not all in its name and weights
    keeps = cache is not None and extractor.spec.name != "custom"
    path = None if cache is None or not keeps else cache / f"{_key(images, extractor)}{_SUFFIX}"
    tensors = None if path is None else _read(path)
    # together or not at all: the machines of several processes need not share a cache
    if world.any(int(tensors is None), extractor.device):
        size = batch or (64 if extractor.device.type == "cuda" else 32)
        tensors = _extract(images, extractor, size, world, progress)
        if path is not None and world.is_first:
            _write(path, tensors)
        world.wait()
    assert tensors is not None, "read or made"
    moments = None
    if "mean" in tensors:
        moments = Gaussian(tensors["mean"], tensors["covariance"], len(images))
    return Features(
        len(images),
        tensors.get("features"),
        tensors.get("logits"),
        images.names,
        images.labels,
        moments,
    )


def _extract(
    images: ImageSet,
    extractor: Extractor,
    batch: int,
    world: World,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Tensor]:
    count, dimension = len(images), extractor.spec.feature_dim
    share = -(-count // world.size)
    mine = range(min(count, world.rank * share), min(count, (world.rank + 1) * share))
    # who has nothing to do looks at the last one too, which counts for nothing: all gather tensors of one shape
    has_own = len(mine) > 0
    mine = mine or range(count - 1, count)
    streams = 4 * count * dimension > LARGEST_IN_MEMORY
    moments = Moments(dimension)
    features = torch.zeros(0 if streams else share, dimension)
    logits: Tensor | None = None
    done = 0
    for indices, pictures in images.batches(mine, batch):
        seen = extractor(pictures)
        if streams:
            if has_own:
                moments.update(seen.features)
        else:
            rows = torch.tensor(indices) - mine.start
            features[rows] = seen.features
            if seen.logits is not None:
                logits = torch.zeros(share, seen.logits.shape[1]) if logits is None else logits
                logits[rows] = seen.logits
        done += len(indices)
        if progress is not None:
            progress(done, len(mine))
    if streams:
        moments.all_reduce()
        gaussian = moments.gaussian()
        return _checked({"mean": gaussian.mean, "covariance": gaussian.covariance}, images, extractor)
    tensors = {"features": world.gather(features.to(extractor.device)).cpu()[:count]}
    if logits is not None:
        tensors["logits"] = world.gather(logits.to(extractor.device)).cpu()[:count]
    return _checked(tensors, images, extractor)


def _checked(tensors: dict[str, Tensor], images: ImageSet, extractor: Extractor) -> dict[str, Tensor]:
    """`tensors`, if all are numbers: nothing else is kept."""
    for name, tensor in tensors.items():
        bad = (~tensor.isfinite().reshape(len(tensor), -1).all(1)).nonzero()[:, 0]
        if len(bad):
            subject = images.names[int(bad[0])] if len(tensor) == len(images) else images.subject
            raise Fault(subject, f"{extractor.spec.name} gives {name} that are not numbers", "Check its weights")
    return tensors


# --- the cache --------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where features are kept: in $IMG2IMG_CACHE, or in the user's cache folder; it need not exist.

    Raises:
        UsageFault: there is no home folder.
    """
    chosen = os.environ.get(_FOLDER_VARIABLE)
    return (Path(chosen) if chosen else user_cache("features", _FOLDER_VARIABLE)) / "features"


def _key(images: ImageSet, extractor: Extractor) -> str:
    return digest_of([_FORMAT, __version__, images.identity, extractor.spec.name, extractor.digest, extractor.resize])


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Keep `tensors`; a cache that cannot be written costs time, not the result."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {_METADATA_KEY: json.dumps(_stamp(plain))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, safetensors.torch.save(plain, metadata), sync=False)
        _prune(path.parent)
    except (Fault, OSError) as error:
        _log.warning("features are not kept for the next time: %s", error)


def _read(path: Path) -> dict[str, Tensor] | None:
    """What is kept, or None where there is nothing whole."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        _log.warning("%s is damaged and made anew", path)
        return None
    if metadata != _stamp(tensors):
        _log.warning("%s is damaged and made anew", path)
        return None
    with contextlib.suppress(OSError):  # another may own it, or have removed it meanwhile
        os.utime(path)
    return tensors


def _stamp(tensors: Mapping[str, Tensor]) -> dict[str, str | int]:
    """What a file of the cache says of itself."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().data)
    return {"format": _FORMAT, "sha256": digest.hexdigest()}


def _prune(folder: Path) -> None:
    """Remove what was not used for longest until the cache is within its limit."""
    files = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # others prune too
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    files.sort()
    total = sum(size for _, size, _ in files)
    for _, size, path in files[:-1]:
        if total <= LARGEST_CACHE:
            return
        total -= size
        path.unlink(missing_ok=True)
