"""Games whose answers are known, played by the engine itself: numbers and pictures of docs/results/objectives.md.

    python tests/bench/theory.py dirac gaussian shifts --out docs/results/objectives

Each name prints a Markdown table of what theory says beside what the engine did, and draws a picture. The tests of
tests/training/test_theory.py play the same games for fewer steps.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from img2img import translators
from img2img.config import resolve
from img2img.data.encode import save_image
from img2img.data.pictures import write_gif
from img2img.data.values import to_uint8
from img2img.data.worlds import PointLoader, PointSource, PointWorld, find_world, shifted
from img2img.distributed import World
from img2img.errors import Fault, Faults
from img2img.metrics.divergences import cells, compare_shifts, gaussian, js
from img2img.training.engine import Engine, EngineSettings
from img2img.training.precision import choose_precision
from img2img.training.prepare import Prepared, step_batches
from img2img.translators.base import DataShape

# what the recipe gains must not change these games
_PLAIN = ("train.generators=1", "optim.decay_share=0")


def make_game(sets: Sequence[str], worlds: Sequence[PointWorld]) -> Prepared:
    """The recipe `points` with one plain generator and constant learning rates, and `sets`; a member for each world.

    Raises:
        Faults: a key is wrong, or what it chooses does not fit the rest.
    """
    config = resolve("points", None, (*_PLAIN, *sets))
    faults = translators.check(config)
    if faults:
        raise Faults(faults)
    source = PointSource(worlds)
    precision = choose_precision(config.train.precision, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        translator, specs = translators.build(config, DataShape((1, 1), source.channels, members=len(worlds)))
    engine = Engine(translator, translators.make_penalties(config), EngineSettings.of(config), precision, World())
    loader = PointLoader(source, seed=config.train.seed, dtype=precision.dtype)
    return Prepared(config, source, loader, engine, specs, loader.batch(np.arange(2500)), World(), precision)


def play(game: Prepared, steps: int) -> Iterator[Engine]:
    """The engine after each of `steps` steps."""
    for _ in range(steps):
        game.engine.train_step(step_batches(game))
        yield game.engine


# --- Dirac-GAN --------------------------------------------------------------------------------------------------------
# Data are the point 0, G is the point theta, D(x) = psi * x (Mescheder et al. 2018, arXiv:1801.04406, section 2). The
# only equilibrium is (psi, theta) = (0, 0). With plain gradient steps of rate h, first D then G, and losses whose slopes
# at logit 0 are those of softplus, 1/2, the update of small (psi, theta) is linear:
#   psi'   = (1 - h*damping_d) * psi - a * theta              a = h * slope
#   theta' = a * psi' + (1 - h*damping_g) * theta

RATE = 0.1
START = 1.0
FAR = 2**0.5 * START


def linear_radius(slope: float, damping_d: float = 0.0, damping_g: float = 0.0, rate: float = RATE) -> float:
    """The largest modulus among the eigenvalues of the update above: below 1 the equilibrium attracts."""
    a, d, g = rate * slope, 1 - rate * damping_d, 1 - rate * damping_g
    update = np.array([[d, -a], [a * d, g - a * a]])
    return float(np.abs(np.linalg.eigvals(update)).max())


def critical_r1(rate: float = RATE) -> float:
    """The gamma of r1 at which both eigenvalues meet and become real: (psi, theta) then comes home fastest.

    Trace 2 - h*gamma - a^2 and determinant 1 - h*gamma give the discriminant (h*gamma + a^2)^2 - 4*a^2, which is zero at
    h*gamma = 2a - a^2. With a = h/2: gamma = 1 - h/4, in continuous time (h -> 0) gamma = 1; the modulus is 1 - h/2.
    """
    return 1 - rate / 4


@dataclass(frozen=True)
class Dirac:
    """One choice in the Dirac-GAN and what theory says of it.

    Attributes:
        sets: `key=value` texts over the recipe.
        radius: spectral radius of the update at the equilibrium; None where the update has a kink there.
        converges: whether (psi, theta) comes home, whatever the radius.
        remark: why, in a few words.
        distance: from home after so many steps of RATE, where theory gives it; None where it does not.
    """

    name: str
    sets: tuple[str, ...]
    radius: float | None
    converges: bool
    remark: str
    distance: Callable[[int], float] | None = None


def _slow(strength: float) -> Callable[[int], float]:
    """Distance r after n steps where r^2 falls by strength * r^4 on average over a turn: algebraic, not geometric."""
    return lambda steps: (1 / FAR**2 + strength * RATE * steps) ** -0.5


def _objective(name: str, *more: str) -> tuple[str, ...]:
    return (f"loss.adversarial={name}", "loss.penalties=none", *more)


def _penalty(name: str, weight: float | None, *more: str, objective: str = "nonsaturating") -> tuple[str, ...]:
    weights = () if weight is None else (f"loss.penalties.{name}.weight={weight}",)
    return (f"loss.adversarial={objective}", f"loss.penalties={name}", *weights, *more)


CRITICAL = critical_r1()
CLIP = 0.5
KINK_WEIGHT = 1.0

DIRAC: tuple[Dirac, ...] = (
    Dirac("minimax", _objective("minimax"), linear_radius(0.5), False, "a circle for ever"),
    Dirac(
        "nonsaturating",
        _objective("nonsaturating"),
        linear_radius(0.5),
        True,
        "no faster than 1/sqrt(steps)",
        # d(r^2)/dt = -2 psi theta tanh(psi theta / 2) = -psi^2 theta^2 for small r, which is r^4/8 on average
        _slow(1 / 8),
    ),
    Dirac("wgan", _objective("wgan"), linear_radius(1.0), False, "an ellipse for ever"),
    Dirac("hinge", _objective("hinge"), linear_radius(1.0), False, "as wgan while D stays within ±1"),
    Dirac(
        "lsgan, a = -1, b = c = 1",
        _objective("lsgan", "loss.adversarial.a=-1"),
        linear_radius(1.0),
        True,
        "no faster than 1/sqrt(steps)",
        _slow(1 / 2),  # d(r^2)/dt = -4 psi^2 theta^2
    ),
    Dirac(
        "relativistic",
        _objective("relativistic"),
        linear_radius(0.5),
        True,
        "as nonsaturating: D(0) = 0",
        _slow(1 / 8),
    ),
    Dirac(
        "relativistic_average",
        _objective("relativistic_average"),
        linear_radius(1.0),
        True,
        "two such terms",
        _slow(1 / 4),
    ),
    *(
        Dirac(
            f"r1, γ = {gamma:g}{' (critical)' if gamma == CRITICAL else ''}",
            _penalty("r1", gamma),
            linear_radius(0.5, gamma),
            True,
            "",
        )
        for gamma in (0.1, 0.5, CRITICAL, 1.0, 2.0, 10.0)
    ),
    Dirac("r2, γ = 0.5", _penalty("r2", 0.5), linear_radius(0.5, 0.5), True, "D's slope is the same everywhere"),
    Dirac(
        "zero_centered_gp, λ = 0.25",
        _penalty("zero_centered_gp", 0.25),
        linear_radius(0.5, 0.5),
        True,
        "r1 with γ = 2λ",
    ),
    Dirac(
        "relativistic, r1 + r2, γ = 0.25",
        (
            "loss.adversarial=relativistic",
            "loss.penalties=r1,r2",
            "loss.penalties.r1.weight=0.25",
            "loss.penalties.r2.weight=0.25",
        ),
        linear_radius(0.5, 0.5),
        True,
        "r1 with twice the γ",
    ),
    Dirac("consensus, γ = 1", _penalty("consensus", 1.0), linear_radius(0.5, 0.25, 0.25), True, "γ/4 on both players"),
    Dirac(
        "instance_noise, σ = 1",
        _penalty("instance_noise", None, "loss.penalties.instance_noise.std=1", "train.batch=4096"),
        linear_radius(0.5, 0.5),
        True,
        "as r1 with γ = σ²/2, on average",
    ),
    Dirac(
        "unroll = 5",
        _objective("nonsaturating", "train.unroll=5"),
        linear_radius(0.5, 0.0, 5 * RATE / 2),
        True,
        "damps G",
    ),
    Dirac("drift", _penalty("drift", 10.0, objective="minimax"), linear_radius(0.5), False, "D(0) = 0: no force"),
    Dirac(
        "lecam, λ = 0.3",
        _penalty("lecam", 0.3, objective="minimax"),
        linear_radius(0.5),
        True,
        "no faster than 1/sqrt(steps)",
        _slow(0.15),  # d(r^2)/dt = -4 λ psi^2 theta^2
    ),
    Dirac(
        "wgan, weight_clip c = 0.5",
        _penalty("weight_clip", None, f"loss.penalties.weight_clip.c={CLIP}", objective="wgan"),
        linear_radius(1.0),
        False,
        "onto the largest ellipse with ψ in ±c",
        lambda steps: CLIP,
    ),
    Dirac(
        "wgan, gradient_penalty λ = 1",
        _penalty("gradient_penalty", KINK_WEIGHT, objective="wgan"),
        None,
        False,
        "pushed to ψ = ±1",
    ),
    Dirac("dragan, λ = 1", _penalty("dragan", KINK_WEIGHT), None, False, "pushed to ψ = ±1"),
)


def dirac_game(sets: Sequence[str], steps: int = 2000) -> Prepared:
    """The Dirac-GAN at (START, START), plain gradient steps in float64."""
    common = (
        "generator=constant",
        f"generator.start={START}",
        "discriminator=linear",
        f"discriminator.start={START}",
        "optim.name=sgd",
        f"optim.lr={RATE}",
        "optim.decay_share=0",
        "train.batch=4",
        "train.ema_kimg=0",
        "train.precision=float64",
    )
    batch = next((int(text.split("=")[1]) for text in sets if text.startswith("train.batch=")), 4)
    return make_game((*common, f"train.kimg={steps * batch / 1000}", *sets), [find_world("dirac")])


def position(engine: Engine) -> Tensor:
    """(psi, theta)."""
    networks = engine.translator
    return torch.cat((networks.discriminator.slope.detach().flatten(), networks.generator.point.detach().flatten()))


def one_step(game: Prepared, start: Tensor) -> Tensor:
    """Where the first step of the run leads from (psi, theta) = `start`."""
    engine = game.engine
    with torch.no_grad():
        engine.translator.discriminator.slope.fill_(start[0])
        engine.translator.generator.point.fill_(start[1])
    engine.step = 0
    engine.go_to(0)
    engine.variables.clear()
    next(play(game, 1))
    return position(engine)


def measured_update(game: Prepared, reach: float = 1e-4) -> Tensor:
    """(2, 2): the derivative of one step of the engine at (0, 0), by central differences over ± reach."""
    directions = reach * torch.eye(2, dtype=torch.float64)
    return torch.stack([(one_step(game, way) - one_step(game, -way)) / (2 * reach) for way in directions], dim=1)


def radius_of(update: Tensor) -> float:
    return torch.linalg.eigvals(update).abs().max().item()


def trajectory(game: Prepared, steps: int) -> np.ndarray:
    """(steps + 1, 2): (psi, theta) from the start on."""
    return torch.stack([position(game.engine), *(position(engine) for engine in play(game, steps))]).numpy()


# --- a Gaussian on the line -------------------------------------------------------------------------------------------
# Data are N(m, s^2), G(z) = w*z + b with z ~ N(0, 1), so q = N(b, w^2), and D's logit is a quadratic, as log p/q is.


def log_ratio(mean: float, std: float, fake_mean: float, fake_std: float) -> Tensor:
    """log p/q of N(mean, std²) and N(fake_mean, fake_std²) as (curvature, slope, offset) of x², x and 1, float64."""
    curvature = 1 / (2 * fake_std**2) - 1 / (2 * std**2)
    slope = mean / std**2 - fake_mean / fake_std**2
    offset = fake_mean**2 / (2 * fake_std**2) - mean**2 / (2 * std**2) + math.log(fake_std / std)
    return torch.tensor([curvature, slope, offset], dtype=torch.float64)


def gaussian_game(sets: Sequence[str], members: int = 1, steps: int = 1000) -> Prepared:
    """The 1-D Gaussian with a linear generator and a quadratic discriminator, in float64."""
    batch = next((int(text.split("=")[1]) for text in sets if text.startswith("train.batch=")), 256)
    common = (
        "generator.layers=0",
        "generator.latent_dim=1",
        "discriminator=quadratic",
        "loss.adversarial=nonsaturating",
        "loss.penalties=none",
        "train.precision=float64",
        f"train.batch={batch}",
        f"train.kimg={steps * batch / 1000}",
    )
    return make_game((*common, *sets), [find_world("gaussian")] * members)


def place_generator(game: Prepared, mean: float, std: float) -> None:
    """Every member's generator makes N(mean, std²)."""
    with torch.no_grad():
        last = game.engine.translator.generator.last
        last.weight.fill_(std)
        last.bias.fill_(mean)


