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


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny untrained model files by kind: cyclegan (resnet, both directions), pix2pix (unet), dcgan, cgan."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    resnet = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}
    unet = {"in_channels": 3, "out_channels": 3, "width": 4, "depth": 4}
    dcgan = {"resolution": (16, 16), "out_channels": 3, "latent_dim": 8, "width": 4, "num_classes": 0}
    cgan = {**dcgan, "out_channels": 1, "num_classes": 3}
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
    }
    files = {}
    for kind, (networks, changes) in plans.items():
        specs = {name: NetworkSpec(network, arguments) for name, (network, arguments) in networks.items()}
        modules = {name: GENERATORS[network](**arguments) for name, (network, arguments) in networks.items()}
        for module in modules.values():
            for parameter in module.parameters():
                # untrained weights of 0.02 give nearly nothing but grey
                parameter.data.mul_(8)
        files[kind] = folder / f"{kind}.safetensors"
        write_model(files[kind], modules, translating(3, 3, networks=specs, **changes))
    return files
