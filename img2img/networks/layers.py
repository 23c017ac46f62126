"""What the families of networks share: normalisation, latent draws, keyed dropout, spectral norm, stacked layers.

Stacked layers hold the weights of R networks of equal form, the members, and apply member r's weights to member r's
rows; what one member answers never depends on another's rows. Batches of such networks are member-major, (R·N, ...).
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from img2img.draws import Draws
from img2img.errors import UsageFault

NORMS = ("batch", "instance", "instance_affine", "layer", "none")
PRIORS = ("normal", "uniform")


def draw_latents(generator: object, draws: Draws) -> Tensor:
    """z (N, latent_dim) float32 of a noise generator's prior: N(0, 1), or with `prior` "uniform" even in [-1, 1)."""
    latent_dim = int(getattr(generator, "latent_dim"))  # noqa: B009
    if getattr(generator, "prior", "normal") == "uniform":
        return draws.uniform(latent_dim) * 2 - 1
    return draws.normal(latent_dim)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which autocast changes no dtype on `device` (also for devices that have no autocast: meta)."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def reflect_pad(images: Tensor, size: int) -> Tensor:
    """Mirror `size` pixels (fewer than either side has) around (N, C, H, W).

    A copy needs no float32, but autocast on the CPU would make it so: 4 % of a bfloat16 ResNet's step.
    """
    with without_autocast(images.device):
        return F.pad(images, (size, size, size, size), mode="reflect")


class InstanceNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) over H and W, nothing learned (Ulyanov et al. 2016, arXiv:1607.08022).

    (N, C, H, W) -> same shape; the variance is the biased one. The same in training and evaluation. A 1×1 plane
    becomes zero.

    torch has this function under several names with very different speed on the CPU. Measured with torch 2.15 on two
    cores, forward and backward: group norm with one channel a group takes half of instance_norm's time, but its
    backward in channels_last takes twice (float32) to twelve times (bfloat16) that of batch norm on single images, and
    on planes of less than 1024 places, for which it has other code, so does its forward (up to sixty times).
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu":
            return torch.instance_norm(images, None, None, None, None, True, 0.0, self.eps, True)
        # what is exported shall hold for planes of every size
        small = not torch.compiler.is_exporting() and images.shape[2] * images.shape[3] < 1024
        if (small or images.requires_grad) and not images.is_contiguous():
            planes = [
                torch.batch_norm(image, None, None, None, None, True, 0.0, self.eps, False) for image in images.split(1)
            ]
            return torch.cat(planes) if len(planes) > 1 else planes[0]
        return torch.group_norm(images, images.shape[1], None, None, self.eps, False)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class ScaleAndShift(nn.Module):
    """x · weight + bias, one of each per channel, 1 and 0 at first: (N, C, H, W) -> same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, images: Tensor) -> Tensor:
        weight, bias = (values.to(images.dtype)[:, None, None] for values in (self.weight, self.bias))
        return torch.addcmul(bias, images, weight)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"


def make_norm(name: str, channels: int) -> nn.Module:
    """The normalisation called `name` (one of NORMS) for (N, channels, H, W).

    "batch": with learned scale and shift (Ioffe & Szegedy 2015, arXiv:1502.03167).
    "instance": nothing learned, as in CycleGAN; equals batch normalisation with the batch's own statistics at batch 1.
    "instance_affine": the same with learned scale and shift per channel: what batch normalisation is where it runs in
    training mode on one image, as in pix2pix at test time.
    "layer": over C, H and W of one image, learned scale and shift per channel (Ba et al. 2016, arXiv:1607.06450; what
    WGAN-GP recommends for a critic).
    "none": the identity.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return InstanceNorm()
    if name == "instance_affine":
        return nn.Sequential(InstanceNorm(), ScaleAndShift(channels))
    if name == "layer":
        return nn.GroupNorm(1, channels)
    assert name == "none", f"unknown norm {name}: constructors check it first"
    return nn.Identity()


