"""Tiles against the whole picture: every network that translates, every operation, any size, any tile."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.inference import model as model_module
from img2img.inference import tiles as tiles_module
from img2img.inference.model import Model
from img2img.inference.regions import CannotTile, Moments
from img2img.inference.tiles import TiledRun
from img2img.networks import GENERATORS
from img2img.networks.resample import fir_downsample, fir_upsample

CPU = torch.device("cpu")
NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    "resnet": ("resnet", {"width": 4, "blocks": 2}),
    "resnet, layer norm": ("resnet", {"width": 3, "blocks": 1, "norm": "layer"}),
    "resnet, batch norm": ("resnet", {"width": 3, "blocks": 1, "norm": "batch"}),
    "resnet, no norm": ("resnet", {"width": 3, "blocks": 1, "norm": "none"}),
    "resnet, dropout": ("resnet", {"width": 3, "blocks": 2, "dropout": 0.4}),
    "unet": ("unet", {"width": 4, "depth": 4}),
    "unet, batch norm": ("unet", {"width": 3, "depth": 2, "norm": "batch"}),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    kind, arguments = NETWORKS[name]
    network = GENERATORS[kind](**arguments).eval()
    for parameter in network.parameters():
        parameter.data.mul_(4 if arguments.get("norm", "instance") in ("instance", "layer") else 20)  # else only grey
    return network.to(memory_format=torch.channels_last)


def draws() -> Draws:
    return Draws(3, "dropout", torch.zeros(1, dtype=torch.int64))


def whole_and_tiled(function: Callable[[Tensor], Tensor], picture: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        whole = function(picture)
    return whole, TiledRun(function, picture, CPU, **options).run()  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    name=st.sampled_from(sorted(NETWORKS)),
    dear=st.sampled_from([0, 20, 250]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    side=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_tiles_equal_the_whole(name: str, dear: int, height: int, width: int, side: int, seed: int) -> None:
    """In float64, where nothing but the method could make a difference; with many layers in files or none."""
    network = build(name).double()
    stride, least = int(network.stride), int(network.min_size)  # type: ignore[arg-type]
    size = [max(least, 2 * stride, count * stride) for count in (height, width)]
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_module, "_DEAR", dear)
        whole, tiled = whole_and_tiled(lambda images: network(images, draws()), picture, side=max(side, 3))
    assert whole.std() > 0.02
    assert torch.allclose(whole, tiled, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_tiles_equal_the_whole_in_float32(name: str) -> None:
    network = build(name)
    for parameter in network.parameters():
        parameter.data.div_(2)
    picture = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, tiled = whole_and_tiled(network, picture, side=40)
    assert torch.allclose(whole, tiled, rtol=0, atol=1e-4)


def test_plain_tiles_have_seams() -> None:
    """What the statistics of the whole picture are for: without them a half is not what it is in the whole."""
    network = build("resnet")
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture[..., 32:] = picture[..., 32:] / 4 + 0.5
    with torch.inference_mode():
        whole, half = network(picture), network(picture[..., :48])
    assert (whole[..., :16] - half[..., :16]).abs().mean() > 0.02


# --- operations that networks here, or of others, are made of ---

_generator = torch.Generator().manual_seed(5)
_weight = torch.randn(4, 2, 3, 3, generator=_generator).double()
_deep = torch.randn(6, 3, 5, 3, generator=_generator).double()
_plane = torch.randn(1, 1, 24, 36, generator=_generator).double()


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.linear(x.mean(dim=(2, 3))))[:, :, None, None]


def attention(x: Tensor) -> Tensor:
    """Between all places of the plane, which is small."""
    places = F.avg_pool2d(x, 4).flatten(2)
    seen = torch.softmax(places.mT @ places, dim=-1) @ places.mT
    return x + F.interpolate(seen.mT.unflatten(2, (6, 9)), scale_factor=4)


def modulated(x: Tensor) -> Tensor:
    """SPADE: scale and shift from a resized picture."""
    scale, shift = F.conv2d(F.interpolate(x, scale_factor=0.5), _weight, padding=1, groups=2).chunk(2, dim=1)
    half = F.instance_norm(F.avg_pool2d(x, 2))[:, :2]
    return torch.cat((half * (1 + scale) + shift, half), dim=1)


# (1, 4, 24, 36) -> a plane of some size
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": lambda x: F.conv2d(x, _weight, stride=2, padding=1, groups=2),
    "stride above the kernel": lambda x: F.conv2d(x, _weight[..., :1, :1], stride=3, groups=2),
    "dilated, rectangular": lambda x: F.conv2d(x[:, :3], _deep, stride=(1, 3), padding=(4, 2), dilation=(2, 1)),
    "wide zeros": lambda x: F.conv2d(x, _weight, padding=7, groups=2),
    "transposed": lambda x: F.conv_transpose2d(x, _weight, stride=2, padding=1, output_padding=1),
    "transposed, even kernel": lambda x: F.conv_transpose2d(x, _weight[..., :2, :2], stride=2),
    "transposed with gaps": lambda x: F.conv_transpose2d(x, _weight, stride=5, padding=2, output_padding=4),
    "transposed, dilated": lambda x: F.conv_transpose2d(x, _weight, stride=2, padding=3, dilation=2, groups=2),
    "reflection": lambda x: F.pad(x, (5, 23, 11, 2), mode="reflect"),
    "replication": lambda x: F.pad(x, (40, 3, 0, 30), mode="replicate"),
    "constant": lambda x: F.pad(x, (40, 3, 0, 30), value=0.5),
    "cropped": lambda x: F.pad(x, (-5, -7, -1, 3)),
    "slices": lambda x: x[:, 1:3, 2:-3, -20:-1],
    "slices with steps": lambda x: x[..., 1::2, ::3],
    "classes": lambda x: torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 1.0) * torch.softmax(x, dim=1),
    "one picture of the batch": lambda x: torch.cat([F.instance_norm(one) for one in x.split(1)]),
    "nearest": lambda x: F.interpolate(x, scale_factor=(2, 3)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear by 3": lambda x: F.interpolate(x, scale_factor=3, mode="bilinear"),
    "thinned": lambda x: F.interpolate(x, size=(12, 9)),
    "pooled": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "pooled, zeros count": lambda x: F.avg_pool2d(x, (3, 2), stride=2, padding=1),
    "filtered": lambda x: fir_downsample(fir_upsample(fir_upsample(x))),
    "in place": lambda x: torch.tanh_(F.leaky_relu_(x * 2, 0.2).add_(1)).mul_(x),
    "channels": lambda x: torch.cat((x.split(1, dim=1)[2], _plane, x[:, :1] * _plane), dim=1),
    "instance norm": lambda x: F.instance_norm(x + 30),
    "group norm": lambda x: F.group_norm(x * x, 2, torch.arange(4).double(), torch.ones(4).double()),
    "batch norm": lambda x: F.batch_norm(x, torch.ones(4).double(), torch.full((4,), 2.0).double()),
    "norm of a mean": lambda x: F.instance_norm(x * x.mean(dim=(2, 3), keepdim=True)) * (x * x).mean((2, 3), True),
    "squeeze and excitation": SqueezeExcite(),
    "attention": attention,
    "modulation": modulated,
    "residual sums": lambda x: F.instance_norm(F.instance_norm(x) + F.instance_norm(x * x) + x),
}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("side", [7, 16])
def test_operations(name: str, side: int) -> None:
    picture = torch.randn(1, 4, 24, 36, generator=torch.Generator().manual_seed(2)).double()
    torch.manual_seed(0)
    before = picture.clone()
    whole, tiled = whole_and_tiled(OPERATIONS[name], picture, side=side)
    assert whole.std() > 0.05
    assert torch.allclose(whole, tiled, rtol=0, atol=1e-10)
    assert torch.equal(picture, before)


def test_bfloat16_is_recorded_with_its_casts() -> None:
    network = build("resnet")
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def run(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(images).float()

    whole, tiled = whole_and_tiled(run, picture, side=24)
    assert (whole - network(picture)).abs().mean() > 1e-4  # it is bfloat16
    # each rounds in its own places
    assert (whole - tiled).abs().mean() < 0.01


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 3)])
def test_moments_part_by_part(shape: tuple[int, int]) -> None:
    values = torch.randn(1, 6, *shape, generator=torch.Generator().manual_seed(0)).double() * 3 + 100
    values[:, 2] = 7.0
    moments = Moments()
    for rows in values.split(2, dim=2):
        for part in rows.split(3, dim=3):
            moments.add(part)
    for groups in (6, 2, 1):
        mean, variance = moments.by_group(groups)
        planes = values.view(groups, -1)
        assert torch.allclose(mean, planes.mean(dim=1), atol=1e-9)
        assert torch.allclose(variance, planes.var(dim=1, correction=0), atol=1e-9)


# --- what cannot be tiled ---


def by_value(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def change_of_a_view(x: Tensor) -> Tensor:
    y = x * 2
    half = y[:, :2]
    half.mul_(3)
    return y


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (by_value, "sum"),
        (change_of_a_view, "mul_"),
        (lambda x: torch.softmax(x.flatten(2).mT @ x.flatten(2), dim=-1), "view"),
        (lambda x: F.interpolate(x, size=(500, 501), mode="bicubic"), "upsample_bicubic2d"),
    ],
)
def test_what_sees_all_at_once_is_refused(function: Callable[[Tensor], Tensor], operation: str) -> None:
    """By value, or because a plane of this size is too large to be held."""
    with pytest.raises(CannotTile, match=operation):
        TiledRun(function, torch.empty(1, 4, 4096, 4096, device="meta"), CPU, side=64)


def test_a_small_plane_is_held_whole_and_a_large_one_is_not() -> None:
    TiledRun(attention, torch.rand(1, 4, 24, 36), CPU)
    with pytest.raises(CannotTile):
        TiledRun(lambda x: x.flatten(2).cumsum(2).view_as(x), torch.empty(1, 4, 8192, 8192, device="meta"), CPU)


# --- memory and disk ---


def test_tiles_are_as_large_as_memory_allows() -> None:
    network, picture = build("resnet"), torch.rand(1, 3, 256, 256)
    sides = [TiledRun(network, picture, CPU, tile_bytes=amount).plan.tile[0] for amount in (1 << 40, 2 << 20, 1 << 19)]
    assert sides[0] == 256 > sides[1] > sides[2] >= 16
    with pytest.raises(CannotTile, match="smallest tiles"):
        TiledRun(network, picture, CPU, tile_bytes=1000)


def test_the_disk_is_asked_and_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "_DEAR", 0)
    run = TiledRun(build("resnet"), torch.rand(1, 3, 64, 64), CPU, side=32)
    assert run.plan.disk_bytes > 0
    opened: list[object] = []
    real = tiles_module._File

    def counted(layer: object) -> object:
        file = real(layer)  # type: ignore[arg-type]
        opened.append(file)
        return file

    monkeypatch.setattr(tiles_module, "_File", counted)
    run.run()
    assert len(opened) >= 3
    assert all(file._file.closed for file in opened)  # type: ignore[attr-defined]
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CannotTile, match=r"temporary files.*TMPDIR"):
        run.run()


def test_a_residual_chain_does_not_keep_all_its_blocks() -> None:
    """What is in files at once does not grow with the number of blocks."""
    amounts = []
    for blocks in (3, 9):
        network = GENERATORS["resnet"](width=64, blocks=blocks, downsamplings=1).eval()
        amounts.append(TiledRun(network, torch.rand(1, 3, 64, 64), CPU, side=32).plan.disk_bytes)
    assert amounts[0] == amounts[1] == 4 * 128 * 32 * 32 * 4


# --- in a model ---


@pytest.fixture
def model(model_files: dict[str, Path]) -> Model:
    return Model.load(model_files["cyclegan"], "cpu")


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(height=st.integers(1, 90), width=st.integers(1, 90), tile=st.integers(16, 60), seed=st.integers(0, 99))
def test_any_picture(model: Model, height: int, width: int, tile: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    whole, tiled = (model.translate(pixels, tile=choice) for choice in ("off", tile))
    assert whole.shape == tiled.shape == pixels.shape
    assert np.abs(whole.astype(int) - tiled).max() <= 1


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(height=st.integers(20, 120), width=st.integers(20, 120), limit=st.integers(100_000, 4_000_000))
def test_too_little_memory_changes_no_picture(model: Model, height: int, width: int, limit: int) -> None:
    """The whole run when it fits, else tiles, or none: never another picture."""
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    expected = model.translate(pixels)
    values = torch.from_numpy(pixels).permute(2, 0, 1).expand(3, -1, -1, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "available_bytes", lambda _: limit)
        patch.setattr(model_module, "_VALUES_WORTH_ASKING", 0)
        model._fatal_values = float("inf")
        for result in model.run_each(values, "a2b"):
            if isinstance(result, Tensor):
                found = ((result + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy()
                assert np.abs(found - expected).max() <= 1
            else:
                assert "smallest tiles" in str(result)


def test_the_log_says_so(model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    pixels = np.zeros((64, 96, 3), np.uint8)
    model.translate(pixels, tile=100)
    assert "tiles" not in caplog.text
    model.translate(pixels, tile=40)
    assert "picture: 96 × 64 pixels are translated, in tiles of 32 × 32" in caplog.text
    assert re.search(r"passes and with \d+\.\d MB of temporary files", caplog.text)
    model.translate(pixels[:60], tile=40)
    assert caplog.text.count("tiles") == 1, "of other small pictures it is not said again"
    monkeypatch.setattr(model_module, "_WORTH_TELLING", 0)
    for height in (60, 50, 60):
        model.translate(pixels[:height], tile=40)
    assert caplog.text.count("tiles") == 3, "of large ones once for a size"
    monkeypatch.setattr(model_module, "activation_bytes", lambda *_: 1 << 60)
    monkeypatch.setattr(model_module, "_VALUES_WORTH_ASKING", 0)
    model.translate(pixels)
    assert "do not fit into memory at once" in caplog.text
    with pytest.raises(Exception, match=r"more memory than there is\. Use --scale"):
        model.translate(pixels, tile="off")
