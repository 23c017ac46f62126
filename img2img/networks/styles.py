"""What the generators with styles share: z becomes w, the styles of two w's are mixed, w becomes an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import MAX_CHANNELS, MAX_CLASSES, check_number, check_whole
from img2img.networks.equalized import MappingNetwork
from img2img.networks.layers import draw_latents, without_autocast


class StyleGenerator(nn.Module):
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

    def synthesize(self, w: Tensor, draws: Draws | None = None) -> Tensor:
        """w (N, w_dim), or (N, num_styles, w_dim) for a style of its own at each layer -> images."""
        raise NotImplementedError

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
