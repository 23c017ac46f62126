"""Perceptual distances from files: LPIPS, which measures, and the perceptual loss, from which translators learn."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision import models

from img2img.checkpoint import read_header
from img2img.devices import fastest_memory_format, whole_float32
from img2img.errors import Fault, UsageFault, unknown_name
from img2img.evaluation.extractors import IMAGENET_MEAN, IMAGENET_STD, said_input
from img2img.evaluation.known_weights import recognise
from img2img.evaluation.weights import find_weights, read_info
from img2img.losses import l1
from img2img.metrics.lpips import perceptual_distance
from img2img.networks.layers import without_autocast

# Places in torchvision's `features` whose outputs are compared. Of the first three those of Zhang et al.'s release: the
# activations that end a block, and SqueezeNet's first activation and fires 3, 5, 6, 7, 8, 9; these also of the last.
NETWORKS = {
    "alexnet": (1, 4, 7, 9, 11),
    "vgg16": (3, 8, 15, 22, 29),
    "squeezenet1_1": (1, 4, 7, 9, 10, 11, 12),
    "squeezenet1_0": (1, 4, 7, 8, 9, 10, 12),
}
# The weights that make LPIPS of a network
LIN_WEIGHTS = {"alexnet": "lpips-alex", "vgg16": "lpips-vgg", "squeezenet1_1": "lpips-squeeze"}
_SMALLEST = {"alexnet": 31, "vgg16": 16, "vgg19": 16, "squeezenet1_1": 17, "squeezenet1_0": 21}  # pixels of a side
# Places whose outputs the perceptual loss compares -> their weights. Of VGG the first activation at each size, with the
# weights of pix2pixHD's released code. Of SqueezeNet the first activation and the last fire at each size, with weights
# under which each adds a quarter to the distance of two photographs that have nothing in common, which is 1: the mean
# of |F(x) − F(y)| was 28, 128, 22 and 16 for 200 pairs of 256×256 pixels.
LOSS_LAYERS = {
    "vgg19": {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0},
    "vgg16": {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 18: 1 / 4, 25: 1.0},
    "squeezenet1_0": {1: 1 / 112, 5: 1 / 512, 10: 1 / 88, 12: 1 / 64},
}


class FeatureMaps:
    """What one network sees at some of its places; it looks in eval mode, outside autocast, in single precision.

    Attributes:
        network: its name.
        device: where it computes, and where its results are.
    """

    def __init__(self, network: str, blocks: nn.Sequential, layers: Collection[int], normalise: bool) -> None:
        self.network = network
        self.device = next(blocks.parameters()).device
        self._layers = layers
        self._layout = fastest_memory_format(self.device)  # with it SqueezeNet takes half the time on the CPU
        self._blocks = blocks.to(memory_format=self._layout)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        # for values in [−1, 1]; the constants of LPIPS are these
        self._normalisation = (2 * mean - 1, 2 * std) if normalise else None

    def features(self, images: Tensor) -> list[Tensor]:
        """The feature maps that are compared: (N, C, H, W) -> a (N, Ck, h, w) for each layer; C is 1 or 3.

        Raises:
            ValueError: a side is too short for the network.
        """
        height, width = images.shape[-2:]
        if min(height, width) < _SMALLEST[self.network]:
            raise ValueError(
                f"{self.network} needs sides of {_SMALLEST[self.network]} pixels or more,"
                f" and the pictures are {width} × {height}"
            )
        x = images.to(self.device, torch.float32).expand(-1, 3, -1, -1).contiguous(memory_format=self._layout)
        if self._normalisation is not None:
            shift, scale = self._normalisation
            x = (x - shift) / scale
        maps = []
        with whole_float32(), without_autocast(self.device):
            for number, layer in enumerate(self._blocks[: max(self._layers) + 1]):
                x = layer(x)
                if number in self._layers:
                    maps.append(x)
        return maps


class Perceptual(FeatureMaps):
    """The perceptual distance of one network: (N, C, H, W) floats in [−1, 1] twice, C 1 or 3 -> (N,) float32.

    Attributes:
        name: "LPIPS-vgg16" where network and weights are the published ones, else what it is: "LPIPS-vgg16
            (unpublished weights)" or, without weights fitted to judgements, "perceptual-vgg16 (unweighted)".
        digest: sha256 of all tensors it computes with.
    """

    def __init__(
        self, network: str, blocks: nn.Sequential, lin: list[Tensor] | None, normalise: bool, name: str, digest: str
    ) -> None:
        super().__init__(network, blocks, NETWORKS[network], normalise)
        self.name, self.digest = name, digest
        self._lin = lin

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair.

        Raises:
            ValueError: the shapes differ, or a side is too short for the network.
        """
        return self.distance(a, b)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The same, and gradients pass to the pictures."""
        if a.shape != b.shape:
            raise ValueError(f"the pictures of a pair must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
        return perceptual_distance(self.features(a), self.features(b), self._lin)


class PerceptualLoss(FeatureMaps):
    """Σ_k λ_k · mean |F_k(output) − F_k(target)| over the layers of LOSS_LAYERS.

    Johnson et al. 2016, arXiv:1603.08155, with the distance and the weights of pix2pixHD's perceptual term (Wang et al.
    2018, arXiv:1711.11585).
    """

    def __init__(self, network: str, blocks: nn.Sequential, normalise: bool) -> None:
        super().__init__(network, blocks, LOSS_LAYERS[network], normalise)
        self._weights = LOSS_LAYERS[network].values()

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The distance of each pair: (N, C, H, W) floats in [−1, 1] twice, C 1 or 3 -> (N,), in the type of `output`.

        Gradients pass to `output` alone.
        """
        with torch.no_grad():
            wanted = self.features(target)
        distances = [
            weight * l1(made, real)
            for weight, made, real in zip(self._weights, self.features(output), wanted, strict=True)
        ]
        return torch.stack(distances).sum(0).to(output.device, output.dtype)


