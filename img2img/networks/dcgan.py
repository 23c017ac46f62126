"""DCGAN (Radford et al. 2015, arXiv:1511.06434) for any rectangle, unconditional or class-conditional.

Where this departs from the paper: 4×4 kernels instead of 5×5 (a multiple of the stride, so every output pixel sums over
equally many weights), and a resolution of [h, w] = base × 2^k instead of 4 × 2^4.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import (
    MAX_CHANNELS,
    MAX_CLASSES,
    MAX_WIDTH,
    check_choice,
    check_conditioning,
    check_flag,
    check_whole,
)
from img2img.networks.layers import (
    NORMS,
    PRIORS,
    ConditionalBatchNorm,
    MinibatchDiscrimination,
    MinibatchStd,
    apply_spectral_norm,
    check_condition,
    init_normal,
    make_embedding,
    make_norm,
    needs_bias,
)
from img2img.networks.resolution import level_widths, split_resolution

GENERATOR_CONDITIONINGS = ("concat", "norm")
CONDITIONINGS = ("none", "concat", "projection", "classifier")


def label_planes(labels: Tensor, num_classes: int, images: Tensor) -> Tensor:
    """(N, num_classes, H, W): 1 in the plane of the sample's class, 0 in the others."""
    # not F.one_hot: it looks at the labels' values and so makes a GPU wait
    planes = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return planes.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])


def check_common(width: int, max_width: int, norm: str, num_classes: int) -> None:
    check_whole("width", width, 1, MAX_WIDTH)
    check_whole("max_width", max_width, width, 8 * MAX_WIDTH)
    check_choice("norm", norm, NORMS)
    check_whole("num_classes", num_classes, 0, MAX_CLASSES)


class DCGANGenerator(nn.Module):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W) in [-1, 1].

    z is projected to the base rectangle, then k transposed convolutions with stride 2 double it to the resolution;
    norm and ReLU between, tanh at the end.

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        width: channels of the last hidden layer; doubled at each level inwards, at most max_width.
            The paper's network is 128, the widespread PyTorch one 64.
        norm: one of layers.NORMS.
        spectral_norm: divide every weight by its largest singular value, in G too (Zhang et al. 2018,
            arXiv:1805.08318).
        conditioning: how the class enters, where there are classes.
            "concat": a learned embedding (label_dim values, N(0, 1) at the start, so that it begins as loud as z) is
            concatenated to z (Mirza & Osindero 2014, arXiv:1411.1784).
            "norm": scale and shift of every norm belong to the class (Miyato & Koyama 2018, arXiv:1802.05637); needs
            norm "batch". On 1,653 pictures, "concat" made one picture a class where "norm" made many.
        prior: of z, "normal" or "uniform" in [-1, 1) (the paper's is uniform); read by layers.draw_latents.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 100,
        label_dim: int = 50,
        width: int = 64,
        max_width: int = 1024,
        norm: str = "batch",
        spectral_norm: bool = False,
        conditioning: str = "concat",
        prior: str = "normal",
    ) -> None:
        super().__init__()
        check_common(width, max_width, norm, num_classes)
        check_choice("conditioning", conditioning, GENERATOR_CONDITIONINGS)
        check_flag("spectral_norm", spectral_norm)
        by_norm = conditioning == "norm" and num_classes > 0
        if by_norm and norm != "batch":
            raise UsageFault("conditioning", f"'norm' needs batch normalisation, norm is {norm!r}", "Use 'concat'")
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_whole("label_dim", label_dim, 1, 4096)
        check_choice("prior", prior, PRIORS)
        base, doublings = split_resolution(resolution)
        self.latent_dim = latent_dim
        self.prior = prior
        self.num_classes = num_classes
        self.out_channels = out_channels

        widths = level_widths(width, max_width, doublings)[::-1]
        bias = needs_bias(norm)
        concatenated = label_dim if num_classes and not by_norm else 0
        self.embed = make_embedding(num_classes, label_dim, std=1.0) if concatenated else None

        def make_layer_norm(channels: int) -> nn.Module:
            return ConditionalBatchNorm(channels, num_classes) if by_norm else make_norm(norm, channels)

        layers: list[nn.Module] = [
            # a full-size transposed convolution of a 1×1 plane, computed three times as fast on the CPU
            nn.Linear(latent_dim + concatenated, widths[0] * base[0] * base[1], bias=bias),
            nn.Unflatten(1, (widths[0], *base)),
            make_layer_norm(widths[0]),
            nn.ReLU(inplace=True),
        ]
        for wider, narrower in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(wider, narrower, 4, stride=2, padding=1, bias=bias),
                make_layer_norm(narrower),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], out_channels, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        init_normal(self)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0), "labels are for class-conditional generators"
        x = z
        if self.embed is not None:
            x = torch.cat((z, self.embed(labels).to(z.dtype)), dim=1)
        for layer in self.layers:
            x = layer(x, labels) if isinstance(layer, ConditionalBatchNorm) else layer(x)
        return x


