"""What holds for every network: refusals, meta devices, types, second derivatives, bfloat16."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks import (
    DISCRIMINATORS,
    GENERATORS,
    AutoencoderDiscriminator,
    CoarseToFineGenerator,
    ConstantGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    LinearDiscriminator,
    MLPAutoencoderDiscriminator,
    MLPDiscriminator,
    MLPGenerator,
    PatchDiscriminator,
    QuadraticDiscriminator,
    ResnetGenerator,
    SpadeGenerator,
    StarGANv2Generator,
    StyleGAN2ResnetGenerator,
    UNetGenerator,
)

TINY: dict[str, tuple[Callable[[], nn.Module], tuple[Callable[[], Tensor], ...]]] = {
    "dcgan generator": (
        lambda: DCGANGenerator(resolution=(8, 12), num_classes=2, width=2, latent_dim=3, spectral_norm=True),
        (lambda: torch.randn(2, 3), lambda: torch.tensor([0, 1])),
    ),
    "resnet": (lambda: ResnetGenerator(width=2, blocks=1), (lambda: torch.randn(2, 3, 8, 12),)),
    "coarse_to_fine": (
        lambda: CoarseToFineGenerator(width=2, blocks=1, local_blocks=1, downsamplings=1),
        (lambda: torch.randn(2, 3, 8, 12),),
    ),
    "spade": (
        lambda: SpadeGenerator(palette=("#000000", "#ffffff"), width=2, hidden=3, downsamplings=2),
        (lambda: torch.randn(2, 3, 8, 12),),
    ),
    "unet": (lambda: UNetGenerator(width=2, depth=2), (lambda: torch.randn(2, 3, 8, 12),)),
    "stylegan2_resnet": (
        lambda: StyleGAN2ResnetGenerator(widths=(2, 3), blocks=1, noise=False),
        (lambda: torch.randn(2, 3, 8, 12),),
    ),
    "dcgan discriminator": (
        lambda: DCGANDiscriminator(
            resolution=(8, 12), num_classes=2, width=2, conditioning="projection", spectral_norm=True
        ),
        (lambda: torch.randn(2, 3, 8, 12), lambda: torch.tensor([0, 1])),
    ),
    "patch": (
        lambda: PatchDiscriminator(width=2, layers=1, condition_channels=1, spectral_norm=True),
        (lambda: torch.randn(2, 3, 8, 12), lambda: torch.randn(2, 1, 8, 12)),
    ),
    "resnet antialiased": (
        lambda: ResnetGenerator(width=2, blocks=1, downsampling="antialiased", upsampling="antialiased"),
        (lambda: torch.randn(2, 3, 8, 12),),
    ),
    "resnet nearest": (
        lambda: ResnetGenerator(width=2, blocks=1, upsampling="nearest"),
        (lambda: torch.randn(2, 3, 8, 12),),
    ),
    "unet antialiased": (
        lambda: UNetGenerator(width=2, depth=2, downsampling="antialiased", upsampling="antialiased"),
        (lambda: torch.randn(2, 3, 8, 12),),
    ),
    "unet nearest": (
        lambda: UNetGenerator(width=2, depth=2, skips="none", upsampling="nearest"),
        (lambda: torch.randn(2, 3, 8, 12),),
    ),
    "antialiased patch discriminator": (
        lambda: PatchDiscriminator(
            width=2, receptive_field=15, downsampling="antialiased", condition_channels=1, spectral_norm=True
        ),
        (lambda: torch.randn(2, 3, 8, 12), lambda: torch.randn(2, 1, 8, 12)),
    ),
    "mlp generator": (
        lambda: MLPGenerator(
            resolution=(2, 3),
            num_classes=2,
            members=2,
            width=4,
            latent_dim=3,
            label_dim=2,
            norm="batch",
            spectral_norm=True,
        ),
        (lambda: torch.randn(6, 3), lambda: torch.tensor([0, 1, 1, 0, 1, 0])),
    ),
    "mlp discriminator": (
        lambda: MLPDiscriminator(
            resolution=(2, 3),
            num_classes=2,
            members=2,
            width=4,
            norm="layer",
            conditioning="projection",
            spectral_norm=True,
            minibatch_discrimination=True,
            minibatch_std=True,
        ),
        (lambda: torch.randn(6, 3, 2, 3), lambda: torch.tensor([0, 1, 1, 0, 1, 0])),
    ),
    "constant": (lambda: ConstantGenerator(resolution=(1, 1), members=2), (lambda: torch.randn(4, 1),)),
    "linear": (
        lambda: LinearDiscriminator(resolution=(1, 1), in_channels=2, members=2),
        (lambda: torch.randn(4, 2, 1, 1),),
    ),
    "quadratic": (
        lambda: QuadraticDiscriminator(resolution=(1, 1), in_channels=2, members=2),
        (lambda: torch.randn(4, 2, 1, 1),),
    ),
    "autoencoder": (
        lambda: AutoencoderDiscriminator(
            resolution=(8, 12), num_classes=2, width=2, code_dim=3, conditioning="concat", norm="batch"
        ),
        (lambda: torch.randn(2, 3, 8, 12), lambda: torch.tensor([0, 1])),
    ),
    "mlp_autoencoder": (
        lambda: MLPAutoencoderDiscriminator(
            resolution=(2, 3), num_classes=2, members=2, width=4, conditioning="concat"
        ),
        (lambda: torch.randn(6, 3, 2, 3), lambda: torch.tensor([0, 1, 1, 0, 1, 0])),
    ),
}
every_network = pytest.mark.parametrize("name", TINY)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return TINY[name][0]()


def inputs_of(name: str) -> list[Tensor]:
    torch.manual_seed(1)
    return [make() for make in TINY[name][1]]


NEED_RESOLUTION = [
    network
    for network in (*GENERATORS.values(), *DISCRIMINATORS.values())
    if getattr(inspect.signature(network).parameters.get("resolution"), "default", None) is inspect.Parameter.empty
]
# what the caller decides by another network
NEED_MORE: dict[type[nn.Module], dict[str, Any]] = {StarGANv2Generator: {"style_dim": 4}}


@pytest.mark.parametrize(
    ("network", "argument", "value"),
    [
        (network, argument, value)
        for network, table in {
            DCGANGenerator: {
                "width": (0, -1, 10**9, 64.0, "64", True),
                "max_width": (10**9, 32),
                "latent_dim": (0, 10**9),
                "label_dim": (0, 10**9),
                "num_classes": (-1, 10**9),
                "out_channels": (0, 10**9),
                "norm": ("bach", None, 3),
                "prior": ("gauss", 1),
                "spectral_norm": (1, None),
            },
            DCGANDiscriminator: {
                "width": (0, 10**9),
                "in_channels": (0, 10**9),
                "num_classes": (-1, 10**9),
                "spectral_norm": (1, "yes", None),
                "minibatch_discrimination": (32, None),
                "conditioning": ("project", []),
            },
            MLPGenerator: {
                "width": (0, -1, 10**9, 4.0, True),
                "layers": (-1, 10**6, 2.0, None),
                "members": (0, 10**9, 1.0),
                "latent_dim": (0, 10**9),
                "label_dim": (0, 10**9),
                "num_classes": (-1, 10**9),
                "out_channels": (0, 10**9),
                "norm": ("layer", None),
                "activation": ("gelu", []),
                "output": ("softmax", 0),
                "prior": ("gauss", None),
                "spectral_norm": ("yes",),
            },
            MLPDiscriminator: {
                "width": (0, 10**9),
                "layers": (-1, 10**6),
                "members": (0, 10**9),
                "in_channels": (0, 10**9),
                "num_classes": (-1, 10**9),
                "norm": ("instance",),
                "activation": ("elu",),
                "spectral_norm": (1,),
                "minibatch_discrimination": (32, "yes"),
                "minibatch_std": (4, None),
                "conditioning": ("norm", 3),
            },
            ConstantGenerator: {
                "out_channels": (0, 10**9),
                "members": (0, 10**9),
                "start": (float("nan"), float("inf"), 1e9, "1", True, None, 10**400),
            },
            LinearDiscriminator: {
                "in_channels": (0, 10**9),
                "members": (0, 10**9),
                "start": (float("nan"), -1e9, [1.0]),
            },
            QuadraticDiscriminator: {"in_channels": (0, 10**9), "members": (0, 10**9)},
            AutoencoderDiscriminator: {
                "width": (0, 10**9),
                "max_width": (10**9, 32),
                "code_dim": (0, 10**9, 1.5),
                "in_channels": (0, 10**9),
                "num_classes": (-1, 10**9),
                "norm": ("x",),
                "error": ("l2", None),
                "conditioning": ("projection",),
            },
            MLPAutoencoderDiscriminator: {
                "width": (0, 10**9),
                "layers": (-1, 10**6),
                "members": (0, 10**9),
                "code_dim": (0, 10**9),
                "in_channels": (0, 10**9),
                "num_classes": (-1, 10**9),
                "norm": ("instance",),
                "activation": ("elu",),
                "error": ("huber",),
                "conditioning": ("projection",),
            },
            ResnetGenerator: {
                "width": (0, 10**9),
                "blocks": (0, -3, 10**6, 2.5),
                "downsamplings": (-1, 40),
                "dropout": (-0.1, 1.0, float("nan"), "0.5", True, 10**400),
                "dropout_at_test": (1, "no"),
                "norm": ("x",),
                "downsampling": ("transposed", None, ["strided"]),
                "upsampling": ("bilinear", 2),
                "init": ("orthogonal", 1),
            },
            CoarseToFineGenerator: {
                "width": (0, 10**9),
                "blocks": (0, 10**6),
                "local_blocks": (0, 10**6),
                "enhancers": (-1, 40, True),
                "doublings": (-1, 40, 0.5),
                "level": (-1, 1, 0.0),
                "alpha": (-0.1, 2, "1"),
                "downsamplings": (0, 40),
                "norm": ("x",),
                "palette": ("#000000", ("red",), ("#000000", "#000000"), None),
            },
            SpadeGenerator: {
                "width": (0, 10**9),
                "hidden": (0, 10**9),
                "in_channels": (1, 4),
                "downsamplings": (0, 40),
                "norm": ("layer",),
                "spectral_norm": (1,),
                "palette": ("#000000", ("red",), ("#000000", "#000000"), None),
            },
            UNetGenerator: {
                "width": (0, 10**9),
                "depth": (0, -1, 10**6, "8"),
                "dropout": (1.5, None),
                "dropout_levels": ((0,), (8,), (3, 3), (1.0,), "3", 3),
                "dropout_at_test": (0, "no"),
                "skips": (
                    "some",
                    "inner",
                    "inner:",
                    "inner:0",
                    "inner:-1",
                    "outer:8",
                    "inner:1.5",
                    "inner:²",
                    3,
                    None,
                    [],
                ),
                "downsampling": ("nearest",),
                "upsampling": ("strided", True),
            },
            StyleGAN2ResnetGenerator: {
                "in_channels": (0, 10**9),
                "out_channels": (0, 10**9),
                "widths": ((), 64, "64", (0,), (64, 10**9), (64.0,), (4,) * 10),
                "blocks": (-1, 10**6),
                "noise": (1, None),
            },
            PatchDiscriminator: {
                "width": (0, 10**9),
                "layers": (-1, 10**6, 3.0),
                "receptive_field": (-1, 10**6, 70.0, "70", True),
                "downsampling": ("transposed", None),
                "condition_channels": (-1, 10**9),
                "spectral_norm": (0,),
                "norm": (["batch"],),
            },
        }.items()
        for argument, values in table.items()
        for value in values
    ],
)
def test_absurd_arguments_are_refused_by_name(network: type[nn.Module], argument: str, value: object) -> None:
    needed = {"resolution": (64, 64)} if network in NEED_RESOLUTION else {}
    with pytest.raises(UsageFault) as caught:
        network(**needed, **{argument: value})
    assert caught.value.subject == argument
    assert caught.value.mend


@pytest.mark.parametrize("resolution", [None, 64, (64,), (64, 0), (64, 10**9), (64.0, 64), "64", (64, 64, 3)])
@pytest.mark.parametrize("network", NEED_RESOLUTION)
def test_absurd_resolutions_are_refused(network: type[nn.Module], resolution: object) -> None:
    with pytest.raises(UsageFault, match=r"^data\.resolution: "):
        network(resolution=resolution, **NEED_MORE.get(network, {}))


@pytest.mark.parametrize("network", [DCGANGenerator, DCGANDiscriminator, AutoencoderDiscriminator])
def test_a_resolution_that_is_no_doubling_is_refused(network: type[nn.Module]) -> None:
    with pytest.raises(UsageFault, match=r"^data\.resolution: .*Use \["):
        network(resolution=(9, 9))


@pytest.mark.parametrize(
    "network",
    [MLPGenerator, MLPDiscriminator, MLPAutoencoderDiscriminator, ConstantGenerator, LinearDiscriminator],
)
def test_pictures_with_too_many_values_for_full_connection_are_refused(network: type[nn.Module]) -> None:
    channels = "out_channels" if "Generator" in network.__name__ else "in_channels"
    with torch.device("meta"):
        network(resolution=(256, 256), **{channels: 3})
    with pytest.raises(UsageFault, match=r"^data\.resolution: \[512, 512\] with 3 channels .*at most 87381 pixels"):
        network(resolution=(512, 512), **{channels: 3})


def test_the_largest_that_is_accepted_can_be_described() -> None:
    """A stranger's file may ask for any of it: sizes stay below 2⁶³ bytes, and on meta nothing is allocated."""
    with torch.device("meta"):
        largest = MLPGenerator(
            resolution=(512, 512), out_channels=1, num_classes=100_000, members=1024, width=8192, layers=16
        )
    assert sum(parameter.numel() for parameter in largest.parameters()) * 8 < 2**63


