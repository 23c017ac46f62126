"""Configuration: frozen dataclasses, checked when they are made; recipes, configuration files and --set end here.

A configuration is layered: a recipe, then a TOML file, then `key=value` texts; the later one wins. Every fault of every
layer is collected and raised at once. Bounds, defaults and help stand beside each field, and nowhere else. Whether the
names of networks, objectives and penalties exist, and whether their arguments fit, is the translators' question: here
those arguments are plain values.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from img2img.config_keys import (
    LARGEST_INTEGER,
    NAME,
    Key,
    Unfit,
    Value,
    nearest,
    plain_number,
    read_argument,
    shown,
    toml,
    unfit,
)
from img2img.config_layers import (
    ADVERSARIAL,
    FURTHER_NETWORKS,
    PENALTIES,
    PLAYERS,
    Layer,
    Named,
    file_layer,
    merge,
    set_layer,
)
from img2img.errors import Fault, Faults, UsageFault

_NETWORK = "network"
# Keys of a table that are no arguments of what it names
_RESERVED = {_NETWORK: ("name",), ADVERSARIAL: ("name", "weight")}
ARRAYS_SUFFIX = ".npz"
_LARGEST_FILE = 1 << 20  # bytes; the longest recipe has two thousand


def _key(default: Any, help: str, **rules: Any) -> Any:
    """A dataclass field with the attributes of its Key."""
    return field(default=default, metadata={"help": help, **rules})


class _Section:
    """A table of the configuration. Making one checks every field, so a section out of bounds cannot exist."""

    table: ClassVar[str]

    def __post_init__(self) -> None:
        faults: list[Fault] = []
        for name, key in _keys_of(type(self)).items():
            try:
                object.__setattr__(self, name, key.read(getattr(self, name)))
            except Unfit:
                faults.append(unfit(key, key.name, getattr(self, name)))
        if faults:
            raise Faults(faults)


_keys_by_section: dict[type, dict[str, Key]] = {}


def _keys_of(section: type[Any]) -> dict[str, Key]:
    """Field name -> Key, for the fields that are plain values."""
    if section not in _keys_by_section:
        hints = typing.get_type_hints(section)
        prefix = f"{section.table}." if section.table else ""
        _keys_by_section[section] = {
            item.name: Key(
                f"{prefix}{item.name}",
                hints[item.name],
                default=None if item.default is dataclasses.MISSING else item.default,
                required=item.default is dataclasses.MISSING,
                **item.metadata,
            )
            for item in dataclasses.fields(section)
            if "help" in item.metadata
        }
    return _keys_by_section[section]


def _checked_arguments(table: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Value]:
    """Arguments given in Python, under the rules that hold for TOML."""
    checked: dict[str, Value] = {}
    for key, value in arguments.items():
        try:
            if key in _RESERVED.get(table, ()) or not NAME.fullmatch(key):
                raise Unfit
            checked[key] = read_argument(value)
        except Unfit:
            mend = "Give a finite number, true, false, a text or a list"
            raise UsageFault(f"{table} {name}: {key}", f"cannot be {shown(value)}", mend) from None
    return checked


@dataclass(frozen=True)
class RecipeInfo(_Section):
    """Where the configuration comes from; informative, read by people and reports."""

    table = "recipe"
    name: str = _key("", "name of the recipe; the run folder is called after it")
    title: str = _key("", "what the recipe is, in one line")
    paper: str = _key("", "authors, year and arXiv number of the method")
    expected: str = _key("", "what to expect of it, and what has not been measured")
    hardware: str = _key("", "what it needs")


@dataclass(frozen=True)
class DataConfig(_Section):
    """How pictures are found, decoded and brought to one size."""

    table = "data"
    resolution: tuple[int, int] = _key(
        (64, 64), "size to train at, [height, width] in pixels", minimum=4, maximum=4096, repeats=True
    )
    channels: int = _key(3, "1 grey, 3 RGB, 4 RGBA", choices=(1, 3, 4))
    channels_a: int | None = _key(
        None, "the same of a alone, what a translator reads; none = data.channels", choices=(1, 3, 4)
    )
    channels_b: int | None = _key(None, "the same of b alone, what it makes; none = data.channels", choices=(1, 3, 4))
    depth: int = _key(8, "bits of pictures with one channel; 16 keeps 16-bit grey unrounded", choices=(8, 16))
    fit: str = _key("crop", "cut to the target's proportions, or stretch to them", choices=("crop", "stretch"))
    direction: str = _key("a2b", "which way a method of one direction learns", choices=("a2b", "b2a"))
    workers: int = _key(0, "threads that decode; 0 = by the number of cores", minimum=0, maximum=256)
    cache_gb: float = _key(2.0, "memory for decoded pictures in GB; 0 = none", minimum=0.0, maximum=65536.0)
    skip_bad: bool = _key(False, "go on without unreadable pictures, up to a tenth of them")
    allow_truncated: bool = _key(False, "take pictures whose file is cut short")
    max_pixels: int = _key(178_956_970, "largest picture that is opened, in pixels", minimum=1, maximum=2**33)
    resize_pairs: bool = _key(False, "bring the halves of a pair to one size where they differ")
    pairs_policy: str = _key(
        "strict", "refuse pictures without a partner, or leave them out", choices=("strict", "intersect")
    )
    labels: int = _key(
        0,
        "number of classes where domain a of pairs holds label maps, whose colours stand for classes; 0 = pictures",
        minimum=0,
        maximum=256,
    )
    palette: str = _key(
        "", "colours of data.labels with commas between, such as #0000aa,#ff0000; empty = looked for in the maps"
    )
    stacked: bool = _key(False, "each channel is a grey picture of its own, three drawn at random: Stacked MNIST")

    @property
    def channels_of(self) -> dict[str, int]:
        """Channels of the domains "image", "a" and "b", the last two after data.direction."""
        a, b = (self.channels if own is None else own for own in (self.channels_a, self.channels_b))
        return {"image": self.channels, "a": a, "b": b}


@dataclass(frozen=True)
class NetworkConfig:
    """A network by its registered name and the arguments of its constructor."""

    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", _checked_arguments(_NETWORK, self.name, self.arguments))


@dataclass(frozen=True)
class Choice(_Section):
    """An objective by its registered name, its constants, and its weight in the generator's loss.

    The discriminator's half always has weight 1: only the generator weighs it against other terms.
    """

    table = ADVERSARIAL
    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    weight: float = _key(1.0, "weight of the adversarial term in the generator's loss", minimum=0.0, maximum=1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arguments", _checked_arguments(ADVERSARIAL, self.name, self.arguments))


@dataclass(frozen=True)
class LossConfig(_Section):
    """The objective, its penalties, and the weights of the image losses; None = not part of the method."""

    table = "loss"
    adversarial: Choice = Choice("nonsaturating")
    penalties: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    cycle: float | None = _key(None, "weight of the cycle-consistency loss", minimum=0.0, maximum=1e6)
    identity: float | None = _key(None, "weight of the identity loss", minimum=0.0, maximum=1e6)
    l1: float | None = _key(None, "weight of the L1 loss against the pair's target", minimum=0.0, maximum=1e6)
    nce: float | None = _key(
        None, "weight of telling a picture's translated patches from each other (CUT)", minimum=0.0, maximum=1e6
    )
    nce_identity: float | None = _key(
        None, "weight of the same loss for pictures that are in b already (CUT, not FastCUT)", minimum=0.0, maximum=1e6
    )
    style: float | None = _key(
        None, "weight of the distance from the style asked for to that of the result", minimum=0.0, maximum=1e6
    )
    diversity: float | None = _key(
        None, "weight of the distance between results of two styles, which is to grow", minimum=0.0, maximum=1e6
    )
    diversity_kimg: float | None = _key(
        None, "over so many kimg loss.diversity falls linearly to 0; none = it stays", above=0.0, maximum=1e7
    )
    feature_matching: float | None = _key(
        None,
        "weight of the distance between the discriminator's features of real and generated images: between their means "
        "before its last layer or, of pairs, image by image in every layer",
        minimum=0.0,
        maximum=1e6,
    )
    perceptual: float | None = _key(
        None, "weight of the distance from the pair's target in a network that sees", minimum=0.0, maximum=1e6
    )
    perceptual_network: str = _key(
        "vgg19",
        "the network of loss.perceptual, whose weights `img2img weights import` brings in",
        choices=("vgg19", "vgg16", "squeezenet1_0"),
    )
    classification: float | None = _key(
        None, "weight of telling the classes apart, for both players (ACGAN)", minimum=0.0, maximum=1e6
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        checked = {name: _checked_arguments(PENALTIES, name, arguments) for name, arguments in self.penalties.items()}
        object.__setattr__(self, "penalties", checked)


@dataclass(frozen=True)
class OptimConfig(_Section):
    """The optimiser of both players and its learning rates."""

    table = "optim"
    name: str = _key("adam", "optimiser", choices=("adam", "rmsprop", "sgd"))
    lr: float = _key(2e-4, "learning rate", above=0.0, maximum=1.0)
    discriminator_lr: float | None = _key(
        None, "the discriminator's own learning rate (TTUR); none = optim.lr", above=0.0, maximum=1.0
    )
    betas: tuple[float, float] = _key((0.5, 0.999), "Adam's averaging factors", minimum=0.0, below=1.0)
    decay_share: float = _key(
        0.0,
        "share of the run, at its end, over which the learning rate falls linearly to zero; 0 = constant",
        minimum=0.0,
        maximum=1.0,
    )


@dataclass(frozen=True)
class TrainConfig(_Section):
    """Length, batch, seed, averaging and output of a run. One kimg is a thousand images seen."""

    table = "train"
    kimg: float = _key(100.0, "length of the run in thousands of images", above=0.0, maximum=1e7)
    batch: int = _key(16, "images per generator step, over all processes", minimum=1, maximum=65536)
    accumulate: int = _key(1, "micro-batches that make one step; must divide train.batch", minimum=1, maximum=65536)
    seed: int = _key(0, "seed of every random draw", minimum=0, maximum=LARGEST_INTEGER)
    critic_steps: int = _key(1, "discriminator steps per generator step", minimum=1, maximum=100)
    sample_kimg: float = _key(
        1.0, "a sample grid at the start and then every so many kimg; 0 = start and end only", minimum=0.0, maximum=1e7
    )
    state_kimg: float = _key(
        10.0, "the training state is saved every so many kimg; 0 = at the end only", minimum=0.0, maximum=1e7
    )
    log_kimg: float = _key(0.1, "a line in log.jsonl every so many kimg", above=0.0, maximum=1e7)
    eval_kimg: float = _key(
        0.0, "the averaged generator is measured every so many kimg and at the end; 0 = never", minimum=0.0, maximum=1e7
    )
    keep_last: int = _key(2, "training states that are kept", minimum=1, maximum=100_000)
    keep_every: float = _key(
        0.0, "beside the last ones a state every so many kimg is kept for good; 0 = none", minimum=0.0, maximum=1e7
    )
    ema_kimg: float = _key(
        10.0, "half-life in kimg of the averaged generator that is kept; 0 = no averaging", minimum=0.0, maximum=1e6
    )
    ema_rampup: float = _key(
        0.05, "the half-life is at most this share of the images seen; 0 = no warm-up", minimum=0.0, maximum=100.0
    )
    image_pool: int = _key(
        0, "past outputs shown to each discriminator beside new ones; 0 = none", minimum=0, maximum=100_000
    )
    unroll: int = _key(
        0, "steps that the discriminator is looked ahead in the generator's step (unrolled GAN)", minimum=0, maximum=100
    )
    label_dropout: float = _key(
        0.0,
        "share of the images whose class is kept from both players, so that the model also makes pictures of any class",
        minimum=0.0,
        below=1.0,
    )
    scales: int = _key(
        1,
        "sizes at which translations are judged, each half the one before and by a discriminator of its own",
        minimum=1,
        maximum=8,
    )
    packing: int = _key(1, "samples that the discriminator judges together (PacGAN)", minimum=1, maximum=64)
    generators: int = _key(1, "generators that share the work; noise decides which one", minimum=1, maximum=64)
    top_k: float = _key(
        1.0,
        "share of its samples, the most realistic ones, that the generator learns from in the end",
        above=0.0,
        maximum=1.0,
    )
    precision: str = _key("auto", "arithmetic of the networks", choices=("auto", "float32", "bfloat16", "float64"))
    threads: int = _key(0, "threads of one CPU process; 0 = torch's own choice", minimum=0, maximum=1024)
    auto_batch: bool = _key(
        False, "where a step does not fit into memory, halve its micro-batches and go on; the gradients stay the same"
    )
    watchdog: str = _key(
        "warn",
        "what a fault that the log tells of does: a warning, an end with exit code 4, a return to the last state "
        "before it at half the learning rates, or nothing, since nothing is watched",
        choices=("warn", "stop", "rollback", "off"),
    )


@dataclass(frozen=True)
class GrowthConfig(_Section):
    """Progressive growing: from small pictures to data.resolution, each new resolution fading in."""

    table = "growth"
    start: int = _key(0, "shorter side of the first pictures, in pixels; 0 = no growing", minimum=0, maximum=4096)
    stable_kimg: float = _key(
        600.0, "at each resolution, before the next one fades in, in kimg", minimum=0.0, maximum=1e6
    )
    fade_kimg: float = _key(600.0, "over which a new resolution fades in, in kimg", minimum=0.0, maximum=1e6)
    max_batch: int = _key(
        0,
        "the batch doubles at each coarser resolution, up to this; 0 = train.batch throughout",
        minimum=0,
        maximum=65536,
    )


@dataclass(frozen=True)
class AugmentConfig(_Section):
    """Random changes of every training picture, and of all that discriminators see; halves of a pair get the same."""

    table = "augment"
    flip: bool = _key(False, "mirror left to right with probability one half")
    enlarge: float = _key(
        1.0, "load at this multiple of data.resolution and cut out a random window", minimum=1.0, maximum=4.0
    )
    zoom: tuple[float, float] = _key((1.0, 1.0), "smallest and largest random magnification", minimum=0.1, maximum=10.0)
    discriminator: str = _key(
        "none",
        "change what discriminators see, real and generated: always, or as often as they overfit",
        choices=("none", "diffaugment", "ada"),
    )
    parts: str = _key(
        "",
        "names with commas between; diffaugment: colour,translation,cutout (all by default); ada: "
        "blit,geometry,colour (these by default), filter,noise,cutout",
    )
    p: float = _key(
        0.0, "ada: probability of each change, at the start where augment.target moves it", minimum=0.0, maximum=1.0
    )
    target: float = _key(
        0.6,
        "ada: p rises while the mean sign of what discriminators say of real images is above this, else falls; "
        "0 = p stays as it is",
        minimum=0.0,
        below=1.0,
    )
    speed_kimg: float = _key(500.0, "ada: thousands of images in which p can go from 0 to 1", above=0.0, maximum=1e6)
    interval: int = _key(4, "ada: discriminator steps between two moves of p", minimum=1, maximum=10_000)

    @property
    def is_adaptive(self) -> bool:
        """What discriminators say moves augment.p."""
        return self.discriminator == "ada" and self.target > 0


@dataclass(frozen=True)
class EvalConfig(_Section):
    """What is measured during training, every train.eval_kimg, and what follows from it."""

    table = "eval"
    measures: str = _key(
        "fd,kid", "what is measured: names with commas between, of those that `evaluate --measure list` shows"
    )
    best: str = _key("", "the measure or score that decides which model is the best; empty = the first measure")
    patience: int = _key(
        0,
        "training ends after so many evaluations in a row without a better one; 0 = never",
        minimum=0,
        maximum=100_000,
    )
    count: int = _key(
        1000, "pictures made and as many real ones compared, at most what the data hold", minimum=2, maximum=100_000
    )
    extractor: str = _key("inception-2015", "the network that looks at the pictures")
    weights: str = _key("", "its weights, a .safetensors file; empty = what `img2img weights` brought in")
    resize: str = _key("", "how pictures reach its size; empty = the extractor's own way")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on but its data: from --set to constructor argument, each key has one name."""

    table: ClassVar[str] = ""
    translator: str = field(
        metadata={"help": "method: unconditional, conditional, points, pix2pix, cyclegan, cut, starganv2"}
    )
    recipe: RecipeInfo = field(default_factory=RecipeInfo)
    data: DataConfig = field(default_factory=DataConfig)
    generator: NetworkConfig
    discriminator: NetworkConfig
    projection: NetworkConfig | None = None
    mapping: NetworkConfig | None = None
    style_encoder: NetworkConfig | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        try:
            KEYS["translator"].read(self.translator)
        except Unfit:
            raise unfit(KEYS["translator"], "translator", self.translator) from None
        faults = [fault for _, fault in _cross_faults(self.data, self.train, self.optim, self.augment)]
        if faults:
            raise Faults(faults)