def needs_bias(norm: str) -> bool:
    """Whether a convolution's bias can change the output of the norm that follows it.

    Batch and instance norm subtract each channel's mean, and with it any constant added to the channel, so the same
    functions are reached without a bias. Layer norm subtracts one mean for all channels, so there the bias counts.
    """
    return norm in ("layer", "none")


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift belong to the class (Dumoulin et al. 2017, arXiv:1610.07629).

    (N, C, H, W) and labels (N,) int64 -> (N, C, H, W). As in the generators of Miyato & Koyama 2018, arXiv:1802.05637,
    but that classes begin a little apart: scales N(1, std²), shifts N(0, std²).
    """

    def __init__(self, channels: int, num_classes: int, std: float = 0.3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = (make_embedding(num_classes, channels, std, mean) for mean in (1.0, 0.0))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        scale, shift = (table(labels)[:, :, None, None].to(images.dtype) for table in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(images), scale)


@torch.no_grad()
def standing_statistics(generator: nn.Module, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Give every batch normalisation of `generator` the statistics of these batches (Brock et al. 2018).

    batches: z (N, latent_dim) and labels (N,) or None, as the generator takes them. Running means and variances become
    the plain averages over the batches of each batch's mean and variance, every batch of equal weight. A running
    average follows what the weights were; this is of the weights as they are, averaged ones too. What else has a
    training mode, as spectral norm, stays in evaluation, and so is the generator afterwards.
    """
    norms = [layer for layer in generator.modules() if isinstance(layer, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    generator.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain average
        norm.train()
    for z, labels in batches:
        generator(z, labels)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    generator.eval()


class MinibatchStd(nn.Module):
    """One more channel that says how much the samples of a batch differ (Karras et al. 2018, arXiv:1710.10196, sec. 3).

    (N, C, H, W) -> (N, C + 1, H, W). The batch is divided into groups of at most `group_size` that follow each other;
    the new channel is the same everywhere in a group: the standard deviation over the group (biased, with 1e-8 added to
    the variance), averaged over channels and places. A generator that always makes the same picture is seen through by
    it. The group's size divides the rows of one member, so that no group has images of two.
    """

    def __init__(self, group_size: int = 4, members: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.members = members

    def forward(self, features: Tensor) -> Tensor:
        count = len(features) // self.members
        size = next(size for size in range(min(self.group_size, count), 0, -1) if count % size == 0)
        groups = features.to(torch.promote_types(features.dtype, torch.float32)).unflatten(0, (-1, size))
        deviation = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
        channel = deviation.to(features.dtype).repeat_interleave(size)[:, None, None, None]
        return torch.cat((features, channel.expand(-1, 1, *features.shape[2:])), dim=1)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}, members={self.members}"


class MemberLinear(nn.Module):
    """R linear layers side by side: (R, N, in) -> (R, N, out), x @ weight[r] + bias[r].

    weight (R, in, out), bias (R, 1, out). Both begin uniform in ±1/√in, as in torch.nn.Linear: weights of N(0, 0.02²),
    as convolutions begin with here, would make a narrow network nearly constant, and biases of zero would lead every
    ReLU's kink through the origin, where points in the plane need them spread.
    """

    bias: Tensor | None

    def __init__(self, members: int, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features)) if bias else None
        bound = in_features**-0.5
        for parameter in self.parameters():
            if not parameter.is_meta:  # as in fill_normal
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)

    def extra_repr(self) -> str:
        members, inputs, outputs = self.weight.shape
        return f"members={members}, in_features={inputs}, out_features={outputs}, bias={self.bias is not None}"


class MemberEmbedding(nn.Module):
    """A learned vector of N(0, std²) for each class and member: labels (R·N,) int64 -> (R, N, dim)."""

    def __init__(self, members: int, num_classes: int, dim: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, num_classes, dim))
        fill_normal(self.weight, 0.0, std)

    def forward(self, labels: Tensor) -> Tensor:
        members, num_classes, _dim = self.weight.shape
        rows = labels.reshape(members, -1)
        if members > 1:
            rows = rows + torch.arange(members, device=labels.device)[:, None] * num_classes
        return F.embedding(rows, self.weight.flatten(0, 1))


class MemberBatchNorm(nn.Module):
    """Batch normalisation of each member's features over that member's rows: (R, N, F) -> (R, N, F)."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(members * features)

    def forward(self, x: Tensor) -> Tensor:
        members, count, features = x.shape
        if self.training and count == 1:
            raise UsageFault("train.batch", "batch normalisation of one sample erases it", "Use 2 or more, or no norm")
        rows = x.transpose(0, 1).reshape(count, members * features)
        return self.norm(rows).view(count, members, features).transpose(0, 1)


class MemberLayerNorm(nn.Module):
    """Layer normalisation over the features of each row, scale and shift of each member's own: (R, N, F) -> same."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, 1, features))
        self.shift = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[-1:])
        return torch.addcmul(self.shift.to(normal.dtype), normal, self.scale.to(normal.dtype))


