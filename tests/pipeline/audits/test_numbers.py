import math

import pytest

from pipeline.audits.figures.distribution import Estimate
from pipeline.audits.numbers import (
    long_night_name,
    night_name,
    show_estimate,
    show_interval,
    show_number,
    show_share,
)


@pytest.mark.parametrize(
    ("value", "low", "high", "text", "interval"),
    [
        (0.08767, 0.07555, 0.1014, "0.088", "0.076 to 0.101"),
        (0.0876712, 0.0876, 0.0877, "0.087671", "0.087600 to 0.087700"),
        (25.83, 23.92, 27.86, "25.8", "23.9 to 27.9"),
        (1234.5, 1200.0, 1300.0, "1234", "1200 to 1300"),
        (-0.00001, -0.01, 0.01, "0.000", "-0.010 to 0.010"),
        (0.123456, 0.123456, 0.123456, "0.123", "0.1235 to 0.1235"),
        (1.0, 0.8, 1.0, "1", "0.80 to 1.00"),
        (math.inf, 30.0, math.inf, "inf", "30 to inf"),
        (0.123456, None, None, "0.123", "–"),  # noqa: RUF001
    ],
)
def test_a_figure_has_the_digits_that_its_interval_carries(value, low, high, text, interval):
    figure = Estimate(value=value, low=low, high=high)
    assert (show_estimate(figure), show_interval(figure)) == (text, interval)


def test_few_rows_carry_two_digits():
    assert show_estimate(Estimate(value=0.123456, low=None, high=None), 9) == "0.12"


@pytest.mark.parametrize(
    ("share", "rows", "text"),
    [
        (0, 79, "0 %"), (1, 79, "100 %"), (1 / 79, 79, "1 %"), (7 / 217, 217, "3 %"),
        (1 / 1000, 1000, "0.1 %"), (999 / 1000, 1000, "99.9 %"), (1e-7, 10**7, "0.00001 %"),
        (0.4512345, 10**7, "45.12 %"), (2 / 3, 3, "67 %"),
    ],
)  # fmt: skip
def test_a_share_has_the_digits_that_its_rows_carry(share, rows, text):
    assert show_share(share, rows) == text


@pytest.mark.parametrize("rows", [2, 3, 10, 99, 101, 250, 1001, 99_999, 10**6])
def test_a_share_of_one_row_or_of_all_but_one_does_not_look_like_none_or_all(rows):
    assert float(show_share(1 / rows, rows).removesuffix(" %")) > 0
    assert float(show_share(1 - 1 / rows, rows).removesuffix(" %")) < 100


def test_a_night_has_a_name():
    assert (night_name("2026-11-05"), long_night_name("2026-11-05")) == (
        "5 Nov", "Thursday, 5 November 2026",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.35, 4, "0.35"), (0.350000001, 4, "0.35"), (30.0, 4, "30"), (0.123456, 4, "0.1235"),
        (-0.0, 4, "0"), (9999.7, 4, "10000"), (123456.7, 4, "123457"), (1e-7, 4, "1e-07"),
        (1e38, 12, "1e+38"), (float("inf"), 4, "inf"), (None, 4, "\N{EN DASH}"),
        (0.0051234, 12, "0.0051234"),
    ],
)  # fmt: skip
def test_a_number_is_shown_with_as_many_digits_as_it_carries(value, digits, text):
    assert show_number(value, digits) == text
