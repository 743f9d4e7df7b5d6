"""Line charts."""

import re

import pytest

from fusionjax.recipes.charts import choose_ticks, draw_chart, draw_curves


def points_of(svg):
    lines = re.findall(r'<polyline[^>]*points="([^"]*)"', svg)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]


def test_points_lie_where_their_values_say():
    (line,) = points_of(draw_chart("loss", {"train": [(0.0, 2.0), (10.0, 1.0), (40.0, 0.0)]}))
    (left, top), (quarter, middle), (right, bottom) = line
    assert top < middle < bottom and middle == pytest.approx((top + bottom) / 2, abs=0.1)
    assert quarter == pytest.approx(left + (right - left) / 4, abs=0.1)


def test_long_lines_are_thinned_and_keep_their_ends():
    points = [(float(step), float(step % 7)) for step in range(5003)]
    (line,) = points_of(draw_chart("loss", {"train": points}))
    (whole,) = points_of(draw_chart("loss", {"train": points[:1] + points[-1:]}))
    assert 300 < len(line) <= 401
    assert line[0][0] == whole[0][0] and line[-1][0] == whole[-1][0]


def test_each_metric_is_a_chart_and_each_part_a_line():
    history = [
        {"step": 1, "train/loss": 1.0, "test/a/loss": 2.0, "speed": 3.0},
        {"step": 2, "train/loss": float("inf")},
    ]
    loss, speed = draw_curves(history)
    assert "loss over steps" in loss and len(points_of(loss)) == 2
    assert "speed over steps" in speed and len(points_of(speed)) == 1
    assert draw_curves([]) == [] and draw_curves([{"step": 1}]) == []


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.0, 1.0, 4, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (-3.0, 3.0, 4, [-2.0, 0.0, 2.0]),
        (1e-7, 9e-7, 5, [2e-7, 4e-7, 6e-7, 8e-7]),
        (0.0, 4980.0, 5, [0.0, 1000.0, 2000.0, 3000.0, 4000.0]),
    ],
)
def test_ticks_are_round_and_within_the_range(low, high, most, ticks):
    assert choose_ticks(low, high, most) == pytest.approx(ticks)
