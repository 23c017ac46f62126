"""A style for a translator of many classes: from a seed by its mapping network, or from a reference picture."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from img2img.checkpoint import ModelInfo
from img2img.data.decode import open_whole
from img2img.data.resize import fit_to, to_tensor
from img2img.errors import UsageFault

_GIVEN_ON = ("in_channels", "out_channels", "stride", "min_size", "fixed_scale")


class StyledGenerator(nn.Module):
    """A generator with styles that gives every picture the same one: called as (images, draws or None), like others.

    Args:
        style: (style_dim,).
    """

    style: Tensor

    def __init__(self, generator: nn.Module, style: Tensor) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("style", style)
        for name in _GIVEN_ON:
            setattr(self, name, getattr(generator, name))

    def forward(self, images: Tensor, draws: object = None) -> Tensor:
        result: Tensor = self.generator(images, self.style.expand(len(images), -1))
        return result


def is_sound(info: ModelInfo, networks: Mapping[str, nn.Module]) -> bool:
    """Whether a translator's classes and its networks of styles fit together, or it has neither."""
    if not info.classes:
        return not any(hasattr(network, "style_dim") for network in networks.values())
    generator, mapping, encoder = (
        networks.get(name) for name in ("generator", "generator_mapping", "generator_style_encoder")
    )
    dimensions = {getattr(network, "style_dim", None) for network in (generator, mapping, encoder)}
    counts = {getattr(network, "num_classes", None) for network in (mapping, encoder)}
    return (
        len(dimensions) == 1
        and None not in dimensions
        and counts == {len(info.classes)}
        and hasattr(mapping, "latent_dim")
        and getattr(encoder, "in_channels", None) == info.channels["a"]
        and info.networks["generator_style_encoder"].arguments.get("resolution") == info.resolution
    )


def read_reference(reference: str | os.PathLike[str] | io.BytesIO, info: ModelInfo) -> Tensor:
    """A reference picture as training saw its pictures, (C, H, W) uint8.

    Raises:
        UsageFault: there is no such file. ImageFault: it cannot be used.
    """
    if not isinstance(reference, io.BytesIO) and not Path(reference).is_file():
        problem = "is a folder" if Path(reference).is_dir() else "there is no such file"
        raise UsageFault("--reference", f"{reference}: {problem}", "Give the path of a picture")
    return read_as_trained(reference, info)


def read_as_trained(file: str | os.PathLike[str] | io.BytesIO, info: ModelInfo) -> Tensor:
    """A picture at the size at which a translator saw its pictures, (C, H, W) uint8.

    Raises:
        ImageFault: it cannot be used.
    """
    pixels = open_whole(file).as_channels(info.channels["a"])
    return fit_to(to_tensor(np.ascontiguousarray(pixels)), info.resolution, info.fit)


def class_by_folder(reference: object, info: ModelInfo) -> str | None:
    """The class whose folder a reference picture lies in, if it is one of the model's."""
    if not isinstance(reference, (str, os.PathLike)):
        return None
    folder = Path(reference).absolute().parent.name
    return folder if folder in info.classes else None