def coefficients(engine: Engine) -> Tensor:
    """(R, 3): curvature, slope and offset of each member's discriminator."""
    network = engine.translator.discriminator
    return torch.cat((network.curvature, network.slope, network.offset[:, None]), dim=1).detach()


def generated(engine: Engine) -> Tensor:
    """(R, 2): mean and standard deviation of each member's averaged generator."""
    last = engine.ema.networks["generator"].last
    return torch.stack((last.bias.flatten(), last.weight.flatten().abs()), dim=1).detach()


# --- shifted distributions --------------------------------------------------------------------------------------------
# Data are N(s, 0.25^2), G makes N(0, 0.25^2) and hardly moves, the critic maximises E_p D - E_q D - λ E(|D'| - 1)^2.

WIDTH = 0.25


@dataclass(frozen=True)
class Critic:
    """What a critic says of a shift.

    Attributes:
        estimate: E_p D − E_q D.
        normalised: the same divided by E|D'| between real and generated points.
        gradient: E_q D', which G follows.
    """

    estimate: float
    normalised: float
    gradient: float


def _between(x: Tensor, shift: float, steps: int = 1000) -> Tensor:
    """The density at x (M,) of points uniformly between a real and a generated one, independent of each other."""
    share = ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps)[:, None]
    std = WIDTH * (share**2 + (1 - share) ** 2).sqrt()
    return ((-((x - (1 - share) * shift) / std).square() / 2).exp() / (std * math.sqrt(2 * math.pi))).mean(0)


