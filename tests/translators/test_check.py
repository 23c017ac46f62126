"""Configurations are refused with the key, the reason and the mend before data are read; every recipe builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from img2img import translators
from img2img.config import load_recipe, recipe_names, resolve
from img2img.translators import TRANSLATORS, DataShape


def faults(recipe: str, *sets: str) -> list[str]:
    return [str(fault) for fault in translators.check(resolve(recipe, None, sets))]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_right_and_builds(name: str) -> None:
    config = load_recipe(name)
    assert translators.check(config) == []
    kind = TRANSLATORS[config.translator]
    classes = ("cat", "dog", "owl") if kind.source == "classes" else ()
    with torch.device("meta"):
        translator, specs = translators.build(
            config, DataShape(config.data.resolution, {"image": 3, "a": 3, "b": 3}, classes)
        )
    assert set(specs) == set(dict(translator.named_children())) - {"objective"}
    assert translator.networks_of("generator")
    assert translator.networks_of("discriminator")
    assert set(translator.deploy()) <= set(specs)


@pytest.mark.parametrize(
    ("recipe", "sets", "expected"),
    [
        ("dcgan", ["loss.adversarial=hinged"], "loss.adversarial: 'hinged' is unknown. Did you mean hinge?"),
        (
            "dcgan",
            ["loss.penalties=r3"],
            "loss.penalties.r3: 'r3' is unknown. Known: gradient_penalty, r1, r2, weight_clip",
        ),
        (
            "dcgan",
            ["loss.penalties.r1.wieght=2"],
            "loss.penalties.r1.wieght: r1 has no such constant. Did you mean weight?",
        ),
        ("dcgan", ["loss.penalties.r1.weight=-1"], "loss.penalties.r1.weight: got -1. Give a number of at least 0"),
        (
            "dcgan",
            ["loss.penalties.r1.every=2.5"],
            "loss.penalties.r1.every: got 2.5. Give a whole number of at least 1",
        ),
        ("cyclegan", ["loss.adversarial.d=1"], "loss.adversarial.d: lsgan has no such constant. Known: a, b, c"),
        ("cyclegan", ["loss.cycle=none"], "loss.cycle: cyclegan needs this weight"),
        ("dcgan", ["loss.l1=100"], "loss.l1: unconditional has no such term (its weights: none). Set loss.l1=none"),
        ("dcgan", ["generator.name=dcgna"], "generator.name: 'dcgna' is unknown. Did you mean dcgan?"),
        ("dcgan", ["generator.name=unet"], "generator.name: network unet does not fit this method. Fitting: dcgan"),
        (
            "pix2pix",
            ["generator.name=dcgan"],
            "generator.name: network dcgan does not fit this method. Fitting: resnet, unet",
        ),
        (
            "pix2pix",
            ["discriminator.name=dcgan"],
            "discriminator.name: network dcgan does not fit this method. Fitting: patch",
        ),
        (
            "cgan",
            ["discriminator.name=patch"],
            "discriminator.name: network patch does not fit this method. Fitting: dcgan",
        ),
        ("dcgan", ["generator.widht=32"], "generator.widht: network dcgan has no such argument. Did you mean width?"),
        ("dcgan", ["generator.width=-1"], "generator.width: -1 is out of range"),
        ("dcgan", ["generator.out_channels=1"], "generator.out_channels: the data decide this. Remove it"),
        ("dcgan", ["data.resolution=50"], "data.resolution: [50, 50] is not"),
        (
            "cyclegan",
            ["data.resolution=70,96"],
            "data.resolution: [70, 96] is no multiple of 4, as resnet needs. Use [72, 96]",
        ),
        ("cgan", ["discriminator.conditioning=none"], "discriminator.conditioning: 'none' would ignore the 2 classes"),
    ],
)
def test_faults_name_the_key_and_the_mend(recipe: str, sets: list[str], expected: str) -> None:
    found = faults(recipe, *sets)
    assert any(line.startswith(expected) for line in found), found


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    assert faults("dcgan", "translator=uncnditional") == [
        "translator: 'uncnditional' is unknown. Did you mean unconditional?"
    ]


def test_a_gradient_penalty_with_batch_norm_is_a_warning() -> None:
    config = resolve("dcgan", None, ["loss.penalties=gradient_penalty", "discriminator.norm=batch"])
    assert translators.check(config) == []
    translator, _ = translators.build(config, DataShape((64, 64), {"image": 3}))
    (line,) = translators.warnings(translator, translators.make_penalties(config))
    assert line.startswith("loss.penalties.gradient_penalty: ")
    assert "discriminator.norm" in line


def test_any_rectangle_and_any_channels() -> None:
    for channels in (1, 4):
        config = resolve("dcgan-small", None, ["data.resolution=96,64", f"data.channels={channels}"])
        translator, _ = translators.build(config, DataShape((96, 64), {"image": channels}))
        images = translator.generator(torch.zeros(2, 100), None)
        assert images.shape == (2, channels, 96, 64)
        assert translator.discriminator(images).shape == (2,)


def test_the_builder_is_deterministic() -> None:
    config = load_recipe("cgan-small")
    shape = DataShape((64, 64), {"image": 3}, ("cat", "dog"))

    def weights() -> list[torch.Tensor]:
        torch.manual_seed(5)
        translator: nn.Module = translators.build(config, shape)[0]
        return list(translator.state_dict().values())

    assert all(torch.equal(one, other) for one, other in zip(weights(), weights()))