def test_a_misspelt_choice_gets_a_suggestion() -> None:
    with pytest.raises(UsageFault, match="Did you mean 'instance'"):
        ResnetGenerator(norm="instanse")


@pytest.mark.parametrize("network", [*GENERATORS.values(), *DISCRIMINATORS.values()])
def test_arguments_are_keywords_and_all_but_resolution_have_defaults(network: type[nn.Module]) -> None:
    for name, parameter in inspect.signature(network).parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        decided = name == "resolution" or name in NEED_MORE.get(network, {})
        assert decided or parameter.default is not inspect.Parameter.empty


@every_network
def test_builds_on_meta_and_takes_the_real_state(name: str) -> None:
    with torch.device("meta"):
        empty = TINY[name][0]()
    tensors = [*empty.parameters(), *empty.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    real = build(name).eval()
    empty.load_state_dict(real.state_dict(), assign=True)
    inputs = inputs_of(name)
    assert torch.equal(empty.eval()(*inputs), real(*inputs))


def test_meta_does_not_import_the_tracer() -> None:
    """torch imports it for the first arithmetic on meta, which would add seconds to every load of a model."""
    script = """
import sys, torch
from img2img.networks import *
before = "sympy" in sys.modules
with torch.device("meta"):
    DCGANGenerator(resolution=(8, 8), num_classes=2)
    DCGANDiscriminator(resolution=(8, 8), num_classes=2, conditioning="projection", spectral_norm=True)
    UNetGenerator(norm="batch")
    MLPGenerator(resolution=(8, 8), num_classes=2, members=2, norm="batch")
    MLPDiscriminator(
        resolution=(8, 8), num_classes=2, members=2, norm="layer", conditioning="projection", spectral_norm=True,
        minibatch_discrimination=True, minibatch_std=True
    )
    AutoencoderDiscriminator(resolution=(8, 8))
    MLPAutoencoderDiscriminator(resolution=(8, 8), members=2)
    ConstantGenerator(resolution=(1, 1))
    LinearDiscriminator(resolution=(1, 1))
    QuadraticDiscriminator(resolution=(1, 1))
print(("sympy" in sys.modules) == before)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "True"


@every_network
def test_the_seed_decides_the_weights(name: str) -> None:
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_network
def test_float64_and_a_deep_copy_agree_with_float32(name: str) -> None:
    network, inputs = build(name).eval(), inputs_of(name)
    wide = copy.deepcopy(network).double()
    wide_inputs = [value.double() if value.is_floating_point() else value for value in inputs]
    output = wide(*wide_inputs)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output.float(), network(*inputs), rtol=1e-4, atol=1e-5)


@every_network
def test_bfloat16_autocast_trains_float32_weights(name: str) -> None:
    network, inputs = build(name).train(), inputs_of(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(*inputs)
    output.float().square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.dtype == torch.float32, key


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("kind", ["dcgan", "patch", "antialiased patch"])
def test_discriminators_can_be_differentiated_twice(kind: str, spectral_norm: bool, norm: str) -> None:
    """R1 and WGAN-GP differentiate the input gradient: check d²D/dx² and d|∇D|²/d(weights)."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"norm": norm, "spectral_norm": spectral_norm, "in_channels": 1, "width": 1}
    condition: Tensor | None
    if kind == "dcgan":
        network: nn.Module = DCGANDiscriminator(
            resolution=(8, 8), max_width=2, num_classes=2, conditioning="projection", **arguments
        )
        condition = torch.tensor([0, 1])
    else:
        downsampling = "antialiased" if "antialiased" in kind else "strided"
        network = PatchDiscriminator(layers=1, condition_channels=1, downsampling=downsampling, **arguments)
        condition = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    # u must hold still between the finite differences; batch norm must use the batch
    network = network.double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            layer.momentum = 0.0
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(10)  # far enough from zero for finite differences to see the curvature
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradgradcheck(lambda x: network(x, condition), (images,), fast_mode=True)

    key, weight = next((key, value) for key, value in network.named_parameters() if value.dim() == 4)

    def penalty(weight: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, {key: weight}, (images, condition))
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, (weight,), fast_mode=True)
    assert torch.autograd.grad(penalty(weight), weight)[0].abs().max() > 0


JUDGES = [name for name in TINY if "discriminator" in name or name in DISCRIMINATORS]


@pytest.mark.parametrize("name", JUDGES)
def test_every_discriminator_answers_with_features_and_says_what_it_judges_by(name: str) -> None:
    network, inputs = build(name).eval(), inputs_of(name)
    verdicts, features = network(*inputs, with_features=True)
    assert network.judges_by == ("energy" if "autoencoder" in name else "logit")
    assert torch.equal(verdicts, network(*inputs))
    assert features.dim() == 2
    assert len(features) == len(inputs[0])


@pytest.mark.parametrize("name", JUDGES)
def test_a_gradient_penalty_reaches_the_weights(name: str) -> None:
    network, (images, *others) = build(name).train(), inputs_of(name)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(network(images, *others).sum(), images, create_graph=True)
    gradients = torch.autograd.grad(gradient.square().sum(), list(network.parameters()), allow_unused=True)
    assert all(value.isfinite().all() for value in gradients if value is not None)
    assert any(value.abs().max() > 0 for value in gradients if value is not None)