def _line(shift: float) -> tuple[Tensor, float, Tensor, Tensor, Tensor]:
    """Cells (M,), their width, and there p, q and the density between."""
    x, width = cells(-6 * WIDTH, shift + 6 * WIDTH, 4000)
    p, q = gaussian(WIDTH, shift)(x).exp(), gaussian(WIDTH)(x).exp()
    return x, width, p, q, _between(x, shift)


def best_critic(shift: float, weight: float) -> Critic:
    """The critic that gradient_penalty of this weight allows, in closed form.

    With P, Q the distribution functions, E_p D − E_q D = ∫ D' (Q − P) dx. For D' = g > 0 the objective is
    ∫ g (Q − P) − λ m (g − 1)² dx, m the density between, so g = 1 + (Q − P) / (2 λ m): steeper than one, and the
    estimate is W1 + ∫ (Q − P)² / (2 λ m) dx. Far apart m is 1/s over the way s, and the estimate W1 · (1 + s/(2λ)).
    """
    x, width, p, q, between = _line(shift)
    root = WIDTH * math.sqrt(2)
    difference = 0.5 * (torch.erf(x / root) - torch.erf((x - shift) / root))
    steeper = torch.where(between > 1e-200, difference / (2 * weight * between), 0.0)
    estimate = (difference * (1 + steeper)).sum().item() * width
    slope = (between * (1 + steeper)).sum().item() * width
    return Critic(estimate, estimate / slope, (q * (1 + steeper)).sum().item() * width)


