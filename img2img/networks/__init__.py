"""Networks: nn.Modules only, one file per family. Images are float NCHW in [-1, 1]; nothing here sees a configuration.

    layers.py      what families share: normalisation, keyed dropout, spectral norm, initialisation, reflection padding
    arguments.py   refusal of constructor arguments that make no sense, before anything is allocated
    dcgan.py       noise (and class) -> image, and the discriminator that goes with it
    resnet.py      image -> image, fully convolutional (CycleGAN)
    unet.py        image -> image with skip connections (pix2pix)
    patchgan.py    one logit per patch

A noise generator is called as `(z, labels or None)`, an image generator as `(images, draws or None)` and a
discriminator as `(images, condition or None)`. A new network is a class whose constructor arguments are the keys of the
configuration's [generator] or [discriminator] table, and one line below. The caller supplies resolution, in_channels,
out_channels, condition_channels and num_classes where the constructor has them. Weights come from torch's global
random generator, in the constructor.
"""

from __future__ import annotations

from torch import nn

from img2img.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from img2img.networks.layers import mixes_samples
from img2img.networks.patchgan import PatchDiscriminator
from img2img.networks.resnet import ResnetGenerator
from img2img.networks.unet import UNetGenerator

GENERATORS: dict[str, type[nn.Module]] = {
    "dcgan": DCGANGenerator,
    "resnet": ResnetGenerator,
    "unet": UNetGenerator,
}

DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "dcgan": DCGANDiscriminator,
    "patch": PatchDiscriminator,
}

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "PatchDiscriminator",
    "ResnetGenerator",
    "UNetGenerator",
    "mixes_samples",
]
