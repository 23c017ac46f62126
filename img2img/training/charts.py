"""Line charts as HTML with inline SVG: no library, readable without scripts, as wide as the page allows.

The SVG is stretched over the plot (its strokes keep their width) and all text is HTML beside it, so that lettering has
the same size on a phone and on a wide screen. report.css styles the charts; report.js adds the readout under the
pointer, the linear / log switch and the highlight of one curve, all of which a chart can do without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from img2img.training.page import escape

NUM_COLOURS = 8
"""Distinct colours in report.css; later curves take them again, dashed."""

MAX_POINTS = 500
"""Points drawn for one curve."""

_SIZE = 1000.0  # the SVG's own units along each side, stretched to whatever size the plot has
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Series:
    """One curve: its name and as many `x` (increasing) as `y`. Values that are not finite leave it out at that x."""

    name: str
    x: Numbers
    y: Numbers


@dataclass(frozen=True)
class _Scale:
    """One axis: what lies at its two ends, its ticks, and whether it is logarithmic."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def fraction(self, values: np.ndarray) -> np.ndarray:
        """Where `values` lie between the ends, 0 at `low` and 1 at `high`."""
        if self.logarithmic:
            return np.log(values / self.low) / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    unit: str = "",
    x_unit: str = "thousand images",
    smooth: bool = True,
    from_zero: bool = False,
    mark: float | None = None,
) -> str:
    """A chart of several curves over a common x axis.

    Args:
        series: the curves; those without a finite value are left out.
        title: what is drawn, above the chart.
        unit: unit of y, beside the title.
        x_unit: unit of x, below the axis.
        smooth: draw a running mean, and what was measured as a pale trace behind it; otherwise what was measured alone.
        from_zero: the y axis begins at zero, for quantities whose share of the whole matters.
        mark: an x at which every curve that has a point there gets a ring.

    Returns:
        One <figure> element, or "" where there is nothing to draw. A switch between a linear and a logarithmic axis is
        there where the axis need not begin at zero, every value is positive and the largest is at least 20 times the
        smallest.
    """
    curves = [curve for curve in map(_finite, series) if len(curve.x)]
    if not curves:
        return ""
    values = np.concatenate([curve.y for curve in curves])
    x_scale = _x_scale(np.concatenate([curve.x for curve in curves]))
    scales = [_linear_scale(min(0.0, float(values.min())) if from_zero else float(values.min()), float(values.max()))]
    if not from_zero and values.min() > 0 and values.max() >= 20 * values.min():
        scales.append(_log_scale(float(values.min()), float(values.max())))
    lines = [_running_mean(curve) if smooth else curve for curve in curves]
    lines = [Series(line.name, *decimate(line.x, line.y)) for line in lines]
    traces = [Series(curve.name, *decimate(curve.x, curve.y)) for curve in curves] if smooth else []
    rings = [] if mark is None else _points_at(mark, curves)
    plots = "".join(_plot(lines, traces, rings, x_scale, scale, shown=scale is scales[0]) for scale in scales)
    switch = (
        '<button type="button" class="quiet" data-switch aria-pressed="false">log scale</button>'
        if len(scales) > 1
        else ""
    )
    name = escape(title)
    unit_text = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    return (
        f'<figure class="chart" data-chart="{escape(_chart_data(lines, x_scale, scales, x_unit))}">'
        f"<figcaption><span>{name}{unit_text}</span>{switch}</figcaption>"
        f'<div class="plots" role="img" aria-label="{name}">{plots}</div>'
        f'<div class="x-unit" data-x>{escape(x_unit)}</div>{_legend(lines)}</figure>\n'
    )


