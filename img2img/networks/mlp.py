"""Fully connected networks (Goodfellow et al. 2014, arXiv:1406.2661): for points, small pictures and theory.

Both hold `members` networks of equal form, trained and called as one: rows of z, labels and images are member-major,
(members · N, ...). A point is an image of one pixel, (dim, 1, 1), in its own coordinates.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import (
    MAX_CHANNELS,
    MAX_CLASSES,
    MAX_MEMBERS,
    MAX_UNITS,
    check_choice,
    check_conditioning,
    check_flag,
    check_values,
    check_whole,
)
from img2img.networks.layers import (
    PRIORS,
    MemberBatchNorm,
    MemberEmbedding,
    MemberLayerNorm,
    MemberLinear,
    MinibatchDiscrimination,
    MinibatchStd,
    apply_spectral_norm,
    check_condition,
    needs_bias,
)

ACTIVATIONS = ("relu", "leaky_relu", "tanh")
OUTPUTS = ("linear", "tanh", "sigmoid")
GENERATOR_NORMS = ("none", "batch")
DISCRIMINATOR_NORMS = ("none", "batch", "layer")
CONDITIONINGS = ("none", "concat", "projection", "classifier")


def make_activation(name: str) -> nn.Module:
    """ReLU, LeakyReLU of slope 0.2 or tanh."""
    if name == "relu":
        return nn.ReLU()
    return nn.LeakyReLU(0.2) if name == "leaky_relu" else nn.Tanh()


def hidden_layers(
    members: int, inputs: int, width: int, layers: int, norm: str, activation: str, norm_from: int = 0
) -> nn.Sequential:
    """`layers` times linear, norm and activation, (R, N, inputs) -> (R, N, width); norms from layer `norm_from` on."""
    modules: list[nn.Module] = []
    for index in range(layers):
        layer_norm = norm if index >= norm_from else "none"
        modules.append(MemberLinear(members, width if index else inputs, width, bias=needs_bias(layer_norm)))
        if layer_norm == "batch":
            modules.append(MemberBatchNorm(members, width))
        elif layer_norm == "layer":
            modules.append(MemberLayerNorm(members, width))
        modules.append(make_activation(activation))
    return nn.Sequential(*modules)


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """(...) int64 -> (..., num_classes)."""
    # not F.one_hot: it looks at the labels' values and so makes a GPU wait
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).to(dtype)


def check_common(width: object, layers: object, members: object, num_classes: object, activation: object) -> None:
    check_whole("width", width, 1, MAX_UNITS)
    check_whole("layers", layers, 0, 16)
    check_whole("members", members, 1, MAX_MEMBERS)
    check_whole("num_classes", num_classes, 0, MAX_CLASSES)
    check_choice("activation", activation, ACTIVATIONS)


class MLPGenerator(nn.Module):
    """z (R·N, latent_dim) and, with classes, labels (R·N,) int64 -> images (R·N, out_channels, H, W).

    A learned embedding of the class (label_dim values, N(0, 1) at the start) is concatenated to z.

    Args:
        resolution: (height, width) in pixels; (1, 1) for points.
        members: networks trained as one (R).
        width: units of each hidden layer.
        layers: hidden layers; with 0, images are an affine map of z.
        norm: "batch" after each hidden layer, over the rows of one member, or "none".
        spectral_norm: divide every weight by its largest singular value, each member's by its own.
        activation: of hidden layers, "relu", "leaky_relu" (slope 0.2) or "tanh".
        output: "tanh" for pictures, "linear" for points, "sigmoid" for points in the unit cube.
        prior: of z, "normal" or "uniform" in [-1, 1); read by layers.draw_latents.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        members: int = 1,
        latent_dim: int = 100,
        label_dim: int = 50,
        width: int = 128,
        layers: int = 2,
        norm: str = "none",
        spectral_norm: bool = False,
        activation: str = "relu",
        output: str = "tanh",
        prior: str = "normal",
    ) -> None:
        super().__init__()
        check_common(width, layers, members, num_classes, activation)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_whole("label_dim", label_dim, 1, 4096)
        check_choice("norm", norm, GENERATOR_NORMS)
        check_choice("output", output, OUTPUTS)
        check_flag("spectral_norm", spectral_norm)
        check_choice("prior", prior, PRIORS)
        if norm != "none" and layers == 0:
            raise UsageFault("norm", f"{norm!r} follows hidden layers, there are none", "Use 'none'")
        height, width_px = check_values(resolution, out_channels)
        self.members = members
        self.latent_dim = latent_dim
        self.prior = prior
        self.num_classes = num_classes
        self.out_channels = out_channels
        self.output = output
        self.image_shape = (out_channels, height, width_px)

        self.embed = MemberEmbedding(members, num_classes, label_dim, std=1.0) if num_classes else None
        inputs = latent_dim + (label_dim if num_classes else 0)
        self.hidden = hidden_layers(members, inputs, width, layers, norm, activation)
        self.last = MemberLinear(members, width if layers else inputs, out_channels * height * width_px)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0), "labels are for class-conditional generators"
        x = z.reshape(self.members, -1, self.latent_dim)
        if self.embed is not None:
            x = torch.cat((x, self.embed(labels).to(x.dtype)), dim=2)
        x = self.last(self.hidden(x))
        if self.output != "linear":
            x = torch.tanh(x) if self.output == "tanh" else torch.sigmoid(x)
        return x.reshape(-1, *self.image_shape)


