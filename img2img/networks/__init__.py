"""Networks: nn.Modules only, one file per family. Images are float NCHW in [-1, 1]; nothing here sees a configuration.

    layers.py       what families share: normalisation, latent draws, keyed dropout, spectral norm, stacked layers
    arguments.py    refusal of constructor arguments that make no sense, before anything is allocated
    resolution.py   sizes that are a base rectangle × 2^k
    convolution.py  convolutions with fast second derivatives
    resample.py     doubling and halving by a low-pass filter
    filters.py      low-pass filters of any band, and the LeakyReLU between two of them
    attention.py    self-attention between places
    residual.py     blocks that double or halve, shared by SNGAN to BigGAN
    equalized.py    layers with an equalised learning rate, pixel norm, the mapping network of the StyleGANs
    modulated.py    convolution whose weights follow a style
    styles.py       what the StyleGAN line shares
    growing.py      networks that work at one of several sizes
    mixture.py      several noise generators as one

    mlp.py          noise (and class) -> image or point, fully connected, and the discriminator that goes with it
    dcgan.py        the same, convolutional
    sngan.py        residual: WGAN-GP, SNGAN and SAGAN
    biggan.py       residual with attention, normalised by class and z: BigGAN and BigGAN-deep
    r3gan.py        residual without normalisation
    progan.py       growing from the base rectangle to the whole resolution
    stylegan.py     the same with styles
    stylegan2.py    styles by demodulated weights, no growing
    stylegan3.py    feature maps as continuous signals, which move and turn; goes with StyleGAN2's discriminator
    autoencoder.py  discriminators whose verdict is how badly they give an image back
    toy.py          a few parameters, for games with known answers

    resnet.py       image -> image, fully convolutional (CycleGAN)
    unet.py         image -> image with skip connections (pix2pix)
    stylegan2_resnet.py  image -> image of StyleGAN2's layers (CUT, for single pictures)
    coarse_to_fine.py  a ResNet at half the size inside one at the whole (pix2pixHD)
    patchgan.py     one logit per patch
    spade.py        label map -> image, the map in every normalisation (SPADE)
    labels.py       label maps as one plane for each class
    multiscale.py   discriminators of several sizes of one image
    projection.py   patches of feature maps -> unit vectors (CUT)
    starganv2.py    image and style -> image, styles from noise or from images, one logit for each domain

A noise generator is called as `(z, labels or None, draws or None)` and says `latent_dim` and `prior`, from which
layers.draw_latents makes z; what else is random in it (noise at each pixel, mixed styles) follows the draws, and
without them is left out. A generator with styles also has `w_dim`, `num_styles`, `map(z, labels)` -> w (N, w_dim) and
`synthesize(w, draws or None)` of w (N, w_dim) or (N, num_styles, w_dim); its forward is the one after the other. An
image generator is called as `(images, draws or None)`; one that takes label maps has a `palette`, labels.Palette or
None; one with styles has `style_dim` and is called as `(images, styles (N, style_dim))`; one whose encoder can be
looked into has `feature_channels`, the channels of each of its feature maps from the images inwards, `encode(images,
layers)` -> the maps of these numbers, and `translate(images, layers, draws or None)` -> its output and the maps it met
on the way. A mapping network, `(z, labels)`, which says `latent_dim` as well, and a style encoder, `(images, labels)`,
give styles. A discriminator is called as `(images, condition or None, with_features)`: with_features adds the
activations before the last layer, (N, F). Its class says by `judges_by` what it answers: "logit", higher for real, (N,)
or (N, 1, h, w); or "energy", e(x) (N,) ≥ 0, lower for real, where the features are the code. One with a method
`judge_by_layers(images, condition)` -> (logits, activations of every layer but the last) can be matched layer by layer.
What else a method may need has a registry of its own, the role under which ROLES lists it.

A network with a `members` argument is that many networks of equal form, called as one on member-major rows
(members · N, ...), and each member answers as it would alone. A point is an image of one pixel, (dim, 1, 1).

A new network is a class whose constructor arguments are the keys of its role's table in the configuration, such as
[generator], and one line below. The caller supplies resolution, in_channels, out_channels, condition_channels and
num_classes where the constructor has them. Weights come from torch's global random generator, in the constructor.
"""

from __future__ import annotations

from torch import nn

