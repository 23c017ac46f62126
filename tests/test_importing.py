"""Other projects' generators: every kind gives the same pictures as a model of ours; what is none is refused.

The references here are written from the layout of the files: which layer stands at which position. Parity with the
projects themselves is shown by tests/bench/import_parity.py.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import img2img
from img2img.checkpoint import load_networks, read_info
from img2img.errors import UsageFault
from img2img.importing import SOURCES, import_model
from img2img.importing.layouts import read_generator

# --- references ------------------------------------------------------------------------------------------------------

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


class Filter(nn.Module):
    """CUT's halving ([1, 2, 1], mirrored edges) and doubling ([1, 3, 3, 1], repeated edges), with its buffer."""

    def __init__(self, channels: int, taps: list[int]) -> None:
        super().__init__()
        one = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        self.up = len(taps) == 4
        self.register_buffer("filt", (one[:, None] * one * (4 if self.up else 1)).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])
        for axis in (2, 3):  # at places ¼ before and behind each pixel
            padded = F.pad(x, (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0), mode="replicate")
            side = x.shape[axis]
            before, behind = padded.narrow(axis, 0, side), padded.narrow(axis, 2, side)
            x = torch.stack(((before + 3 * x) / 4, (3 * x + behind) / 4), dim=axis + 1).flatten(axis, axis + 1)
        return x


