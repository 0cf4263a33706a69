"""Numbers for people, with as many digits as they carry."""

import math
from datetime import date

from pipeline.audits.figures.distribution import MIN_ROWS, Estimate
from pipeline.audits.records import GateVerdict

NOTHING = "–"  # noqa: RUF001 - an en dash
MAX_DIGITS = 6
"""Significant digits; values are float32."""
FEW_ROWS_DIGITS = 2


def decimals_of(low: float | None, high: float | None) -> int | None:
    """Return how many decimals show an interval's half width with two digits.

    Args:
        low: lower end of the interval, or None.
        high: upper end of the interval, or None.

    Returns:
        The number, 0 or more; None if there is no interval, or one that says nothing: without any
        width, or an infinite one.
    """
    if low is None or high is None or not 0 < high - low < math.inf:
        return None
    return max(1 - math.floor(math.log10((high - low) / 2)), 0)


def show_fixed(value: float, decimals: int) -> str:
    """Return a number with that many decimals, but with at most MAX_DIGITS significant digits."""
    if not math.isfinite(value):
        return f"{value:g}"
    if value:
        decimals = min(decimals, max(MAX_DIGITS - 1 - math.floor(math.log10(abs(value))), 0))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0 makes 0 of -0


def show_number(value: float | None, digits: int = 4) -> str:
    """Return a number for people: significant digits, without zeros at the end."""
    if value is None:
        return NOTHING
    if 10**digits - 0.5 <= abs(value) < 1e15:  # otherwise as 1.2e+04
        return f"{value:.0f}"
    return f"{value + 0.0:.{digits}g}"  # + 0.0 makes 0 of -0


def show_estimate(figure: Estimate | None, rows: int = MIN_ROWS) -> str:
    """Return a figure with the digits that its interval carries, or those of so few rows."""
    if figure is None:
        return NOTHING
    decimals = decimals_of(figure.low, figure.high)
    if figure.value in (0, 1):  # all or none: exact
        return show_number(figure.value)
    if decimals is None:
        return show_number(figure.value, 3 if rows >= MIN_ROWS else FEW_ROWS_DIGITS)
    return show_fixed(figure.value, decimals)


def show_interval(figure: Estimate | GateVerdict | None) -> str:
    """Return the ends of a figure's interval, such as "0.076 to 0.101", with as many decimals."""
    if figure is None or figure.low is None or figure.high is None:
        return NOTHING
    decimals = decimals_of(figure.low, figure.high)
    if decimals is None:
        return f"{show_number(figure.low)} to {show_number(figure.high)}"
    return f"{show_fixed(figure.low, decimals)} to {show_fixed(figure.high, decimals)}"


def show_share(share: float, rows: int) -> str:
    """Return a share, 0 to 1, of rows in percent with the digits that so many rows carry.

    Only no row at all is "0 %", and only all of them are "100 %".
    """
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    error = 1.96 * math.sqrt(share * (1 - share) / max(rows, 1))
    decimals = decimals_of(100 * (share - error), 100 * (share + error)) or 0
    return f"{100 * share:.{max(decimals - 1, 0)}f} %"


def night_name(night: str) -> str:
    """Return a night, YYYY-MM-DD, as "26 Nov"."""
    return f"{date.fromisoformat(night):%-d %b}"


def long_night_name(night: str) -> str:
    """Return a night, YYYY-MM-DD, as "Thursday, 26 November 2026"."""
    return f"{date.fromisoformat(night):%A, %-d %B %Y}"