def shift_game(
    shifts: Sequence[float], weight: float, steps: int, width: int = 64, falling: Sequence[bool] = ()
) -> Prepared:
    """A critic for each shift, one member each; generators that make N(0, WIDTH²).

    A critic begins higher at the data than at the fakes, or lower where `falling` says so: on the line its slope cannot
    turn without passing zero, where the penalty is greatest, so how it begins may decide how it ends.
    """
    batch = 256
    game = make_game(
        (
            "generator.layers=0",
            "generator.latent_dim=1",
            f"discriminator.width={width}",
            "loss.adversarial=wgan",
            "loss.penalties=gradient_penalty",
            f"loss.penalties.gradient_penalty.weight={weight}",
            "optim.lr=1e-12",
            "optim.discriminator_lr=2e-3",
            "optim.betas=[0.5,0.9]",
            "optim.decay_share=1",
            f"train.batch={batch}",
            f"train.kimg={steps * batch / 1000}",
        ),
        [shifted(shift, WIDTH) for shift in shifts],
    )
    place_generator(game, 0.0, WIDTH)
    falls = [critic.estimate < 0 for critic in measured_critics(game, shifts)]
    wrong = [falls[index] != wanted for index, wanted in enumerate(falling or [False] * len(shifts))]
    with torch.no_grad():
        game.engine.translator.discriminator.logit.weight[torch.tensor(wrong)] *= -1
    return game