class Block(nn.Module):
    def __init__(self, channels: int, norm: str, dropout: bool, padding: str = "reflect") -> None:
        super().__init__()
        zero, bias = padding == "zero", norm == "instance"

        def half() -> list[nn.Module]:
            pad = [] if zero else [nn.ReflectionPad2d(1)]
            return [*pad, nn.Conv2d(channels, channels, 3, padding=int(zero), bias=bias), NORMS[norm](channels)]

        drop = [nn.Dropout(0.5)] if dropout else []
        self.conv_block = nn.Sequential(*half(), nn.ReLU(), *drop, *half())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Resnet(nn.Module):
    def __init__(
        self,
        norm: str = "instance",
        *,
        blocks: int = 2,
        dropout: bool = False,
        down: str = "strided",
        up: str = "transposed",
        channels: tuple[int, int] = (3, 3),
        padding: str = "reflect",
    ) -> None:
        super().__init__()
        bias, width = norm == "instance", 4
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels[0], width, 7, bias=bias)]
        layers += [NORMS[norm](width), nn.ReLU()]
        for wide in (2 * width, 4 * width):
            layers.append(nn.Conv2d(wide // 2, wide, 3, stride=2 if down == "strided" else 1, padding=1, bias=bias))
            layers += [NORMS[norm](wide), nn.ReLU()] + ([] if down == "strided" else [Filter(wide, [1, 2, 1])])
        layers += [Block(4 * width, norm, dropout, padding) for _ in range(blocks)]
        for wide in (4 * width, 2 * width):
            if up == "transposed":
                layers.append(nn.ConvTranspose2d(wide, wide // 2, 3, 2, padding=1, output_padding=1, bias=bias))
            else:
                layers += [Filter(wide, [1, 3, 3, 1]), nn.Conv2d(wide, wide // 2, 3, padding=1, bias=bias)]
            layers += [NORMS[norm](wide // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, channels[1], 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UnetBlock(nn.Module):
    def __init__(self, level: int, depth: int, norm: str, dropout: bool, channels: tuple[int, int]) -> None:
        super().__init__()
        width, bias = 2, norm == "instance"
        outer, inner = (width * min(2**index, 8) for index in (level - 1, level))
        inside = [] if level == depth - 1 else [UnetBlock(level + 1, depth, norm, dropout, channels)]
        inputs = inner * (1 if level == depth - 1 else 2)
        self.outermost = level == 0
        if self.outermost:
            self.model = nn.Sequential(
                nn.Conv2d(channels[0], inner, 4, 2, 1, bias=bias),
                *inside,
                nn.ReLU(),
                nn.ConvTranspose2d(inputs, channels[1], 4, 2, 1),
                nn.Tanh(),
            )
            return
        self.model = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(outer, inner, 4, 2, 1, bias=bias),
            *([NORMS[norm](inner)] if inside else []),
            *inside,
            nn.ReLU(),
            nn.ConvTranspose2d(inputs, outer, 4, 2, 1, bias=bias),
            NORMS[norm](outer),
            *([nn.Dropout(0.5)] if dropout and level >= 4 and inside else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat((x, self.model(x)), dim=1)


class Unet(nn.Module):
    def __init__(
        self, norm: str = "instance", depth: int = 5, *, dropout: bool = False, channels: tuple[int, int] = (3, 3)
    ) -> None:
        super().__init__()
        self.model = UnetBlock(0, depth, norm, dropout, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Leaky(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias, 0.2) * math.sqrt(2)


class Smooth(nn.Module):
    """Zeros around, then [1, 3, 3, 1]."""

    def __init__(self, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        one = torch.tensor([1.0, 3, 3, 1]) / 8
        self.register_buffer("kernel", one[:, None] * one * gain)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(x, [self.padding] * 4), kernel, groups=x.shape[1])


class Equal(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / math.sqrt(self.weight[0].numel()), None, self.stride, self.padding)


class StyleBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(Equal(inputs, inputs, 3), Leaky(inputs))
        smooth = [Smooth(2)] if down else []
        self.conv2 = nn.Sequential(*smooth, Equal(inputs, outputs, 3, 2 if down else 1), Leaky(outputs))
        self.skip = nn.Sequential(Smooth(1), Equal(inputs, outputs, 1, 2)) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class StyleUp(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.noise, self.activate = nn.Module(), nn.Module(), Leaky(outputs)
        self.conv.weight = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3))
        self.conv.blur = Smooth(1, gain=4)
        self.noise.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight[0] / math.sqrt(self.conv.weight[0, 0].numel())
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        return self.activate(self.conv.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)))


class StyleResnet(nn.Module):
    def __init__(self, blocks: int, widths: tuple[int, ...] = (4, 6), channels: int = 3) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        pairs = list(pairwise(widths))
        inner = [StyleBlock(widths[-1], widths[-1], down=False) for _ in range(2 * blocks)]
        first = nn.Sequential(Equal(channels, widths[0], 1), Leaky(widths[0]))
        down = [StyleBlock(*pair, down=True) for pair in pairs]
        up = [StyleUp(*pair[::-1]) for pair in pairs[::-1]]
        last = nn.Sequential(Equal(widths[0], channels, 1), Leaky(channels))
        self.encoder.convs = nn.Sequential(nn.Identity(), first, *down, *inner[:blocks])
        self.decoder.convs = nn.Sequential(*inner[blocks:], *up, last)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder.convs(self.encoder.convs(x))


def randomised(network: nn.Module) -> nn.Module:
    """Every parameter and statistic random, so that each of them matters."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith(("filt", "kernel", "noise.weight", "num_batches_tracked")):
            continue
        tensor.copy_(torch.randn_like(tensor) * (0.3 if tensor.dim() > 1 else 0.5))
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.abs_().add_(0.2)
    return network


def save(path: Path, state: object, **options: Any) -> Path:
    torch.save(state, path, **options)
    return path


def check_same(reference: nn.Module, model: Path, size: tuple[int, int], tolerance: float = 1e-9) -> None:
    """The imported generator gives the reference's pictures, in float64."""
    info, networks = load_networks(model, dtype=torch.float64)
    images = torch.rand(1, info.channels["a"], *size, dtype=torch.float64) * 2 - 1
    wanted = reference.double()(images)
    given = networks[info.directions["a2b"]](images)
    assert wanted.std() > 0.01, "a picture with something in it"
    torch.testing.assert_close(given, wanted, atol=tolerance, rtol=tolerance)


# --- parity ----------------------------------------------------------------------------------------------------------

DOWNS_AND_UPS = [
    ("strided", "transposed"),
    ("antialiased", "transposed"),
    ("strided", "antialiased"),
    ("antialiased",) * 2,
]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(("down", "up"), DOWNS_AND_UPS)
def test_resnets(down: str, up: str, dropout: bool, norm: str, tmp_path: Path) -> None:
    reference = randomised(Resnet(norm, dropout=dropout, down=down, up=up)).eval()
    file = save(tmp_path / "latest_net_G.pth", reference.state_dict())
    kept = "stored" if norm == "batch" else "picture"
    import_model(file, "cut", tmp_path / "out.safetensors", batch_norm=kept)
    check_same(reference, tmp_path / "out.safetensors", (20, 28))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("depth", [5, 7])
def test_unets(depth: int, norm: str, tmp_path: Path) -> None:
    reference = randomised(Unet(norm, depth, channels=(1, 3))).eval()
    file = save(tmp_path / "latest_net_G.pth", reference.state_dict())
    kept = "stored" if norm == "batch" else "picture"
    info = import_model(file, "junyanz", tmp_path / "out.safetensors", batch_norm=kept)
    assert info.resolution == (2**depth, 2**depth)
    check_same(reference, tmp_path / "out.safetensors", (2**depth, 2 ** (depth + 1)))


@pytest.mark.parametrize("kind", [Resnet, Unet])
def test_batch_norm_uses_the_picture_as_the_peers_test_script_does(kind: type[nn.Module], tmp_path: Path) -> None:
    reference = randomised(kind("batch")).train()
    file = save(tmp_path / "latest_net_G.pth", reference.state_dict())
    import_model(file, "junyanz", tmp_path / "out.safetensors")
    check_same(reference, tmp_path / "out.safetensors", (64, 64))


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("widths", [(4, 6), (3, 6, 5)])
def test_generators_of_stylegan2s_layers(blocks: int, widths: tuple[int, ...], tmp_path: Path) -> None:
    reference = randomised(StyleResnet(blocks, widths))
    file = save(tmp_path / "latest_net_G.pth", reference.state_dict())
    info = import_model(file, "cut", tmp_path / "out.safetensors")
    assert info.networks["generator"].arguments["noise"] is (blocks > 1)
    check_same(reference, tmp_path / "out.safetensors", (12, 20))


def test_the_noise_of_stylegan2s_layers_is_kept(tmp_path: Path) -> None:
    state = randomised(StyleResnet(3)).state_dict()
    state["decoder.convs.3.noise.weight"] += 0.25
    import_model(save(tmp_path / "g.pth", state), "cut", tmp_path / "out.safetensors")
    _, networks = load_networks(tmp_path / "out.safetensors")
    assert networks["generator"].up[0].noise_strength == 0.25


# --- layouts of old and of wrapped files -----------------------------------------------------------------------------


def with_running_statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torch before 0.4 saved instance normalisation: statistics that nobody used."""
    old = dict(state)
    convolutions = [name.removesuffix(".bias") for name in state if name.endswith(".bias")]
    for conv in convolutions[:-1]:  # there is no normalisation behind the last
        prefix, _, index = conv.rpartition(".")
        norm, channels = f"{prefix}.{int(index) + 1}", len(state[f"{conv}.bias"])
        old |= {f"{norm}.running_mean": torch.ones(channels), f"{norm}.running_var": torch.full((channels,), 9.0)}
    return old


LAYOUTS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], dict[str, Any]]] = {
    "file before torch 1.6": (dict, {"_use_new_zipfile_serialization": False}),
    "statistics before torch 0.4": (with_running_statistics, {}),
    "DataParallel": (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, {}),
    "compiled": (lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}, {}),
    "half precision": (lambda state: {name: tensor.half() for name, tensor in state.items()}, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_instance_norm(layout: str, tmp_path: Path) -> None:
    change, options = LAYOUTS[layout]
    reference = randomised(Resnet(blocks=1))
    if layout == "half precision":
        reference = reference.half().float()
    file = save(tmp_path / "latest_net_G_A.pth", change(reference.state_dict()), **options)
    import_model(file, "junyanz", tmp_path / "out.safetensors")
    check_same(reference, tmp_path / "out.safetensors", (16, 16))


def test_batch_norm_before_torch_0_4_1_counted_no_batches(tmp_path: Path) -> None:
    reference = randomised(Unet("batch")).eval()
    state = {name: tensor for name, tensor in reference.state_dict().items() if "num_batches" not in name}
    import_model(save(tmp_path / "g.pth", state), "junyanz", tmp_path / "out.safetensors", batch_norm="stored")
    check_same(reference, tmp_path / "out.safetensors", (32, 32))


def test_a_bias_before_batch_norm_moves_the_running_mean(tmp_path: Path) -> None:
    """The peers' have none there; a copy of theirs that has keeps its function."""
    reference = Resnet("batch", blocks=1)
    for layer in reference.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is None:
            channels = layer.weight.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0]
            layer.bias = nn.Parameter(torch.zeros(channels))
    reference = randomised(reference).eval()
    file = save(tmp_path / "g.pth", reference.state_dict())
    import_model(file, "junyanz", tmp_path / "out.safetensors", batch_norm="stored")
    check_same(reference, tmp_path / "out.safetensors", (16, 16), 1e-5)  # the mean is rounded to single precision


# --- the model file --------------------------------------------------------------------------------------------------


def test_a_model_of_both_directions_says_where_it_is_from_and_translates(tmp_path: Path) -> None:
    there, back = randomised(Resnet(channels=(3, 1))), randomised(Resnet(channels=(1, 3), dropout=True)).eval()
    a2b = save(tmp_path / "latest_net_G_A.pth", there.state_dict())
    b2a = save(tmp_path / "latest_net_G_B.pth", back.state_dict())
    target = tmp_path / "both.safetensors"
    import_model(
        a2b, "junyanz", target, b2a=b2a, domains=("horse", "zebra"), dropout=False, resolution=(96, 128), licence="BSD"
    )
    info = read_info(target)
    assert (info.domains, info.channels) == ({"a": "horse", "b": "zebra"}, {"a": 3, "b": 1})
    assert (info.resolution, info.fit, info.licence) == ((96, 128), "stretch", "BSD")
    assert info.translator == "imported from junyanz/pytorch-CycleGAN-and-pix2pix"
    assert "latest_net_G_A.pth, sha256 " in info.recipe
    model = img2img.load(target, device="cpu")
    grey = np.random.default_rng(0).integers(0, 256, (24, 20), np.uint8)
    wanted = back(torch.from_numpy(grey)[None, None] / 127.5 - 1)[0].permute(1, 2, 0)
    given = model.translate(grey, direction="b2a")
    assert given.shape == (24, 20, 3)
    assert np.abs(given - ((wanted.detach().numpy() + 1) * 127.5)).max() <= 0.51


@pytest.mark.parametrize(
    ("source", "dropout", "probability"),
    [("junyanz", None, 0.5), ("junyanz", False, 0.0), ("cut", None, 0.0), ("cut", True, 0.5)],
)
def test_a_unets_dropout_is_what_its_project_does(
    source: str, dropout: bool | None, probability: float, tmp_path: Path
) -> None:
    file = save(tmp_path / "g.pth", Unet(depth=7, dropout=True).state_dict())
    import_model(file, source, tmp_path / "out.safetensors", dropout=dropout)
    _, networks = load_networks(tmp_path / "out.safetensors")
    network = networks["generator"]
    # innermost first: levels 6 to 0
    assert [layer.probability for layer in network.dropouts] == [0.0, probability, probability, 0.0, 0.0, 0.0, 0.0]
    assert network.dropout_at_test is (probability > 0)


@pytest.mark.parametrize(("dropout", "on"), [(None, True), (False, False)])
def test_a_resnets_dropout_is_on_as_in_the_peers_test_script(dropout: bool | None, on: bool, tmp_path: Path) -> None:
    file = save(tmp_path / "g.pth", Resnet(dropout=True).state_dict())
    import_model(file, "junyanz", tmp_path / "out.safetensors", dropout=dropout)
    _, networks = load_networks(tmp_path / "out.safetensors")
    assert networks["generator"].dropout_at_test is on
    assert networks["generator"].blocks[0].dropout.probability == 0.5


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    file = save(tmp_path / "g.pth", Resnet().state_dict())
    for name in ("one", "two"):
        import_model(file, "cut", tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


# --- what is refused -------------------------------------------------------------------------------------------------


class Payload:
    marker = "ran"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def dumped(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


def discriminator() -> dict[str, Tensor]:
    return nn.ModuleDict({"model": nn.Sequential(nn.Conv2d(3, 4, 4), nn.LeakyReLU(), nn.Conv2d(4, 1, 4))}).state_dict()


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "a discriminator": (
        discriminator,
        {},
        r"G\.pth: its tensors are named otherwise, so it is no generator of junyanz",
    ),
    "a cut off network": (lambda: without(Resnet().state_dict(), "model.4.weight"), {}, r"named otherwise"),
    "a block too few": (lambda: without(Resnet().state_dict(), "model.19.weight"), {}, r"model\.19\.weight is missing"),
    "more than a network": (lambda: {**Resnet().state_dict(), "more": torch.zeros(1)}, {}, r"1 of its tensors .*more"),
    "zero padding": (lambda: Resnet(padding="zero").state_dict(), {}, r"residual blocks have zero padding"),
    "another filter": (
        lambda: {k: t + 0.1 if "filt" in k else t for k, t in Resnet(down="antialiased").state_dict().items()},
        {"source": "cut"},
        r"its filter model\.7\.filt is another one",
    ),
    "not a number": (
        lambda: {k: t * float("nan") for k, t in Resnet().state_dict().items()},
        {},
        r"tensor model\.1\.weight holds what is no finite number",
    ),
    "a small U-Net": (lambda: Unet(depth=4).state_dict(), {}, r"it has 4 levels"),
    "two channels": (lambda: Resnet(channels=(2, 3)).state_dict(), {}, r"goes in has 2 channels"),
    "CUT's StyleGAN2 from junyanz": (lambda: StyleResnet(1).state_dict(), {}, r"Use --from cut"),
    "resnet_cat": (lambda: {"enc_content.model.0.conv.weight": torch.zeros(4, 3, 7, 7)}, {}, r"resnet_cat"),
    "dropout it has not": (
        lambda: Resnet().state_dict(),
        {"dropout": True},
        r"^--dropout: .*no dropout\. Leave it out",
    ),
    "noise is no dropout": (lambda: StyleResnet(1).state_dict(), {"source": "cut", "dropout": True}, r"^--dropout: "),
    "stored statistics it has not": (lambda: Resnet().state_dict(), {"batch_norm": "stored"}, r"^--batch-norm: "),
    "an unknown norm": (
        lambda: Resnet().state_dict(),
        {"batch_norm": "stord"},
        r"^--batch-norm: .*Did you mean stored",
    ),
    "an unknown project": (lambda: Resnet().state_dict(), {"source": "junyan"}, r"^--from: .*Did you mean junyanz"),
    "one name for two": (lambda: Resnet().state_dict(), {"domains": ("x", "x")}, r"^--domains: x twice"),
    "a whole checkpoint": (lambda: {"netG": Resnet().state_dict(), "epoch": 3}, {}, r"is no tensor\. Save the network"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_such_generator_is_refused(case: str, tmp_path: Path) -> None:
    make, options, problem = CASES[case]
    file = save(tmp_path / "G.pth", make())
    with pytest.raises(UsageFault, match=problem) as caught:
        import_model(file, **{"source": "junyanz", "target": tmp_path / "out.safetensors", **options})
    assert caught.value.mend
    assert not (tmp_path / "out.safetensors").exists()


def test_a_way_back_of_other_pictures_is_refused(tmp_path: Path) -> None:
    a2b = save(tmp_path / "A.pth", Resnet(channels=(3, 1)).state_dict())
    b2a = save(tmp_path / "B.pth", Resnet(channels=(3, 3)).state_dict())
    with pytest.raises(UsageFault, match=r"B\.pth: makes 3 channels of 3, which is not the way back of 1 from 3"):
        import_model(a2b, "junyanz", tmp_path / "out.safetensors", b2a=b2a)


DAMAGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "missing": lambda tensor: None,
    "no rows": lambda tensor: tensor[:0],
    "one row": lambda tensor: tensor[:1] if tensor.dim() > 0 else tensor[None],
    "no columns": lambda tensor: tensor[..., :0] if tensor.dim() > 1 else tensor[None],
    "flat": lambda tensor: tensor.flatten() if tensor.dim() > 1 else tensor.reshape(1, -1),
    "a number": lambda tensor: tensor.sum() if tensor.dim() else tensor[None],
    "whole numbers": lambda tensor: tensor.int(),
    "doubled": lambda tensor: torch.cat((tensor, tensor)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["resnet", "unet", "stylegan2"])
def test_every_damaged_tensor_is_refused(kind: str, damage: str) -> None:
    networks: dict[str, nn.Module] = {
        "resnet": Resnet("batch", blocks=1, down="antialiased", up="antialiased"),
        "unet": Unet("batch", 6),
        "stylegan2": StyleResnet(2),
    }
    state = networks[kind].state_dict()
    batch_norm = "picture" if kind == "stylegan2" else "stored"
    for name, tensor in state.items():
        if "num_batches" in name:  # which nobody reads
            continue
        damaged = DAMAGES[damage](tensor)
        if damaged is not None and damaged.shape == tensor.shape and damaged.dtype == tensor.dtype:
            continue
        changed = without(state, name) if damaged is None else {**state, name: damaged}
        # a bias that is not there is zero, but for StyleGAN2's; of a filter only what it filters by counts
        if name.endswith("filt"):
            harmless = damaged is not None and damaged.shape[2:] == tensor.shape[2:] and damaged.is_floating_point()
        else:
            of_norm = name.replace("bias", "running_mean") in state
            harmless = damaged is None and name.endswith(".bias") and not of_norm and kind != "stylegan2"
        with contextlib.nullcontext() if harmless else pytest.raises(UsageFault, match=r"^(G\.pth|--batch-norm): "):
            read_generator(changed, Path("G.pth"), SOURCES["cut"], None, batch_norm)


def payloads() -> Iterator[bytes]:
    yield dumped({**Resnet().state_dict(), "more": Payload()})
    yield dumped({**Resnet().state_dict(), "more": Payload()}, _use_new_zipfile_serialization=False)
    yield dumped(Payload())
    yield pickle.dumps(Payload())


def test_code_in_a_file_is_named_and_not_run(tmp_path: Path) -> None:
    Payload.marker = str(tmp_path / "ran")
    for index, content in enumerate(payloads()):
        file = tmp_path / f"{index}.pth"
        file.write_bytes(content)
        with pytest.raises(UsageFault, match=r"holds code \(posix\.system\)"):
            import_model(file, "junyanz", tmp_path / "out.safetensors")
    assert not Path(Payload.marker).exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_no_cut_file_becomes_a_model(tmp_path: Path) -> None:
    content = dumped(Unet().state_dict())
    file = tmp_path / "g.pth"
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UsageFault):
            import_model(file, "junyanz", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