class MLPDiscriminator(nn.Module):
    """images (R·N, in_channels, H, W) and, with classes, labels (R·N,) int64 -> logits (R·N,).

    With `with_features` also what the last layer sees of each image, (R·N, width): the last hidden layer's activations
    (the image itself where layers = 0), without what minibatch_discrimination and minibatch_std add to them.

    Args:
        resolution: (height, width) in pixels; (1, 1) for points.
        members: networks trained as one (R).
        width: units of each hidden layer.
        layers: hidden layers; with 0, the logit is an affine map of the image.
        norm: "batch" (over the rows of one member), "layer" or "none", after each hidden layer but the first: there
            batch normalisation would take away how real and fake differ in mean and scale.
        activation: of hidden layers, "relu", "leaky_relu" (slope 0.2) or "tanh".
        spectral_norm: divide every weight by its largest singular value, each member's by its own.
        minibatch_discrimination: show the last layer how near each sample is to the others of its batch
            (layers.MinibatchDiscrimination).
        minibatch_std: show the last layer how much the samples of a batch differ (layers.MinibatchStd).
        conditioning: how the class enters. "concat": one-hot beside the image. "projection": logit + <embed(class),
            features> (Miyato & Koyama 2018, arXiv:1802.05637, section 3). "classifier": not at all, but `classify` of
            the features gives logits of the classes (Odena et al. 2017, arXiv:1610.09585). "none": for num_classes = 0.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        members: int = 1,
        width: int = 128,
        layers: int = 2,
        norm: str = "none",
        activation: str = "leaky_relu",
        spectral_norm: bool = False,
        minibatch_discrimination: bool = False,
        minibatch_std: bool = False,
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_common(width, layers, members, num_classes, activation)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_choice("norm", norm, DISCRIMINATOR_NORMS)
        check_flag("spectral_norm", spectral_norm)
        check_flag("minibatch_discrimination", minibatch_discrimination)
        check_flag("minibatch_std", minibatch_std)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        if norm != "none" and layers < 2:
            raise UsageFault("norm", f"{norm!r} begins at the second hidden layer, there is none", "Use 'none'")
        height, width_px = check_values(resolution, in_channels)
        self.members = members
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditioning = conditioning

        inputs = in_channels * height * width_px + (num_classes if conditioning == "concat" else 0)
        features = width if layers else inputs
        self.hidden = hidden_layers(members, inputs, width, layers, norm, activation, norm_from=1)
        self.minibatch_discrimination = (
            MinibatchDiscrimination(features, members=members) if minibatch_discrimination else None
        )
        self.minibatch_std = MinibatchStd(members=members) if minibatch_std else None
        kernels = self.minibatch_discrimination.kernels if self.minibatch_discrimination is not None else 0
        self.logit = MemberLinear(members, features + kernels + minibatch_std, 1)
        self.embed: MemberEmbedding | None = None
        if conditioning == "projection":
            self.embed = MemberEmbedding(members, num_classes, features, std=0.02)
        self.classes: MemberLinear | None = None
        if conditioning == "classifier":
            self.classes = MemberLinear(members, features, num_classes)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_condition(self.conditioning, condition)
        x = images.reshape(self.members, len(images) // self.members, -1)
        if condition is not None and self.conditioning == "concat":
            classes = one_hot(condition.reshape(self.members, -1), self.num_classes, x.dtype)
            x = torch.cat((x, classes), dim=2)
        features = self.hidden(x)
        logits: Tensor = self.logit(self._with_neighbours(features)).flatten()
        if condition is not None and self.embed is not None:
            logits = logits + (self.embed(condition) * features).sum(dim=2).flatten()
        return (logits, features.flatten(0, 1)) if with_features else logits

    def classify(self, features: Tensor) -> Tensor:
        """Features (R·N, F) -> logits of the classes (R·N, num_classes); with conditioning "classifier"."""
        assert self.classes is not None, "no classifier was asked for"
        return self.classes(features.unflatten(0, (self.members, -1))).flatten(0, 1)

    def _with_neighbours(self, features: Tensor) -> Tensor:
        """(R, N, F) -> (R, N, F + what is known of the rest of the batch)."""
        if self.minibatch_discrimination is None and self.minibatch_std is None:
            return features
        rows = features.flatten(0, 1)
        seen = rows if self.minibatch_std is None else self.minibatch_std(rows[:, :, None, None])[:, :, 0, 0]
        if self.minibatch_discrimination is not None:
            seen = torch.cat((seen, self.minibatch_discrimination(rows)), dim=1)
        return seen.unflatten(0, features.shape[:2])
