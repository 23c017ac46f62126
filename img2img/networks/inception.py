"""The Inception network of 2015 behind FID, KID and the Inception Score.

Inception v3 (Szegedy et al. 2015, arXiv:1512.00567) as Google published it for TensorFlow on 2015-12-05. It differs
from torchvision's inception_v3 in its 1,008 classes, in average pooling that does not count the padding, and in its
last block, which pools by the maximum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Convolutions of a block: name -> what it reads ("" is the block's input), channels, kernel height and width.
# What no other convolution reads is the block's output, in this order.
_Layers = dict[str, tuple[str, int, int, int]]


def _block_5(pool_channels: int) -> _Layers:
    return {
        "branch1x1": ("", 64, 1, 1),
        "branch5x5_1": ("", 48, 1, 1),
        "branch5x5_2": ("branch5x5_1", 64, 5, 5),
        "branch3x3dbl_1": ("", 64, 1, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 96, 3, 3),
        "branch3x3dbl_3": ("branch3x3dbl_2", 96, 3, 3),
        "branch_pool": ("", pool_channels, 1, 1),
    }


def _block_6(channels: int) -> _Layers:
    return {
        "branch1x1": ("", 192, 1, 1),
        "branch7x7_1": ("", channels, 1, 1),
        "branch7x7_2": ("branch7x7_1", channels, 1, 7),
        "branch7x7_3": ("branch7x7_2", 192, 7, 1),
        "branch7x7dbl_1": ("", channels, 1, 1),
        "branch7x7dbl_2": ("branch7x7dbl_1", channels, 7, 1),
        "branch7x7dbl_3": ("branch7x7dbl_2", channels, 1, 7),
        "branch7x7dbl_4": ("branch7x7dbl_3", channels, 7, 1),
        "branch7x7dbl_5": ("branch7x7dbl_4", 192, 1, 7),
        "branch_pool": ("", 192, 1, 1),
    }


_BLOCK_6A: _Layers = {
    "branch3x3": ("", 384, 3, 3),
    "branch3x3dbl_1": ("", 64, 1, 1),
    "branch3x3dbl_2": ("branch3x3dbl_1", 96, 3, 3),
    "branch3x3dbl_3": ("branch3x3dbl_2", 96, 3, 3),
}
_BLOCK_7A: _Layers = {
    "branch3x3_1": ("", 192, 1, 1),
    "branch3x3_2": ("branch3x3_1", 320, 3, 3),
    "branch7x7x3_1": ("", 192, 1, 1),
    "branch7x7x3_2": ("branch7x7x3_1", 192, 1, 7),
    "branch7x7x3_3": ("branch7x7x3_2", 192, 7, 1),
    "branch7x7x3_4": ("branch7x7x3_3", 192, 3, 3),
}
_BLOCK_7: _Layers = {
    "branch1x1": ("", 320, 1, 1),
    "branch3x3_1": ("", 384, 1, 1),
    "branch3x3_2a": ("branch3x3_1", 384, 1, 3),
    "branch3x3_2b": ("branch3x3_1", 384, 3, 1),
    "branch3x3dbl_1": ("", 448, 1, 1),
    "branch3x3dbl_2": ("branch3x3dbl_1", 384, 3, 3),
    "branch3x3dbl_3a": ("branch3x3dbl_2", 384, 1, 3),
    "branch3x3dbl_3b": ("branch3x3dbl_2", 384, 3, 1),
    "branch_pool": ("", 192, 1, 1),
}
# name -> input channels, pooling, convolutions
_BLOCKS: dict[str, tuple[int, str, _Layers]] = {
    "Mixed_5b": (192, "average", _block_5(32)),
    "Mixed_5c": (256, "average", _block_5(64)),
    "Mixed_5d": (288, "average", _block_5(64)),
    "Mixed_6a": (288, "halve", _BLOCK_6A),
    "Mixed_6b": (768, "average", _block_6(128)),
    "Mixed_6c": (768, "average", _block_6(160)),
    "Mixed_6d": (768, "average", _block_6(160)),
    "Mixed_6e": (768, "average", _block_6(192)),
    "Mixed_7a": (768, "halve", _BLOCK_7A),
    "Mixed_7b": (1280, "average", _BLOCK_7),
    "Mixed_7c": (2048, "maximum", _BLOCK_7),
}


class Inception(nn.Module):
    """The network of FID; its state has the names of the public file pt_inception-2015-12-05-6726825d.pth.

    images (N, 3, 299, 299) float -> features (N, 2048), the average over the last feature map, which FID and KID
    compare, and logits (N, 1008). The logits leave out the bias of `fc`, as the code of the Inception Score (Salimans
    et al. 2016, arXiv:1606.03498) does; the score takes these.

    Pixels x of 0…255 come as (x − 128) / 128; img2img.evaluation.resizing brings them to their size. In eval mode only:
    it is here to measure, not to be trained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _ConvNormReLU(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = _ConvNormReLU(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = _ConvNormReLU(32, 64, (3, 3), padding=(1, 1))
        self.Conv2d_3b_1x1 = _ConvNormReLU(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _ConvNormReLU(80, 192, (3, 3))
        for name, (in_channels, pooling, layers) in _BLOCKS.items():
            self.add_module(name, _Mixed(in_channels, pooling, layers))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
        features = x.mean((2, 3))
        return features, F.linear(features, self.fc.weight)


class _ConvNormReLU(nn.Module):
    """relu(norm(pool(convolution(x)))); without `pool`, there is none."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
        self.pool = pool or nn.Identity()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.bn(self.pool(self.conv(images))), inplace=True)


class _Mixed(nn.Module):
    """Convolutions in parallel branches, (N, C, h, w) -> (N, C', h', w').

    Of `pooling`, "average" and "maximum" say what `branch_pool` takes first, over 3×3 pixels; "halve" is a stride of 2
    in every last convolution, beside a maximum of stride 2.
    """

    def __init__(self, in_channels: int, pooling: str, layers: _Layers) -> None:
        super().__init__()
        self.pooling = pooling
        self.reads = {name: reads for name, (reads, *_) in layers.items()}
        self.outputs = [name for name in layers if name not in self.reads.values()]
        channels = {"": in_channels, **{name: layer[1] for name, layer in layers.items()}}
        for name, (reads, _, *kernel) in layers.items():
            halves = pooling == "halve" and name in self.outputs
            averages = pooling == "average" and name == "branch_pool"
            self.add_module(
                name,
                _ConvNormReLU(
                    channels[reads],
                    channels[name],
                    (kernel[0], kernel[1]),
                    stride=2 if halves else 1,
                    padding=(0, 0) if halves else (kernel[0] // 2, kernel[1] // 2),
                    # an average commutes with a 1×1 convolution, and has fewer channels to pool behind it
                    pool=nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False) if averages else None,
                ),
            )

    def forward(self, images: Tensor) -> Tensor:
        made = {"": images}
        for name, reads in self.reads.items():
            inputs = made[reads]
            if name == "branch_pool" and self.pooling == "maximum":
                inputs = F.max_pool2d(inputs, 3, stride=1, padding=1)
            made[name] = self.get_submodule(name)(inputs)
        outputs = [made[name] for name in self.outputs]
        if self.pooling == "halve":
            outputs.append(F.max_pool2d(images, 3, stride=2))
        return torch.cat(outputs, 1)


def fold_norms(network: nn.Module) -> None:
    """Make every `bn` of `network` part of the `conv` beside it, in place; in eval mode the values stay the same.

    It serves this Inception and torchvision's. The state then has other names: load weights before.
    """
    for layer in list(network.modules()):
        conv, norm = getattr(layer, "conv", None), getattr(layer, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layer.conv = fuse_conv_bn_eval(conv, norm)
            layer.bn = nn.Identity()
