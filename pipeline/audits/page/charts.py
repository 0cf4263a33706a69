"""Charts of a report page, as SVG that takes its colours from the page."""

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.audits.figures.distribution import Distribution, Floats
from pipeline.audits.numbers import night_name, show_number
from pipeline.audits.records import SCORE, Side, TrendPoint
from pipeline.runs.summary import counted

COLOURS = {"ink": "#010101", "muted": "#020202", "run": "#030303", "baseline": "#040404"}
"""Placeholders. The page's CSS variable of the same name replaces each one, for light and dark."""
TAIL = 0.005
"""Histograms leave out this share of a sample's rows at each end, so that a few rows do not squeeze
the rest."""
WIDE = 10
"""The axis is logarithmic if it would be this often as long as the smallest median."""
NUM_BINS = (10, 60)


def draw_trend(trend: Sequence[TrendPoint]) -> dict[str, str]:
    """Return charts of the score and of the failed rows over the runs, as SVG by title."""
    num_runs = Counter(run.night for run in trend)
    nights = [
        night_name(run.night) + (f"\n{run.started_at[11:16]}" if num_runs[run.night] > 1 else "")
        for run in trend
    ]
    places = np.arange(len(trend))
    figure, axes = _axes()
    for name, style in (("p95", ":"), ("mean", "-"), ("median", "--")):
        values = np.array([getattr(run, name) for run in trend], np.float64)  # None becomes NaN
        axes.plot(places, values, style, color=COLOURS["run"], marker="o", markersize=4)
        axes.annotate(name, (places[-1], values[-1]), xytext=(8, -3), textcoords="offset points",
                      color=COLOURS["ink"])  # fmt: skip
    axes.set_xlim(-0.3, len(trend) - 1 + 0.2 * len(trend))
    failed_figure, failed_axes = _axes()
    shares = [100 * run.failed_fraction for run in trend]
    failed_axes.bar(places, shares, 0.5, color=COLOURS["run"])
    for each in (axes, failed_axes):
        each.set_ylim(bottom=0)
        each.set_xticks(places, nights)
    return {
        SCORE: _to_svg(figure, "trend_score"),
        "failed rows, %": _to_svg(failed_figure, "trend_failed"),
    }


@dataclass(frozen=True)
class Scale:
    """The axis that all histograms share.

    Attributes:
        edges: (B + 1,) edges of the bins, ascending.
        is_log: whether the axis is logarithmic; then all edges are positive.
    """

    edges: Floats
    is_log: bool

    @classmethod
    def of(cls, samples: Sequence[Distribution]) -> Self:
        """Return the axis on which all but the tails of each sample fit."""
        top = max(_quantile(sample, 1 - TAIL) for sample in samples) or 1.0
        bottom = min(_quantile(sample, TAIL, only_positive=True) for sample in samples)
        middle = min(_quantile(sample, 0.5) for sample in samples)
        num_bins = np.clip(round(2 * max(s.num_rows for s in samples) ** (1 / 3)), *NUM_BINS)
        if 0 < bottom < top and 0 < WIDE * middle < top:
            return cls(np.geomspace(bottom, top, num_bins + 1), is_log=True)
        return cls(np.linspace(0, top, num_bins + 1), is_log=False)

    def name_outliers(self, sample: Distribution) -> str:
        """Return how many of a sample's rows are beyond the axis, in words; "" if none is."""
        low, high = self.edges[0], self.edges[-1]
        below = int(sample.counts[sample.values < low].sum())
        above = int(sample.counts[sample.values > high].sum())
        found = []
        if below:
            found.append(f"{counted(below, 'row')} below {show_number(low, 2)}, "
                         f"smallest {show_number(sample.values[0], 2)}")  # fmt: skip
        if above:
            found.append(f"{counted(above, 'row')} above {show_number(high, 2)}, "
                         f"largest {show_number(sample.values[-1], 2)}")  # fmt: skip
        return "; ".join(found)


def _quantile(sample: Distribution, q: float, *, only_positive: bool = False) -> float:
    if only_positive and sample.values[0] <= 0:
        positive = sample.values[sample.values > 0]
        return max(sample.quantile(q), float(positive[0]) if len(positive) else 0.0)
    return sample.quantile(q)


def draw_distributions(samples: Mapping[Side, Distribution | None], scale: Scale, name: str) -> str:
    """Return a chart of a group's scores, in the run and in the baseline, as SVG.

    No other chart on the page may have the name.
    """
    figure, axes = _axes()
    for side, sample in samples.items():
        if sample is None:
            continue
        is_filled = side == "run"
        inside = (sample.values >= scale.edges[0]) & (sample.values <= scale.edges[-1])
        counts, _ = np.histogram(sample.values[inside], scale.edges, weights=sample.counts[inside])
        shares = 100 * counts / sample.num_rows
        axes.stairs(shares, scale.edges, fill=is_filled, color=COLOURS[side],
                    alpha=0.6 if is_filled else 1, linewidth=1.4)  # fmt: skip
        axes.axvline(sample.quantile(0.5), color=COLOURS[side], linestyle="--", linewidth=1)
    if scale.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(scale.edges[0], scale.edges[-1])
    axes.set_xlabel(f"{SCORE}, logarithmic" if scale.is_log else SCORE)
    axes.set_ylabel("rows, %")
    return _to_svg(figure, name)


def _axes() -> tuple[Figure, Axes]:
    ink, muted = COLOURS["ink"], COLOURS["muted"]
    settings: Any = {
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": muted, "xtick.color": muted,
        "ytick.color": muted, "xtick.labelcolor": ink, "ytick.labelcolor": ink,
        "axes.spines.top": False, "axes.spines.right": False, "font.size": 9,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.2, 2.2), layout="constrained")
        return figure, figure.subplots()


def _to_svg(figure: Figure, name: str) -> str:
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    # With a salt for each chart, no two charts on the page use the same ids; the ids stay the same
    # from day to day.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r"<svg \1\2", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for variable, placeholder in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    return svg
