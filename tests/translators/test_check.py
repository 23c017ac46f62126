"""Configurations are refused with the key, the reason and the mend before data are read; every recipe builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from img2img import translators
from img2img.config import load_recipe, recipe_names, resolve
from img2img.errors import Faults
from img2img.translators import TRANSLATORS, DataShape


def faults(recipe: str, *sets: str) -> list[str]:
    return [str(fault) for fault in translators.check(resolve(recipe, None, sets))]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_right_and_builds(name: str) -> None:
    config = load_recipe(name)
    assert translators.check(config) == []
    kind = TRANSLATORS[config.translator]
    classes = ("cat", "dog", "owl") if kind.source == "classes" else ()
    palette = tuple(f"#{value:06x}" for value in range(config.data.labels))
    with torch.device("meta"):
        translator, specs = translators.build(
            config, DataShape(config.data.resolution, {"image": 3, "a": 3, "b": 3}, classes, palette=palette)
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
            "loss.penalties.r3: 'r3' is unknown. Known: consensus, consistency, dragan, drift, gradient_penalty, ",
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
        (
            "dcgan",
            ["generator.name=unet"],
            "generator.name: network unet does not fit this method. Fitting: biggan, ",
        ),
        (
            "pix2pix",
            ["generator.name=dcgan"],
            "generator.name: network dcgan does not fit this method. Fitting: coarse_to_fine, resnet, spade, ",
        ),
        (
            "pix2pix",
            ["discriminator.name=dcgan"],
            "discriminator.name: network dcgan does not fit this method. Fitting: patch",
        ),
        (
            "cgan",
            ["discriminator.name=patch"],
            "discriminator.name: network patch does not fit this method. Fitting: autoencoder, biggan, ",
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
        (
            "cyclegan",
            ["projection=patches"],
            "projection: cyclegan has no use for such a network. Set projection=none, or remove the table [projection]",
        ),
        ("spade-small", ["data.channels=1"], "data.labels: are colours, a has 1 channels. Set data.channels=3"),
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


def warnings(recipe: str, *sets: str) -> list[str]:
    config = resolve(recipe, None, sets)
    assert translators.check(config) == []
    return translators.warnings(config)


@pytest.mark.parametrize("penalty", ["gradient_penalty", "zero_centered_gp", "dragan"])
@pytest.mark.parametrize(
    ("network", "setting", "mend"),
    [
        ("dcgan", "norm=batch", "norm=none"),
        ("dcgan", "minibatch_std=true", "minibatch_std=false"),
        ("mlp", "norm=batch", "norm=none"),
        ("mlp", "minibatch_discrimination=true", "minibatch_discrimination=false"),
        ("mlp", "minibatch_std=true", "minibatch_std=false"),
    ],
)
def test_a_penalty_of_each_image_where_the_batch_mixes_is_a_warning(
    penalty: str, network: str, setting: str, mend: str
) -> None:
    judge = (f"discriminator.name={network}", "discriminator.norm=none")
    assert warnings("dcgan", *judge, f"loss.penalties={penalty}") == []
    (line,) = warnings("dcgan", *judge, f"loss.penalties={penalty}", f"discriminator.{setting}")
    assert line == (
        f"loss.penalties.{penalty}: derived for a discriminator that judges each image by itself, "
        f"but discriminator.{setting} lets it see the batch. Set discriminator.{mend}"
    )


@pytest.mark.parametrize("bound", ["loss.penalties=gradient_penalty", "loss.penalties=weight_clip", "spectral norm"])
def test_a_critic_that_nothing_bounds_is_a_warning(bound: str) -> None:
    critic = ("loss.adversarial=wgan", "loss.penalties=none", "discriminator.norm=layer")
    (line,) = warnings("dcgan", *critic)
    assert line.startswith("loss.adversarial: nothing keeps wgan's critic from growing steep")
    assert warnings("dcgan", *critic, bound.replace("spectral norm", "discriminator.spectral_norm=true")) == []
    assert len(warnings("dcgan", *critic, "loss.penalties.gradient_penalty.weight=0")) == 1


def test_patches_larger_than_the_pictures_are_a_warning_whose_mend_is_right() -> None:
    assert warnings("cyclegan-small") == []
    (line,) = warnings("cyclegan-small", "data.resolution=64")
    assert line.startswith("discriminator.layers: patches of 70 × 70 pixels are larger than the pictures of 64 × 64")
    assert warnings("cyclegan-small", "data.resolution=64", line.rpartition(" Set ")[2]) == []
    (line,) = warnings("pix2pix-small", "discriminator.receptive_field=200")
    assert line.startswith("discriminator.receptive_field: patches of 200 × 200")
    assert warnings("pix2pix-small", "data.resolution=64,128") == []  # wide ones have more than one patch


MISFITS = [
    (
        "cyclegan",
        "generator.name=unet",
        "generator.dropout: 0.5 of unet, and cyclegan trains without dropout. Set generator.dropout=0",
    ),
    (
        "cut-small",
        "generator.dropout=0.2",
        "generator.dropout: 0.2 of resnet, and cut trains without dropout. Set generator.dropout=0",
    ),
    (
        "dcgan",
        "data.channels_a=1",
        "data.channels_a: unconditional has no domains a and b. Set data.channels_a=none; see data.channels",
    ),
    (
        "pix2pix",
        "data.depth=16",
        "data.depth: is about pictures of one channel, and there are none. Set data.channels=1, or data.depth=8",
    ),
    (
        "cyclegan",
        "data.channels_a=1",
        "loss.identity: gives pictures of b, of 3 channels, to a generator that reads a's 1. Set loss.identity=0, or as",
    ),
    (
        "cut",
        "data.channels_b=1",
        "loss.nce_identity: gives pictures of b, of 1 channels, to a generator that reads a's 3. Set loss.nce_identity=0",
    ),
    (
        "dcgan",
        "loss.adversarial=began",
        "discriminator.name: began needs an autoencoder's reconstruction error, dcgan gives a logit. "
        "Use discriminator.name=autoencoder or mlp_autoencoder, or another objective",
    ),
    (
        "dcgan",
        "discriminator.name=autoencoder",
        "loss.adversarial: nonsaturating needs a logit, autoencoder gives an autoencoder's reconstruction error. "
        "Use loss.adversarial=ebgan or began, or another discriminator.name",
    ),
    (
        "pix2pix",
        "loss.adversarial=ebgan",
        "loss.adversarial: ebgan wants an autoencoder as discriminator, and pix2pix's judges patches. Use one of",
    ),
    (
        "dcgan",
        "loss.adversarial=began discriminator.name=autoencoder loss.penalties=gradient_penalty",
        "loss.penalties.gradient_penalty: pulls the slope to one, which a critic has; began's reconstruction error is "
        "flat at the data. Use r1, r2 or zero_centered_gp",
    ),
    (
        "points",
        "augment.discriminator=diffaugment",
        "augment.discriminator: changes pictures, and points are none. Set augment.discriminator=none",
    ),
    *(
        (
            "dcgan",
            f"augment.discriminator=ada loss.adversarial={objective} {more}",
            f"augment.target: needs to know which images the discriminator calls real, and {objective} fixes no value "
            "above which it does. Set augment.target=0 with a fixed augment.p, or use "
            "loss.adversarial=hinge or lsgan or minimax or nonsaturating",
        )
        for objective, more in (
            ("wgan", ""),
            ("relativistic", ""),
            ("relativistic_average", ""),
            ("ebgan", "discriminator.name=autoencoder"),
            ("began", "discriminator.name=autoencoder"),
        )
    ),
    (
        "dcgan-stacked-mnist",
        "augment.discriminator=diffaugment",
        "augment.parts: with colour mixes channels, which data.stacked makes pictures of their own. "
        "Set augment.parts=translation,cutout",
    ),
    (
        "dcgan",
        "augment.discriminator=ada augment.parts=blit,color",
        "augment.parts: ada has no 'color'. Did you mean colour?",
    ),
    (
        "dcgan",
        "augment.discriminator=diffaugment augment.parts=colour,geometry",
        "augment.parts: diffaugment has no 'geometry'. It belongs to ada",
    ),
    ("points", "loss.penalties=consistency", "loss.penalties.consistency: moves pictures, and points are none. Remove"),
    (
        "cyclegan",
        "loss.penalties=path_length",
        "loss.penalties.path_length: is about latents, and cyclegan has none. Remove it",
    ),
    *(
        (
            "points",
            f"generator.name=constant loss.penalties={name}",
            f"loss.penalties.{name}: is about what a generator makes of its latents, constant makes nothing of them. "
            "Remove it, or use generator.name=mlp",
        )
        for name in ("orthogonal", "path_length")
    ),
    (
        "points",
        "loss.penalties=consensus train.accumulate=2",
        "loss.penalties.consensus: squares the whole batch's gradient, train.accumulate = 2 has only parts of it. "
        "Set train.accumulate=1",
    ),
    (
        "points",
        "loss.penalties=consensus train.unroll=2",
        "loss.penalties.consensus: and train.unroll both differentiate through the other player's gradient. "
        "Set train.unroll=0, or remove it",
    ),
    *(
        (
            recipe,
            f"train.{key}={value} train.batch=16",
            f"train.{key}: is for generators that start from noise, {recipe} starts from pictures. "
            f"Set train.{key}={plain}",
        )
        for recipe in ("pix2pix", "cyclegan")
        for key, value, plain in (("unroll", 5, 0), ("packing", 2, 1), ("generators", 3, 1))
    ),
    (
        "cgan",
        "train.packing=2",
        "train.packing: shows samples of several classes as one, of which the discriminator is told one class. "
        "Set train.packing=1; discriminator.minibatch_std=true serves the same end",
    ),
    (
        "pix2pix",
        "loss.perceptual=1 data.channels=4",
        "loss.perceptual: looks at grey or RGB, and b has 4 channels. Set loss.perceptual=none, or data.channels=3",
    ),
    (
        "spade-small",
        "data.labels=0",
        "data.labels: network spade makes pictures of label maps, and nothing says that domain a holds any. "
        "Set data.labels to the number of their colours",
    ),
    (
        "pix2pix",
        "data.labels=12",
        "generator.name: network unet does not fit this method. Fitting: coarse_to_fine, spade",
    ),
    (
        "cyclegan",
        "data.labels=12",
        "data.labels: cyclegan takes no label maps. Set data.labels=0",
    ),
    ("cyclegan", "generator.name=coarse_to_fine generator.palette=#000000", "generator.palette: is for label maps of"),
    ("spade-small", "generator.palette=#000000", "generator.palette: the data decide this. Remove it"),
    (
        "spade-small",
        "augment.zoom=1,1.2",
        "augment.zoom: interpolates, and between the colours of two classes lies that of a third. Set augment.zoom=[1",
    ),
    (
        "spade-small",
        "data.palette=#000000,#ffffff",
        "data.palette: 2 colours are given, data.labels is 12. Set data.labels=2",
    ),
    ("spade-small", "data.palette=#000000,white", "data.palette: 'white' is no colour. Write colours as #0000aa"),
    (
        "cyclegan",
        "loss.perceptual=1",
        "loss.perceptual: cyclegan has no such term (its weights: loss.cycle, loss.identity). Set loss.perceptual=none",
    ),
    (
        "dcgan",
        "loss.adversarial=wgan loss.adversarial.real_label=0.9",
        "loss.adversarial.real_label: wgan has no such constant. It belongs to minimax, nonsaturating",
    ),
    ("dcgan", "loss.adversarial.real_label=1.5", "loss.adversarial.real_label: got 1.5. Give a number of at least 0"),
    (
        "dcgan",
        "loss.adversarial=relativistic loss.adversarial.form=square",
        "loss.adversarial.form: got 'square'. Use one of logistic, ls, hinge",
    ),
    ("dcgan", "loss.penalties.dragan.noise=pink", "loss.penalties.dragan.noise: got 'pink'. Use one of gaussian, unif"),
    ("dcgan", "loss.penalties.r1.weight=-0.1", "loss.penalties.r1.weight: got -0.1. Give a number of at least 0"),
    ("dcgan", "loss.penalties.lecam.decay=1.5", "loss.penalties.lecam.decay: got 1.5. Give a number of at least 0 and"),
    ("dcgan", "loss.penalties.consistency.on_fakes=1", "loss.penalties.consistency.on_fakes: got 1. Use true or false"),
    (
        "dcgan",
        "loss.penalties.consistency.shift=-1",
        "loss.penalties.consistency.shift: got -1. Give a whole number of",
    ),
]


@pytest.mark.parametrize(("recipe", "sets", "expected"), MISFITS, ids=[f"{one[0]} {one[1]}" for one in MISFITS])
def test_what_cannot_work_together_is_refused_with_reason_and_mend(recipe: str, sets: str, expected: str) -> None:
    found = faults(recipe, *sets.split())
    assert len(found) == 1, found
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (
            ["augment.discriminator=diffaugment", "augment.p=0.5"],
            "augment.p: has no effect: augment.discriminator is diffaugment, diffaugment changes every image. "
            "Set augment.discriminator=ada, or leave it out",
        ),
        (
            ["augment.discriminator=ada", "augment.target=0"],
            "augment.p: stays 0, which changes no image: augment.target = 0 does not move it. "
            "Set augment.p, such as 0.2, or augment.target=0.6",
        ),
    ],
)
def test_keys_of_augmentation_that_would_do_nothing_are_refused(sets: list[str], expected: str) -> None:
    with pytest.raises(Faults) as raised:
        resolve("dcgan", None, sets)
    assert [str(fault) for fault in raised.value.faults] == [expected]


@pytest.mark.parametrize("objective", ["wgan", "relativistic", "ebgan"])
def test_a_fixed_probability_goes_with_every_objective(objective: str) -> None:
    judge = ["discriminator.name=autoencoder"] if objective == "ebgan" else []
    fixed = ["augment.discriminator=ada", "augment.target=0", "augment.p=0.2"]
    assert faults("dcgan", f"loss.adversarial={objective}", *judge, *fixed) == []


def test_points_ignore_what_belongs_to_pictures() -> None:
    assert faults("points", "data.resolution=37,50", "data.channels=4") == []


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
