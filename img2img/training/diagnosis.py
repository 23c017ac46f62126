"""What can go wrong in a game, told from the numbers in the log: the fault, its evidence, and the one key to change.

A rule is a function of the numbers, means over the last lines of the log, and of the settings; RULES lists them all.
Whoever wants to know asks `diagnose`; nothing here acts.

Bounds stand beside the rules. Where a number lies in runs without the fault and in runs with it is measured in
docs/troubleshooting.md; what helps is what the methods' authors answer in their issue trackers, named in each rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LINES = 5
"""Lines of the log that a diagnosis rests on."""

_BEGINNING = 0.05  # share of the run, at its start, in which nothing is diagnosed: untrained outputs are all alike
_LATE = 0.5  # from this share on what fades by itself is a fault

INVERTED_BELOW = -0.3
COPIED_BELOW = 0.05
ALIKE_BELOW = 0.1
CHECKERED_ABOVE = 4.0
GRID_ABOVE = 1.0
HIDDEN_ABOVE = 5.0
WON_BELOW = 0.02
LEARNS_ABOVE = 0.2
_BLIND_ABOVE = 0.9

Numbers = Mapping[str, float]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """A fault in one direction, or of one discriminator.

    Attributes:
        fault: what it is called.
        where: "a2b", "b2a", or the name of a discriminator.
        evidence: the number it was told from, in a sentence.
        key, value: the setting to change, and what to change it to.
        why: what the change does.
    """

    fault: str
    where: str
    evidence: str
    key: str
    value: str
    why: str

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
    if len(watched) < LINES or watched[0]["images"] < _BEGINNING * planned or not planned:
        return []
    numbers = _means(watched) | {"progress": watched[-1]["images"] / planned}
    return [diagnosis for rule in RULES for diagnosis in rule(numbers, settings)]


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


def _means(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of every number that all records have and that is finite in all."""
    tables = [record["monitors"] for record in records]
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
    for direction, value in _ending(numbers, "_diversity"):
        if value >= ALIKE_BELOW:
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
)


def _restrain(settings: Settings) -> tuple[str, str, str]:
    """What keeps a discriminator from being too strong: a penalty, or where there is one a smaller step."""
    if not settings.get("loss.penalties"):
        return "loss.penalties", "r1", "a discriminator that is less steep teaches more"
    rate = _number(settings, "optim.discriminator_lr") or _number(settings, "optim.lr") or 2e-4
    return "optim.discriminator_lr", _plain(rate / 2), "the discriminator then learns more slowly than the generator"


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