class DCGANDiscriminator(nn.Module):
    """images (N, in_channels, H, W) and, with classes, labels (N,) int64 -> logits (N,).

    k convolutions with stride 2 down to the base rectangle, LeakyReLU of slope 0.2, no norm on the first (its input is
    the image itself), and a linear layer from all of the last features to one logit. With `with_features` also the last
    features, (N, F), without what minibatch_std and minibatch_discrimination add to them.

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        width: channels of the first layer; doubled at each level inwards, at most max_width.
        norm: one of layers.NORMS. "batch" mixes the samples of a batch: not with a per-sample gradient penalty.
        spectral_norm: divide every weight by its largest singular value.
        minibatch_std: show the last layer how much the samples of a batch differ (layers.MinibatchStd), against
            generators that make one picture only.
        minibatch_discrimination: show the last layer how near each sample is to the others of its batch
            (layers.MinibatchDiscrimination).
        conditioning: how the class enters.
            "concat": one plane per class, 1 for the sample's class and 0 for the rest, concatenated to the image
            (Mirza & Osindero 2014, arXiv:1411.1784). Memory grows with the classes: for hundreds use "projection".
            "projection": logit + <embed(class), φ(x)>, φ the last features summed over the base rectangle (Miyato &
            Koyama 2018, arXiv:1802.05637, section 3).
            "classifier": not at all, but `classify` of the features gives logits of the classes (Odena et al. 2017,
            arXiv:1610.09585).
            "none": for num_classes = 0.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        max_width: int = 1024,
        norm: str = "batch",
        spectral_norm: bool = False,
        minibatch_std: bool = False,
        minibatch_discrimination: bool = False,
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_common(width, max_width, norm, num_classes)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_flag("spectral_norm", spectral_norm)
        check_flag("minibatch_std", minibatch_std)
        check_flag("minibatch_discrimination", minibatch_discrimination)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        base, halvings = split_resolution(resolution)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditioning = conditioning

        widths = level_widths(width, max_width, halvings)
        planes = num_classes if conditioning == "concat" else 0
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels + planes, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for narrower, wider in pairwise(widths):
            layers += [
                nn.Conv2d(narrower, wider, 4, stride=2, padding=1, bias=needs_bias(norm)),
                make_norm(norm, wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.minibatch_std = MinibatchStd() if minibatch_std else None
        features = widths[-1] * base[0] * base[1]
        self.minibatch_discrimination = MinibatchDiscrimination(features) if minibatch_discrimination else None
        kernels = 0 if self.minibatch_discrimination is None else self.minibatch_discrimination.kernels
        self.logit = nn.Linear(features + minibatch_std * base[0] * base[1] + kernels, 1)
        self.embed: nn.Embedding | None = None
        if conditioning == "projection":
            self.embed = make_embedding(num_classes, widths[-1], std=0.02)
        self.classify = nn.Linear(features, num_classes) if conditioning == "classifier" else None
        init_normal(self)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_condition(self.conditioning, condition)
        if condition is not None and self.conditioning == "concat":
            images = torch.cat((images, label_planes(condition, self.num_classes, images)), dim=1)
        features = self.layers(images)
        seen = (features if self.minibatch_std is None else self.minibatch_std(features)).flatten(1)
        if self.minibatch_discrimination is not None:
            seen = torch.cat((seen, self.minibatch_discrimination(features.flatten(1))), dim=1)
        logits: Tensor = self.logit(seen).flatten()
        if condition is not None and self.embed is not None:
            logits = logits + (self.embed(condition) * features.sum(dim=(2, 3))).sum(dim=1)
        return (logits, features.flatten(1)) if with_features else logits
