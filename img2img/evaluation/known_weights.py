"""Which weights of measuring networks are known: where they were published, and how their tensors are laid out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from img2img.errors import UsageFault

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
INPUTS = ("imagenet", "unit")
_LIN_WIDTHS = {
    "lpips-alex": (64, 192, 384, 256, 256),
    "lpips-vgg": (64, 128, 256, 512, 512),
    "lpips-squeeze": (64, 128, 256, 384, 384, 512, 512),
}


@dataclass(frozen=True)
class KnownWeights:
    """Weights that have a name here.

    Attributes:
        name: what the file in the folder is called, and which layout its tensors have.
        network: the network they are for, for people.
        input: what the first convolution of the published weights takes: "imagenet" (RGB less the ImageNet mean, by
            its standard deviation), "unit" (RGB in [−1, 1]), "inception" (what the FID Inception makes of bytes); empty
            for weights that take features.
        licence: as published; the pictures they were trained on may have terms of their own.
        source: the project that published them.
        url, sha256, bytes: the published file; no url where no checksum of it could be confirmed.
    """

    name: str
    network: str
    input: str
    licence: str
    source: str
    url: str = ""
    sha256: str = ""
    bytes: int = 0


_TORCHVISION = "https://download.pytorch.org/models"
_LPIPS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/3767a70e437c4020decf5888a83f438d2726a10f"
    "/lpips/weights/v0.1"
)
KNOWN: dict[str, KnownWeights] = {
    known.name: known
    for known in (
        KnownWeights(
            "inception-2015",
            "the Inception of FID, KID and the Inception Score",
            "inception",
            "Apache-2.0",
            "pytorch-fid, converted from TensorFlow's inception-2015-12-05",
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            95_628_359,
        ),
        # torchvision normalises for ImageNet and undoes it in the network (transform_input): the weights take [-1, 1]
        KnownWeights(
            "inception_v3",
            "torchvision's Inception v3",
            "unit",
            "BSD-3-Clause",
            "torchvision, converted from TensorFlow",
            f"{_TORCHVISION}/inception_v3_google-0cc3c7bd.pth",
            "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
            108_949_747,
        ),
        KnownWeights(
            "vgg16",
            "torchvision's VGG-16, also for LPIPS",
            "imagenet",
            "BSD-3-Clause",
            "torchvision",
            f"{_TORCHVISION}/vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            553_433_881,
        ),
        KnownWeights("vgg19", "torchvision's VGG-19, for perceptual losses", "imagenet", "BSD-3-Clause", "torchvision"),
        KnownWeights(
            "alexnet",
            "torchvision's AlexNet, for LPIPS",
            "imagenet",
            "BSD-3-Clause",
            "torchvision",
            f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            244_408_911,
        ),
        KnownWeights("squeezenet1_0", "torchvision's SqueezeNet 1.0", "imagenet", "BSD-3-Clause", "torchvision"),
        KnownWeights(
            "squeezenet1_1",
            "torchvision's SqueezeNet 1.1, also for LPIPS",
            "imagenet",
            "BSD-3-Clause",
            "torchvision",
            f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth",
            "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
            4_958_839,
        ),
        KnownWeights(
            "lpips-alex",
            "LPIPS over AlexNet",
            "",
            "BSD-2-Clause",
            "PerceptualSimilarity 0.1.4",
            f"{_LPIPS}/alex.pth",
            "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
            6_009,
        ),
        KnownWeights(
            "lpips-vgg",
            "LPIPS over VGG-16",
            "",
            "BSD-2-Clause",
            "PerceptualSimilarity 0.1.4",
            f"{_LPIPS}/vgg.pth",
            "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
            7_289,
        ),
        KnownWeights(
            "lpips-squeeze",
            "LPIPS over SqueezeNet 1.1",
            "",
            "BSD-2-Clause",
            "PerceptualSimilarity 0.1.4",
            f"{_LPIPS}/squeeze.pth",
            "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
            10_811,
        ),
    )
}


def published_name(known: KnownWeights) -> str:
    """What the published file is called."""
    return known.url.rpartition("/")[2]


def layout(name: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the weights called `name`; counters of batches are not among them."""
    if name in _LIN_WIDTHS:
        return {f"lin{level}.model.1.weight": (1, width, 1, 1) for level, width in enumerate(_LIN_WIDTHS[name])}
    import torch
    from torchvision import models

    with torch.device("meta"):
        if name.startswith("inception"):
            classes = 1008 if name == "inception-2015" else 1000
            network = models.inception_v3(weights=None, num_classes=classes, aux_logits=False, init_weights=False)
        else:
            network = models.get_model(name, weights=None)
    return {key: tuple(value.shape) for key, value in network.state_dict().items() if not _is_useless(key)}


def recognise(tensors: Mapping[str, Tensor], name: str | None, source: Path) -> tuple[str, dict[str, Tensor]]:
    """Which of the known weights these are, and the tensors without those that measuring has no use for.

    Args:
        name: which they are said to be; None finds it out by names and shapes.
        source: what messages call the file.

    Raises:
        UsageFault: no known network, or one whose tensors are missing, more, or of other shapes.
    """
    kept = {key: tensor for key, tensor in tensors.items() if not _is_useless(key)}
    shapes = {key: tuple(tensor.shape) for key, tensor in kept.items()}
    name = name or nearest(shapes, source)
    for problem in _differences(layout(name), shapes):
        raise UsageFault(source, f"does not fit {name}: {problem}", f"Give weights for {KNOWN[name].network}")
    if len(kept) < len(tensors):
        _log.info("%s: left out %d tensors that measuring has no use for", source, len(tensors) - len(kept))
    return name, kept


def nearest(shapes: Mapping[str, tuple[int, ...]], source: Path) -> str:
    """Which of the known weights has most of its tensors, by name and shape, among these.

    Raises:
        UsageFault: none has half of them.
    """
    likeness = {name: _likeness(layout(name), shapes) for name in KNOWN}
    name = max(likeness, key=lambda name: likeness[name])
    if likeness[name] < 0.5:
        first = ", ".join(list(shapes)[:3]) or "none"
        problem = f"its tensors belong to no known network (the first are {first})"
        raise UsageFault(source, problem, f"Known: {', '.join(KNOWN)}")
    return name


def _is_useless(key: str) -> bool:
    """Counters of batches, and the second classifier of an Inception, which only training reads."""
    return key.endswith(".num_batches_tracked") or key.startswith("AuxLogits.")


def _likeness(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> float:
    return sum(found.get(key) == shape for key, shape in expected.items()) / len(expected)


def _differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for key in sorted(expected.keys() ^ found.keys()):
        yield f"{key} {'is missing' if key in expected else 'is not part of it'}"
    for key, shape in expected.items():
        if found[key] != shape:
            yield f"{key} has shape {found[key]}, not {shape}"