def decimate(x: Numbers, y: Numbers, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` of the points (x, y), among them the first, the last and the extremes of every stretch.

    The points between the ends are cut into equal stretches, and each gives its smallest and its largest y in the order
    in which they came: a spike of one point stays as high as it was.
    """
    assert limit >= 4, "a curve needs its ends and one stretch"
    all_x, all_y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(all_x) <= limit:
        return all_x, all_y
    kept = {0, len(all_y) - 1}
    for stretch in np.array_split(np.arange(1, len(all_y) - 1), (limit - 2) // 2):
        kept.update((int(stretch[all_y[stretch].argmin()]), int(stretch[all_y[stretch].argmax()])))
    indices = sorted(kept)
    return all_x[indices], all_y[indices]


def number(value: float) -> str:
    """`value` to about four digits, short enough for an axis: 0.25, 12,800, 2×10⁻⁴."""
    if not math.isfinite(value):
        return "not finite"
    magnitude = abs(value)
    if value == 0:
        return "0"
    if magnitude < 1e-3 or magnitude >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
        return power if mantissa == "1" else f"{mantissa}×{power}".replace("-", "−", 1)
    decimals = max(0, 3 - math.floor(math.log10(magnitude)))
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def _finite(series: Series) -> Series:
    x, y = np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    return Series(series.name, x[good], y[good])


def _running_mean(series: Series) -> Series:
    """The curve under a Gaussian a hundredth of its length wide, renormalised at its ends."""
    x, y = np.asarray(series.x), np.asarray(series.y)
    width = len(y) / 100
    if width < 0.3:
        return series
    reach = min(math.ceil(3 * width), (len(y) - 1) // 2)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weights = np.convolve(np.ones_like(y), kernel, mode="same")
    return Series(series.name, x, np.convolve(y, kernel, mode="same") / weights)


def _step(span: float, count: int) -> float:
    """The round step (1, 2 or 5 times a power of ten) that cuts `span` into at most `count` parts."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * count >= span * (1 - 1e-9))


def _multiples(low: float, high: float, step: float) -> tuple[float, ...]:
    """The multiples of `step` from `low` to `high`."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def _x_scale(x: np.ndarray) -> _Scale:
    """From zero (or the first point, where a run was begun far from it) to the last point, without rounding up."""
    low, high = min(0.0, float(x.min())), float(x.max())
    if high <= low:
        high = low + 1.0
    return _Scale(low, high, _multiples(low, high, _step(high - low, 7)))


def _linear_scale(low: float, high: float) -> _Scale:
    """Rounded outwards to ticks; with zero where zero is near."""
    if low == high:
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    if 0 < low < 0.5 * high:
        low = 0.0
    if 0.5 * low < high < 0:
        high = 0.0
    step = _step(high - low, 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return _Scale(low, high, _multiples(low, high, step))


def _log_scale(low: float, high: float) -> _Scale:
    """Decades, with 2 and 5 between them where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) <= 2.5 else (1,)
    every = math.ceil(len(decades) / 7) if len(factors) == 1 else 1
    ticks = [factor * 10.0**decade for decade in decades for factor in factors if decade % every == 0]
    bottom = max((tick for tick in ticks if tick <= low * (1 + 1e-9)), default=low)
    top = min((tick for tick in ticks if tick >= high * (1 - 1e-9)), default=high)
    return _Scale(bottom, top, tuple(tick for tick in ticks if bottom <= tick <= top), logarithmic=True)


def _colour(index: int) -> str:
    return f"s{index % NUM_COLOURS}" + (" dashed" if index >= NUM_COLOURS else "")


def _path(series: Series, x_scale: _Scale, y_scale: _Scale) -> str:
    """The `d` attribute of the curve; a single point becomes a short stroke, since a path of length 0 is invisible."""
    horizontal = x_scale.fraction(np.asarray(series.x)) * _SIZE
    vertical = (1.0 - y_scale.fraction(np.asarray(series.y))) * _SIZE
    if len(horizontal) == 1:
        horizontal, vertical = np.array([horizontal[0] - 4, horizontal[0] + 4]), np.repeat(vertical, 2)
    points = [f"{h:.1f} {v:.1f}" for h, v in zip(horizontal, vertical)]
    return "M" + "L".join(points)


def _points_at(x: float, curves: Sequence[Series]) -> list[tuple[str, float, float]]:
    """(colour, x, y) of each curve that has a point there."""
    return [
        (_colour(index), x, float(y))
        for index, curve in enumerate(curves)
        for y in np.asarray(curve.y)[np.asarray(curve.x) == x]
    ]


def _plot(
    lines: list[Series],
    traces: list[Series],
    rings: Sequence[tuple[str, float, float]],
    x_scale: _Scale,
    y_scale: _Scale,
    *,
    shown: bool,
) -> str:
    """The plot for one kind of y axis: grid, curves, rings and the text of both axes."""
    x_at = x_scale.fraction(np.array(x_scale.ticks))
    y_at = y_scale.fraction(np.array(y_scale.ticks))
    # labels at the right edge are turned inwards, so that they do not stick out of the chart
    x_labels = "".join(
        f'<span class="x{" last" if at > 0.97 else ""}" style="left:{100 * at:.2f}%">{number(tick)}</span>'
        for tick, at in zip(x_scale.ticks, x_at)
    )
    y_labels = "".join(
        f'<span class="y" style="bottom:{100 * at:.2f}%">{number(tick)}</span>' for tick, at in zip(y_scale.ticks, y_at)
    )
    grid = "".join(f'<path class="grid" d="M0 {_SIZE * (1 - at):.1f}H{_SIZE:.0f}"/>' for at in y_at)
    drawn = "".join(
        f'<path class="{kind} {_colour(index)}" data-series="{index}" d="{_path(curve, x_scale, y_scale)}"/>'
        for kind, curves in (("trace", traces), ("line", lines))
        for index, curve in enumerate(curves)
    )
    ringed = "".join(
        f'<span class="ring {colour}" style="left:{100 * float(x_scale.fraction(np.array(x))):.2f}%;'
        f'bottom:{100 * float(y_scale.fraction(np.array(y))):.2f}%"></span>'
        for colour, x, y in rings
    )
    return (
        f'<div class="plot" data-plot{"" if shown else " hidden"}>'
        f'<svg viewBox="0 0 {_SIZE:.0f} {_SIZE:.0f}" preserveAspectRatio="none" aria-hidden="true">{grid}{drawn}</svg>'
        f"{ringed}{x_labels}{y_labels}</div>"
    )


def _legend(lines: list[Series]) -> str:
    """Each curve's name and last value; the script shows the value under the pointer instead."""
    entries = "".join(
        f'<li class="{_colour(index)}" data-series="{index}"><i></i><span>{escape(line.name)}</span>'
        f"<output>{number(float(line.y[-1]))}</output></li>"
        for index, line in enumerate(lines)
    )
    return f'<ul class="legend">{entries}</ul>'


def _chart_data(lines: list[Series], x_scale: _Scale, scales: list[_Scale], x_unit: str) -> str:
    """What the script needs: the drawn points to five digits and the ends of the axes, as JSON."""

    def short(values: Numbers) -> list[float]:
        return [float(f"{value:.5g}") for value in values]

    data = {
        "x": [x_scale.low, x_scale.high],
        "unit": x_unit,
        "y": [[scale.low, scale.high, scale.logarithmic] for scale in scales],
        "series": [[short(line.x), short(line.y)] for line in lines],
    }
    return json.dumps(data, separators=(",", ":"))