_SECTIONS: dict[str, type[_Section]] = {
    section.table: section
    for section in (
        RecipeInfo,
        DataConfig,
        LossConfig,
        OptimConfig,
        TrainConfig,
        GrowthConfig,
        AugmentConfig,
        EvalConfig,
    )
}
_TABLES = (
    "recipe", "data", *PLAYERS, *FURTHER_NETWORKS, "loss", ADVERSARIAL, PENALTIES, "optim", "train", "growth",
    "augment", "eval"
)  # fmt: skip
KEYS: dict[str, Key] = {
    key.name: key
    for section in typing.cast(list[type[Any]], [Config, *_SECTIONS.values(), Choice])
    for key in _keys_of(section).values()
}

# Keys that say how a run is served, shown and measured, not what it learns: a resumed run may change them.
HARMLESS_ON_RESUME = frozenset(
    {
        *(key for key in KEYS if key.startswith(("recipe.", "eval."))),
        "data.workers",
        "data.cache_gb",
        "train.sample_kimg",
        "train.state_kimg",
        "train.log_kimg",
        "train.eval_kimg",
        "train.keep_last",
        "train.keep_every",
        "train.threads",
        "train.auto_batch",
        "train.watchdog",
    }
)


def _cross_faults(
    data: DataConfig, train: TrainConfig, optim: OptimConfig, augment: AugmentConfig
) -> Iterator[tuple[frozenset[str], Fault]]:
    """Faults between keys that are each in bounds, with the keys they are about."""
    zoom = augment.zoom
    if data.stacked and data.channels != 3:
        yield (
            frozenset({"data.stacked", "data.channels"}),
            UsageFault(
                "data.stacked",
                f"puts three grey pictures into three channels, data.channels = {data.channels}",
                "Set data.channels=3",
            ),
        )
    if train.batch % train.accumulate:
        yield (
            frozenset({"train.batch", "train.accumulate"}),
            UsageFault(
                "train.accumulate",
                f"{train.accumulate} micro-batches do not divide train.batch = {train.batch} evenly",
                f"Use a divisor of {train.batch}, or change train.batch",
            ),
        )
    micro = train.batch // train.accumulate
    if micro % train.packing:
        each = " / train.accumulate" if train.accumulate > 1 else ""
        yield (
            frozenset({"train.batch", "train.accumulate", "train.packing"}),
            UsageFault(
                "train.packing",
                f"{train.packing} samples at once do not divide train.batch{each} = {micro} evenly",
                f"Use a divisor of {micro}, or change train.batch",
            ),
        )
    if zoom[0] > zoom[1]:
        yield (
            frozenset({"augment.zoom"}),
            UsageFault(
                "augment.zoom",
                f"the smallest magnification {plain_number(zoom[0])} is above the largest {plain_number(zoom[1])}",
                f"Write the smaller one first: [{plain_number(zoom[1])}, {plain_number(zoom[0])}]",
            ),
        )
    yield from _augmentation_faults(augment)


