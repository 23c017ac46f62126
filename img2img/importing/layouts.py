"""From the names and shapes of a file's tensors to one of our networks and its weights.

junyanz's and CUT's generators are nn.Sequential, whose tensors are called by their layer's position. The position tells
what lies between: reflection, activations, dropout. Written by DataParallel, names begin with "module.". Before torch
0.4, instance normalisation had running statistics, which the peers pass over when they read such a file, and so do we.

The same function is reached with other parameters in three places. A bias before a normalisation, which subtracts it,
is dropped, or taken off the running mean. Our U-Net concatenates what comes from below before what skipped it, the
peers after. Weights without a style are demodulated when used, here as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from img2img.checkpoint import NetworkSpec, build_network
from img2img.errors import UsageFault

BATCH_NORMS = ("picture", "stored")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_STATISTICS = ("running_mean", "running_var")
_DROPOUT = 0.5  # the peers' only value
_SMALL_BLOCKS = 1  # in the encoder of CUT's "smallstylegan2", whose layers' noise is off


@dataclass(frozen=True)
class Source:
    """Another project.

    Attributes:
        title: what it is called.
        kinds: networks of ours that its generators are.
        files: which files hold its generators, in words.
        unet_dropout: whether its U-Nets have dropout unless their user says otherwise.
    """

    title: str
    kinds: tuple[str, ...]
    files: str
    unet_dropout: bool


@dataclass(frozen=True)
class Imported:
    """A network of ours and its state dict."""

    network: NetworkSpec
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class _Layer:
    """A convolution and the normalisation behind it, with what each tensor is called in the file."""

    name: str
    weight: Tensor
    bias: Tensor | None
    norm: Mapping[str, Tensor] = field(default_factory=dict)


class _Tensors:
    """The tensors of a file, each taken once: what is left over has not been understood."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, source: Source) -> None:
        self._left = _without_prefixes(tensors)
        self.path = path
        self.source = source

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def below(self, prefix: str) -> list[str]:
        """The names below `prefix`, without it."""
        return [name.removeprefix(f"{prefix}.") for name in self._left if name.startswith(f"{prefix}.")]

    def rank(self, name: str) -> int:
        """Number of dimensions; 0 where there is no such tensor."""
        return self._left[name].dim() if name in self._left else 0

    def maybe(self, name: str) -> Tensor | None:
        """The tensor in single precision; None where there is none."""
        tensor = self._left.pop(name, None)
        if tensor is None:
            return None
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise UsageFault(self.path, f"tensor {name} holds what is no finite number", "Give another file")
        return tensor.float()

    def take(self, name: str, rank: int = 4) -> Tensor:
        tensor = self.maybe(name)
        if tensor is None or tensor.dim() != rank:
            raise self.fault(f"tensor {name} is missing" if tensor is None else f"tensor {name} has another rank")
        return tensor

    def layer(self, conv: str, norm: str | None = None) -> _Layer:
        """The convolution called `conv`, with what the normalisation called `norm` has learned."""
        weight, bias = self.take(f"{conv}.weight"), self.maybe(f"{conv}.bias")
        found: dict[str, Tensor] = {}
        if norm is not None:
            self._left.pop(f"{norm}.num_batches_tracked", None)
            tensors = {key: self.maybe(f"{norm}.{key}") for key in ("weight", "bias", *_STATISTICS)}
            found = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        return _Layer(conv, weight, bias, found)

    def take_filter(self, name: str, taps: Iterable[int], gain: float = 1.0) -> None:
        """Pass over a constant filter, the outer product of `taps` of sum `gain`: our layers have it in their code."""
        tensor = self.take(name, self.rank(name))
        one = torch.tensor([float(tap) for tap in taps])
        expected = one[:, None] * one * (gain / one.sum().square())
        if tensor.shape[-2:] != expected.shape or not torch.allclose(tensor, expected.expand_as(tensor), atol=1e-6):
            raise self.fault(f"its filter {name} is another one")

    def fault(self, problem: str) -> UsageFault:
        return UsageFault(
            self.path, f"{problem}, so it is no generator of {self.source.title}", f"Give its {self.source.files}"
        )

    def finish(self) -> None:
        if self._left:
            shown = ", ".join(sorted(self._left)[:3])
            raise self.fault(f"{len(self._left)} of its tensors belong to no known layer ({shown})")


