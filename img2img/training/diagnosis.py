"""What can go wrong in a game, told from the numbers in the log: the fault, its evidence, and the one key to change.

A rule is a function of the numbers, means over the last lines of the log, and of the settings; RULES lists them all.
Whoever wants to know asks `diagnose`; nothing here acts (watchdog.py does).

Bounds stand beside the rules. Where a number lies in runs without the fault and in runs with it is measured in
docs/troubleshooting.md; what helps is what the methods' authors answer in their issue trackers, named in each rule.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from img2img.losses import ADVERSARIAL

LINES = 5
"""Lines of the log that a diagnosis rests on."""

_BEGINNING = 0.05  # share of the run, at its start, in which nothing is diagnosed: untrained outputs are all alike
_LATE = 0.5  # from this share on what fades by itself is a fault

INVERTED_BELOW = -0.3
COPIED_BELOW = 0.05
ALIKE_BELOW = 0.1
COLLAPSED_BELOW = 0.25
DIVERSE_ABOVE = 0.4
CHECKERED_ABOVE = 4.0
GRID_ABOVE = 1.0
HIDDEN_ABOVE = 5.0
WON_BELOW = 0.02
LEARNS_ABOVE = 0.2
BY_HEART_ABOVE = 0.85
PASSES = 50  # over the pictures, before which nothing is known by heart
WAITING_ABOVE = 0.2
NON_FINITE = "non-finite steps"
SKIPPED = 3  # steps, in the lines that a diagnosis rests on
_BLIND_ABOVE = 0.9
_BEGUN = 500  # images, after which outputs show which input they come from
_LEARNED = 10_000  # images, after which no generator is as it began

Numbers = Mapping[str, float]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """A fault in one direction, or of one discriminator.

    Attributes:
        fault: what it is called.
        where: "a2b", "b2a", the name of a discriminator, or what else it is about.
        evidence: the number it was told from, in a sentence.
        key, value: the setting to change, and what to change it to.
        why: what the change does.
        spoils: what is learned suffers; else the run only takes longer.
    """

    fault: str
    where: str
    evidence: str
    key: str
    value: str
    why: str
    spoils: bool = True

    def __str__(self) -> str:
        return f"{self.fault} ({self.where}): {self.evidence}. Set {self.key}={self.value}: {self.why}"


@dataclass(frozen=True)
class Episode:
    """A fault from its first line of the log to its last, in images seen; `diagnosis` is the last one."""

    diagnosis: Diagnosis
    first: int
    last: int
    lasts: bool


def diagnose(records: Sequence[Mapping[str, Any]], settings: Settings) -> list[Diagnosis]:
    """What is wrong according to the last LINES records of a log, none where there are fewer.

    Args:
        records: of log.jsonl, in the order of the images seen.
        settings: the run's configuration, flat, as config.as_dict gives it.
    """
    watched = [record for record in records if isinstance(record.get("monitors"), Mapping)][-LINES:]
    planned = 1000 * (_number(settings, "train.kimg") or 0.0)
    if len(watched) < LINES or not planned:
        return []
    rules = (non_finite,) if watched[0]["images"] < _BEGINNING * planned else RULES
    numbers = _means([record["monitors"] for record in watched])
    numbers |= _means([{key: record.get(key) for key in ("waiting", "passes", "skipped_steps")} for record in watched])
    numbers |= {"images": watched[-1]["images"], "progress": watched[-1]["images"] / planned}
    return [diagnosis for rule in rules for diagnosis in rule(numbers, settings)]


def episodes(records: Sequence[Mapping[str, Any]], settings: Settings, looks: int = 200) -> list[Episode]:
    """Every fault that a run has had, the first one first, from at most `looks` looks at its log."""
    watched = [record for record in records if isinstance(record.get("monitors"), Mapping)]
    ends = range(LINES, len(watched) + 1)
    chosen = {ends[round(place * (len(ends) - 1) / max(looks - 1, 1))] for place in range(looks)} if ends else set()
    found: dict[tuple[str, str], Episode] = {}
    for end in sorted(chosen):
        seen = watched[end - 1]["images"]
        for diagnosis in diagnose(watched[end - LINES : end], settings):
            known = (diagnosis.fault, diagnosis.where)
            first = found[known].first if known in found else seen
            found[known] = Episode(diagnosis, first, seen, lasts=end == len(watched))
    return list(found.values())


def _means(tables: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of every number that all tables have and that is finite in all."""
    common = set(tables[0]).intersection(*tables[1:])
    values = {name: [table[name] for table in tables] for name in sorted(common)}
    return {
        name: sum(several) / len(several)
        for name, several in values.items()
        if all(isinstance(value, int | float) and math.isfinite(value) for value in several)
    }


