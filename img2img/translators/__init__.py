"""The methods, one file each. `check` says what is wrong with a configuration, `build` makes a translator from it."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from img2img.augmentation import PARTS, parts_named
from img2img.checkpoint import NetworkSpec
from img2img.config import Config, LossConfig, NetworkConfig
from img2img.data.labels import given_palette
from img2img.errors import Fault, UsageFault, suggestion, unknown_name
from img2img.growth import GrowthSchedule
from img2img.losses import ADVERSARIAL, Objective
from img2img.networks import DISCRIMINATORS, GENERATORS, ROLES
from img2img.networks.growing import DECIDED, Growing, can_grow
from img2img.networks.layers import what_mixes_samples
from img2img.networks.mixture import GeneratorMixture
from img2img.networks.multiscale import MultiScaleDiscriminator
from img2img.networks.resolution import SMALLEST_BASES
from img2img.penalties import PENALTIES, Penalty
from img2img.translators.base import DataShape, NetworkPlan, Of, Translator
from img2img.translators.conditional import Conditional
from img2img.translators.cut import CUT
from img2img.translators.cyclegan import CycleGAN
from img2img.translators.pix2pix import Pix2Pix
from img2img.translators.points import Points
from img2img.translators.starganv2 import StarGANv2
from img2img.translators.unconditional import Unconditional

TRANSLATORS: dict[str, type[Translator]] = {
    "unconditional": Unconditional,
    "conditional": Conditional,
    "pix2pix": Pix2Pix,
    "cyclegan": CycleGAN,
    "cut": CUT,
    "starganv2": StarGANv2,
    "points": Points,
}
_WEIGHTS_OF_ANY = ("feature_matching", "classification")  # a method need not name them to have them
_WEIGHTS = tuple(
    field.name
    for field in dataclasses.fields(LossConfig)
    if field.type == "float | None" and field.name not in _WEIGHTS_OF_ANY
)


def check(config: Config) -> list[Fault]:
    """Every fault that names of methods, networks, objectives and penalties can show, before data are read."""
    faults = _unknown_name("translator", config.translator, TRANSLATORS)
    if faults:
        return faults
    translator = TRANSLATORS[config.translator]
    faults += _check_weights(config, translator)
    objective, constants = config.loss.adversarial.name, config.loss.adversarial.arguments
    faults += _check_choice("loss.adversarial", objective, constants, ADVERSARIAL)
    for name, arguments in config.loss.penalties.items():
        faults += _check_choice(f"loss.penalties.{name}", name, arguments, PENALTIES)
    faults += _check_augmentation(config)
    faults += _check_labels(config, translator)
    faults += _check_networks(config, _plan(config, _example(config, translator)))
    # what cannot work together is told once what each of it is called is right
    faults = faults or [*_misfits(config, translator)]
    # both networks may refuse the same resolution
    return list({str(fault): fault for fault in faults}.values())


def _example(config: Config, translator: type[Translator]) -> DataShape:
    """Data of some two classes, since how many there are is not known before they are read."""
    return DataShape(
        config.data.resolution,
        config.data.channels_of,
        ("first", "second") if translator.source == "classes" else (),
        packing=config.train.packing,
        label_dropout=config.train.label_dropout,
        palette=tuple(f"#{number:06x}" for number in range(config.data.labels)),
    )


def _plan(config: Config, shape: DataShape) -> dict[str, NetworkPlan]:
    """What the method plans for such data, where a generator that grows is told how often its pictures double."""
    plans, doublings = TRANSLATORS[config.translator].plan(shape), GrowthSchedule.of(config).doublings
    growing = {name: plan for name, plan in plans.items() if doublings and plan.role == "generator"}
    return plans | {
        name: dataclasses.replace(plan, arguments={**plan.arguments, "doublings": doublings})
        for name, plan in growing.items()
    }


def _misfits(config: Config, translator: type[Translator]) -> Iterator[Fault]:
    """Choices that are each right and cannot work together: why, and what to use."""
    name = config.loss.adversarial.name
    objective = ADVERSARIAL[name]
    penalties = {key: PENALTIES[key] for key in config.loss.penalties}
    train = config.train
    judges_by = getattr(DISCRIMINATORS[config.discriminator.name], "judges_by", "logit")
    by_energy = sorted(key for key, network in DISCRIMINATORS.items() if getattr(network, "judges_by", "") == "energy")
    if objective.judges_by == "energy" and not translator.from_noise:
        yield UsageFault(
            "loss.adversarial",
            f"{name} wants an autoencoder as discriminator, and {config.translator}'s judges patches",
            "Use one of nonsaturating, hinge, lsgan, wgan, relativistic, relativistic_average",
        )
    elif objective.judges_by == "energy" and judges_by == "logit":
        yield UsageFault(
            "discriminator.name",
            f"{name} needs an autoencoder's reconstruction error, {config.discriminator.name} gives a logit",
            f"Use discriminator.name={' or '.join(by_energy)}, or another objective",
        )
    elif objective.judges_by == "logit" and judges_by == "energy":
        yield UsageFault(
            "loss.adversarial",
            f"{name} needs a logit, {config.discriminator.name} gives an autoencoder's reconstruction error",
            "Use loss.adversarial=ebgan or began, or another discriminator.name",
        )
    for key, penalty in penalties.items():
        if penalty.terms is Penalty.terms and config.loss.penalties[key].get("every", 1) != 1:
            yield UsageFault(
                f"loss.penalties.{key}.every",
                f"{key} is no term of a loss, which could be evaluated now and then",
                "Remove the key",
            )
        if penalty.wants_unit_slope and objective.judges_by == "energy":
            yield UsageFault(
                f"loss.penalties.{key}",
                f"pulls the slope to one, which a critic has; {name}'s reconstruction error is flat at the data",
                "Use r1, r2 or zero_centered_gp",
            )
        if penalty.moves_pictures and translator.source == "points":
            yield UsageFault(f"loss.penalties.{key}", "moves pictures, and points are none", "Remove it")
        if penalty.needs_latents and not translator.from_noise:
            yield UsageFault(
                f"loss.penalties.{key}", f"is about latents, and {config.translator} has none", "Remove it"
            )
        if penalty.players == ("generator",) and getattr(GENERATORS[config.generator.name], "is_constant", False):
            yield UsageFault(
                f"loss.penalties.{key}",
                f"is about what a generator makes of its latents, {config.generator.name} makes nothing of them",
                "Remove it, or use generator.name=mlp",
            )
        if penalty.needs_both_losses and train.accumulate > 1:
            yield UsageFault(
                f"loss.penalties.{key}",
                f"squares the whole batch's gradient, train.accumulate = {train.accumulate} has only parts of it",
                "Set train.accumulate=1",
            )
        if penalty.needs_both_losses and train.unroll:
            yield UsageFault(
                f"loss.penalties.{key}",
                "and train.unroll both differentiate through the other player's gradient",
                "Set train.unroll=0, or remove it",
            )
    augment = config.augment
    if augment.discriminator != "none" and translator.source == "points":
        yield UsageFault(
            "augment.discriminator", "changes pictures, and points are none", "Set augment.discriminator=none"
        )
    if augment.discriminator != "none" and config.data.stacked:
        parts = parts_named(augment.discriminator, augment.parts)
        if "colour" in parts:
            others = [part for part in parts if part != "colour"] or ["cutout"]
            problem = "with colour mixes channels, which data.stacked makes pictures of their own"
            yield UsageFault("augment.parts", problem, f"Set augment.parts={','.join(others)}")
    if augment.is_adaptive and translator.source != "points" and make_objective(config).boundary is None:
        having = sorted(key for key, kind in ADVERSARIAL.items() if kind().boundary is not None)
        yield UsageFault(
            "augment.target",
            f"needs to know which images the discriminator calls real, and {name} fixes no value above which it does",
            f"Set augment.target=0 with a fixed augment.p, or use loss.adversarial={' or '.join(having)}",
        )
    against_collapse = {"unroll": train.unroll > 0, "packing": train.packing > 1, "generators": train.generators > 1}
    for key, wanted in against_collapse.items():
        if wanted and not translator.from_noise:
            default = getattr(type(train)(), key)
            yield UsageFault(
                f"train.{key}",
                f"is for generators that start from noise, {config.translator} starts from pictures",
                f"Set train.{key}={default}",
            )
    yield from _channel_misfits(config, translator)
    if train.scales > 1 and translator.task != "translate":
        problem = f"is for translations, {config.translator} makes none"
        yield UsageFault("train.scales", problem, "Set train.scales=1")
    if config.loss.perceptual and config.data.channels_of["b"] == 4:
        yield UsageFault(
            "loss.perceptual",
            "looks at grey or RGB, and b has 4 channels",
            "Set loss.perceptual=none, or data.channels=3",
        )
    yield from _dropout_misfits(config, translator)
    yield from _class_misfits(config, translator)
    yield from _growth_misfits(config, _plan(config, _example(config, translator)))
    if train.packing > 1 and translator.source == "classes":
        yield UsageFault(
            "train.packing",
            "shows samples of several classes as one, of which the discriminator is told one class",
            "Set train.packing=1; discriminator.minibatch_std=true serves the same end",
        )


def _channel_misfits(config: Config, translator: type[Translator]) -> Iterator[Fault]:
    """Domains with channels of their own where there is one, or where a generator is given pictures of the other."""
    channels = config.data.channels_of
    for key in ("channels_a", "channels_b"):
        if getattr(config.data, key) is not None and translator.source not in ("pairs", "unpaired"):
            yield UsageFault(
                f"data.{key}", f"{config.translator} has no domains a and b", f"Set data.{key}=none; see data.channels"
            )
    domains = ("a", "b") if translator.source in ("pairs", "unpaired") else ("image",)
    if config.data.depth > 8 and not any(channels[domain] == 1 for domain in domains):
        problem = "is about pictures of one channel, and there are none"
        yield UsageFault("data.depth", problem, "Set data.channels=1, or data.depth=8")
    for key in ("identity", "nce_identity"):
        if channels["a"] != channels["b"] and getattr(config.loss, key):
            yield UsageFault(
                f"loss.{key}",
                f"gives pictures of b, of {channels['b']} channels, to a generator that reads a's {channels['a']}",
                f"Set loss.{key}=0, or as many channels for both",
            )


def _dropout_misfits(config: Config, translator: type[Translator]) -> Iterator[Fault]:
    """Dropout that training has none of: it would do nothing, or be in translations only."""
    generator = config.generator
    parameters = inspect.signature(GENERATORS[generator.name]).parameters
    if translator.draws_dropout or "dropout" not in parameters:
        return
    if share := generator.arguments.get("dropout", parameters["dropout"].default):
        problem = f"{share} of {generator.name}, and {config.translator} trains without dropout"
        yield UsageFault("generator.dropout", problem, "Set generator.dropout=0")


def _class_misfits(config: Config, translator: type[Translator]) -> Iterator[Fault]:
    """What is wanted of classes and cannot be had."""
    weight, network = config.loss.classification, config.discriminator
    makes_classes = translator.source == "classes" and translator.from_noise
    makes_none = f"{config.translator} makes no pictures of classes out of noise"
    tells = network.arguments.get("conditioning") == "classifier"
    if tells and not weight:
        yield UsageFault(
            "loss.classification", "a discriminator that tells the classes learns it from this weight", "Set it to 1"
        )
    if weight and not makes_classes:
        yield UsageFault("loss.classification", makes_none, "Set loss.classification=none")
    elif weight and not tells:
        yield UsageFault(
            "loss.classification",
            f"discriminator {network.name} tells no classes",
            "Set discriminator.conditioning=classifier, or loss.classification=none",
        )
    elif weight and config.train.unroll:
        yield UsageFault(
            "loss.classification", "asks the discriminator of now, train.unroll one of later", "Set train.unroll=0"
        )
    if config.train.label_dropout and not makes_classes:
        yield UsageFault("train.label_dropout", makes_none, "Set train.label_dropout=0")
    elif config.train.label_dropout and tells:
        yield UsageFault(
            "train.label_dropout",
            "a discriminator that tells the classes has no class that stands for any",
            "Set train.label_dropout=0, or discriminator.conditioning=projection",
        )


def _growth_misfits(config: Config, plans: Mapping[str, NetworkPlan]) -> Iterator[Fault]:
    """A schedule of growing that the networks or the length of the run do not allow."""
    growth, resolution = config.growth, config.data.resolution
    if config.train.unroll and issubclass(DISCRIMINATORS[config.discriminator.name], Growing):
        yield UsageFault(
            "train.unroll",
            f"looks ahead with every weight of {config.discriminator.name}, some of which have no part",
            "Set train.unroll=0",
        )
    if growth.start == 0:
        return
    for role in ("generator", "discriminator"):
        registry, name = ROLES[role], getattr(config, role).name
        if not can_grow(registry[name]):
            plan = next(plan for plan in plans.values() if plan.role == role)
            growing = sorted(key for key, network in registry.items() if can_grow(network) and _fits(network, plan))
            mend = f", or use {role}.name={' or '.join(growing)}" if growing else ""
            yield UsageFault("growth.start", f"{role} {name} cannot grow", f"Set growth.start=0{mend}")
            return
    most = (min(resolution) // SMALLEST_BASES.start).bit_length()
    factors = [2**times for times in range(most - 1, 0, -1) if not any(side % 2**times for side in resolution)]
    sides = [min(resolution) // factor for factor in factors]
    if growth.start not in sides:
        yield UsageFault(
            "growth.start",
            f"{growth.start} is not half, a quarter, … of the shorter side {min(resolution)}",
            f"Use {' or '.join(map(str, sides))}, or 0 for no growing",
        )
        return
    if config.train.generators > 1:
        yield UsageFault("growth.start", "several generators do not grow together", "Set train.generators=1")
    if config.train.image_pool:
        yield UsageFault("growth.start", "the image pool keeps pictures of other sizes", "Set train.image_pool=0")
    yield from _too_small_to_judge(config, plans)
    schedule = GrowthSchedule.of(config)
    needed = schedule.images_needed / 1000
    if needed > config.train.kimg:
        reached = min(resolution) >> schedule.at(round(config.train.kimg * 1000)).halvings
        yield UsageFault(
            "train.kimg",
            f"{config.train.kimg:g} end at {reached} pixels: growing from {growth.start} to {min(resolution)} takes "
            f"{needed:g} kimg",
            "Set it higher, or growth.stable_kimg and growth.fade_kimg lower",
        )


def _too_small_to_judge(config: Config, plans: Mapping[str, NetworkPlan]) -> Iterator[Fault]:
    """Whether the discriminators can judge the first pictures."""
    name, scales, doublings = config.discriminator.name, config.train.scales, GrowthSchedule.of(config).doublings
    if issubclass(DISCRIMINATORS[name], Growing):
        if scales > 1:
            yield UsageFault(
                "growth.start", f"several {name} discriminators do not grow together", "Set train.scales=1"
            )
        return
    plan = next(plan for plan in plans.values() if plan.role == "discriminator")
    # each keeps to its size, and the last one judges smaller pictures too
    smallest = _at_scale(plan, max(doublings, scales - 1))
    if _check_network(config.discriminator, smallest, "smallest", {}):
        height, width = smallest.arguments["resolution"]
        problem = f"the discriminator would see {width} × {height} pixels at first, too few for it"
        yield UsageFault("growth.start", problem, "Set it higher, or discriminator.layers lower")


def warnings(config: Config) -> list[str]:
    """Combinations of a checked configuration that run but that their papers advise against, before data are read."""
    with torch.device("meta"):
        translator, _ = build(config, _example(config, TRANSLATORS[config.translator]))
    penalties = make_penalties(config)
    networks = translator.networks_of("discriminator").values()
    mixing = list(dict.fromkeys(key for network in networks for key in what_mixes_samples(network)))
    with_values = " and ".join(f"discriminator.{key}={'batch' if key == 'norm' else 'true'}" for key in mixing)
    without = ", ".join(f"discriminator.{key}={'none' if key == 'norm' else 'false'}" for key in mixing)
    found = [
        f"loss.penalties.{name}: derived for a discriminator that judges each image by itself, "
        f"but {with_values} lets it see the batch. Set {without}"
        for name, penalty in penalties.items()
        if penalty.assumes_independent_samples and penalty.weight > 0 and mixing
    ]
    found += _patches_beyond_pictures(config, max(getattr(network, "receptive_field", 0) for network in networks))
    bounded = config.discriminator.arguments.get("spectral_norm") or any(
        penalty.bounds_slope and penalty.weight > 0 for penalty in penalties.values()
    )
    if translator.objective.critic and not bounded:
        name = config.loss.adversarial.name
        found.append(
            f"loss.adversarial: nothing keeps {name}'s critic from growing steep, and its loss then means nothing. "
            "Add loss.penalties=gradient_penalty or weight_clip, or discriminator.spectral_norm=true"
        )
    return found


def _patches_beyond_pictures(config: Config, field: int) -> list[str]:
    """Whether a discriminator whose logits see `field` pixels judges anything smaller than the picture."""
    height, width = config.data.resolution
    if field <= max(height, width):
        return []
    key = "receptive_field" if config.discriminator.arguments.get("receptive_field") else "layers"
    return [
        f"discriminator.{key}: patches of {field} × {field} pixels are larger than the pictures of {width} × {height}, "
        f"so that every verdict is about the whole picture. Set discriminator.receptive_field={min(height, width) // 2}"
    ]


def build(
    config: Config, shape: DataShape, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
) -> tuple[Translator, dict[str, NetworkSpec]]:
    """The translator of a checked configuration, and how to rebuild each of its networks.

    Weights come from torch's global generator. `perceptual` is the distance of loss.perceptual, where that is wanted.

    Raises:
        UsageFault: a network refuses its arguments, for example a resolution it cannot make.
    """
    kind = TRANSLATORS[config.translator]
    shape = dataclasses.replace(shape, packing=config.train.packing, label_dropout=config.train.label_dropout)
    specs: dict[str, NetworkSpec] = {}
    networks: dict[str, nn.Module] = {}
    for name, plan in _plan(config, shape).items():
        table: NetworkConfig = getattr(config, plan.role)
        network = ROLES[plan.role][table.name]
        copies = config.train.generators if plan.role == "generator" else 1
        arguments = {**_accepted(network, plan.resolved(networks)), **table.arguments}
        specs[name] = NetworkSpec(table.name, arguments, copies, plan.role)
        if plan.role == "discriminator" and config.train.scales > 1:
            scaled = (_at_scale(plan, halvings).resolved(networks) for halvings in range(config.train.scales))
            networks[name] = MultiScaleDiscriminator(
                _construct(network, plan.role, {**arguments, **_accepted(network, decided)}) for decided in scaled
            )
        else:
            networks[name] = _construct_copies(network, specs[name])
    wanted = (*kind.loss_weights, *kind.optional_weights, *_WEIGHTS_OF_ANY)
    weights = {key: weight for key in wanted if (weight := getattr(config.loss, key)) is not None}
    translator = kind(shape, networks, make_objective(config), config.loss.adversarial.weight, weights, perceptual)
    return translator, specs


def make_objective(config: Config) -> Objective:
    """The adversarial objective of a checked configuration."""
    return ADVERSARIAL[config.loss.adversarial.name](**config.loss.adversarial.arguments)


def make_penalties(config: Config) -> dict[str, Penalty]:
    """The penalties of a checked configuration, by name."""
    kinds: Mapping[str, Callable[..., Penalty]] = PENALTIES
    return {name: kinds[name](**arguments) for name, arguments in config.loss.penalties.items()}


def _at_scale(plan: NetworkPlan, halvings: int) -> NetworkPlan:
    """The plan of a discriminator that sees its images halved so many times."""
    height, width = plan.arguments["resolution"]
    resolution = (height >> halvings, width >> halvings)
    return dataclasses.replace(plan, arguments={**plan.arguments, "resolution": resolution})


def _construct_copies(network: type[nn.Module], spec: NetworkSpec) -> nn.Module:
    if spec.copies == 1:
        return _construct(network, spec.role, spec.arguments)
    return GeneratorMixture([_construct(network, spec.role, spec.arguments) for _ in range(spec.copies)])


def _construct(network: type[nn.Module], role: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return network(**arguments)
    except UsageFault as fault:
        subject = fault.subject if "." in fault.subject else f"{role}.{fault.subject}"
        raise UsageFault(subject, fault.problem, fault.mend) from fault


def _accepted(network: type[nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(network).parameters
    return {key: value for key, value in arguments.items() if key in parameters}


def _unknown_name(subject: str, name: str, known: Iterable[str]) -> list[Fault]:
    return [] if name in known else [unknown_name(subject, name, sorted(known))]


def _check_weights(config: Config, translator: type[Translator]) -> list[Fault]:
    faults: list[Fault] = []
    known = (*translator.loss_weights, *translator.optional_weights)
    for key in _WEIGHTS:
        value = getattr(config.loss, key)
        if key in translator.loss_weights and value is None:
            faults.append(UsageFault(f"loss.{key}", f"{config.translator} needs this weight", "Set it to zero or more"))
        if key not in known and value is not None:
            used = ", ".join(f"loss.{name}" for name in known) or "none"
            faults.append(
                UsageFault(
                    f"loss.{key}", f"{config.translator} has no such term (its weights: {used})", f"Set loss.{key}=none"
                )
            )
    return faults


def _check_choice(subject: str, name: str, arguments: Mapping[str, Any], known: Mapping[str, type]) -> list[Fault]:
    """Faults of a named dataclass of constants: unknown name, unknown constant, wrong type, out of range."""
    faults = _unknown_name(subject, name, known)
    if faults:
        return faults
    fields = {field.name: field for field in dataclasses.fields(known[name])}
    for key, value in arguments.items():
        if key in fields:
            mend = _unfit_constant(fields[key], value)
            faults += [UsageFault(f"{subject}.{key}", f"got {value!r}", mend)] if mend else []
            continue
        having = sorted(other for other, kind in known.items() if key in {f.name for f in dataclasses.fields(kind)})
        mend = f"It belongs to {', '.join(having)}" if having else suggestion(key, sorted(fields))
        faults.append(UsageFault(f"{subject}.{key}", f"{name} has no such constant", mend))
    return faults


def _unfit_constant(field: dataclasses.Field[Any], value: object) -> str:
    """What to give instead of `value`; empty where it fits."""
    choices = field.metadata.get("choices")
    if choices:
        return "" if value in choices else f"Use one of {', '.join(choices)}"
    if isinstance(field.default, bool):
        return "" if isinstance(value, bool) else "Use true or false"
    whole = isinstance(field.default, int)
    minimum, maximum = field.metadata.get("minimum", -math.inf), field.metadata.get("maximum", math.inf)
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and minimum <= value <= maximum:  # type: ignore[arg-type]
        return ""
    least = f" of at least {minimum:g}" if math.isfinite(minimum) else ""
    most = f" and at most {maximum:g}" if math.isfinite(maximum) else ""
    return f"Give {'a whole number' if whole else 'a number'}{least}{most}"


def _check_augmentation(config: Config) -> list[Fault]:
    method = config.augment.discriminator
    if method == "none":
        return []
    known = PARTS[method]
    faults: list[Fault] = []
    for part in parts_named(method, config.augment.parts):
        if part not in known:
            others = [other for other, parts in PARTS.items() if part in parts]
            mend = f"It belongs to {', '.join(others)}" if others else suggestion(part, known)
            faults.append(UsageFault("augment.parts", f"{method} has no {part!r}", mend))
    return faults


def _check_labels(config: Config, translator: type[Translator]) -> list[Fault]:
    data = config.data
    faults: list[Fault] = []
    if data.labels and translator.source != "pairs":
        faults.append(UsageFault("data.labels", f"{config.translator} takes no label maps", "Set data.labels=0"))
    if data.labels and data.channels_of["a"] != 3:
        faults.append(
            UsageFault("data.labels", f"are colours, a has {data.channels_of['a']} channels", "Set data.channels=3")
        )
    if data.labels and config.augment.zoom != (1.0, 1.0):
        problem = "interpolates, and between the colours of two classes lies that of a third"
        faults.append(UsageFault("augment.zoom", problem, "Set augment.zoom=[1, 1]; augment.enlarge=1.2 cuts instead"))
    if data.palette:
        try:
            given = given_palette(data.palette)
        except UsageFault as fault:
            faults.append(UsageFault("data.palette", fault.problem, fault.mend))
        else:
            if len(given) != data.labels:
                problem = f"{len(given)} colours are given, data.labels is {data.labels}"
                faults.append(UsageFault("data.palette", problem, f"Set data.labels={len(given)}"))
    return faults


def _check_networks(config: Config, plans: Mapping[str, NetworkPlan]) -> list[Fault]:
    """Faults of one network of each role, without weights; a role's networks differ in channels at most."""
    faults: list[Fault] = []
    built: dict[str, nn.Module] = {}
    # in the plan's order, in which some follow from earlier ones
    for role in dict.fromkeys([*(plan.role for plan in plans.values()), *ROLES]):
        registry = ROLES[role]
        table: NetworkConfig | None = getattr(config, role)
        name, plan = next(((name, plan) for name, plan in plans.items() if plan.role == role), ("", None))
        if plan is not None and table is None:
            mend = f"Set {role}.name={' or '.join(sorted(registry))}"
            faults.append(UsageFault(f"{role}.name", f"{config.translator} needs this network", mend))
        elif plan is None and table is not None:
            problem = f"{config.translator} has no use for such a network"
            faults.append(UsageFault(role, problem, f"Set {role}=none, or remove the table [{role}]"))
        elif plan is not None and table is not None:
            found = _check_network(table, plan, name, built)
            faults += found or (_check_scales(config, plan, built) if role == "discriminator" else [])
    return faults