def read_generator(
    tensors: Mapping[str, Tensor], path: Path, source: Source, dropout: bool | None, batch_norm: str
) -> Imported:
    """What `import_model` makes of one file.

    Raises:
        UsageFault: no generator of the source, or one that cannot have these options.
    """
    found = _Tensors(tensors, path, source)
    kind = _kind(found)
    if kind not in source.kinds:
        raise UsageFault(path, f"holds a {kind}, which {source.title} does not have", "Use --from cut")
    if kind == "unet":
        imported = _unet(found, source.unet_dropout if dropout is None else dropout, batch_norm)
    elif kind == "resnet":
        imported = _resnet(found, dropout, batch_norm)
    else:
        imported = _stylegan2_resnet(found, dropout)
    found.finish()
    return imported


def _without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = list(tensors)
    while prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, tensors.values()))


def _kind(found: _Tensors) -> str:
    if found.rank("model.1.weight") == 4 and found.rank("model.4.weight") == 4:
        return "resnet"
    if found.rank("model.model.0.weight") == 4:
        return "unet"
    if found.below("encoder.convs"):
        return "stylegan2_resnet"
    if found.below("enc_content"):
        raise UsageFault(
            found.path,
            "holds a resnet_cat, which CUT's own options cannot build, nor this version read",
            "Generators that can be read: resnet_4blocks to resnet_9blocks, unet_128, unet_256, stylegan2, "
            "smallstylegan2",
        )
    raise found.fault("its tensors are named otherwise")


# --- normalisation ---------------------------------------------------------------------------------------------------


def _norm_kind(found: _Tensors, conv: str, norm: str, batch_norm: str) -> str:
    """Which of our norms stands behind the convolution `conv`; all of a network are alike.

    Instance normalisation leaves nothing behind, but the peers' convolutions have biases just where it follows.
    """
    if f"{norm}.weight" in found:
        has_statistics = f"{norm}.running_mean" in found
        return "batch" if has_statistics and batch_norm == "stored" else "instance_affine"
    return "instance" if f"{conv}.bias" in found or f"{norm}.running_mean" in found else "none"


def _fill(found: _Tensors, spec: NetworkSpec, layers: list[_Layer], places: list[tuple[str, str]]) -> Imported:
    """The layers in our network's places, each a convolution's name and that of the normalisation behind it."""
    expected = _build(found, spec).state_dict()
    weights: dict[str, Tensor] = {}
    if len(layers) != len(places):
        raise found.fault(f"it has {len(layers)} convolutions where there are {len(places)}")
    for layer, (conv, norm) in zip(layers, places):
        shape = expected[f"{conv}.weight"].shape
        if layer.weight.shape != shape:
            raise found.fault(f"tensor {layer.name}.weight has shape {tuple(layer.weight.shape)}, not {tuple(shape)}")
        weights[f"{conv}.weight"] = layer.weight
        bias = layer.bias
        if f"{conv}.bias" in expected:
            weights[f"{conv}.bias"] = torch.zeros(expected[f"{conv}.bias"].shape) if bias is None else bias
            bias = None
        if f"{norm}.num_batches_tracked" in expected:  # batch normalisation
            weights[f"{norm}.num_batches_tracked"] = torch.tensor(0)
        for key, learned in layer.norm.items():
            moved = learned
            if key == "running_mean" and bias is not None:
                if bias.shape != learned.shape:
                    raise found.fault(f"tensor {layer.name}.bias has shape {tuple(bias.shape)}")
                moved = learned - bias
            # "instance_affine" scales in a layer of its own; what a norm here does not have is passed over
            for own in (f"{norm}.{key}", f"{norm}.1.{key}"):
                if own in expected:
                    weights[own] = moved
    return _checked(found, spec, weights, expected)


def _build(found: _Tensors, spec: NetworkSpec) -> nn.Module:
    """The network, without storage; what it refuses is the file's fault."""
    try:
        return build_network(spec, found.path)
    except UsageFault as error:
        raise found.fault(error.problem) from error


