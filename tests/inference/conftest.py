"""Models for the tests of inference: closed-form networks whose result is known, and tiny real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.draws import Draws
from img2img.inference.model import Model
from img2img.networks import GENERATORS


class Pointwise(nn.Module):
    """factor · x on the first out_channels channels; holds the caller to stride and min_size like a real network.

    Above `pixel_limit` values N · H · W it runs out of memory, as a device does.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        factor: float = 1.0,
        fixed_scale: bool = False,
        pixel_limit: int = 1 << 40,
    ) -> None:
        super().__init__()
        self.stride, self.min_size = 4, 8
        self.in_channels, self.out_channels = in_channels, out_channels
        self.factor, self.fixed_scale, self.pixel_limit = factor, fixed_scale, pixel_limit
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        assert images.shape[1] == self.in_channels
        assert all(side % self.stride == 0 and side >= self.min_size for side in images.shape[2:])
        assert images.is_meta or images.abs().max() <= 1
        if images[:, 0].numel() > self.pixel_limit:
            raise torch.OutOfMemoryError("out of memory")
        self.shapes.append(tuple(images.shape))
        return self.factor * images.repeat(1, self.out_channels, 1, 1)[:, : self.out_channels]


def translating(in_channels: int, out_channels: int, **changes: object) -> ModelInfo:
    values: dict[str, object] = {
        "translator": "pix2pix",
        "task": "translate",
        "networks": {"generator": NetworkSpec("resnet")},
        "directions": {"a2b": "generator"},
        "domains": {"a": "photos", "b": "drawings"},
        "channels": {"a": in_channels, "b": out_channels},
        "resolution": (32, 32),
    }
    return ModelInfo(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def pointwise() -> Callable[..., Model]:
    """Builds a Model around a Pointwise network; keywords of ModelInfo go into its description."""

    def build(in_channels: int = 3, out_channels: int = 3, **keywords: object) -> Model:
        info_keys = {key: keywords.pop(key) for key in ("resolution", "fit") if key in keywords}
        network = Pointwise(in_channels, out_channels, **keywords)  # type: ignore[arg-type]
        info = translating(in_channels, out_channels, **info_keys)
        return Model(info, {"generator": network}, digest=f"pointwise {in_channels} {out_channels} {keywords}")

    return build


class TinyStyles(nn.Module):
    """A generator with styles, affine in each: w = 3 + tanh(Mz + class), one style a row of the picture, and noise.

    (N, out_channels, num_styles, num_styles) pictures; row r of them depends on style r alone.
    """

    def __init__(self, num_classes: int = 0, out_channels: int = 3, noise: float = 0.02, num_styles: int = 8) -> None:
        super().__init__()
        self.latent_dim, self.w_dim, self.num_styles, self.prior = 6, 5, num_styles, "normal"
        self.num_classes, self.out_channels, self.noise = num_classes, out_channels, noise
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(self.latent_dim, self.w_dim, generator=generator)
        self.classes = torch.randn(max(1, num_classes), self.w_dim, generator=generator)
        self.rows = torch.randn(num_styles, self.w_dim, out_channels * num_styles, generator=generator) / 60

    def map(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0)
        return 3 + torch.tanh(z @ self.matrix + (0 if labels is None else self.classes[labels]))

    def synthesize(self, w: Tensor, draws: Draws | None = None) -> Tensor:
        w = w[:, None].expand(-1, self.num_styles, -1) if w.ndim == 2 else w
        rows = torch.einsum("nsw,swp->nsp", w, self.rows).unflatten(2, (self.out_channels, self.num_styles))
        images = rows.transpose(1, 2)
        return images if draws is None else images + self.noise * draws.normal(1, *images.shape[2:])

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        return self.synthesize(self.map(z, labels), draws)


@pytest.fixture
def styles() -> Callable[..., Model]:
    """Builds a Model around TinyStyles, with so many classes of "cat", "dog" and "owl"."""

    def build(num_classes: int = 0, **arguments: object) -> Model:
        network = TinyStyles(num_classes, **arguments)  # type: ignore[arg-type]
        info = translating(
            3,
            3,
            translator="unconditional",
            task="sample",
            directions={},
            domains={"image": "things"},
            channels={"image": network.out_channels},
            classes=("cat", "dog", "owl")[:num_classes],
            resolution=(network.num_styles, network.num_styles),
        )
        return Model(info, {"generator": network}, digest=f"styles {num_classes} {arguments}", path="styles")

    return build


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny untrained model files by kind: cyclegan (resnet, both directions), pix2pix (unet), dcgan, cgan, stylegan2."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    resnet = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}
    unet = {"in_channels": 3, "out_channels": 3, "width": 4, "depth": 4}
    dcgan = {"resolution": (16, 16), "out_channels": 3, "latent_dim": 8, "width": 4, "num_classes": 0}
    cgan = {**dcgan, "out_channels": 1, "num_classes": 3}
    stylegan2 = {
        "resolution": (16, 16),
        "latent_dim": 8,
        "w_dim": 8,
        "mapping_layers": 2,
        "max_width": 8,
        "num_classes": 2,
    }
    sampling = {"task": "sample", "directions": {}, "domains": {"image": "things"}, "resolution": (16, 16)}
    plans: dict[str, tuple[dict[str, tuple[str, dict[str, object]]], dict[str, object]]] = {
        "cyclegan": (
            {"generator_ab": ("resnet", resnet), "generator_ba": ("resnet", resnet)},
            {"translator": "cyclegan", "directions": {"a2b": "generator_ab", "b2a": "generator_ba"}},
        ),
        "pix2pix": ({"generator": ("unet", unet)}, {}),
        "dcgan": ({"generator": ("dcgan", dcgan)}, {**sampling, "channels": {"image": 3}}),
        "cgan": (
            {"generator": ("dcgan", cgan)},
            {**sampling, "channels": {"image": 1}, "classes": ("cat", "dog", "../owl")},
        ),
        "stylegan2": (
            {"generator": ("stylegan2", stylegan2)},
            {**sampling, "channels": {"image": 3}, "classes": ("cat", "dog")},
        ),
    }
    files = {}
    for kind, (networks, changes) in plans.items():
        specs = {name: NetworkSpec(network, arguments) for name, (network, arguments) in networks.items()}
        modules = {name: GENERATORS[network](**arguments) for name, (network, arguments) in networks.items()}
        for module in modules.values():
            for name, parameter in module.named_parameters():
                if kind != "stylegan2":
                    # untrained weights of 0.02 give nearly nothing but grey
                    parameter.data.mul_(8)
                elif name.endswith("noise_strength"):
                    parameter.data.fill_(0.1)
                elif name.startswith("to_image"):
                    # else most values would lie outside [-1, 1], where they are clipped
                    parameter.data.mul_(0.2)
        files[kind] = folder / f"{kind}.safetensors"
        write_model(files[kind], modules, translating(3, 3, networks=specs, **changes))
    return files
