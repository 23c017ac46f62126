"""What the StyleGAN line shares: channels of the levels, generators with styles, the head of the discriminators."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import MAX_CHANNELS, MAX_CLASSES, MAX_WIDTH, check_number, check_whole
from img2img.networks.equalized import (
    LEAKY_GAIN,
    LEAKY_SLOPE,
    EqualizedLinear,
    LeakyConv2d,
    MappingNetwork,
)
from img2img.networks.layers import MinibatchStd, check_condition, draw_latents, without_autocast
from img2img.networks.resolution import split_resolution


def check_channels(channel_base: int, max_width: int) -> None:
    check_whole("channel_base", channel_base, 1, 2**20)
    check_whole("max_width", max_width, 1, MAX_WIDTH)


def level_channels(resolution: object, channel_base: int, max_width: int) -> tuple[tuple[int, int], list[int]]:
    """The base rectangle, and the channels of each level from it to the whole resolution.

    Those are channel_base / the level's shorter side, at most max_width.
    """
    base, doublings = split_resolution(resolution)
    sides = [min(base) * 2**level for level in range(doublings + 1)]
    return base, [max(1, min(channel_base // side, max_width)) for side in sides]


@runtime_checkable
class HasStyles(Protocol):
    """A generator with styles, as networks/__init__.py says."""

    w_dim: int
    num_styles: int

    def map(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...
    def synthesize(self, w: Tensor, draws: Draws | None = None) -> Tensor: ...


class StyleGenerator(nn.Module, ABC):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W).

    Style mixing (Karras et al. 2019, arXiv:1812.04948, section 3.1): in training mode and with draws, a share
    `style_mixing` of the samples takes the styles from a layer on, each layer equally often, from a second z of the
    same class.
    """

    prior = "normal"

    def __init__(
        self,
        *,
        out_channels: int,
        num_classes: int,
        latent_dim: int,
        w_dim: int,
        num_styles: int,
        mapping_layers: int,
        style_mixing: float,
    ) -> None:
        super().__init__()
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("num_classes", num_classes, 0, MAX_CLASSES)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_whole("w_dim", w_dim, 1, 4096)
        check_whole("mapping_layers", mapping_layers, 1, 32)
        check_number("style_mixing", style_mixing, 0, 1)
        self.out_channels = out_channels
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.w_dim = w_dim
        self.num_styles = num_styles
        self.style_mixing = style_mixing
        self.mapping = MappingNetwork(
            latent_dim=latent_dim, w_dim=w_dim, layers=mapping_layers, num_classes=num_classes
        )

    def styles_used(self) -> int:
        """How many of the num_styles styles have a part in the image, the first ones."""
        return self.num_styles

    def map(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z (N, latent_dim) -> w (N, w_dim) in z's dtype, autocast or not: small, and everything depends on it."""
        with without_autocast(z.device):
            return self.mapping(z, labels)

    @abstractmethod
    def synthesize(self, w: Tensor, draws: Draws | None = None) -> Tensor:
        """w (N, w_dim), or (N, num_styles, w_dim) for a style of its own at each layer -> images."""

    def mix(self, w: Tensor, labels: Tensor | None, draws: Draws) -> Tensor:
        """w (N, w_dim) -> styles (N, num_styles, w_dim), mixed with those of a second z."""
        other = self.map(draw_latents(self, draws.stream("z")).to(w.dtype), labels)
        mixed = draws.stream("whether").uniform() < self.style_mixing
        crossing = 1 + draws.stream("where").integers(max(self.styles_used() - 1, 1))
        own = torch.arange(self.num_styles, device=w.device) < crossing[:, None]
        return torch.where((own | ~mixed[:, None])[:, :, None], w[:, None], other[:, None])

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        w = self.map(z, labels)
        if self.training and draws is not None and self.style_mixing > 0:
            w = self.mix(w, labels, draws.stream("style_mixing"))
        return self.synthesize(w, draws)

    def split_styles(self, w: Tensor) -> tuple[Tensor, ...]:
        """The style of each layer, num_styles times (N, w_dim)."""
        assert w.dim() == 2 or w.shape[1] == self.num_styles, f"{self.num_styles} styles wanted, w is {tuple(w.shape)}"
        return (w,) * self.num_styles if w.dim() == 2 else w.unbind(dim=1)


class DiscriminatorHead(nn.Module):
    """features of the base rectangle (N, width, h, w) and, with classes, labels (N,) int64 -> logits (N,).

    Minibatch standard deviation, a convolution, a fully connected layer, the logit. With `with_features` also the
    activations before the logit, (N, width).

    Args:
        conditioning: "projection": <embedding of the class, what would be the logit> / √width, the embedding from a
            mapping network of `mapping_layers` layers (StyleGAN2-ADA, arXiv:2006.06676, after Miyato & Koyama 2018,
            arXiv:1802.05637). "classifier": classify(features) -> logits of the classes. "none".
    """

    def __init__(
        self,
        width: int,
        base: tuple[int, int],
        *,
        num_classes: int,
        minibatch_std: bool,
        conditioning: str,
        mapping_layers: int,
    ) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.minibatch_std = MinibatchStd() if minibatch_std else None
        self.conv = LeakyConv2d(width + minibatch_std, width, 3)
        self.hidden = EqualizedLinear(width * base[0] * base[1], width)
        self.mapping: MappingNetwork | None = None
        self.classes: EqualizedLinear | None = None
        if conditioning == "projection":
            self.mapping = MappingNetwork(latent_dim=0, w_dim=width, layers=mapping_layers, num_classes=num_classes)
        elif conditioning == "classifier":
            self.classes = EqualizedLinear(width, num_classes)
        self.logit = EqualizedLinear(width, width if conditioning == "projection" else 1)

    def classify(self, features: Tensor) -> Tensor:
        assert self.classes is not None, "only with conditioning 'classifier'"
        return self.classes(features)

    def forward(
        self, x: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_condition(self.conditioning, condition)
        if self.minibatch_std is not None:
            x = self.minibatch_std(x)
        x = self.hidden(self.conv(x).flatten(1))
        features = F.leaky_relu(x, LEAKY_SLOPE) * LEAKY_GAIN
        logits = self.logit(features)
        if self.mapping is None:
            logits = logits.flatten()
        else:
            embedding = self.mapping(logits.new_empty(len(logits), 0), condition)
            logits = (logits * embedding).sum(dim=1) / math.sqrt(embedding.shape[1])
        return (logits, features) if with_features else logits