def _checked(
    found: _Tensors, spec: NetworkSpec, weights: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> Imported:
    for name in sorted(expected.keys() | weights.keys()):
        if name not in expected or name not in weights or expected[name].shape != weights[name].shape:
            raise found.fault(f"its layers do not fit together at our {name}")
    return Imported(spec, weights)


def _check_batch_norm(found: _Tensors, norm: str, batch_norm: str) -> None:
    if batch_norm == "stored" and norm != "batch":
        raise UsageFault("--batch-norm", f"{found.path} has no batch normalisation", "Leave it out")


# --- ResNets ---------------------------------------------------------------------------------------------------------


def _resnet(found: _Tensors, dropout: bool | None, batch_norm: str) -> Imported:
    """reflection, 7×7, then halvings, blocks and doublings, then reflection, 7×7 and tanh, all in one nn.Sequential."""
    norm = _norm_kind(found, "model.1", "model.2", batch_norm)
    _check_batch_norm(found, norm, batch_norm)
    layers = [found.layer("model.1", "model.2")]
    index = 4
    downs = ups = blocks = 0
    antialiased_down = antialiased_up = has_dropout = False
    while found.rank(f"model.{index}.weight") == 4 and downs < 4:  # convolution, norm, ReLU and perhaps a filter
        layers.append(found.layer(f"model.{index}", f"model.{index + 1}"))
        index += 3
        downs += 1
        if f"model.{index}.filt" in found:
            antialiased_down = True
            found.take_filter(f"model.{index}.filt", (1, 2, 1))
            index += 1
    while positions := _convolutions(found, f"model.{index}.conv_block"):
        if positions not in ([1, 5], [1, 6]):
            padding = "zero padding" if positions[0] == 0 else "an unknown order of layers"
            raise found.fault(f"its residual blocks have {padding} (only reflection can be read)")
        has_dropout = positions[1] == 6
        layers += [
            found.layer(f"model.{index}.conv_block.{place}", f"model.{index}.conv_block.{place + 1}")
            for place in positions
        ]
        index += 1
        blocks += 1
    while ups < downs:  # a transposed convolution, or a filter and a convolution; norm, ReLU
        if f"model.{index}.filt" in found:
            antialiased_up = True
            found.take_filter(f"model.{index}.filt", (1, 3, 3, 1), gain=4)
            index += 1
        layers.append(found.layer(f"model.{index}", f"model.{index + 1}"))
        index += 3
        ups += 1
    layers.append(found.layer(f"model.{index + 1}"))
    if dropout and not has_dropout:
        raise UsageFault("--dropout", f"{found.path} has no dropout", "Leave it out")
    first, last = layers[0].weight, layers[-1].weight
    spec = NetworkSpec(
        "resnet",
        {
            "in_channels": first.shape[1],
            "out_channels": last.shape[0],
            "width": first.shape[0],
            "blocks": blocks,
            "norm": norm,
            "dropout": _DROPOUT if has_dropout else 0.0,
            "dropout_at_test": has_dropout and dropout is not False,
            "downsamplings": downs,
            "downsampling": "antialiased" if antialiased_down else "strided",
            "upsampling": "antialiased" if antialiased_up else "transposed",
        },
    )
    return _fill(found, spec, layers, _in_order(_build(found, spec)))


def _convolutions(found: _Tensors, prefix: str) -> list[int]:
    """The positions of the convolutions in the nn.Sequential called `prefix`."""
    names = (name.partition(".") for name in found.below(prefix))
    places = {int(index) for index, _, key in names if len(index) < 5 and index.isdecimal() and key == "weight"}
    return sorted(place for place in places if found.rank(f"{prefix}.{place}.weight") == 4)


def _in_order(network: nn.Module) -> list[tuple[str, str]]:
    """The convolutions of a network that registers its layers in their order, each with the layer behind it."""
    names = [name for name, _ in network.named_modules()]
    convolutions = nn.Conv2d | nn.ConvTranspose2d
    return [
        (name, names[index + 1] if index + 1 < len(names) else "")
        for index, (name, layer) in enumerate(network.named_modules())
        if isinstance(layer, convolutions)
    ]


# --- U-Nets ----------------------------------------------------------------------------------------------------------


def _unet(found: _Tensors, dropout: bool, batch_norm: str) -> Imported:
    """Blocks within blocks: LeakyReLU, convolution, norm, the next block, ReLU, transposed convolution, norm.

    The outermost has no LeakyReLU and no norm, the innermost no norm before it goes up again and no block inside.
    """
    prefix, down, up = "model.model", [found.layer("model.model.0")], [found.layer("model.model.3")]
    prefix += ".1.model"
    norm = _norm_kind(found, f"{prefix}.1", f"{prefix}.2", batch_norm)
    while found.rank(f"{prefix}.1.weight") == 4:
        is_innermost = f"{prefix}.3.weight" in found
        if is_innermost:
            down.append(found.layer(f"{prefix}.1"))
            up.append(found.layer(f"{prefix}.3", f"{prefix}.4"))
            break
        down.append(found.layer(f"{prefix}.1", f"{prefix}.2"))
        up.append(found.layer(f"{prefix}.5", f"{prefix}.6"))
        prefix += ".3.model"
    depth = len(down)
    if depth < 5:
        raise found.fault(f"it has {depth} levels, fewer than the 5 of its smallest U-Net")
    _check_batch_norm(found, norm, batch_norm)
    up = [_swapped(found, layer) for layer in up[:-1]] + up[-1:]
    spec = NetworkSpec(
        "unet",
        {
            "in_channels": down[0].weight.shape[1],
            "out_channels": up[0].weight.shape[1],
            "width": down[0].weight.shape[0],
            "depth": depth,
            "norm": norm,
            "dropout": _DROPOUT if dropout and depth > 5 else 0.0,
            "dropout_levels": tuple(range(4, depth - 1)) if depth > 5 else None,
            "dropout_at_test": dropout,
        },
    )
    places = [(f"down.{level}", f"down_norms.{level}") for level in range(depth)]
    places += [(f"up.{index}", f"up_norms.{index}") for index in range(depth)]
    return _fill(found, spec, down + up[::-1], places)


def _swapped(found: _Tensors, layer: _Layer) -> _Layer:
    """A transposed convolution whose inputs come in the other order: first from below, then what skipped it."""
    if len(layer.weight) < 2:
        raise found.fault(f"tensor {layer.name}.weight has shape {tuple(layer.weight.shape)}")
    skipped, below = layer.weight.chunk(2)
    return _Layer(layer.name, torch.cat((below, skipped)), layer.bias, layer.norm)


# --- CUT's generator of StyleGAN2's layers ---------------------------------------------------------------------------


def _stylegan2_resnet(found: _Tensors, dropout: bool | None) -> Imported:
    """An encoder and a decoder, both lists of layers; the encoder's first is none, for PatchNCE to look at."""
    if dropout:
        raise UsageFault("--dropout", f"{found.path} has no dropout", "Leave it out")
    weights: dict[str, Tensor] = {}
    widths, blocks = [_take_leaky(found, "encoder.convs.1", "first", weights, kernel=1)], 0
    index = 2
    while found.below(f"encoder.convs.{index}"):
        prefix = f"encoder.convs.{index}"
        if found.below(f"{prefix}.skip"):
            widths.append(_take_block(found, prefix, f"down.{len(widths) - 1}", weights, down=True))
        else:
            _take_block(found, prefix, f"blocks.{blocks}", weights, down=False)
            blocks += 1
        index += 1
    noise = blocks > _SMALL_BLOCKS
    index = 0
    while found.below(f"decoder.convs.{index}.conv1"):
        _take_block(found, f"decoder.convs.{index}", f"blocks.{blocks}", weights, down=False)
        blocks += 1
        index += 1
    for level in range(len(widths) - 1):
        prefix, own = f"decoder.convs.{index}", f"up.{level}"
        # (1, out, in, 3, 3) to what torch's transposed convolutions take
        weights[f"{own}.weight"] = found.take(f"{prefix}.conv.weight", 5).flatten(0, 1).transpose(0, 1).contiguous()
        weights[f"{own}.bias"] = found.take(f"{prefix}.activate.bias").flatten()
        found.take_filter(f"{prefix}.conv.blur.kernel", (1, 3, 3, 1), gain=4)
        strength = found.take(f"{prefix}.noise.weight", 1)
        if noise:
            weights[f"{own}.noise_strength"] = strength.squeeze()
        index += 1
    _take_leaky(found, f"decoder.convs.{index}", "last", weights, kernel=1)
    spec = NetworkSpec(
        "stylegan2_resnet",
        {
            "in_channels": weights["first.weight"].shape[1],
            "out_channels": weights["last.weight"].shape[0],
            "widths": tuple(widths),
            "blocks": blocks,
            "noise": noise,
        },
    )
    return _checked(found, spec, weights, _build(found, spec).state_dict())


def _take_leaky(found: _Tensors, prefix: str, own: str, weights: dict[str, Tensor], kernel: int) -> int:
    """A convolution with its bias in the activation behind it; returns the number of its outputs."""
    weight = weights[f"{own}.weight"] = found.take(f"{prefix}.0.weight")
    weights[f"{own}.bias"] = found.take(f"{prefix}.1.bias").flatten()
    if weight.shape[2:] != (kernel, kernel):
        raise found.fault(f"tensor {prefix}.0.weight has shape {tuple(weight.shape)}")
    return len(weight)


def _take_block(found: _Tensors, prefix: str, own: str, weights: dict[str, Tensor], *, down: bool) -> int:
    """Two convolutions and, where they halve, filters and a shortcut; returns the number of its outputs."""
    width = _take_leaky(found, f"{prefix}.conv1", f"{own}.conv", weights, kernel=3)
    if not down:
        _take_leaky(found, f"{prefix}.conv2", f"{own}.last", weights, kernel=3)
        return width
    found.take_filter(f"{prefix}.conv2.0.kernel", (1, 3, 3, 1))
    found.take_filter(f"{prefix}.skip.0.kernel", (1, 3, 3, 1))
    weight = weights[f"{own}.last.weight"] = found.take(f"{prefix}.conv2.1.weight")
    weights[f"{own}.last.bias"] = found.take(f"{prefix}.conv2.2.bias").flatten()
    weights[f"{own}.shortcut.weight"] = found.take(f"{prefix}.skip.1.weight")
    return len(weight)
