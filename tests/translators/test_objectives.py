"""Every objective with every penalty, kind of discriminator and method: refused with a reason, or it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from img2img import translators
from img2img.augmentation import ADA_PARTS
from img2img.config import DataPaths, resolve
from img2img.data.batches import Batch
from img2img.distributed import World
from img2img.errors import Fault
from img2img.losses import ADVERSARIAL
from img2img.penalties import PENALTIES
from img2img.training.engine import Engine, EngineSettings, Step
from img2img.training.precision import choose_precision
from img2img.training.prepare import prepare, step_batches
from img2img.translators import TRANSLATORS, DataShape

ENERGY = ("ebgan", "began")
FORMS = ("logistic", "ls", "hinge")
# name -> settings; every objective, and every form of those that have some
OBJECTIVES: dict[str, tuple[str, ...]] = {
    **{name: (f"loss.adversarial={name}",) for name in ADVERSARIAL},
    **{
        f"{name}_{form}": (f"loss.adversarial={name}", f"loss.adversarial.form={form}")
        for name in ("relativistic", "relativistic_average")
        for form in FORMS[1:]
    },
}
GRADIENT_PENALTIES = ("r1", "r2", "gradient_penalty", "zero_centered_gp", "dragan")
# what every translator must take, with every gradient penalty
OF_TRANSLATORS = [name for name in OBJECTIVES if name not in (*ENERGY, "minimax")]
TINY = ("data.resolution=16", "data.channels=1", "train.batch=4", "train.precision=float32")
NOISE = (*TINY, "generator.width=4", "generator.max_width=8", "generator.latent_dim=8")
CRITIC = ("discriminator.width=4", "discriminator.max_width=8")
SMALL = ("generator.width=8", "discriminator.width=8")
PATCHES = ("generator.width=4", "discriminator.width=4", "discriminator.layers=1")
# method -> (recipe, settings of small networks, discriminator that judges by energy)
METHODS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "points": (
        "points",
        (*SMALL, "generator.layers=1", "discriminator.layers=1", "train.batch=8", "train.generators=1"),
        "mlp_autoencoder",
    ),
    "unconditional": ("dcgan", (*NOISE, *CRITIC), "autoencoder"),
    "conditional": ("cgan", (*NOISE, *CRITIC), "autoencoder"),
    "pix2pix": ("pix2pix-small", (*TINY, *PATCHES, "generator.depth=2"), ""),
    "cyclegan": (
        "cyclegan-small",
        (*TINY, *PATCHES, "generator.blocks=1", "generator.downsamplings=1", "train.batch=2", "train.image_pool=3"),
        "",
    ),
    "cut": (
        "fastcut-small",
        (
            *TINY,
            *PATCHES,
            "generator.blocks=1",
            "generator.downsamplings=1",
            "projection.layers=0,2",
            "projection.width=8",
            "loss.nce_identity=1",
            "train.batch=2",
        ),
        "",
    ),
}


def settings_of(method: str, *more: str) -> tuple[str, tuple[str, ...]]:
    recipe, settings, _ = METHODS[method]
    return recipe, (*settings, "loss.penalties=none", *more)


def by_energy(method: str) -> tuple[str, ...]:
    """The settings that exchange the method's discriminator for one that judges by energy."""
    width, classes = "discriminator.width=4", ("discriminator.conditioning=concat",) if method == "conditional" else ()
    return (f"discriminator.name={METHODS[method][2]}", width, "discriminator.code_dim=3", *classes)


def faults(method: str, *more: str) -> list[Fault]:
    recipe, settings = settings_of(method, *more)
    return translators.check(resolve(recipe, None, settings))