def measured_critics(game: Prepared, shifts: Sequence[float]) -> list[Critic]:
    """What each member's critic says, its means integrated over the line and not sampled."""
    lines = [_line(shift) for shift in shifts]
    x = torch.stack([line[0] for line in lines]).float().requires_grad_()
    says = game.engine.translator.discriminator(x.reshape(-1, 1, 1, 1))
    (slopes,) = torch.autograd.grad(says.sum(), x)
    critics = []
    for (_, width, p, q, between), said, slope in zip(lines, says.detach().double().view_as(x), slopes.double()):
        estimate = ((p - q) * said).sum().item() * width
        mean_slope = (between * slope.abs()).sum().item() * width
        critics.append(Critic(estimate, estimate / mean_slope, (q * slope).sum().item() * width))
    return critics


# --- pictures ---------------------------------------------------------------------------------------------------------

_FINE = 3  # drawn so many times larger and averaged down
_INK, _FAINT = (60, 64, 72), (226, 228, 231)
BLUE, RED, ORANGE, GREEN = (38, 110, 168), (205, 20, 60), (214, 132, 28), (60, 140, 90)


@dataclass(frozen=True)
class Curve:
    """x and y of one length, as a line or, with `dots`, as a mark at each point; a name for the legend or ""."""

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    colour: tuple[int, int, int]
    name: str = ""
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """What an axis spans, where it has ticks, and what it shows."""

    span: tuple[float, float]
    ticks: tuple[float, ...]
    label: str

    def share(self, value: float) -> float:
        return (value - self.span[0]) / (self.span[1] - self.span[0])


def _spelled(text: str) -> str:
    """Pillow's own font has no Greek letters."""
    for letter, name in {"γ": "gamma", "λ": "lambda", "σ": "sigma", "ψ": "psi", "θ": "theta"}.items():
        text = text.replace(letter, name)
    return text


def plot(
    title: str,
    x: Axis,
    y: Axis,
    curves: Sequence[Curve],
    width: int = 300,
    height: int = 300,
    legend: tuple[float, float] = (0.03, 0.05),
) -> np.ndarray:
    """uint8 (height, width, 3). Curves are cut off at the frame; `legend` is where their names begin, as shares of it."""
    font = ImageFont.load_default(12 * _FINE)
    left, top, right, bottom = 46 * _FINE, 28 * _FINE, 10 * _FINE, 36 * _FINE
    across, down = width * _FINE - left - right, height * _FINE - top - bottom
    frame = Image.new("RGB", (across, down), (251, 250, 247))
    pen = ImageDraw.Draw(frame)

    def at(horizontal: float, vertical: float) -> tuple[float, float]:
        # what is far outside stays outside, at numbers that Pillow can draw
        return across * min(9.0, max(-9.0, x.share(horizontal))), down * (1 - min(9.0, max(-9.0, y.share(vertical))))

    for tick in x.ticks:
        pen.line((at(tick, y.span[0]), at(tick, y.span[1])), _FAINT, _FINE)
    for tick in y.ticks:
        pen.line((at(x.span[0], tick), at(x.span[1], tick)), _FAINT, _FINE)
    row = legend[1] * down
    for curve in curves:
        places = [at(*place) for place in zip(curve.x, curve.y, strict=True)]
        if curve.dots:
            for column, line in places:
                reach = 3.5 * _FINE
                pen.ellipse((column - reach, line - reach, column + reach, line + reach), curve.colour)
        else:
            pen.line(places, curve.colour, round(1.5 * _FINE), "curve")
        if curve.name:
            pen.text((legend[0] * across, row), _spelled(curve.name), curve.colour, font, "lm")
            row += 15 * _FINE
    picture = Image.new("RGB", (width * _FINE, height * _FINE), (255, 255, 255))
    picture.paste(frame, (left, top))
    pen = ImageDraw.Draw(picture)
    pen.text((left + across / 2, 14 * _FINE), _spelled(title), _INK, font, "mm")
    pen.text((left + across / 2, picture.height - 4 * _FINE), _spelled(x.label), _INK, font, "md")
    pen.text((4 * _FINE, 14 * _FINE), _spelled(y.label), _INK, font, "lm")
    for tick in x.ticks:
        pen.text((left + at(tick, 0)[0], top + down + 4 * _FINE), f"{tick:g}", _INK, font, "ma")
    for tick in y.ticks:
        pen.text((left - 5 * _FINE, top + at(0, tick)[1]), f"{tick:g}", _INK, font, "rm")
    return np.asarray(picture.reduce(_FINE))