def _augmentation_faults(augment: AugmentConfig) -> Iterator[tuple[frozenset[str], Fault]]:
    """Keys of an augmentation that is not chosen, and one that would never change anything."""
    method = augment.discriminator
    takes = {"parts": ("diffaugment", "ada")} | dict.fromkeys(("p", "target", "speed_kimg", "interval"), ("ada",))
    for name, methods in takes.items():
        if method not in methods and getattr(augment, name) != getattr(AugmentConfig, name):
            problem = (
                "nothing changes what discriminators see" if method == "none" else "diffaugment changes every image"
            )
            yield (
                frozenset({"augment.discriminator", f"augment.{name}"}),
                UsageFault(
                    f"augment.{name}",
                    f"has no effect: augment.discriminator is {method}, {problem}",
                    f"Set augment.discriminator={' or '.join(methods)}, or leave it out",
                ),
            )
    if method == "ada" and augment.p == 0 and augment.target == 0:
        yield (
            frozenset({"augment.p", "augment.target"}),
            UsageFault(
                "augment.p",
                "stays 0, which changes no image: augment.target = 0 does not move it",
                "Set augment.p, such as 0.2, or augment.target=0.6",
            ),
        )


def _build(layer: Layer) -> Config:
    """The configuration of a merged layer; raises all its faults at once."""
    faults = list(layer.faults)
    further = [table for table in FURTHER_NETWORKS if layer.named[table].values]
    for key in ("translator", *(f"{table}.name" for table in (*PLAYERS, *further))):
        table, _, name = key.rpartition(".")
        present = name in layer.named[table].values if table else key in layer.values
        if not present and key not in layer.faulty_keys:
            mend = "Set it, or begin with a recipe (`img2img recipes list` lists them)"
            if table in further:
                mend = f"Set it, or remove the other keys of {table}"
            faults.append(UsageFault(key, "is missing", mend))
    sections: dict[str, Any] = {table: section(**_fields(layer, section)) for table, section in _SECTIONS.items()}
    # A faulty key stands at its default here: what that breaks is no fault of its own
    faults += [
        fault
        for keys, fault in _cross_faults(*(sections[table] for table in ("data", "train", "optim", "augment")))
        if not keys & layer.faulty_keys
    ]
    if faults:
        raise Faults(faults)
    sections |= {table: _network(layer.named[table]) for table in (*PLAYERS, *further)}
    return Config(translator=layer.values["translator"], **sections)


