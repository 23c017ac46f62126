"""The generator of SPADE: a label map shapes every normalisation (Park et al. 2019, arXiv:1903.07291)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import MAX_CHANNELS, MAX_WIDTH, check_choice, check_flag, check_whole
from img2img.networks.labels import Palette, check_palette
from img2img.networks.layers import InstanceNorm, apply_spectral_norm, init_normal

SPADE_NORMS = ("batch", "instance")
_WIDEST = 16  # times `width`


class SpatiallyAdaptiveNorm(nn.Module):
    """norm(x) · (1 + γ) + β, with γ and β at each place from the labels around it (section 3.1).

    x (N, channels, H, W) and labels (N, K, H, W) -> (N, channels, H, W). γ and β come from a 3×3 convolution of
    `hidden` channels, a ReLU and another 3×3 convolution, so a place sees labels up to two pixels away. The norm itself
    learns nothing.
    """

    def __init__(self, channels: int, num_labels: int, hidden: int, norm: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False) if norm == "batch" else InstanceNorm()
        self.shared = nn.Conv2d(num_labels, hidden, 3, padding=1)
        self.scale_and_shift = nn.Conv2d(hidden, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(self.shared(labels).relu_()).chunk(2, dim=1)
        normal: Tensor = self.norm(x)
        return normal * (1 + scale) + shift


class SpadeBlock(nn.Module):
    """x + conv(leaky(SPADE(conv(leaky(SPADE(x)))))): (N, in_channels, H, W) -> (N, out_channels, H, W).

    Where the channels change, x passes a SPADE and a 1×1 convolution of its own.
    """

    def __init__(self, in_channels: int, out_channels: int, num_labels: int, hidden: int, norm: str) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.norm1 = SpatiallyAdaptiveNorm(in_channels, num_labels, hidden, norm)
        self.conv1 = nn.Conv2d(in_channels, middle, 3, padding=1)
        self.norm2 = SpatiallyAdaptiveNorm(middle, num_labels, hidden, norm)
        self.conv2 = nn.Conv2d(middle, out_channels, 3, padding=1)
        self.shortcut_norm: SpatiallyAdaptiveNorm | None = None
        self.shortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.shortcut_norm = SpatiallyAdaptiveNorm(in_channels, num_labels, hidden, norm)
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def convolutions(self) -> list[nn.Conv2d]:
        """Those of the block itself, not of its norms."""
        return [self.conv1, self.conv2, *([] if self.shortcut is None else [self.shortcut])]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(self.norm1(x, labels), 0.2))
        y = self.conv2(F.leaky_relu(self.norm2(y, labels), 0.2))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut(self.shortcut_norm(x, labels))
        return x + y


class SpadeGenerator(nn.Module):
    """Label maps (N, 3, H, W) in [-1, 1], colours of `palette` -> images (N, out_channels, H, W) in [-1, 1].

    H and W are multiples of `stride` = `min_size` = 2^downsamplings. A 3×3 convolution of the map, taken at every
    stride-th pixel, is the start; SPADE blocks and doublings by repetition lead to the whole size, one block for each
    size and one more for the second. Widths are 16, ..., 4, 2, 1 times `width`. The image encoder of the paper, which
    gives a style beside the labels, is left out: equal maps give equal pictures.

    Args:
        palette: the class colours; the data decide them (data.labels).
        width: channels at the whole size.
        downsamplings: halvings down to the start; 5 are the paper's at 256×256.
        hidden: channels inside the norms, between labels and γ, β.
        norm: "batch" is the paper's, over the whole batch of all its GPUs; here each process has its own.
        spectral_norm: divide the weights of the blocks' convolutions by their largest singular values.
    """

    dropout_at_test = False
    fixed_scale = False

    def __init__(
        self,
        *,
        palette: Sequence[str] = (),
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        downsamplings: int = 5,
        hidden: int = 128,
        norm: str = "batch",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        check_palette(palette)
        check_whole("in_channels", in_channels, 3, 3)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("width", width, 1, MAX_WIDTH // 4)
        check_whole("downsamplings", downsamplings, 1, 7)
        check_whole("hidden", hidden, 1, MAX_WIDTH)
        check_choice("norm", norm, SPADE_NORMS)
        check_flag("spectral_norm", spectral_norm)
        if not palette:
            problem = "network spade makes pictures of label maps, and nothing says that domain a holds any"
            raise UsageFault("data.labels", problem, "Set data.labels to the number of their colours")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = self.min_size = 2**downsamplings

        widths = [width * min(2**level, _WIDEST) for level in range(downsamplings + 1)]
        self.palette = Palette(palette)
        self.first = nn.Conv2d(len(palette), widths[-1], 3, padding=1)
        self.blocks = nn.ModuleList()
        self._halvings: list[int] = []  # of each block's plane
        channels = widths[-1]
        for level in range(downsamplings, -1, -1):
            for _ in range(2 if level == downsamplings - 1 else 1):
                self.blocks.append(SpadeBlock(channels, widths[level], len(palette), hidden, norm))
                self._halvings.append(level)
                channels = widths[level]
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        init_normal(self)
        if spectral_norm:
            for block in self.blocks:
                assert isinstance(block, SpadeBlock)
                for convolution in block.convolutions():
                    apply_spectral_norm(convolution)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        planes = self.palette(images)
        labels = planes[..., :: self.stride, :: self.stride].contiguous()
        x, halvings = self.first(labels), self._halvings[0]
        for block, wanted in zip(self.blocks, self._halvings):
            if wanted < halvings:
                x, halvings = F.interpolate(x, scale_factor=2.0), wanted
                labels = planes[..., :: 2**halvings, :: 2**halvings].contiguous()
            x = block(x, labels)
        return torch.tanh(self.last(F.leaky_relu(x, 0.2)))