class MinibatchDiscrimination(nn.Module):
    """How near each sample is to the others of its batch (Salimans et al. 2016, arXiv:1606.03498, section 3.2).

    (R·N, features) -> (R·N, kernels), to be concatenated to the features: with M_i = T x_i, a matrix of kernels rows
    and dim columns, o(x_i)_b = Σ_j exp(-‖M_i,b - M_j,b‖₁), the sum over all N rows of the sample's member. As in the
    paper's equation j = i is part of it: it adds 1, which the next layer's bias can take away. Memory grows with
    R·N²·kernels·dim.
    """

    def __init__(self, features: int, kernels: int = 16, dim: int = 4, members: int = 1) -> None:
        super().__init__()
        self.members, self.kernels, self.dim = members, kernels, dim
        self.project = MemberLinear(members, features, kernels * dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        rows = features.reshape(self.members, -1, features.shape[1])
        columns = self.project(rows).unflatten(2, (self.kernels, self.dim)).permute(3, 0, 2, 1).contiguous()
        # a plane of all pairs for each column in turn: 2.5 times as fast on the CPU as one array of all columns
        distances = sum((column[..., :, None] - column[..., None, :]).abs() for column in columns.unbind())
        nearness = torch.exp(-distances).sum(dim=-1)
        return nearness.transpose(1, 2).flatten(0, 1).to(features.dtype)

    def extra_repr(self) -> str:
        return f"kernels={self.kernels}, dim={self.dim}, members={self.members}"


# layers through which the samples of a batch see each other -> the constructor argument that brings them
_MIXING = {_BatchNorm: "norm", MinibatchStd: "minibatch_std", MinibatchDiscrimination: "minibatch_discrimination"}


CONDITIONINGS = ("none", "projection", "classifier")  # of most discriminators; some offer others


def check_condition(conditioning: str, condition: Tensor | None) -> None:
    """A discriminator is given labels where it is conditioned by classes; for "classifier" it may go without."""
    if conditioning != "classifier":
        assert (condition is None) == (conditioning == "none"), "labels are for class-conditional discriminators"


def mixes_samples(module: nn.Module) -> bool:
    """Whether, in training mode, one sample's output depends on the others of its batch."""
    return any(isinstance(layer, tuple(_MIXING)) for layer in module.modules())


def what_mixes_samples(module: nn.Module) -> list[str]:
    """The constructor arguments that make it so."""
    layers = list(module.modules())
    return [argument for kind, argument in _MIXING.items() if any(isinstance(layer, kind) for layer in layers)]


class KeyedDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) that follows draws, not a global generator and not the training mode.

    forward(x (N, ...), draws) zeroes each value with the given probability and scales the rest by
    1 / (1 - probability); row i depends on draws.numbers[i] alone. With draws None nothing is dropped. Layers of one
    network need draws of different streams.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        if draws is None or self.probability == 0:
            return x
        assert len(draws) == len(x), f"{len(draws)} draws for {len(x)} images"
        kept = draws.uniform(*x.shape[1:]) >= self.probability
        return x * kept.to(x.dtype).div_(1 - self.probability)

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


def fill_normal(weight: Tensor, mean: float, std: float) -> None:
    """Overwrite `weight` with N(mean, std²) from torch's global generator; a meta tensor has nothing to overwrite.

    (The first normal_ on meta makes torch import its symbolic tracer, which takes two to three seconds.)
    """
    if not weight.is_meta:
        nn.init.normal_(weight, mean, std)


def make_embedding(num_classes: int, dim: int, std: float, mean: float = 0.0) -> nn.Embedding:
    """A learned vector of N(mean, std²) for each class: labels (N,) int64 -> (N, dim)."""
    embedding = nn.Embedding.from_pretrained(torch.empty(num_classes, dim), freeze=False)
    fill_normal(embedding.weight, mean, std)
    return embedding