from img2img.networks.autoencoder import AutoencoderDiscriminator, MLPAutoencoderDiscriminator
from img2img.networks.biggan import (
    BigGANDeepDiscriminator,
    BigGANDeepGenerator,
    BigGANDiscriminator,
    BigGANGenerator,
)
from img2img.networks.coarse_to_fine import CoarseToFineGenerator
from img2img.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from img2img.networks.layers import draw_latents, mixes_samples
from img2img.networks.mixture import GeneratorMixture
from img2img.networks.mlp import MLPDiscriminator, MLPGenerator
from img2img.networks.patchgan import PatchDiscriminator
from img2img.networks.progan import ProGANDiscriminator, ProGANGenerator
from img2img.networks.projection import PatchProjection
from img2img.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from img2img.networks.resnet import ResnetGenerator
from img2img.networks.sngan import SNGANDiscriminator, SNGANGenerator
from img2img.networks.spade import SpadeGenerator
from img2img.networks.starganv2 import (
    StarGANv2Discriminator,
    StarGANv2Generator,
    StarGANv2Mapping,
    StarGANv2StyleEncoder,
)
from img2img.networks.stylegan import StyleGANDiscriminator, StyleGANGenerator
from img2img.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from img2img.networks.stylegan2_resnet import StyleGAN2ResnetGenerator
from img2img.networks.stylegan3 import StyleGAN3Generator
from img2img.networks.toy import ConstantGenerator, LinearDiscriminator, QuadraticDiscriminator
from img2img.networks.unet import UNetGenerator

GENERATORS: dict[str, type[nn.Module]] = {
    "biggan": BigGANGenerator,
    "biggan_deep": BigGANDeepGenerator,
    "coarse_to_fine": CoarseToFineGenerator,
    "constant": ConstantGenerator,
    "dcgan": DCGANGenerator,
    "mlp": MLPGenerator,
    "progan": ProGANGenerator,
    "r3gan": R3GANGenerator,
    "resnet": ResnetGenerator,
    "sngan": SNGANGenerator,
    "spade": SpadeGenerator,
    "starganv2": StarGANv2Generator,
    "stylegan": StyleGANGenerator,
    "stylegan2": StyleGAN2Generator,
    "stylegan2_resnet": StyleGAN2ResnetGenerator,
    "stylegan3": StyleGAN3Generator,
    "unet": UNetGenerator,
}

DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "autoencoder": AutoencoderDiscriminator,
    "biggan": BigGANDiscriminator,
    "biggan_deep": BigGANDeepDiscriminator,
    "dcgan": DCGANDiscriminator,
    "linear": LinearDiscriminator,
    "mlp": MLPDiscriminator,
    "mlp_autoencoder": MLPAutoencoderDiscriminator,
    "patch": PatchDiscriminator,
    "progan": ProGANDiscriminator,
    "quadratic": QuadraticDiscriminator,
    "r3gan": R3GANDiscriminator,
    "sngan": SNGANDiscriminator,
    "starganv2": StarGANv2Discriminator,
    "stylegan": StyleGANDiscriminator,
    "stylegan2": StyleGAN2Discriminator,
}

PROJECTIONS: dict[str, type[nn.Module]] = {
    "patches": PatchProjection,
}

MAPPINGS: dict[str, type[nn.Module]] = {
    "starganv2": StarGANv2Mapping,
}

STYLE_ENCODERS: dict[str, type[nn.Module]] = {
    "starganv2": StarGANv2StyleEncoder,
}

# A role is a table of the configuration; every method needs the first two
ROLES: dict[str, dict[str, type[nn.Module]]] = {
    "generator": GENERATORS,
    "discriminator": DISCRIMINATORS,
    "projection": PROJECTIONS,
    "mapping": MAPPINGS,
    "style_encoder": STYLE_ENCODERS,
}

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "MAPPINGS",
    "PROJECTIONS",
    "ROLES",
    "STYLE_ENCODERS",
    "AutoencoderDiscriminator",
    "BigGANDeepDiscriminator",
    "BigGANDeepGenerator",
    "BigGANDiscriminator",
    "BigGANGenerator",
    "CoarseToFineGenerator",
    "ConstantGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "GeneratorMixture",
    "LinearDiscriminator",
    "MLPAutoencoderDiscriminator",
    "MLPDiscriminator",
    "MLPGenerator",
    "PatchDiscriminator",
    "PatchProjection",
    "ProGANDiscriminator",
    "ProGANGenerator",
    "QuadraticDiscriminator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "ResnetGenerator",
    "SNGANDiscriminator",
    "SNGANGenerator",
    "SpadeGenerator",
    "StarGANv2Discriminator",
    "StarGANv2Generator",
    "StarGANv2Mapping",
    "StarGANv2StyleEncoder",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "StyleGAN2ResnetGenerator",
    "StyleGAN3Generator",
    "StyleGANDiscriminator",
    "StyleGANGenerator",
    "UNetGenerator",
    "draw_latents",
    "mixes_samples",
]