# --- what the command does --------------------------------------------------------------------------------------------


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)


DRAWN = (
    "minimax",
    "wgan, weight_clip c = 0.5",
    "wgan, gradient_penalty λ = 1",
    f"r1, γ = {CRITICAL:g} (critical)",
    "consensus, γ = 1",
    "instance_noise, σ = 1",
)


def show_dirac(folder: Path, steps: int = 2000) -> None:
    """Every choice: spectral radius and where it ends, beside theory; six trajectories as dirac.png."""
    rows, panels = [], {}
    for case in DIRAC:
        radius = None if case.radius is None else radius_of(measured_update(dirac_game(case.sets)))
        path = trajectory(dirac_game(case.sets, steps), steps)
        end = float(np.hypot(*path[-1]))
        expected = [f"{case.radius:.6f}", f"{radius:.6f}"] if radius is not None else ["a kink", "–"]
        distance = (
            f"{case.distance(steps):.3f}" if case.distance is not None else "0" if case.converges else "stays away"
        )
        verdicts = ["converges" if home else "does not" for home in (case.converges, end < FAR / 4)]
        rows.append([case.name, *expected, distance, f"{end:.2g}", *verdicts, case.remark])
        if case.name in DRAWN:
            psi, theta = path[:401].T
            home = Curve([0.0], [0.0], GREEN, dots=True)
            curves = [Curve(theta, psi, BLUE), Curve([START], [START], RED, dots=True), home]
            x, y = (Axis((-2.2, 2.2), (-2.0, -1.0, 0.0, 1.0, 2.0), label) for label in ("θ: what G makes", "ψ"))
            panels[case.name] = plot(case.name, x, y, curves)
    header = ["choice", "radius, theory", "radius, measured", "distance, theory"]
    header += [f"distance after {steps} steps", "theory", "measured", "why"]
    print_table(header, rows)
    six = [panels[name] for name in DRAWN]
    save_image(folder / "dirac.png", np.concatenate([np.concatenate(six[:3], 1), np.concatenate(six[3:], 1)]))


def show_gaussian(folder: Path) -> None:
    """D against log p/q with G held, then both players from N(−1, 1), the latter as gaussian.gif."""
    members, steps = 8, 400
    held = ("optim.lr=1e-12", "optim.discriminator_lr=0.1", "optim.betas=[0.9,0.99]", "optim.decay_share=1")
    game = gaussian_game((*held, "train.batch=1024"), members, steps)
    place_generator(game, 0.0, 1.0)
    for engine in play(game, steps):
        if engine.step == steps - 50:
            engine.terms.take(engine.world)
    found, wanted = coefficients(engine), log_ratio(1.0, 0.5, 0.0, 1.0)
    x, width = cells(-8, 8, 8000)
    log_p, log_q = gaussian(0.5, 1.0)(x), gaussian(1.0)(x)
    loss = engine.terms.take(engine.world)["discriminator"]
    rows = [
        [name, f"{theory:.4f}", f"{mean:.4f} ± {std:.4f}"]
        for name, theory, mean, std in zip(("x²", "x", "1"), wanted.tolist(), found.mean(0), found.std(0))
    ]
    rows.append(["D's loss", f"{math.log(4) - 2 * js(log_p, log_q, width):.4f}", f"{loss:.4f}"])
    print_table(["G held at N(0, 1): coefficient of", "log p/q", "D, 8 games"], rows)

    steps = 800
    rates = ("optim.lr=0.01", "optim.discriminator_lr=0.3", "optim.betas=[0.5,0.9]", "optim.decay_share=1")
    game = gaussian_game((*rates, "train.ema_kimg=5"), members, steps)
    place_generator(game, -1.0, 1.0)
    rows, frames = [], []
    for engine in play(game, steps):
        if engine.step in (1, 100, 200, 400, 600, 800):
            (mean, std), (mean_std, std_std) = generated(engine).mean(0), generated(engine).std(0)
            loss = engine.terms.take(engine.world)["discriminator"]
            rows.append([str(engine.step), f"{mean:.4f} ± {mean_std:.4f}", f"{std:.4f} ± {std_std:.4f}", f"{loss:.4f}"])
        # often at first, when most happens
        if engine.step % (4 if engine.step <= 60 else 15 if engine.step <= 400 else 50) == 0:
            frames.append(first_picture(game))
    rows.append(["wanted", "1", "0.5", f"{math.log(4):.4f}"])
    print_table(["step", "G's mean, 8 games", "G's standard deviation", "D's loss since the row before"], rows)
    write_gif([*frames, *[frames[-1]] * 8], folder / "gaussian.gif", 0.12)


