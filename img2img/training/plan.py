"""Which settings of a recipe fit these pictures and this machine: proposed with reasons, and tried in memory.

The recipe is a default for its paper's pictures; of it only what there is a reason for is changed. Where a proposal
rests on somebody's rule, its reason says whose.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from img2img import translators
from img2img.config import Config, DataPaths, as_dict, load_recipe, overlaid, recipe_names, resolve
from img2img.config_keys import toml, toml_or_none
from img2img.data.survey import Survey, survey
from img2img.devices import peak_memory
from img2img.distributed import World
from img2img.errors import Faults, UsageFault, counted, printable
from img2img.inference.memory import available_bytes, is_out_of_memory
from img2img.losses import RelativisticAverage
from img2img.networks.layers import mixes_samples
from img2img.training.loop import TrainResult, estimate, open_evaluation
from img2img.training.prepare import Prepared, check, choose_hardware, few_batches, prepare
from img2img.training.speed import Patience, kinds_of_steps

_log = logging.getLogger("img2img.training")

# Below this many pictures discriminators learn them by heart (guidelines of StyleGAN3's program, docs/configs.md) ...
FEW_PICTURES = 30_000
# ... once each was seen often enough: 67 drawings showed it after 370 times (docs/results/generators.md)
VIEWS_UNTIL_KNOWN = 200
# A run is far too long when each picture is seen more often than `longest`; it then ends at `usual`.
# Noise: DiffAugment's program trains 100 pictures for 300 kimg (Zhao et al. 2020, arXiv:2006.10738), StyleGAN2-ADA's
# paper 1,944 pictures for 25,000. Translators: pix2pix and CycleGAN make 200 passes.
_LONGEST, _USUAL = {True: 20_000, False: 4_000}, {True: 3_000, False: 2_000}
# Fractions of data.resolution that are looked through for one that the pictures fill
_FRACTIONS = [(numerator, 8 << halvings) for halvings in range(5) for numerator in (7, 6, 5, 4)]
_MARGIN = 0.9  # of the memory there is
_SMALLEST_MIXED = 4  # images of a micro-batch where they are normalised together; minibatch_std's group
_PATIENCE = 100.0  # seconds for all steps that are tried, where single ones allow it
_TOO_LONG = 86400.0  # seconds of a run
_STYLEGAN2_ADA = "Karras et al. 2020, arXiv:2006.06676"


@dataclass(frozen=True)
class Proposal:
    """One key with its value before and after, and why, in one line."""

    key: str
    before: Any
    after: Any
    reason: str


@dataclass
class Plan:
    """What `plan` came to.

    Attributes:
        recipe: its name.
        config: the recipe, what the user set, and the proposals.
        proposals: in the order of the keys.
        remarks: what to know of, but not to change without looking.
        data: what was seen of the pictures.
        estimate: speed, time and peak memory of the run with `config`, measured.
        device, precision: what it was measured on, and how.
        memory: bytes that there are for it; None where nobody says.
    """

    recipe: str
    config: Config
    proposals: list[Proposal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    data: Survey = field(kw_only=True)
    estimate: TrainResult = field(kw_only=True)
    device: str = field(kw_only=True)
    precision: str = field(kw_only=True)
    memory: int | None = field(kw_only=True)

    def to_toml(self) -> str:
        """The proposals alone, each below its reason: a file that --config lays over the recipe."""
        tables: dict[str, list[str]] = {}
        for one in self.proposals:
            table, _, name = one.key.rpartition(".")
            lines = [f"# {printable(one.reason)}", f"{name} = {toml(one.after)}  # was {toml_or_none(one.before)}"]
            tables.setdefault(table, []).extend(lines)
        return "".join("\n".join(("", f"[{table}]", *lines, "")) for table, lines in tables.items())


def plan(recipe: str, data: DataPaths, *, sets: Sequence[str] = (), device: str = "auto") -> Plan:
    """Look at the data, propose settings, and train some steps with them in memory. Nothing is written.

    What is tried is logged. Where steps take long, fewer and smaller ones are tried, and a remark says so.

    Args:
        recipe: a recipe's name.
        data: folders as for train.
        sets: `key=value` texts laid over the recipe; what they name is left as it is.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UsageFault: as img2img.training.train; or there is no room for a single picture.
    """
    planner = _Planner(load_recipe(recipe), resolve(recipe, None, sets), sets)
    check(planner.config, data, _pointless(planner.config))
    _log.info("looking at the pictures")
    found = survey(data, max_pixels=planner.config.data.max_pixels)
    if found.count:  # where there are none, opening the data says so
        planner.fit_resolution(found)
        planner.fit_length(found)
        planner.fit_augmentation(found)
        planner.fit_penalties()
    world = World()
    precision = choose_hardware(planner.config, device, world)
    prepared = prepare(planner.config, data, precision, world, None)
    with prepared.loader:
        room = _room(precision.device)
        until = time.monotonic() + _PATIENCE
        fit = planner.fit_memory(prepared, room, until)
        prepared.config = planner.config
        patience = _patience(prepared, fit, until)
        measured = estimate(prepared, open_evaluation(prepared), patience)
    if patience.images is not None:
        measured = replace(measured, peak_memory=max(measured.peak_memory, fit.peak))
    planner.look_at_time(measured, patience, fit)
    planner.look_at_memory(prepared)
    order = {key: place for place, key in enumerate(as_dict(planner.config))}
    return Plan(
        recipe,
        planner.config,
        sorted(planner.proposals, key=lambda one: order[one.key]),
        planner.remarks,
        data=found,
        estimate=measured,
        device=str(precision.device),
        precision=precision.name,
        memory=room,
    )


def _pointless(config: Config) -> Iterator[UsageFault]:
    """Why a recipe is not planned for."""
    kind = translators.TRANSLATORS.get(config.translator)
    if kind is not None and kind.source == "points":
        yield UsageFault(
            "RECIPE", f"{config.translator} learns from toy worlds, which fit anywhere", "Train it as it is"
        )


class _Planner:
    """A configuration on its way from a recipe to one that fits, and what was changed meanwhile."""

    def __init__(self, recipe: Config, config: Config, sets: Sequence[str]) -> None:
        self.recipe = recipe
        self.config = config
        self.kept = {text.partition("=")[0].strip() for text in sets}
        self.proposals: list[Proposal] = []
        self.remarks: list[str] = []

    @property
    def from_noise(self) -> bool:
        return translators.TRANSLATORS[self.config.translator].from_noise

    def is_free(self, key: str) -> bool:
        """The user did not set this key, or a table that it is in."""
        return not any(key == kept or key.startswith(f"{kept}.") for kept in self.kept)

    def propose(self, *changes: tuple[str, Any, str]) -> bool:
        """Take over these (key, value, reason) together, unless the user set one or the configuration may not be so."""
        if not all(self.is_free(key) for key, _, _ in changes):
            return False
        try:
            config = overlaid(self.config, {key: value for key, value, _ in changes})
        except Faults:
            return False
        if translators.check(config):
            return False
        before, after = as_dict(self.config), as_dict(config)
        self.config = config
        self.proposals += [Proposal(key, before.get(key), after[key], reason) for key, _, reason in changes]
        return True

    # --- the pictures ---------------------------------------------------------------------------------------------

    def fit_resolution(self, found: Survey) -> None:
        """The largest size below the recipe's that half of the pictures fill."""
        resolution, size = self.config.data.resolution, found.median_size
        filled = found.filled(resolution)
        if size is None:
            return
        if filled >= 2:
            times = int(filled)
            larger = _size((resolution[0] * times, resolution[1] * times))
            self.remarks.append(
                f"half of the pictures fill {larger} pixels too (data.resolution, {times**2} times the work)"
            )
        if filled >= 1:
            return
        reason = f"half of the pictures, {_size(size)} in the median, would be enlarged to {_size(resolution)}"
        for numerator, denominator in _FRACTIONS:
            height, width = (side * numerator // denominator for side in resolution)
            exact = all(side * numerator % denominator == 0 for side in resolution)
            smaller = numerator / denominator <= filled and min(height, width) >= 4
            if exact and smaller and self.propose(("data.resolution", (height, width), reason)):
                return
        why = "the networks accept no smaller size near theirs" if self.is_free("data.resolution") else "it was set"
        self.remarks.append(f"{reason}: {why}")

    def fit_length(self, found: Survey) -> None:
        """A length at which each picture is seen at least once, and not thousands of times."""
        kimg, count = self.config.train.kimg, found.count
        views = kimg * 1000 / count
        if views < 1:
            reason = f"{kimg:g} kimg would never show {1 - views:.0%} of the {count:,} pictures"
            self.propose(("train.kimg", float(math.ceil(count / 1000)), reason))
        elif views > _LONGEST[self.from_noise]:
            usual = _USUAL[self.from_noise]
            source = (
                "100 pictures were enough for 300 kimg of Zhao et al. 2020, arXiv:2006.10738"
                if self.from_noise
                else f"pix2pix and CycleGAN make 200 passes, this is still {usual / 200:.0f} times that"
            )
            reason = f"{count:,} pictures would be seen {views:,.0f} times each; {usual:,} times it is ({source})"
            self.propose(("train.kimg", _rounded(usual * count / 1000), reason))

    def fit_augmentation(self, found: Survey) -> None:
        """Against a discriminator that learns few pictures by heart."""
        config, count = self.config, found.count
        augment, views = config.augment, config.train.kimg * 1000 / count
        if augment.flip:
            self.remarks.append(
                "augment.flip=true mirrors pictures: set it to false for text, digits, or whatever has a left and right"
            )
        if augment.is_adaptive and augment.speed_kimg > config.train.kimg:
            reason = f"p could not reach 1 in {config.train.kimg:g} kimg; a tenth of the run, as short runs want it"
            self.propose(("augment.speed_kimg", _rounded(config.train.kimg / 10), reason))
        if augment.discriminator != "none" or count >= FEW_PICTURES or views < VIEWS_UNTIL_KNOWN:
            return
        if not self.from_noise:
            if config.translator == "pix2pix":
                self.remarks.append(
                    f"{count:,} pairs are seen {views:,.0f} times each: pix2pix-modern has DiffAugment against it"
                )
            return
        why = f"{count:,} pictures, each seen {views:,.0f} times, are easily learned by heart"
        speed = _rounded(min(augment.speed_kimg, config.train.kimg / 10))
        if translators.make_objective(config).boundary is not None and self.propose(
            ("augment.discriminator", "ada", f"{why}; ADA changes them as often as that shows ({_STYLEGAN2_ADA})"),
            ("augment.speed_kimg", speed, "p can go from 0 to 1 in a tenth of the run, as short runs want it"),
        ):
            return
        objective = config.loss.adversarial.name
        reason = f"{why}; DiffAugment (Zhao et al. 2020, arXiv:2006.10738), as ADA has nothing to go by in {objective}"
        self.propose(("augment.discriminator", "diffaugment", reason))

    def fit_penalties(self) -> None:
        """γ of R1 and R2, where pixels or batch are not the recipe's."""
        if not self.from_noise:
            return
        now, then = self.config, self.recipe
        pixels = math.prod(now.data.resolution)
        factor = pixels / now.train.batch / (math.prod(then.data.resolution) / then.train.batch)
        rule = 0.0002 * pixels / now.train.batch
        for name in ("r1", "r2"):
            if name not in now.loss.penalties:
                continue
            key = f"loss.penalties.{name}.weight"
            weight = translators.make_penalties(now)[name].weight
            if not math.isclose(factor, 1.0, rel_tol=0.01):
                reason = (
                    f"pixels / batch are {factor:.3g} times the recipe's, and γ goes with them, "
                    f"as in the program of {_STYLEGAN2_ADA} (0.0002 · pixels / batch)"
                )
                self.propose((key, _rounded(weight * factor), reason))
            elif name == "r1" and now.loss.adversarial.name == "nonsaturating" and not 0.5 < weight / rule < 2:
                self.remarks.append(
                    f"{key} = {weight:g} is the recipe's own; the program of {_STYLEGAN2_ADA} has for its long runs "
                    f"0.0002 · pixels / batch, which is {rule:.2g} here. It is the first key to vary"
                )

    # --- the machine ----------------------------------------------------------------------------------------------

    def fit_memory(self, prepared: Prepared, room: int | None, until: float) -> _Fit:
        """The largest micro-batch for which there is room, the batch as it is."""
        train = self.config.train
        parts = _parts(self.config, prepared)
        if not self.is_free("train.accumulate"):
            parts = [train.batch // train.accumulate]
        fit = _largest_part(prepared, parts, room, until)
        largest, peak = fit.size, fit.peak
        there = "" if room is None else f" of the {_gb(room)} there are"
        if largest == 0:
            raise UsageFault(
                "memory",
                f"{_described(prepared)} with {parts[0]} pictures at once takes over {_gb(peak)}{there}",
                "Set a smaller data.resolution or generator.width, or take the recipe's -small form",
            )
        if largest == train.batch // train.accumulate:
            return fit
        take = "take" if largest == fit.tried else f"would take, going by {fit.tried},"
        more = "more fit" if largest > train.batch // train.accumulate else "more do not fit"
        mixed = ""
        if any(mixes_samples(network) for network in prepared.engine.translator.children()):
            mixed = "; normalisation over the batch sees so many at once"
        reason = f"{largest} pictures at once {take} {_gb(peak)}{there}, {more}; the batch stays {train.batch}{mixed}"
        self.propose(("train.accumulate", train.batch // largest, reason))
        return fit

    def look_at_time(self, measured: TrainResult, patience: Patience, fit: _Fit) -> None:
        """How little was tried, and whether the run is far too long for this machine."""
        batch = self.config.train.batch
        if patience.images is not None:
            self.remarks.append(
                f"time is an estimate from {counted(patience.steps, 'step')} of {patience.images} pictures, as one of "
                f"{batch} may take {fit.pace * batch:,.0f} s; memory is one from {fit.tried} pictures at once"
            )
        if measured.seconds > _TOO_LONG:
            small = f"{self.recipe.recipe.name}-small"
            form = f", or take {small}, its form for a laptop" if small in recipe_names() else ""
            days = measured.seconds / 86400
            self.remarks.append(
                f"the run would take {days:,.{1 if days < 10 else 0}f} days here: "
                f"lower train.kimg, use a faster machine{form}"
            )

    def look_at_memory(self, prepared: Prepared) -> None:
        """Whether the decoded pictures stay in memory."""
        lanes = getattr(prepared.source, "lanes", {}).values()
        needed = sum(len(lane) * getattr(lane, "item_bytes", 0) for lane in lanes)
        limit = self.config.data.cache_gb
        if needed > limit * 2**30:
            self.remarks.append(
                f"decoded, the pictures take {_gb(needed)}, and data.cache_gb keeps {limit:g}: the others are decoded "
                "again each time. Raise it, or use `img2img data pack`"
            )


def _parts(config: Config, prepared: Prepared) -> list[int]:
    """Sizes of micro-batches that make the batch, from the smallest."""
    batch, packing = config.train.batch, config.train.packing
    if any(penalty.needs_both_losses for penalty in prepared.engine.penalties.values()):
        return [batch]
    translator = prepared.engine.translator
    mixed = isinstance(translator.objective, RelativisticAverage) or any(map(mixes_samples, translator.children()))
    step = math.lcm(packing, _SMALLEST_MIXED) if mixed else packing
    return [size for size in range(1, batch + 1) if batch % size == 0 and (size % step == 0 or size == batch)]


class _Fit(NamedTuple):
    """How many pictures at once there is room for, `size`, and bytes at the peak with it; 0 where there is for none.

    `smallest` and `tried` are the first and the last that were trained on; the last is less than `size` where time did
    not allow for more. `pace` is its step's seconds for each picture.
    """

    size: int
    peak: int
    smallest: int
    tried: int
    pace: float


def _largest_part(prepared: Prepared, parts: Sequence[int], room: int | None, until: float) -> _Fit:
    """The largest of `parts` that can be trained on within `room` bytes, and the peak with it.

    Sizes rise, and one is tried only when the last one's peak lets expect that it fits: on the CPU too much memory is
    not refused but ends the process. None is tried that would take over half of the time until `until`: what is
    expected then stands for it.
    """
    device = prepared.precision.device
    # the optimiser's moments and the gradients come with the first step, whatever its size
    weights = sum(
        p.numel() * p.element_size() for player in prepared.engine.players.values() for p in player.parameters
    )
    fixed = _memory_in_use(device) + 3 * weights
    limit = math.inf if room is None else room
    fitting, needed, pace = 0, 0, 0.0
    waiting = list(parts)
    while waiting:
        bounds = {part: fixed + max(0, needed - fixed) * part / fitting if fitting else 0.0 for part in waiting}
        expected = [part for part in waiting if bounds[part] <= limit]
        if not expected:
            break
        part = expected[-1] if fitting else waiting[0]
        if fitting and pace * part > (until - time.monotonic()) / 2:
            return _Fit(part, int(bounds[part]), parts[0], fitting, pace)
        peak, seconds = _try_step(prepared, part)
        if peak is not None and peak <= limit:
            fitting, needed, pace = part, peak, seconds / part
            waiting = [size for size in waiting if size > part]
        elif fitting == 0:
            return _Fit(0, peak or room or 0, parts[0], 0, 0.0)
        elif peak is None:
            waiting = [size for size in waiting if size < part]
        else:  # more than expected; a process's peak does not fall again, so what lies between is not tried
            between = {size: needed + (peak - needed) * (size - fitting) // (part - fitting) for size in waiting}
            size, most = max(
                ((size, most) for size, most in between.items() if most <= limit), default=(fitting, needed)
            )
            return _Fit(size, most, parts[0], part, pace)
    return _Fit(fitting, needed, parts[0], fitting, pace)


def _try_step(prepared: Prepared, part: int) -> tuple[int | None, float]:
    """_peak_of_step and the seconds of it; of two on a GPU, where the first step of a size chooses kernels."""
    _log.info("trying %d pictures at once", part)
    for _ in range(2 if prepared.precision.device.type == "cuda" else 1):
        began = time.monotonic()
        peak = _peak_of_step(prepared, part)
        seconds = time.monotonic() - began
        if peak is None:
            _log.info("they do not fit")
            break
    else:
        _log.info("a step took %.1f s", seconds)
    return peak, seconds


def _patience(prepared: Prepared, fit: _Fit, until: float) -> Patience:
    """To time whole steps where there is time for them until `until`, else such as were tried."""
    stages = len(prepared.engine.settings.growth.starts())
    steps = stages * (1 + 2 * len(kinds_of_steps(prepared)))
    if time.monotonic() + fit.pace * prepared.config.train.batch * steps <= until:
        return Patience(until)
    return Patience(until, fit.smallest)


def _peak_of_step(prepared: Prepared, part: int) -> int | None:
    """Peak memory of an iteration in which all penalties are due, on `part` pictures at once; None: not enough."""
    engine, device = prepared.engine, prepared.precision.device
    engine.go_to(math.ceil(engine.settings.growth.images_needed))  # at full size
    engine.step = 0
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        engine.train_step(few_batches(prepared, part))
        if device.type == "cuda":
            return torch.cuda.max_memory_reserved(device)
        return peak_memory(device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _room(device: torch.device) -> int | None:
    """Bytes that this process may come to hold, with a margin; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(_MARGIN * (free + torch.cuda.memory_reserved(device)))
    available = available_bytes(device)
    return None if available is None else int(_MARGIN * (available + _memory_in_use(device)))


def _memory_in_use(device: torch.device) -> int:
    """Bytes that the GPU's allocator holds, or that of this process are resident."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return peak_memory(device)


def _described(prepared: Prepared) -> str:
    return f"{prepared.config.recipe.name or prepared.config.translator} at {_size(prepared.config.data.resolution)}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} × {size[0]}"


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB"


def _rounded(value: float) -> float:
    """Two digits that matter."""
    return float(f"{value:.2g}")