def _fields(layer: Layer, section: type[_Section]) -> dict[str, Any]:
    """What the layer sets of a section."""
    keys = _keys_of(section)
    values = {name: layer.values[key.name] for name, key in keys.items() if key.name in layer.values}
    if section is LossConfig:
        objective: dict[str, Any] = dict(layer.named[ADVERSARIAL].values)
        name = objective.pop("name", LossConfig.adversarial.name)
        values["adversarial"] = Choice(name, weight=objective.pop("weight", Choice.weight), arguments=objective)
        values["penalties"] = layer.penalties.tables
    return values


def _network(table: Named) -> NetworkConfig:
    arguments = dict(table.values)
    return NetworkConfig(str(arguments.pop("name")), arguments)


# --- What other modules call


def recipe_names() -> list[str]:
    """The names of the recipes that ship with the package, sorted."""
    from importlib.resources import files

    names = (entry.name for entry in files("img2img.recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """A recipe as it was written, comments and all; UsageFault names the nearest recipes when there is none."""
    from importlib.resources import files

    names = recipe_names()
    if name not in names:
        near = nearest(name, names)
        mend = f"Did you mean {' or '.join(near)}?" if near else "`img2img recipes list` lists them"
        raise UsageFault(f"recipe {name}", "there is no such recipe", mend)
    return files("img2img.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def load_recipe(name: str) -> Config:
    """The configuration of a recipe."""
    return from_toml(recipe_text(name), f"{name}.toml")


def from_toml(text: str, origin: str = "config.toml") -> Config:
    """A complete configuration from its TOML text; `origin` names it in messages. Raises Faults with all its faults."""
    return _build(file_layer(KEYS, text, origin))


def read_toml(path: str | Path) -> Config:
    """A complete configuration from a file, such as the config.toml of a run."""
    return from_toml(_read_file(Path(path)), str(path))


def resolve(
    recipe: str | None = None, config_file: str | Path | None = None, sets: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """The configuration of a run: a recipe, under a TOML file, under `key=value` texts or a mapping from key to value.

    The file may hold a few keys to lay over the recipe, or be complete (it names its translator) and stand without
    one. Naming another network or objective drops the arguments that belonged to the old one; `loss.penalties=r1,r2`
    replaces the penalties below it, and a table such as `[loss.penalties.r1]` is laid over them.

    Raises:
        Faults: everything that is wrong, each with the nearest known keys where a key is unknown.
    """
    layers: list[Layer] = []
    faults: list[Fault] = []
    if recipe is None and config_file is None:
        faults.append(
            UsageFault("RECIPE", "is missing", "Name one (`img2img recipes list` lists them), or give --config FILE")
        )
    if recipe is not None:
        try:
            layers.append(file_layer(KEYS, recipe_text(recipe), f"{recipe}.toml"))
        except UsageFault as fault:
            faults.append(fault)
    if config_file is not None:
        try:
            layers.append(file_layer(KEYS, _read_file(Path(config_file)), str(config_file)))
            if recipe is not None and "translator" in layers[-1].values:
                mend = "Leave out the recipe, or take the line `translator = ...` out of the file"
                problem = f"is a complete configuration, so the recipe {recipe} would not count"
                faults.append(UsageFault(config_file, problem, mend))
        except UsageFault as fault:
            faults.append(fault)
    overrides = set_layer(KEYS, sets)
    if faults:  # without its foundation a configuration would only seem to lack keys
        raise Faults([*faults, *(fault for layer in (*layers, overrides) for fault in layer.faults)])
    return _build(merge(KEYS, [*layers, overrides]))


def _read_file(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would block, and a folder has no text
            problem = "is no regular file" if path.exists() else "there is no such file"
            raise UsageFault(path, problem, "Give the path of a TOML file")
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageFault(path, "is over 1 MiB, too long for a configuration", "Give the path of a TOML file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageFault(path, f"cannot be read ({error.strerror})", "Check its permissions") from None
    except ValueError:  # not UTF-8, or a path with a zero byte
        raise UsageFault(path, "is not UTF-8 text", "Save it as UTF-8") from None


def as_dict(config: Config) -> dict[str, Any]:
    """Every key with its value, flat: {"train.batch": 16, ...}; arguments follow the name of what takes them."""
    flat: dict[str, Any] = {"translator": config.translator}
    for item in dataclasses.fields(config)[1:]:
        section = getattr(config, item.name)
        if section is None:
            continue
        if isinstance(section, NetworkConfig):
            flat |= _flat_named(item.name, section)
            continue
        if isinstance(section, LossConfig):
            flat |= _flat_named(ADVERSARIAL, section.adversarial)
            flat[f"{ADVERSARIAL}.weight"] = section.adversarial.weight
            flat[PENALTIES] = tuple(sorted(section.penalties))
            for name, arguments in sorted(section.penalties.items()):
                flat |= {f"{PENALTIES}.{name}.{key}": value for key, value in sorted(arguments.items())}
        flat |= {key.name: getattr(section, name) for name, key in _keys_of(type(section)).items()}
    return flat


def _flat_named(table: str, named: NetworkConfig | Choice) -> dict[str, Any]:
    return {
        f"{table}.name": named.name,
        **{f"{table}.{key}": value for key, value in sorted(named.arguments.items())},
    }


def describe_keys() -> list[dict[str, str]]:
    """Every key for a listing: "key", what it "takes", its "default" ("" where there is none), and "help"."""
    name = "a registered name"
    argument = "a number, true or false, a text or a list"
    constructor = ("ARGUMENT", argument, "", "argument of its constructor")
    named = {
        **{table: [("name", name, "", "network"), constructor] for table in PLAYERS},
        **{
            table: [("", f"{name}, or none", "none", "network, of methods that need it"), constructor]
            for table in FURTHER_NETWORKS
        },
        ADVERSARIAL: [
            ("name", name, toml(LossConfig.adversarial.name), "objective; `loss.adversarial=NAME` takes its defaults"),
            ("CONSTANT", argument, "", "constant of the objective"),
        ],
        PENALTIES: [
            (
                "",
                "names, such as r1,gradient_penalty, or none",
                "none",
                "penalties with their own defaults, in place of all others",
            ),
            ("NAME.CONSTANT", argument, "", "constant of a penalty, such as weight or every"),
        ],
    }
    rows: list[tuple[str, ...]] = []
    for table in ("", *_TABLES):
        section = _SECTIONS.get(table, Choice if table == ADVERSARIAL else Config if not table else None)
        keys = _keys_of(section).values() if section else ()
        rows += [(f"{table}.{name}".rstrip("."), *rest) for name, *rest in named.get(table, ())]
        for key in keys:
            default = "none" if key.optional else "" if key.required else toml(key.default)
            rows.append((key.name, key.allowed(), default, key.help))
    return [dict(zip(("key", "takes", "default", "help"), row, strict=True)) for row in rows]


def overlaid(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with other values for some keys, as --set gives them; raises Faults where that is none."""
    return _build(merge(KEYS, [file_layer(KEYS, to_toml(config), ""), set_layer(KEYS, changes)]))


def changed_keys(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every key that differs; None for a key that one of them lacks."""
    before, after = as_dict(old), as_dict(new)
    return [
        (key, before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def refused_changes(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """What forbids a run that began with `old` to go on with `new`: (key, old value, new value), empty when it may.

    The keys of HARMLESS_ON_RESUME may change and train.kimg may grow: neither changes what was computed so far.
    """
    return [
        (key, before, after)
        for key, before, after in changed_keys(old, new)
        if key not in HARMLESS_ON_RESUME and not (key == "train.kimg" and after > before)
    ]


def to_toml(config: Config) -> str:
    """The configuration as TOML, every key of it: from_toml(to_toml(c)) == c. Keys whose value is none are left out."""
    lines = [f"translator = {toml(config.translator)}"]
    for item in dataclasses.fields(config)[1:]:
        section = getattr(config, item.name)
        if section is None:
            continue
        if isinstance(section, NetworkConfig):
            lines += _toml_table(item.name, {"name": section.name, **dict(sorted(section.arguments.items()))})
            continue
        values = {name: getattr(section, name) for name in _keys_of(type(section))}
        if isinstance(section, LossConfig):
            if not section.penalties:
                values["penalties"] = ()
            chosen = section.adversarial
            objective = {"name": chosen.name, "weight": chosen.weight, **dict(sorted(chosen.arguments.items()))}
            lines += _toml_table(item.name, values)
            lines += _toml_table(ADVERSARIAL, objective)
            for name, arguments in sorted(section.penalties.items()):
                lines += _toml_table(f"{PENALTIES}.{name}", dict(sorted(arguments.items())))
        else:
            lines += _toml_table(item.name, values)
    return "\n".join(lines) + "\n"


def _toml_table(name: str, values: Mapping[str, Value | None]) -> list[str]:
    return ["", f"[{name}]", *(f"{key} = {toml(value)}" for key, value in values.items() if value is not None)]


@dataclass(frozen=True)
class DataPaths:
    """The folders that a run learns from; exactly one kind is given.

    Attributes:
        images: a folder of pictures, or an .npz file of them.
        classes: a folder of class folders, or an .npz file of pictures and labels.
        a, b: two unpaired folders.
        pairs: one folder of side-by-side pictures, or two folders paired by stem.
        worlds: names of toy worlds, whose points are drawn without end; of several, each is a game of its own.
    """

    images: Path | None = None
    classes: Path | None = None
    a: Path | None = None
    b: Path | None = None
    pairs: tuple[Path, ...] = ()
    worlds: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """ "images", "classes", "unpaired", "pairs" or "points"; "" when nothing is given."""
        if self.a is not None or self.b is not None:
            return "unpaired"
        if self.worlds:
            return "points"
        return "images" if self.images else "classes" if self.classes else "pairs" if self.pairs else ""

    def folders(self) -> dict[str, Path]:
        """Option -> folder, of all that is given."""
        named = {"--images": self.images, "--classes": self.classes, "--a": self.a, "--b": self.b}
        named |= {f"--pairs {number}": path for number, path in enumerate(self.pairs, start=1)}
        return {option: path for option, path in named.items() if path is not None}

    def faults(self) -> list[Fault]:
        """Why these folders cannot be trained from: missing, of several kinds, one without the other."""
        choose = "Give --images DIR, --classes DIR, --a DIR --b DIR, --pairs DIR [DIR], or --world NAME"
        folders = self.folders()
        if self.worlds and not folders:
            return []
        if not folders:
            return [UsageFault("data", "nothing to learn from is named", choose)]
        kinds = list(dict.fromkeys({"--a": "--a/--b", "--b": "--a/--b"}.get(o, o.split()[0]) for o in folders))
        faults: list[Fault] = []
        kinds += ["--world"] if self.worlds else []
        if len(kinds) > 1:
            faults.append(UsageFault("data", f"{' and '.join(kinds)} exclude each other", choose))
        for given, absent in (("--a", "--b"), ("--b", "--a")):
            if given in folders and absent not in folders:
                mend = f"Give {absent} too, or --images DIR for a single folder"
                faults.append(UsageFault(given, f"stands without {absent}", mend))
        if len(self.pairs) > 2:
            mend = "Give one folder of side-by-side pictures or two folders"
            faults.append(UsageFault("--pairs", f"has {len(self.pairs)} folders", mend))
        for option, path in folders.items():
            takes_arrays = option in ("--images", "--classes") and path.suffix.lower() == ARRAYS_SUFFIX
            if not (path.is_dir() or (takes_arrays and path.is_file())):
                problem = f"{path} is a file, not a folder" if path.exists() else f"there is no folder {path}"
                faults.append(UsageFault(option.split()[0], problem, "Check the path"))
        return faults