def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """Weights N(0, std²), biases 0, batch norm scales N(1, std²): what DCGAN, pix2pix and CycleGAN begin with.

    Embeddings are left as make_embedding made them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fill_normal(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, _BatchNorm) and layer.affine:
            fill_normal(layer.weight, 1.0, std)
            nn.init.zeros_(layer.bias)


INITS = ("normal", "xavier")


def init_translator(module: nn.Module, init: str) -> None:
    """init_normal, or weights N(0, 2 · 0.02² / (fan_in + fan_out)): what CUT's released code begins with.

    The second is that of Glorot & Bengio 2010 with a gain of 0.02. Behind a norm the length of weights changes nothing
    of what they compute; but Adam's steps are as long for short weights as for long ones, so short ones turn faster.
    """
    init_normal(module)
    if init == "normal":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not layer.weight.is_meta:
            nn.init.xavier_normal_(layer.weight, gain=0.02)


def init_orthogonal(module: nn.Module) -> None:
    """Weights with orthonormal rows, or columns where rows are more (Saxe et al. 2014, arXiv:1312.6120); biases 0.

    Of convolutions, linear layers and embeddings; one output channel, or one class, is a row.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and not layer.weight.is_meta:
            nn.init.orthogonal_(layer.weight)
            if not isinstance(layer, nn.Embedding) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SpectralNorm(nn.Module):
    """Parametrization W -> W / σ(W), σ the largest singular value (Miyato et al. 2018, arXiv:1802.05957, algorithm 1).

    W is flattened to a matrix with one output channel a row. σ ≈ uᵀWv, where v and then u come from one step of power
    iteration for each forward in training mode; in evaluation u stays, so that the result depends on the state alone.
    The gradient flows through W in σ, with u and v held constant, as in the paper. All of it is computed in float32
    (float64 where the weight is), autocast or not.

    Args:
        weight: the weight as it is now, (out, ...) or, with output_dim 1, (in, out, ...).
        output_dim: where its output channels are.
        eps: least norm and least σ divided by.
        warm_up: iterations made at once, so that the first forwards are already near the unit norm.
        stacked: the weight is (R, in, out), and each member's matrix is divided by its own σ.
    """

    u: Tensor

    def __init__(
        self, weight: Tensor, output_dim: int = 0, eps: float = 1e-12, warm_up: int = 15, stacked: bool = False
    ) -> None:
        super().__init__()
        self.output_dim = output_dim
        self.eps = eps
        self.stacked = stacked
        shape = (weight.shape[0], weight.shape[2]) if stacked else (weight.shape[output_dim],)
        self.register_buffer("u", torch.empty(shape, device=weight.device, dtype=weight.dtype))
        if not weight.is_meta:
            u = F.normalize(torch.randn_like(self.u), dim=-1, eps=eps)
            for _ in range(warm_up):
                u, _v = self._iterate(self._matrix(weight), u)
            self.u.copy_(u)

    def _matrix(self, weight: Tensor) -> Tensor:
        """(out, rest), or (R, out, in) of a stack; the order of the columns is no matter."""
        if self.stacked:
            weight = weight.mT
        elif self.output_dim == 0 and weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
            weight = weight.permute(0, 2, 3, 1).flatten(1)  # as it lies in memory: in another order it is copied
        else:
            weight = weight.transpose(0, self.output_dim).flatten(1)
        return weight if weight.dtype == torch.float64 else weight.float()

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        v = F.normalize(_apply_matrix(matrix.mT, u.to(matrix.dtype)), dim=-1, eps=self.eps)
        return F.normalize(_apply_matrix(matrix, v), dim=-1, eps=self.eps), v

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight.device):
            matrix = self._matrix(weight)
            u, v = self._iterate(matrix, self.u)
            if self.training:
                # the graph keeps the new u; the buffer takes a copy, so a second forward before backward is safe
                self.u.copy_(u)
            sigma = torch.linalg.vecdot(u, _apply_matrix(matrix, v)).clamp_min(self.eps).to(weight.dtype)
            # not weight / sigma, whose gradient divides all weights twice more: a tenth of a BigGAN's step on the CPU
            return weight * (sigma[:, None, None] if self.stacked else sigma).reciprocal()


def _apply_matrix(matrix: Tensor, vector: Tensor) -> Tensor:
    """(..., m, n) and (..., n) -> (..., m)."""
    # a product with one column rounds otherwise than one with a vector
    return matrix @ vector if vector.dim() == 1 else (matrix @ vector[..., None])[..., 0]


def apply_spectral_norm(module: nn.Module, embeddings: bool = True) -> None:
    """Give every convolution, linear layer and embedding of `module` a spectrally normalised weight, in place."""
    stacks = (MemberLinear, MemberEmbedding)
    tables = (nn.Embedding,) if embeddings else ()
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, *tables, *stacks)
    for layer in [layer for layer in module.modules() if isinstance(layer, layers)]:
        output_dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        norm = SpectralNorm(layer.weight, output_dim, stacked=isinstance(layer, stacks))
        # unsafe skips torch's trial forward: shape and dtype are kept by construction
        parametrize.register_parametrization(layer, "weight", norm, unsafe=True)


class ScaledWeight(nn.Module, ABC):
    """A layer that is used with another weight than it learns."""

    @abstractmethod
    def scaled_weight(self) -> Tensor:
        """(out, ...), as it is used."""


def filter_matrices(network: nn.Module) -> Iterator[Tensor]:
    """The weight of every convolution and linear layer as (..., out, in), one filter a row; embeddings are left out."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield layer.weight.flatten(1)
        elif isinstance(layer, nn.ConvTranspose2d):
            yield layer.weight.transpose(0, 1).flatten(1)
        elif isinstance(layer, MemberLinear):
            yield layer.weight.mT
        elif isinstance(layer, ScaledWeight):
            yield layer.scaled_weight().flatten(1)