def train(method: str, *more: str, steps: int = 2) -> dict[str, float]:
    """The mean terms of some steps on random data, all of which moved both players by finite gradients."""
    recipe, settings = settings_of(method, *more)
    config = resolve(recipe, None, settings)
    assert translators.check(config) == []
    kind = TRANSLATORS[config.translator]
    generator = torch.Generator().manual_seed(0)
    height, width, channels = (1, 1, 2) if method == "points" else (*config.data.resolution, config.data.channels)
    classes = ("cat", "dog") if kind.source == "classes" else ()
    shape = DataShape((height, width), {"image": channels, "a": channels, "b": channels}, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        translator, _ = translators.build(config, shape)
    penalties = translators.make_penalties(config)
    precision = choose_precision("float32", torch.device("cpu"))
    engine = Engine(translator, penalties, EngineSettings.of(config), precision, World())
    count = config.train.batch
    for step in range(steps):
        images = {
            name: torch.rand(count, channels, height, width, generator=generator) * 2 - 1 for name in shape.channels
        }
        labels = torch.arange(count) % 2 if classes else None
        engine.train_step([[Batch(images, labels, torch.arange(count) + step * count, 0)]])
    assert not engine.skipped_steps
    gradients = engine.monitors.take(World())
    assert all(gradients[f"{player}_gradient_norm"] > 0 for player in ("generator", "discriminator"))
    terms = engine.terms.take(World())
    assert all(math.isfinite(value) for value in (*terms.values(), *gradients.values())), (terms, gradients)
    return terms


def require_fault(found: Sequence[Fault], subject: str, *words: str) -> None:
    """One fault of this subject, whose reason and mend hold these words."""
    (fault,) = [fault for fault in found if fault.subject == subject]
    assert fault.problem
    assert fault.mend
    assert all(word in str(fault) for word in words), fault


def expected_fault(method: str, objective: str, penalty: str, energy: bool) -> str:
    """Subject of the fault that a pair must be refused with; empty where it must train."""
    if (ADVERSARIAL[OBJECTIVES[objective][0].partition("=")[2]].judges_by == "energy") != energy:
        return "discriminator.name" if not energy else "loss.adversarial"
    refused = {
        "gradient_penalty": energy,
        "dragan": energy,
        "consistency": method == "points",
        "path_length": method in ("pix2pix", "cyclegan"),
    }
    return f"loss.penalties.{penalty}" if refused.get(penalty) else ""


def try_pair(method: str, objective: str, penalty: str, energy: bool) -> None:
    more = (*OBJECTIVES[objective], *(by_energy(method) if energy else ()), f"loss.penalties={penalty}")
    subject = expected_fault(method, objective, penalty, energy)
    if subject:
        require_fault(faults(method, *more), subject)
        return
    terms = train(method, *more)
    if penalty not in ("none", "weight_clip", "instance_noise"):
        assert any(name.startswith(f"{penalty}/") for name in terms), terms


@pytest.mark.parametrize("energy", [False, True], ids=["logit", "energy"])
@pytest.mark.parametrize("penalty", ["none", *PENALTIES])
def test_every_pair_on_points(penalty: str, energy: bool) -> None:
    for objective in OBJECTIVES:
        try_pair("points", objective, penalty, energy)


@pytest.mark.parametrize("method", ["unconditional", "conditional"])
@pytest.mark.parametrize("energy", [False, True], ids=["logit", "energy"])
def test_every_objective_and_every_penalty_makes_pictures(method: str, energy: bool) -> None:
    for objective in OBJECTIVES:
        try_pair(method, objective, "none", energy)
    for penalty in PENALTIES:
        try_pair(method, "began" if energy else "nonsaturating", penalty, energy)


@pytest.mark.parametrize("method", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize("objective", OF_TRANSLATORS)
def test_every_gradient_penalty_translates(method: str, objective: str) -> None:
    for penalty in GRADIENT_PENALTIES:
        try_pair(method, objective, penalty, False)


@pytest.mark.parametrize("method", ["pix2pix", "cyclegan"])
def test_every_other_penalty_translates(method: str) -> None:
    for penalty in PENALTIES.keys() - set(GRADIENT_PENALTIES):
        try_pair(method, "hinge", penalty, False)


@pytest.mark.parametrize("method", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize("objective", ENERGY)
def test_translators_refuse_energies(method: str, objective: str) -> None:
    require_fault(faults(method, *OBJECTIVES[objective]), "loss.adversarial", "autoencoder", "Use one of", "hinge")


REMEDIES = {
    "unroll": ("train.unroll=2",),
    "unroll with rmsprop": ("train.unroll=2", "optim.name=rmsprop"),
    "packing": ("train.packing=2",),
    "generators": ("train.generators=2",),
    "replay": ("train.image_pool=4",),
    "top-k": ("train.top_k=0.5",),
    "feature matching": ("loss.feature_matching=1",),
    "all at once": (
        *("train.unroll=1", "train.packing=2", "train.generators=2", "train.image_pool=4", "train.top_k=0.5"),
        *("loss.feature_matching=1", "train.critic_steps=2"),
    ),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_every_remedy_with_every_objective(remedy: str) -> None:
    for objective in OBJECTIVES:
        energy = by_energy("points") if objective in ENERGY else ()
        train("points", *OBJECTIVES[objective], *energy, *REMEDIES[remedy])


@pytest.mark.parametrize("penalty", [name for name in PENALTIES if name not in ("consensus", "consistency")])
def test_unrolling_with_every_penalty(penalty: str) -> None:
    train("points", "loss.adversarial=nonsaturating", f"loss.penalties={penalty}", "train.unroll=2")


@pytest.mark.parametrize(
    "setting",
    ["spectral_norm=true", "norm=batch", "norm=layer", "minibatch_discrimination=true", "minibatch_std=true"],
)
@pytest.mark.parametrize("more", ["train.unroll=2", "loss.penalties=consensus", "loss.penalties=r1"])
def test_what_differentiates_twice_works_with_every_layer(setting: str, more: str) -> None:
    train("points", "discriminator.layers=2", f"discriminator.{setting}", more)


@pytest.mark.parametrize("remedy", ["unroll", "generators", "top-k", "feature matching", "replay"])
@pytest.mark.parametrize("method", ["unconditional", "conditional"])
def test_remedies_make_pictures(method: str, remedy: str) -> None:
    train(method, "loss.adversarial=hinge", "discriminator.spectral_norm=true", *REMEDIES[remedy])


@pytest.mark.parametrize("remedy", ["top-k", "feature matching", "replay"])
@pytest.mark.parametrize("method", ["pix2pix", "cyclegan"])
def test_remedies_that_fit_translate(method: str, remedy: str) -> None:
    train(method, "loss.adversarial=hinge", *REMEDIES[remedy])


AUGMENTATIONS = {
    "diffaugment": ("augment.discriminator=diffaugment",),
    "ada": ("augment.discriminator=ada", "augment.p=0.5", f"augment.parts={','.join(ADA_PARTS)}"),
}
FIXED = {"diffaugment": AUGMENTATIONS["diffaugment"], "ada": (*AUGMENTATIONS["ada"], "augment.target=0")}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "points"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_method_learns_through_augmentation(method: str, augmentation: str) -> None:
    train(method, "loss.adversarial=hinge", "loss.penalties=r1,lecam,instance_noise", *AUGMENTATIONS[augmentation])


@pytest.mark.parametrize("augmentation", FIXED)
def test_every_objective_takes_augmentation(augmentation: str) -> None:
    for objective in OBJECTIVES:
        energy = by_energy("unconditional") if objective in ENERGY else ()
        train("unconditional", *OBJECTIVES[objective], *energy, *FIXED[augmentation], steps=1)


@pytest.mark.parametrize("remedy", [name for name in REMEDIES if name != "unroll with rmsprop"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_remedy_goes_with_augmentation(remedy: str, augmentation: str) -> None:
    train("unconditional", "discriminator.norm=none", *REMEDIES[remedy], *AUGMENTATIONS[augmentation])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_penalty_that_differentiates_both_losses_goes_with_augmentation(augmentation: str) -> None:
    train("unconditional", "discriminator.norm=none", "loss.penalties=consensus", *AUGMENTATIONS[augmentation])


# --- on real pictures ------------------------------------------------------------------------------------------------

# D's loss where it gives everything the same logit, the best one there is
INDIFFERENT = {"hinge": 2.0, "lsgan": 0.25, "relativistic": math.log(2)}
STEPS = 200


@dataclass(frozen=True)
class Outcome:
    """What came of 200 steps.

    Attributes:
        before, after: mean |G(a) − b| of held-out pairs, or mean |F(G(a)) − a| of unpaired pictures, in [0, 2].
        discriminator: mean loss of the discriminators in the last 50 steps relative to an indifferent one's: 1 where
            they only guess, 0 where nothing is left for them to learn.
        margin: mean logit on real pictures minus that on translated ones, in the last 50 steps.
        advice: length of the adversarial loss's gradient by the translated pictures, relative to that at the start:
            near 0 where the discriminators are saturated and leave the generators without advice.
        seconds: of the training steps.
    """

    before: float
    after: float
    discriminator: float
    margin: float
    advice: float
    seconds: float


def unpaired_facades(folder: Path, pairs: Path) -> DataPaths:
    """Photographs of some facades and label maps of others, as two folders in `folder`."""
    paths = sorted(pairs.iterdir())
    half = len(paths) // 2
    for name, chosen, left in (("a", paths[:half], 0), ("b", paths[half:], 256)):
        (folder / name).mkdir(parents=True)
        for path in chosen:
            with Image.open(path) as pair:
                pair.crop((left, 0, left + 256, 256)).save(folder / name / path.with_suffix(".png").name)
    return DataPaths(a=folder / "a", b=folder / "b")


def translate_facades(method: str, sets: Sequence[str], facades: Path, folder: Path) -> Outcome:
    """Train on facades at 64 × 64; all losses and gradients must be finite all the way."""
    sizes = ("data.resolution=64", "generator.width=16", "discriminator.width=16", "discriminator.layers=2")
    small = (*sizes, "optim.decay_share=0", "train.precision=float32", "train.kimg=1000")
    own = {"pix2pix": ("train.batch=4",), "cyclegan": ("train.batch=2", "generator.blocks=3")}[method]
    config = resolve(f"{method}-small", None, (*small, *own, *sets))
    paths = [DataPaths(pairs=(facades / part,)) for part in ("train", "test")]
    if method == "cyclegan":
        paths = [unpaired_facades(folder / part, facades / part) for part in ("train", "test")]
    precision = choose_precision("float32", torch.device("cpu"))
    prepared, held_out = (prepare(config, data, precision, World(), None) for data in paths)
    engine, unseen = prepared.engine, held_out.loader.batch(np.arange(16))

    def error() -> float:
        networks = dict(engine.translator.named_children())
        with torch.no_grad():
            if method == "pix2pix":
                return float((networks["generator"](unseen["a"], None) - unseen["b"]).abs().mean())
            there = networks["generator_ab"](unseen["a"], None)
            return float((networks["generator_ba"](there, None) - unseen["a"]).abs().mean())

    def advice() -> float:
        step = Step(engine, "generator", unseen, engine.generate(unseen, for_generator=True))
        terms = step.generator_terms()
        names = [view.name.replace("discriminator", "generator") for view in step.views]
        adversarial = torch.stack([terms[name] for name in names]).sum()
        gradients = torch.autograd.grad(adversarial, [view.fake for view in step.views])
        return float(torch.stack([gradient.norm() for gradient in gradients]).mean())

    before, advice_before, began = error(), advice(), time.perf_counter()
    for _ in range(STEPS):
        if engine.step == STEPS - 50:
            engine.terms.take(World())
            engine.monitors.take(World())
        engine.train_step(step_batches(prepared))
    seconds = time.perf_counter() - began
    prepared.loader.close()
    held_out.loader.close()
    terms, monitors = engine.terms.take(World()), engine.monitors.take(World())
    assert not engine.skipped_steps
    assert all(math.isfinite(value) for value in (*terms.values(), *monitors.values()))
    judges = list(engine.players["discriminator"].networks)
    loss = sum(terms[name] for name in judges) / len(judges)
    margin = sum(monitors[f"{name}_on_real"] - monitors[f"{name}_on_fake"] for name in judges) / len(judges)
    relative = loss / INDIFFERENT[config.loss.adversarial.name]
    return Outcome(before, error(), relative, margin, advice() / advice_before, seconds)


RELATIVISTIC = ("loss.adversarial=relativistic", "loss.penalties=r1,r2")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("method", "sets"),
    [
        ("pix2pix", ("loss.adversarial=hinge",)),
        ("pix2pix", ("loss.adversarial=lsgan",)),
        ("pix2pix", RELATIVISTIC),
        ("cyclegan", RELATIVISTIC),
    ],
    ids=["pix2pix hinge", "pix2pix lsgan", "pix2pix relativistic r1 r2", "cyclegan relativistic r1 r2"],
)
def test_translators_move_the_right_way_on_facades(
    shared_data: Path, tmp_path: Path, method: str, sets: tuple[str, ...]
) -> None:
    """The generator nears what it should make; D tells real from fake, and still says where to go."""
    outcome = translate_facades(method, sets, shared_data / "facades", tmp_path)
    assert outcome.after < 0.8 * outcome.before, outcome
    assert 0 < outcome.discriminator < 1, outcome
    assert outcome.margin > 0, outcome
    assert outcome.advice > 0.2, outcome