def _check_network(
    table: NetworkConfig, plan: NetworkPlan, planned_name: str, built: dict[str, nn.Module]
) -> list[Fault]:
    """Faults of a network; where it has none it joins those that are `built`, as `planned_name`."""
    role, name, arguments, registry = plan.role, table.name, table.arguments, ROLES[plan.role]
    faults = _unknown_name(f"{role}.name", name, registry)
    if faults:
        return faults
    parameters = inspect.signature(registry[name]).parameters
    own = {key for key in parameters if key not in plan.arguments}
    for key in arguments:
        if issubclass(registry[name], Growing) and key in DECIDED:
            faults.append(UsageFault(f"{role}.{key}", "the images seen decide this", "Remove it; see growth.start"))
        elif isinstance(decided := plan.arguments.get(key), Of):
            faults.append(UsageFault(f"{role}.{key}", f"the {decided.network} decides this", "Remove it"))
        elif key in plan.arguments:
            faults.append(
                UsageFault(f"{role}.{key}", "the data decide this", "Remove it; see data.resolution, data.channels")
            )
        elif key == "palette":
            faults.append(UsageFault(f"{role}.{key}", "is for label maps of pairs", "Remove it"))
        elif key not in own:
            problem = f"network {name} has no such argument"
            faults.append(UsageFault(f"{role}.{key}", problem, suggestion(key, sorted(own))))
    if not _fits(registry[name], plan):
        fitting = ", ".join(sorted(other for other in registry if _fits(registry[other], plan))) or "none"
        faults.append(UsageFault(f"{role}.name", f"network {name} does not fit this method", f"Fitting: {fitting}"))
    depends_on = {value.network for value in plan.arguments.values() if isinstance(value, Of)}
    if faults or not depends_on <= set(built):
        return faults
    try:
        with torch.device("meta"):
            network = _construct(registry[name], role, {**_accepted(registry[name], plan.resolved(built)), **arguments})
    except UsageFault as fault:
        return [fault]
    built[planned_name] = network
    return _check_stride(network, name, plan.arguments.get("resolution", ()))


