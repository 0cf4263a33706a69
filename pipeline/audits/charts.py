"""Charts of an audit as SVG that takes its colours from the page, in light and dark."""

import io
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.audits.distribution import Distribution
from pipeline.runs.records import Json

COLOURS = {"ink": "#010101", "muted": "#020202", "run": "#030303", "baseline": "#040404"}
"""Placeholders, each of which becomes the page's CSS variable of its name."""
NUM_STEPS = 60
LONGEST_TAIL = 0.995  # histograms end here, that a few rows do not squeeze all others


def draw_trend(trend: Sequence[Json]) -> dict[str, str]:
    """Return the score and the share of failed rows over the runs, as SVG by title.

    Args:
        trend: of audit.json, oldest first.
    """
    days = [datetime.fromisoformat(run["finished_at"]).strftime("%d %b\n%H:%M") for run in trend]
    places = np.arange(len(trend))
    charts = {}
    figure, axes = _axes()
    for name, style in (("p95", ":"), ("mean", "-"), ("median", "--")):
        values = [np.nan if run[name] is None else run[name] for run in trend]
        axes.plot(places, values, style, color=COLOURS["run"], marker="o", markersize=4)
        axes.annotate(
            name, (places[-1], values[-1]), xytext=(8, -3), textcoords="offset points",
            color=COLOURS["ink"],
        )  # fmt: skip
    axes.set_xlim(-0.3, len(trend) - 1 + 0.2 * len(trend))
    axes.set_ylim(bottom=0)
    axes.set_xticks(places, days)
    charts["spips_score"] = _to_svg(figure, "trend_score")
    figure, axes = _axes()
    axes.bar(places, [100 * run["failed_fraction"] for run in trend], 0.5, color=COLOURS["run"])
    axes.set_ylim(bottom=0)
    axes.set_xticks(places, days)
    charts["failed rows, %"] = _to_svg(figure, "trend_failed")
    return charts


def draw_distributions(run: Distribution, baseline: Distribution | None, name: str) -> str:
    """Return how a group's scores are distributed, beside the baseline's, as SVG.

    Args:
        run: the run's scores.
        baseline: the baseline's, if there are any.
        name: distinguishes the chart from others on the page.
    """
    figure, axes = _axes()
    samples = [sample for sample in (run, baseline) if sample is not None]
    top = max(sample.quantile(LONGEST_TAIL) for sample in samples) or 1.0
    edges = np.linspace(0, top, NUM_STEPS + 1)
    for sample, colour, is_filled in ((run, "run", True), (baseline, "baseline", False)):
        if sample is None:
            continue
        counts, _ = np.histogram(sample.values, edges, weights=sample.counts)
        shares = 100 * counts / sample.num_rows
        axes.stairs(
            shares, edges, fill=is_filled, color=COLOURS[colour], alpha=0.6 if is_filled else 1,
            linewidth=1.4,
        )  # fmt: skip
        axes.axvline(sample.quantile(0.5), color=COLOURS[colour], linestyle="--", linewidth=1)
    axes.set_xlim(0, top)
    axes.set_xlabel("spips_score")
    axes.set_ylabel("rows, %")
    return _to_svg(figure, name)


def _axes() -> tuple[Figure, Axes]:
    settings: Any = {
        "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["ink"],
        "axes.edgecolor": COLOURS["muted"], "xtick.color": COLOURS["muted"],
        "ytick.color": COLOURS["muted"], "xtick.labelcolor": COLOURS["ink"],
        "ytick.labelcolor": COLOURS["ink"], "axes.spines.top": False, "axes.spines.right": False,
        "font.size": 9,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.2, 2.2), layout="constrained")
        return figure, figure.subplots()


def _to_svg(figure: Figure, name: str) -> str:
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    # The salt keeps the ids of several charts on one page apart, and the same from day to day.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r"<svg \1\2", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for variable, placeholder in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    return svg