def first_picture(game: Prepared) -> np.ndarray:
    """The first member's data, fakes and D as they are now."""
    engine = game.engine
    with torch.no_grad():
        (pictures,) = engine.translator.preview(game.preview, engine.players["generator"].networks).values()
    return to_uint8(pictures[0])


def show_shifts(folder: Path, steps: int = 1500) -> None:
    """KL, JS, W1 and critics for each shift, and the slope each leaves to G; shifts.png."""
    shifts = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    exact = compare_shifts(gaussian(WIDTH), shifts, low=-6 * WIDTH, high=4 + 6 * WIDTH)
    best: dict[float, list[Critic]] = {}
    for weight in (10.0, 100.0):
        game = shift_game(shifts, weight, steps)
        for _ in play(game, steps):
            pass
        best[weight] = measured_critics(game, shifts)
    rows = []
    for index, row in enumerate(exact):
        ten, hundred = best[10.0][index], best[100.0][index]
        allowed = best_critic(row.shift, 10.0)
        distances = [
            row.shift,
            row.kl,
            row.js,
            row.w1,
            ten.estimate,
            allowed.estimate,
            ten.normalised,
            hundred.estimate,
        ]
        slopes = [row.kl_slope, row.js_slope, row.w1_slope, ten.gradient, hundred.gradient]
        rows.append([f"{value:.3g}" if abs(value) < 0.001 else f"{value:.3f}" for value in (*distances, *slopes)])
    header = ["shift", "KL", "JS", "W1", "critic, λ = 10", "its theory", "its slope divided out", "critic, λ = 100"]
    print_table([*header, "KL'", "JS'", "W1'", "critic's slope, λ = 10", "λ = 100"], rows)

    fine = compare_shifts(gaussian(WIDTH), np.linspace(0.02, 4, 200), low=-6 * WIDTH, high=4 + 6 * WIDTH)
    x = [row.shift for row in fine]
    critic = Curve(shifts, [found.estimate for found in best[100.0]], GREEN, "critic, λ = 100", dots=True)
    distances = [
        Curve(x, [row.kl for row in fine], ORANGE, "KL"),
        Curve(x, [row.w1 for row in fine], BLUE, "W1"),
        Curve(x, [row.js for row in fine], RED, "JS"),
        critic,
    ]
    slope = Curve(shifts, [found.gradient for found in best[100.0]], GREEN, "critic, λ = 100", dots=True)
    slopes = [
        Curve(x, [row.kl_slope for row in fine], ORANGE, "KL"),
        Curve(x, [row.w1_slope for row in fine], BLUE, "W1"),
        Curve(x, [row.js_slope for row in fine], RED, "JS"),
        slope,
    ]
    axis = Axis((0, 4.2), (0, 1, 2, 3, 4), "shift")
    left = plot("distance", axis, Axis((0, 4.5), (0, 1, 2, 3, 4), ""), distances, 420, 320, (0.66, 0.52))
    right = plot(
        "pull on G: derivative by the shift",
        axis,
        Axis((0, 2.5), (0, 0.5, 1, 1.5, 2), ""),
        slopes,
        420,
        320,
        (0.6, 0.1),
    )
    save_image(folder / "shifts.png", np.concatenate((left, right), axis=1))


SHOWS = {"dirac": show_dirac, "gaussian": show_gaussian, "shifts": show_shifts}


def main() -> None:
    parser = argparse.ArgumentParser(description="Games whose answers are known, beside theory.")
    parser.add_argument("names", nargs="+", choices=SHOWS)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        for name in options.names:
            SHOWS[name](options.out)
    except (Fault, Faults) as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
