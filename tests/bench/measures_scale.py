"""What each measure of metrics/ costs at scale, and how often its intervals hold the true distance.

    python tests/bench/measures_scale.py [--count 50000] [--dim 2048] [--threads 2] [--only NAME ...]
    python tests/bench/measures_scale.py --coverage [--repetitions 300] [--resamples 20]

The first times every measure in a process of its own, on `count` real and as many fake features, and prints seconds and
peak memory, of which the features themselves are the first row. The features are rectified sums of 64 factors and
noise, as those of a network are. The second draws from known Gaussians and prints, for each population, dimension and
count, the share of 95 % intervals that hold the true distance, the share that lie above it and below it, and their mean
width. Both print rows of markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from img2img.devices import peak_memory
from img2img.metrics.frechet import Gaussian, fit, frechet_distance, frechet_distance_of, frechet_infinity
from img2img.metrics.inception_score import inception_score
from img2img.metrics.intervals import Interval, frechet_interval, kernel_interval
from img2img.metrics.kernel_distance import kernel_distance
from img2img.metrics.manifold import density_coverage, prdc, precision_recall
from img2img.metrics.neighbours import nearest

# --- cost -------------------------------------------------------------------------------------------------------------

Measure = Callable[[Tensor, Tensor], object]

MEASURES: dict[str, Measure] = {
    "features alone": lambda real, fake: None,
    "fit, both": lambda real, fake: (fit(real), fit(fake)),
    "frechet_distance_of": frechet_distance_of,
    "frechet_infinity": frechet_infinity,
    "frechet_interval": frechet_interval,
    "kernel_distance": kernel_distance,
    "kernel_interval": kernel_interval,
    "precision_recall": precision_recall,
    "density_coverage": density_coverage,
    "prdc": prdc,
    "nearest": nearest,
    "inception_score": lambda logits, _: inception_score(logits),
}
CLASSES = 1008  # of the 2015 Inception


def draw_features(count: int, dim: int, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """(count, dim) float32 ≥ 0."""
    mixing = torch.randn(64, dim, generator=torch.Generator().manual_seed(0)) / 8
    features = torch.empty(count, dim)
    for part in features.split(4096):
        factors = torch.randn(len(part), 64, generator=generator)
        part.copy_(torch.randn(part.shape, generator=generator)).mul_(0.3).addmm_(factors, mixing, alpha=scale).relu_()
    return features


def run_one(name: str, count: int, dim: int, threads: int) -> None:
    """Time one measure in this process; print seconds and bytes as JSON."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    if name == "inception_score":
        real = fake = torch.randn(count, CLASSES, generator=generator)
    else:
        real, fake = draw_features(count, dim, generator), draw_features(count, dim, generator, scale=1.1)
    started = time.perf_counter()
    try:
        MEASURES[name](real, fake)
    except ValueError as error:  # too few features for this measure
        print(json.dumps({"refused": str(error)}))
        return
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "bytes": peak_memory(torch.device("cpu"))}))


def print_costs(options: argparse.Namespace) -> None:
    print(f"{options.count} real and fake x {options.dim} features, {options.threads} threads\n")
    print("| measure | seconds | peak memory, GB |")
    print("|---|---|---|")
    for name in options.only or MEASURES:
        command = [sys.executable, __file__, "--run", name]
        for option in ("count", "dim", "threads"):
            command += [f"--{option}", str(getattr(options, option))]
        cost = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        if "refused" in cost:
            print(f"| {name} | refused: {cost['refused']} | |", flush=True)
        else:
            print(f"| {name} | {cost['seconds']:.1f} | {cost['bytes'] / 1e9:.2f} |", flush=True)


