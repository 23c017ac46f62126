"""Patches of feature maps as unit vectors, which contrastive translation compares (CUT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import MAX_UNITS, MAX_WIDTH, check_choice, check_share, check_whole
from img2img.networks.layers import INITS, init_translator

_LARGEST_CHANNELS = 16 * MAX_WIDTH  # of a feature map: the widest generator halves four times
_MAX_LAYERS = 256
_MAX_PATCHES = 4096  # each is compared with each


class PatchProjection(nn.Module):
    """Feature maps (N, C, H, W) of the chosen layers, draws, and mirrored (N,) bool or None -> unit vectors of each.

    These are (N, P, width) in the weights' own precision.

    P places of each map, distinct and with equal chances, are chosen by the draws, so equal draws take equal places of
    maps of equal size; P is `patches`, or all places of a smaller map. Each layer has an MLP of its own, Linear, ReLU,
    Linear, and what it gives is divided by its L2 norm (Park et al. 2020, arXiv:2007.15651).

    A picture that is `mirrored` gives the vectors of the places left to right of those chosen, so that the maps of a
    picture and of its mirror image can be compared.

    Args:
        channels: of every feature map that the generator can give.
        layers: numbers of those that are taken. Of a ResNet the paper takes the pixels, both downsampling convolutions,
            and the first and fifth residual block.
        width: of both linear layers.
        patches: places taken of each map; every place is told from the others of its picture.
        mirror: share of the pictures that the caller shall compare with their mirror image, as FastCUT does with one
            half. Kept as an attribute.
        init: "normal", or "xavier" as in CUT's released code; see layers.init_translator.
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        layers: tuple[int, ...] = (0, 1, 2, 3, 7),
        width: int = 256,
        patches: int = 256,
        mirror: float = 0.0,
        init: str = "normal",
    ) -> None:
        super().__init__()
        for count in _numbers("channels", channels):
            check_whole("channels", count, 1, _LARGEST_CHANNELS)
        for number in _numbers("layers", layers):
            check_whole("layers", number, 0, len(channels) - 1)
        if len(set(layers)) < len(layers):
            raise UsageFault("layers", f"{list(layers)} names a layer twice", "Name each layer once")
        check_whole("width", width, 1, MAX_UNITS)
        check_whole("patches", patches, 2, _MAX_PATCHES)
        check_share("mirror", mirror)
        check_choice("init", init, INITS)
        self.layers = tuple(layers)
        self.patches = patches
        self.mirror = mirror
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels[number], width), nn.ReLU(inplace=True), nn.Linear(width, width))
            for number in layers
        )
        init_translator(self, init)

    def forward(self, features: Sequence[Tensor], draws: Draws, mirrored: Tensor | None = None) -> list[Tensor]:
        vectors = []
        for head, maps, places in zip(self.heads, features, self._places(features, draws), strict=True):
            width = maps.shape[3]
            rows, columns = places // width, places % width
            if mirrored is not None:
                columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
            pictures = torch.arange(len(maps), device=maps.device)[:, None]
            chosen = maps[pictures, :, rows, columns]  # copies these places only, in any memory layout
            projected = head(chosen).to(next(head.parameters()).dtype)  # autocast must not round the norm
            vectors.append(F.normalize(projected, dim=2))
        return vectors

    def _places(self, features: Sequence[Tensor], draws: Draws) -> list[Tensor]:
        """Of each map (N, P) int64: distinct places, numbered row by row."""
        counts = [maps.shape[2] * maps.shape[3] for maps in features]
        chances = draws.uniform(sum(counts)).split(counts, dim=1)
        return [chance.topk(min(self.patches, chance.shape[1]), dim=1).indices for chance in chances]


def _numbers(name: str, values: object) -> tuple[object, ...]:
    if not (isinstance(values, list | tuple) and 0 < len(values) <= _MAX_LAYERS):
        raise UsageFault(name, f"{values!r} is not a list of layers' numbers", "Use for example [0, 1, 2]")
    return tuple(values)