def _check_scales(config: Config, plan: NetworkPlan, built: Mapping[str, nn.Module]) -> list[Fault]:
    """Faults of the sizes at which discriminators that are right at the first one would judge."""
    scales, resolution = config.train.scales, config.data.resolution
    factor = 2 ** (scales - 1)
    if any(side % factor for side in resolution):
        nearest = [max(factor, round(side / factor) * factor) for side in resolution]
        problem = f"{list(resolution)} is no multiple of {factor}, as train.scales = {scales} needs"
        return [UsageFault("data.resolution", problem, f"Use {nearest}")]
    smallest = _at_scale(plan, scales - 1)
    if _check_network(config.discriminator, smallest, "smallest", dict(built)):
        height, width = smallest.arguments["resolution"]
        problem = f"the last of {scales} discriminators would see {width} × {height} pixels, too few for it"
        mend = "Set it lower, or discriminator.layers lower or data.resolution higher"
        return [UsageFault("train.scales", problem, mend)]
    return []


def _check_stride(network: nn.Module, name: str, resolution: tuple[int, ...]) -> list[Fault]:
    """In use a picture is padded to the network's stride; in training the resolution must be a multiple."""
    stride = getattr(network, "stride", 1)
    if all(side % stride == 0 for side in resolution):
        return []
    nearest = [max(stride, round(side / stride) * stride) for side in resolution]
    return [
        UsageFault(
            "data.resolution", f"{list(resolution)} is no multiple of {stride}, as {name} needs", f"Use {nearest}"
        )
    ]


def _fits(network: type[nn.Module], plan: NetworkPlan) -> bool:
    """It takes images where it is given some, takes all that matters of what is decided, and offers what is needed."""
    parameters = inspect.signature(network).parameters
    needed = {key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    # a fully convolutional network may ignore the resolution, and without classes there is nothing to ignore
    ignorable = {"resolution", "doublings"} | {
        key for key in ("num_classes", "palette") if plan.arguments.get(key) in (0, ())
    }
    takes_images = "in_channels" in parameters
    given_images = "in_channels" in plan.arguments
    offered = set(plan.arguments)
    takes_all = needed <= offered and offered - ignorable <= set(parameters)
    return takes_images == given_images and takes_all and all(hasattr(network, name) for name in plan.offers)


__all__ = [
    "TRANSLATORS",
    "DataShape",
    "Translator",
    "build",
    "check",
    "make_objective",
    "make_penalties",
    "warnings",
]