# --- coverage ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Population:
    """Two Gaussians of one dimension."""

    real: Gaussian
    fake: Gaussian

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` samples of each, (count, d) float64."""
        real, fake = (
            torch.randn(count, len(side.mean), generator=generator, dtype=torch.float64)
            @ torch.linalg.cholesky(side.covariance).T
            + side.mean
            for side in (self.real, self.fake)
        )
        return real, fake


def make_population(name: str, dim: int) -> Population:
    """One of POPULATIONS."""
    generator = torch.Generator().manual_seed(0)
    zero, identity = torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    shift = 0.3 * identity[0]

    def turned(values: Tensor, by: float) -> Tensor:
        noise = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        axes = torch.linalg.qr(identity + by * noise / math.sqrt(dim)).Q
        return (axes * values) @ axes.T

    decaying = torch.arange(1, dim + 1, dtype=torch.float64) ** -1.0
    mean, (real, fake) = {
        "equal": (zero, (identity, identity)),
        "shifted": (shift, (identity, identity)),
        "near": (shift, (decaying.diag(), turned(1.3 * decaying, 0.2))),
        "apart": (zero + 0.5, (identity, turned(torch.linspace(0.3, 2, dim, dtype=torch.float64), 10.0))),
    }[name]
    return Population(Gaussian(zero, real, 0), Gaussian(mean, fake, 0))


POPULATIONS = ("equal", "shifted", "near", "apart")


def true_frechet(population: Population) -> float:
    return frechet_distance(population.real, population.fake)


def true_kernel(population: Population) -> float:
    """MMD² of the cubic kernel, from the moments of s = x·y/d: the mean of (s + 1)³ is 1 + 3E[s] + 3E[s²] + E[s³]."""

    def mean(x: Gaussian, y: Gaussian) -> float:
        a, b, p, q = x.mean, y.mean, x.covariance, y.covariance
        dot = a @ b
        second = dot**2 + b @ p @ b + a @ q @ a + (p @ q).trace()
        third = dot**3 + 3 * dot * (b @ p @ b + a @ q @ a + (p @ q).trace()) + 6 * (b @ p @ q @ a)
        dim = len(a)
        return (1 + 3 * dot / dim + 3 * second / dim**2 + third / dim**3).item()

    real, fake = population.real, population.fake
    return mean(real, real) + mean(fake, fake) - 2 * mean(real, fake)


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that hold the true value, lie above it, lie below it, and the mean width."""

    held: float
    above: float
    below: float
    width: float


def cover(
    make: Callable[[Tensor, Tensor], Interval], true: float, population: Population, count: int, repetitions: int
) -> Coverage:
    """Intervals of `repetitions` independent pairs of sample sets, against the `true` value."""
    tolerance = 1e-12  # of a true value of 0 that is computed
    seeds = (torch.Generator().manual_seed(repetition) for repetition in range(repetitions))
    found = [make(*population.draw(count, generator)) for generator in seeds]
    above = sum(interval.low > true + tolerance for interval in found) / repetitions
    below = sum(interval.high < true - tolerance for interval in found) / repetitions
    width = sum(interval.high - interval.low for interval in found) / repetitions
    return Coverage(1 - above - below, above, below, width)


def print_coverage(options: argparse.Namespace) -> None:
    print(f"95 % intervals of {options.repetitions} repetitions, {options.resamples} groups\n")
    print("| distance | population | d | n | true | held, % | above, % | below, % | mean width |")
    print("|---|---|---|---|---|---|---|---|---|")
    few = [(128, count) for count in (16, 32, 64, 128, 256)]
    sizes = [(dim, count) for dim in (2, 8, 32) for count in (200, 500, 2000)] + few
    kinds = {
        "Fréchet": (frechet_interval, true_frechet, sizes),
        "kernel": (kernel_interval, true_kernel, [(dim, count) for dim, count in sizes if count < 2000]),
    }
    for kind, (interval, true_value, its_sizes) in kinds.items():
        for dim, count in its_sizes:
            for name in POPULATIONS:
                population = make_population(name, dim)
                true = true_value(population)
                found = cover(
                    lambda real, fake: interval(real, fake, resamples=options.resamples),
                    true,
                    population,
                    count,
                    options.repetitions,
                )
                print(
                    f"| {kind} | {name} | {dim} | {count} | {true:.4g} | {100 * found.held:.1f} | "
                    f"{100 * found.above:.1f} | {100 * found.below:.1f} | {found.width:.3g} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the measures, or coverage of their intervals.")
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=MEASURES)
    parser.add_argument("--run", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=20)
    options = parser.parse_args()
    if options.run:
        run_one(options.run, options.count, options.dim, options.threads)
    elif options.coverage:
        print_coverage(options)
    else:
        print_costs(options)


if __name__ == "__main__":
    main()