def unfit_for_loss(network: str, resolution: tuple[int, int], first: int = 0) -> list[Fault]:
    """Why the perceptual loss of `network` cannot be had for pictures of this size; empty where it can.

    Args:
        first: the shorter side of the first pictures, where they grow.
    """
    faults: list[Fault] = []
    if min(resolution) < _SMALLEST[network]:
        problem = f"{network} needs sides of {_SMALLEST[network]} pixels or more, data.resolution is {[*resolution]}"
        faults.append(UsageFault("loss.perceptual_network", problem, "Use larger pictures, or loss.perceptual=none"))
    elif 0 < first < _SMALLEST[network]:
        problem = f"{network} of loss.perceptual needs sides of {_SMALLEST[network]} pixels or more, got {first}"
        faults.append(UsageFault("growth.start", problem, "Set it higher, or loss.perceptual=none"))
    try:
        find_weights(network)
    except UsageFault as fault:
        mend = f"{fault.mend}, choose another loss.perceptual_network, or set loss.perceptual=none"
        faults.append(UsageFault("loss.perceptual_network", f"{network}: {fault.problem}", mend))
    return faults


def load_perceptual_loss(network: str, device: str | torch.device = "cpu") -> PerceptualLoss:
    """The perceptual loss of `network`, a key of LOSS_LAYERS, with the weights that were brought in.

    Raises:
        UsageFault: they are not here, or do not fit.
    """
    path = find_weights(network)
    tensors, texts = _load_checked(path, network, "features.")
    return PerceptualLoss(network, _blocks(network, tensors, device), said_input(network, path, texts) == "imagenet")


def load_perceptual(
    network: str, weights: str | Path, lin: str | Path | None = None, device: str | torch.device = "cpu"
) -> Perceptual:
    """The perceptual distance of `network`.

    Args:
        network: one of NETWORKS.
        weights: its safetensors file, in torchvision's names; it says what its first convolution takes, as for
            load_extractor.
        lin: the safetensors file of the weights called LIN_WEIGHTS[network]; None weighs all channels by one.

    Raises:
        UsageFault: an unknown network; a file that cannot be read or does not hold this network's weights; `lin` for a
            network that has none.
    """
    if network not in NETWORKS:
        raise unknown_name("--perceptual", network, NETWORKS)
    path = Path(weights)
    tensors, texts = _load_checked(path, network, "features.")
    normalise = said_input(network, path, texts) == "imagenet"
    name, levels = f"perceptual-{network} (unweighted)", None
    if lin is not None:
        if network not in LIN_WEIGHTS:
            raise UsageFault(lin, f"there is no LPIPS over {network}", f"Choose one of {', '.join(LIN_WEIGHTS)}")
        levels, _ = _load_checked(Path(lin), LIN_WEIGHTS[network])
        described = (read_info(path), read_info(lin))
        published = all(info is not None and info.is_published for info in described)
        name = f"LPIPS-{network}" + ("" if published else " (unpublished weights)")
    digest = hashlib.sha256(safetensors.torch.save({**tensors, **(levels or {})})).hexdigest()
    rows = None if levels is None else [levels[key].flatten().to(device) for key in sorted(levels)]
    return Perceptual(network, _blocks(network, tensors, device), rows, normalise, name, digest)


def _blocks(network: str, tensors: Mapping[str, Tensor], device: str | torch.device) -> nn.Sequential:
    """torchvision's `features` of the network with these weights, frozen."""
    with torch.device("meta"):
        blocks: nn.Sequential = models.get_model(network, weights=None).features
    blocks.load_state_dict({key.removeprefix("features."): tensor for key, tensor in tensors.items()}, assign=True)
    return blocks.to(device).eval().requires_grad_(False)


def _load_checked(path: Path, name: str, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The float32 tensors whose names begin so, and the texts of the header, of a file of the weights called `name`.

    A classifier, nine tenths of VGG-16, is compared by its shapes and not read.
    """
    bring = "Bring it in with `img2img weights import FILE`"
    read_header(path, bring, bring)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            shapes = {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in keys}
            recognise(shapes, name, path)
            # copied, since what is read is the file itself, and changes with it
            tensors = {key: file.get_tensor(key).to(torch.float32, copy=True) for key in keys if key.startswith(prefix)}
            return tensors, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageFault(path, f"is a damaged safetensors file ({error})", "Copy it again") from error
