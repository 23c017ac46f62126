"""Networks that turn pictures into features, by name: pixels in, float32 features and class logits out.

What an extractor gives of a picture depends on that picture alone, not on the batch it is in: networks are in eval
mode, outside autocast, in whole single precision. A score names its extractor: only inception-2015 makes an "FID".
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision import models

from img2img.checkpoint import read_header
from img2img.devices import whole_float32
from img2img.errors import UsageFault, unknown_name
from img2img.evaluation.known_weights import INPUTS, recognise
from img2img.evaluation.resizing import RESIZES
from img2img.evaluation.weights import read_info
from img2img.networks.inception import Inception, fold_norms
from img2img.networks.layers import without_autocast

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]
# What a network takes -> what is taken from pixels in 0…255, and what the rest is divided by, for each channel
_RANGES = {
    "inception": ((128.0,) * 3, (128.0,) * 3),
    "unit": ((127.5,) * 3, (127.5,) * 3),
    "imagenet": (tuple(255 * mean for mean in IMAGENET_MEAN), tuple(255 * std for std in IMAGENET_STD)),
}
_PIXELS_AT_ONCE = 1 << 22  # that are resized together: 50 MB of floats
_PROBED_SIDE = 256  # of a wrapped module that takes any size


@dataclass(frozen=True)
class ExtractorSpec:
    """What an extractor is, whatever its weights.

    Attributes:
        name: "inception-2015", "squeezenet1_0", …, or "custom" for a module of the user's.
        distance_name: what a Fréchet distance over its features is called.
        feature_dim: d of its features (N, d).
        resizes: the ways of resizing it may be used with, see resizing; "none" takes pictures as they are.
        default_resize: the one it is used with unless another is chosen.
        has_logits: it is a classifier too.
        layer: where in the network the features are.
        size: pixels of a side that pictures are resized to; None with the resize "none".
    """

    name: str
    distance_name: str
    feature_dim: int
    resizes: tuple[str, ...]
    default_resize: str
    has_logits: bool
    layer: str
    size: int | None


_AVERAGE = "average of the last feature map"
_RESIZES = ("clean", "tf1")  # "pytorch" is one tool's way to its FID
EXTRACTORS: dict[str, ExtractorSpec] = {
    spec.name: spec
    for spec in (
        ExtractorSpec("inception-2015", "FID", 2048, ("tf1", "clean", "pytorch"), "tf1", True, _AVERAGE, 299),
        ExtractorSpec("inception_v3", "FD-InceptionV3", 2048, _RESIZES, "clean", True, _AVERAGE, 299),
        ExtractorSpec("vgg16", "FD-VGG16", 4096, _RESIZES, "clean", True, "fc2, after its ReLU", 224),
        ExtractorSpec("squeezenet1_0", "FD-SqueezeNet", 512, _RESIZES, "clean", True, _AVERAGE, 224),
    )
}


@dataclass(frozen=True)
class Extracted:
    """features (N, d) and, of a classifier, logits (N, k), both float32 on the CPU."""

    features: Tensor
    logits: Tensor | None


class Extractor:
    """A network with its weights, ready to look at pictures; made by load_extractor or wrap_module.

    Attributes:
        spec: what it is.
        digest: sha256 of the weights file; of a wrapped module, over its state and the size it looks at.
        resize: how pictures get their size, one of spec.resizes.
        device: where it computes.
    """

    def __init__(
        self, network: nn.Module, spec: ExtractorSpec, digest: str, resize: str, input: str, device: torch.device
    ) -> None:
        self.spec, self.digest, self.resize, self.device = spec, digest, resize, device
        # on the CPU, Inception takes 0.6 of the time with it; elsewhere the layout stays that of other tools
        self._layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        self._network = network.to(device).to(memory_format=self._layout).eval()
        self._shift, self._scale = (torch.tensor(values, device=device).view(3, 1, 1) for values in _RANGES[input])

    def __call__(self, images: Tensor) -> Extracted:
        """Look at (N, C, H, W) uint8, N ≥ 1; where C is 1 instead of 3, grey stands in all channels.

        Raises:
            ValueError: other values or another shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
            raise ValueError(f"pictures are (N, 1 or 3, H, W) uint8, not {tuple(images.shape)} {images.dtype}")
        # on two cores Inception made 23 pictures a second by eights, 21 by sixteens, 17 by thirty-twos
        at_once = max(8, 4 * torch.get_num_threads()) if self.device.type == "cpu" else 64
        seen = [self._look(part) for part in images.split(at_once)]
        logits = [one for _, one in seen if one is not None]
        # outside inference mode, so that the result may be used like any other tensor
        return Extracted(torch.cat([features for features, _ in seen]), torch.cat(logits) if logits else None)

    @torch.inference_mode()
    def _look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        with whole_float32(), without_autocast(self.device):
            answer = self._network(self._prepare(images))
            features, logits = answer if isinstance(answer, tuple) else (answer, None)
        return features.float().cpu(), None if logits is None else logits.float().cpu()

    def _prepare(self, images: Tensor) -> Tensor:
        """What the network takes, (N, 3, size, size) float32."""
        height, width = images.shape[2:]
        sides = (height, width) if self.spec.size is None else (self.spec.size, self.spec.size)
        prepared = torch.empty(len(images), 3, *sides, device=self.device).contiguous(memory_format=self._layout)
        at_once = max(1, _PIXELS_AT_ONCE // (height * width))
        for part, target in zip(images.split(at_once), prepared.split(at_once)):
            pixels = part.to(self.device)
            resized = pixels if self.spec.size is None else RESIZES[self.resize](pixels, self.spec.size)
            target.copy_((resized - self._shift) / self._scale)
        return prepared


# --- by name ---------------------------------------------------------------------------------------------------------


def load_extractor(
    name: str, weights: str | Path, resize: str | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """The extractor called `name`, one of EXTRACTORS, with the weights of a safetensors file in torchvision's names.

    What the first convolution takes is said in the file's header: as `img2img weights import` writes it, or in words
    under the key "input" ("RGB in [-1, 1]", "ImageNet mean and deviation"). For the Inceptions it need not be said;
    inception_v3 takes RGB in [−1, 1], which torchvision makes of other pictures by its transform_input.

    Args:
        resize: one of the spec's resizes; None is its default.

    Raises:
        UsageFault: an unknown name; a resize it is not used with; weights that cannot be read, are of another network,
            or do not say what they take.
    """
    if name not in EXTRACTORS:
        raise unknown_name("--extractor", name, EXTRACTORS)
    spec, path = EXTRACTORS[name], Path(weights)
    resize = _choose_resize(spec, resize)
    content, tensors, metadata = _read(path)
    _, tensors = recognise(tensors, name, path)
    with torch.device("meta"):
        network = _BUILD[name]()
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    network.eval().requires_grad_(False)
    fold_norms(network)
    if name == "inception-2015":
        taken = "unit" if resize == "pytorch" else "inception"
    else:
        network, taken = _cut(network), said_input(name, path, metadata)
    digest = hashlib.sha256(content).hexdigest()
    return Extractor(network, spec, digest, resize, taken, torch.device(device))


_BUILD: dict[str, Callable[[], nn.Module]] = {
    "inception-2015": Inception,
    "inception_v3": functools.partial(models.inception_v3, weights=None, aux_logits=False, init_weights=False),
    "vgg16": models.vgg16,
    "squeezenet1_0": models.squeezenet1_0,
}


class _Cut(nn.Module):
    """A classifier cut in two: what `trunk` makes of pictures becomes features, and logits."""

    def __init__(self, trunk: nn.Module, features: nn.Module, logits: nn.Module) -> None:
        super().__init__()
        self.trunk, self.features, self.logits = trunk, features, logits

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.trunk(images)
        return self.features(seen), self.logits(seen)


def _cut(network: Any) -> _Cut:
    """One of torchvision's networks, cut where its features are."""
    if isinstance(network, models.SqueezeNet):
        average = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return _Cut(network.features, average, nn.Sequential(network.classifier, nn.Flatten()))
    if isinstance(network, models.VGG):
        last = network.classifier[6]
        network.classifier = network.classifier[:5]
        return _Cut(network, nn.Identity(), last)
    last = network.fc
    network.fc = nn.Identity()
    return _Cut(network, nn.Identity(), last)


def _choose_resize(spec: ExtractorSpec, resize: str | None) -> str:
    if resize is not None and resize not in spec.resizes:
        known = " or ".join(spec.resizes)
        raise UsageFault("--resize", f"{resize!r} is no way in which {spec.name} is used", f"Choose {known}")
    return resize or spec.default_resize


def _read(path: Path) -> tuple[bytes, dict[str, Tensor], Mapping[str, str]]:
    """A safetensors file: its bytes, its tensors, and the texts of its header."""
    bring = "Bring it in with `img2img weights import FILE`"
    header = read_header(path, bring, bring)
    content = path.read_bytes()
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise UsageFault(path, f"is a damaged safetensors file ({error})", "Copy it again") from error
    return content, tensors, header.get("__metadata__") or {}


def said_input(name: str, path: Path, metadata: Mapping[str, str]) -> str:
    """What the first convolution takes, "unit" or "imagenet"."""
    info = read_info(path)
    if info is not None and info.input in INPUTS:
        return info.input
    words = metadata.get("input", "").lower()
    if "imagenet" in words:
        return "imagenet"
    if "[-1" in words or name == "inception_v3":
        return "unit"
    raise UsageFault(
        path,
        "does not say what its first convolution takes",
        "Run `img2img weights import FILE --input imagenet`, or --input unit if that is RGB in [-1, 1]",
    )


# --- any module ------------------------------------------------------------------------------------------------------


def wrap_module(
    module: nn.Module,
    name: str | None = None,
    size: int | None = None,
    resize: str | None = None,
    device: str | torch.device = "cpu",
) -> Extractor:
    """An extractor of any module that takes (N, 3, H, W) floats in [−1, 1] and gives (N, d), or that and (N, k) logits.

    The module itself is moved to `device`, put in eval mode and asked once, for the sizes of what it gives. Its
    features are not kept in the cache: what it computes is not all in its class and weights.

    Args:
        name: a Fréchet distance over its features is called FD-`name`; None is its class.
        size: pixels of a side that pictures are resized to; None leaves pictures as they are.
        resize: "clean" (the default) or "tf1", where there is a `size`.

    Raises:
        UsageFault: what it gives is of another shape; a resize without a size.
    """
    name = name or type(module).__name__
    resizes = ("none",) if size is None else _RESIZES
    spec = ExtractorSpec("custom", f"FD-{name}", 0, resizes, resizes[0], False, "what the module gives", size)
    resize = _choose_resize(spec, resize)
    extractor = Extractor(module, spec, _digest(module, size), resize, "unit", torch.device(device))
    side = size or _PROBED_SIDE
    seen = extractor(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    for tensor in (seen.features, seen.logits):
        if tensor is not None and (tensor.ndim != 2 or len(tensor) != 1):
            problem = f"gives {tuple(tensor.shape)} for one picture"
            raise UsageFault(name, problem, "Let it give features (N, d), or a tuple of them and logits (N, k)")
    width = seen.features.shape[1]
    extractor.spec = dataclasses.replace(spec, feature_dim=width, has_logits=seen.logits is not None)
    return extractor


def _digest(module: nn.Module, size: int | None) -> str:
    """sha256 over the class of a module, the size it looks at, and its state."""
    digest = hashlib.sha256(f"{type(module).__qualname__} {size}\n".encode())
    for key, tensor in module.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