# --- rules -----------------------------------------------------------------------------------------------------------


def colour_inversion(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Outputs are negatives of their inputs, which a cycle allows and seldom undoes.

    The authors of CycleGAN answer with the identity loss (junyanz/pytorch-CycleGAN-and-pix2pix, docs/qa.md and issue
    1301). That of UNIT begins anew (mingyuliutw/UNIT, issue 32).
    """
    for direction, value in _ending(numbers, "_colour_correlation"):
        if value >= INVERTED_BELOW:
            continue
        evidence = f"outputs correlate {_signed(value)} with inputs"
        for key, full in (("loss.identity", "loss.cycle"), ("loss.nce_identity", "loss.nce")):
            weight = _number(settings, key)
            if weight is not None and weight < (_number(settings, full) or 0.0):
                change = key, _plain(settings[full]), "pictures of the target domain shall stay as they are"
                break
        else:
            seed = _number(settings, "train.seed") or 0
            change = "train.seed", _plain(seed + 1), "begin anew, from other weights; inversion depends on chance"
        yield Diagnosis("colour inversion", direction, evidence, *change)


def copying(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Outputs are their inputs, although the discriminator tells them from the target domain.

    The authors of CycleGAN lower the identity loss (junyanz/pytorch-CycleGAN-and-pix2pix, issue 1080), or the cycle's
    weight to 1 or 2 (junyanz/CycleGAN, issue 44).
    """
    for direction, value in _ending(numbers, "_change"):
        judges = (f"discriminator_{direction[-1]}_undecided", "discriminator_undecided")
        undecided = next((numbers[name] for name in judges if name in numbers), 0.0)
        if value >= COPIED_BELOW or undecided > _BLIND_ABOVE:
            continue
        evidence = f"outputs differ from inputs by {_percent(value)} of what targets do"
        for key, lower in (("loss.identity", 0.0), ("loss.nce_identity", 0.0), ("loss.cycle", 1.0), ("loss.nce", 0.5)):
            weight = _number(settings, key)
            if weight is not None and weight > lower:
                yield Diagnosis(
                    "copying", direction, evidence, key, _plain(lower), "it rewards leaving things as they are"
                )
                break
        else:
            weight = _number(settings, "loss.adversarial.weight") or 1.0
            why = "the discriminator sees the difference"
            yield Diagnosis("copying", direction, evidence, "loss.adversarial.weight", _plain(2 * weight), why)


def hidden_copy(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """The way back reads what the way there has hidden in faint texture (Chu et al. 2017, arXiv:1712.02950)."""
    for direction, value in _ending(numbers, "_hidden"):
        weight = _number(settings, "loss.cycle")
        if value > HIDDEN_ABOVE and weight is not None:
            evidence = f"the way back is wrong by {value:.1f} times the faint noise that was added to outputs"
            why = "outputs need not carry every detail of their inputs"
            yield Diagnosis("hidden copy", direction, evidence, "loss.cycle", _plain(weight / 2), why)


def checkered(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Outputs repeat at the steps of the generator's upsampling, still in the second half of the run.

    Odena et al. 2016 ("Deconvolution and Checkerboard Artifacts", Distill). The authors of pix2pix answer with it, and
    where upsampling is not the cause with a larger receptive field of the discriminator, which sees that textures
    repeat (junyanz/pytorch-CycleGAN-and-pix2pix, issue 190).
    """
    for direction, value in _ending(numbers, "_checkerboard"):
        steps = numbers.get(f"{direction}_grid", 0.0)
        if value <= CHECKERED_ABOVE or steps <= GRID_ABOVE or numbers["progress"] < _LATE:
            continue
        evidence = (
            f"outputs have {value:.1f} times the energy of real images at the generator's stride, "
            f"a grid of {steps:.1f} of 255 steps"
        )
        upsampling = settings.get("generator.upsampling", "transposed")
        if settings.get("generator.name") in ("resnet", "unet") and upsampling == "transposed":
            change = "generator.upsampling", "antialiased", "in a new run; transposed convolutions overlap unevenly"
        else:
            layers = _number(settings, "discriminator.layers")
            field = (
                _number(settings, "discriminator.receptive_field") or 9 * 2 ** (3.0 if layers is None else layers) - 2
            )
            change = "discriminator.receptive_field", _plain(2 * field), "in a new run; a larger patch shows the repeat"
        yield Diagnosis("checkerboard", direction, evidence, *change)


def outputs_alike(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Whatever the input, the output is nearly the same: the generator has collapsed."""
    if numbers["images"] < _BEGUN:
        return
    for direction, value in _ending(numbers, "_diversity"):
        if value >= ALIKE_BELOW or direction.startswith("samples"):
            continue
        evidence = f"outputs differ from each other by {_percent(value)} of what real images do"
        for key in ("loss.l1", "loss.cycle", "loss.nce"):
            weight = _number(settings, key)
            if weight is not None:
                change = key, _plain(2 * weight or 1.0), "outputs must then show which input they come from"
                break
        else:
            change = _restrain(settings)
        yield Diagnosis("outputs alike", direction, evidence, *change)


def no_gradient(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Nothing reaches a generator: all of its units, or all of its discriminator's, are off whatever they see."""
    for name, value in _ending(numbers, "_gradient_norm"):
        if value == 0 and name.startswith("generator"):
            rate = _number(settings, "optim.lr") or 2e-4
            evidence = f"its gradient was exactly 0 in {LINES} lines of the log"
            yield Diagnosis(
                "no gradient",
                name,
                evidence,
                "optim.lr",
                _plain(rate / 10),
                "in a new run; steps that are too long have switched it off",
            )


def collapsed(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Whatever the noise, the sample is nearly the same: again, or still when much has been learned.

    Gradients of a discriminator that is less steep do not drive all samples to one place (Kodali et al. 2017,
    arXiv:1705.07215; Mescheder et al. 2018, arXiv:1801.04406).
    """
    value, before = numbers.get("samples_diversity", math.inf), numbers.get("samples_most_diversity", 0.0)
    has_learned = numbers["progress"] >= _LATE and numbers["images"] >= _LEARNED
    if value < COLLAPSED_BELOW and (before > DIVERSE_ABOVE or has_learned):
        alike = " of one class" if settings.get("translator") == "conditional" else ""
        evidence = f"samples{alike} differ by {_percent(value)} of what real images do"
        evidence += f", and did by {_percent(before)}" if before > DIVERSE_ABOVE else ""
        yield Diagnosis("generator collapsed", "samples", evidence, *_restrain(settings))


def learned_by_heart(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """A discriminator that has seen every picture many times calls nearly all of them real: it overfits.

    r_t = E[sign D(real)] is 0 where it cannot tell and 1 where it is always right (Karras et al. 2020,
    arXiv:2006.06676, section 3.1, who hold it at 0.6). Of patches, of which each picture has many, it says less.
    """
    if not _may_learn_by_heart(settings):
        return
    passes = numbers.get("passes", 0.0)
    for name, value in _ending(numbers, "_sign_on_real"):
        if value <= BY_HEART_ABOVE or passes < PASSES:
            continue
        evidence = f"after {passes:,.0f} passes over the pictures the mean sign on them is {value:.2f}"
        if settings.get("augment.discriminator") != "ada":
            change = "augment.discriminator", "ada", "what it sees is changed as often as it overfits"
        elif not _number(settings, "augment.target"):
            change = "augment.target", "0.6", "what it sees is then changed as often as it overfits"
        else:
            weight = _number(settings, "loss.penalties.r1.weight")
            why = "more pictures would help most; a flatter discriminator learns less by heart"
            change = ("loss.penalties.r1.weight", _plain(2 * weight), why) if weight else ("loss.penalties", "r1", why)
        yield Diagnosis("learned by heart", name, evidence, *change)


def waiting(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Steps wait for pictures."""
    value = numbers.get("waiting", 0.0)
    if value <= WAITING_ABOVE:
        return
    evidence = f"{_percent(value)} of the time passes waiting for them"
    workers, cores = int(_number(settings, "data.workers") or 0), os.cpu_count() or 1
    if 0 < workers < cores:
        change = "data.workers", _plain(cores), "as many threads as cores decode; `img2img data pack` decodes once"
    else:
        size = _number(settings, "data.cache_gb") or 0.0
        why = "decoded pictures stay in memory; `img2img data pack` decodes them once for all runs"
        change = "data.cache_gb", _plain(2 * size or 2.0), why
    yield Diagnosis("waiting for pictures", "data", evidence, *change, spoils=False)


def non_finite(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """Steps are skipped since gradients are not finite; ten in a row, or 5 % of a thousand, end the run."""
    skipped = round(LINES * numbers.get("skipped_steps", 0.0))
    if skipped < SKIPPED:
        return
    evidence = f"{skipped} steps were skipped within {LINES} lines of the log, their gradients not being finite"
    if settings.get("train.precision") == "bfloat16":
        change = "train.precision", "float32", "its numbers are exact to 7 digits instead of 3"
    else:
        rate = _number(settings, "optim.lr") or 2e-4
        change = "optim.lr", _plain(rate / 2), "smaller steps do not leap to where numbers overflow"
    yield Diagnosis(NON_FINITE, "gradients", evidence, *change)


def discriminator_won(numbers: Numbers, settings: Settings) -> Iterator[Diagnosis]:
    """A discriminator is always sure of itself, and the generator learns nothing from it.

    "If D's loss is almost 0 for a while, your training might have collapsed"; make it weaker, say the authors of
    CycleGAN (junyanz/pytorch-CycleGAN-and-pix2pix, issues 806 and 626). Penalties on its slope do so (Mescheder et al.
    2018, arXiv:1801.04406).
    """
    undecided = dict(_ending(numbers, "_undecided"))
    for name, value in undecided.items():
        if value >= WON_BELOW:
            continue
        others = [other for key, other in undecided.items() if key != name]
        is_one_sided = bool(others) and min(others) > LEARNS_ABOVE
        evidence = f"its loss is {_percent(value)} of one that cannot tell"
        evidence += f", the other's {_percent(min(others))}" if is_one_sided else ""
        fault = "one-sided collapse" if is_one_sided else "the discriminator has won"
        yield Diagnosis(fault, name, evidence, *_restrain(settings))


Rule = Callable[[Numbers, Settings], Iterator[Diagnosis]]
RULES: tuple[Rule, ...] = (
    colour_inversion,
    copying,
    hidden_copy,
    checkered,
    outputs_alike,
    discriminator_won,
    no_gradient,
    collapsed,
    learned_by_heart,
    waiting,
    non_finite,
)


# fault -> how the names of the monitors end that it is told from
_MONITORS = {
    "colour inversion": "_colour_correlation",
    "copying": "_change",
    "hidden copy": "_hidden",
    "checkerboard": "_checkerboard",
    "outputs alike": "_diversity",
    "no gradient": "_gradient_norm",
    "generator collapsed": "samples_diversity",
    "one-sided collapse": "_undecided",
    "the discriminator has won": "_undecided",
    "learned by heart": "_sign_on_real",
}


def faults_watched(monitors: Iterable[str], settings: Settings) -> list[str]:
    """The faults that are looked for in a run whose log has these monitors, as Diagnosis calls them."""
    names = set(monitors)
    needed = dict.fromkeys(_MONITORS, 1) | {"one-sided collapse": 2}
    if not _may_learn_by_heart(settings):
        del needed["learned by heart"]
    told_from = {fault: [name for name in names if name.endswith(_MONITORS[fault])] for fault in needed}
    told_from["outputs alike"] = [name for name in told_from["outputs alike"] if not name.startswith("samples")]
    found = [fault for fault, count in needed.items() if len(told_from[fault]) >= count]
    return [*found, "waiting for pictures", NON_FINITE]


def _restrain(settings: Settings) -> tuple[str, str, str]:
    """What keeps a discriminator from being too strong: a penalty, or where there is one a smaller step."""
    if not settings.get("loss.penalties"):
        return "loss.penalties", "r1", "a discriminator that is less steep teaches more"
    rate = _number(settings, "optim.discriminator_lr") or _number(settings, "optim.lr") or 2e-4
    return "optim.discriminator_lr", _plain(rate / 2), "the discriminator then learns more slowly than the generator"


def _may_learn_by_heart(settings: Settings) -> bool:
    return settings.get("discriminator.name") != "patch" and _has_boundary(settings)


def _has_boundary(settings: Settings) -> bool:
    """The objective fixes a logit above which a discriminator calls an image real."""
    prefix = "loss.adversarial."
    kind = ADVERSARIAL.get(str(settings.get(f"{prefix}name")))
    if kind is None:
        return False
    constants = {field.name: settings[prefix + field.name] for field in fields(kind) if prefix + field.name in settings}
    return kind(**constants).boundary is not None


def _ending(numbers: Numbers, ending: str) -> Iterable[tuple[str, float]]:
    """The numbers whose names end so: (what comes before, value)."""
    return [(name.removesuffix(ending), value) for name, value in numbers.items() if name.endswith(ending)]


def _number(settings: Settings, key: str) -> float | None:
    value = settings.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _plain(value: float) -> str:
    return f"{value:g}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
