"""Charts: what is drawn, where, and that no extreme is lost."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from img2img.training.charts import Series, decimate, line_chart, number


class Elements(HTMLParser):
    """All elements of a page as (tag, attributes)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.found if name in (attributes.get("class") or "").split()]


def test_decimation_keeps_ends_and_extremes() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal(100_003)
    y[71_234], y[12_345] = 900.0, -800.0
    x = np.arange(len(y)) * 0.5
    short_x, short_y = decimate(x, y, 500)
    assert len(short_x) == len(short_y) <= 500
    assert (short_x[0], short_y[0], short_x[-1], short_y[-1]) == (x[0], y[0], x[-1], y[-1])
    assert 900.0 in short_y
    assert -800.0 in short_y
    assert np.all(np.diff(short_x) > 0)
    # every point that is left is one of the points there were
    np.testing.assert_array_equal(y[(short_x * 2).astype(int)], short_y)


@pytest.mark.parametrize("count", [1, 2, 499, 500])
def test_few_points_are_all_kept(count: int) -> None:
    x, y = decimate(np.arange(count), np.arange(count) ** 2)
    np.testing.assert_array_equal(y, np.arange(count) ** 2)


def test_a_spike_is_drawn_at_its_height() -> None:
    y = np.ones(5000)
    y[2500] = 40.0
    elements = Elements(line_chart([Series("loss", np.arange(5000) / 10, y)], title="Loss"))
    linear = elements.of_class("trace")[0]["d"]
    heights = [float(value) for value in re.findall(r" (-?[\d.]+)", linear or "")]
    assert len(heights) <= 500
    assert min(heights) == 0.0  # the top of the plot: 40 is a tick
    assert max(heights) == pytest.approx(975.0)  # 1 of 40


def test_axis_switch_only_where_it_helps() -> None:
    x = [0.0, 1.0, 2.0]

    def num_plots(y: list[float], from_zero: bool = False) -> int:
        return len(Elements(line_chart([Series("s", x, y)], title="t", from_zero=from_zero)).of_class("plot"))

    assert num_plots([1.0, 50.0, 1000.0]) == 2
    assert num_plots([1.0, 2.0, 3.0]) == 1
    assert num_plots([-1.0, 50.0, 1000.0]) == 1
    assert num_plots([1.0, 50.0, 1000.0], from_zero=True) == 1


def test_logarithmic_axis_is_even_in_decades() -> None:
    text = line_chart([Series("s", [0.0, 1.0, 2.0], [1.0, 100.0, 10_000.0])], title="t", smooth=False)
    logarithmic = Elements(text).of_class("line")[1]["d"]
    assert logarithmic == "M0.0 1000.0L500.0 500.0L1000.0 0.0"


def test_values_that_are_not_finite_are_left_out() -> None:
    broken = Series("broken", [0.0, 1.0, 2.0, 3.0], [1.0, math.nan, math.inf, 3.0])
    lost = Series("lost", [0.0], [math.nan])
    chart = Elements(line_chart([lost, broken], title="t", smooth=False))
    data = json.loads(chart.found[0][1]["data-chart"] or "")
    assert data["series"] == [[[0.0, 3.0], [1.0, 3.0]]]
    assert line_chart([lost], title="t") == ""
    assert line_chart([], title="t") == ""


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-7, 1e12])
def test_constant_curve_and_single_point_have_axes(value: float) -> None:
    for count in (1, 5):
        text = line_chart([Series("s", list(range(count)), [value] * count)], title="t")
        assert "nan" not in text
        assert len(Elements(text).of_class("y")) >= 2


def test_smoothing_keeps_a_straight_line_level() -> None:
    chart = Elements(line_chart([Series("s", list(range(1000)), [2.0] * 1000)], title="t"))
    data = json.loads(chart.found[0][1]["data-chart"] or "")
    assert set(data["series"][0][1]) == {2.0}


def test_names_are_escaped() -> None:
    name = '<script>alert(1)</script>"><img onerror=x>'
    chart = Elements(line_chart([Series(name, [0, 1], [1, 2])], title=name, unit=name, x_unit=name))
    assert {tag for tag, _ in chart.found} <= {
        *("figure", "figcaption", "span", "div", "svg", "path", "ul", "li", "i", "output", "button")
    }
    assert json.loads(chart.found[0][1]["data-chart"] or "")["unit"] == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (-1.5, "−1.5"),
        (12800.0, "12,800"),
        (2e-4, "2×10⁻⁴"),
        (1e-5, "10⁻⁵"),
        (-2e-4, "−2×10⁻⁴"),
        (3.21e9, "3.21×10⁹"),
        (41.3049, "41.3"),
        (0.0015, "0.0015"),
        (0.0123456, "0.01235"),
        (100.0, "100"),
        (math.inf, "not finite"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
