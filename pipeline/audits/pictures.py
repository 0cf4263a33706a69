"""The pictures of a report page: charts as SVG, and the images and heat maps of contact sheets."""

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.audits.audit import PickedPair
from pipeline.audits.distribution import Distribution
from pipeline.audits.records import SCORE, TrendPoint
from pipeline.audits.tables import Order
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status
from pipeline.runs.uris import redact
from pipeline.scoring.config import ImagesConfig, ModelSourceConfig
from pipeline.scoring.load import load_pairs
from pipeline.scoring.pixels import images_of
from pipeline.scoring.score import load_model
from spips_core import SPIPS, SpipsError

COLOURS = {"ink": "#010101", "muted": "#020202", "run": "#030303", "baseline": "#040404"}
"""Placeholders. The page's CSS variable of the same name replaces each one, for light and dark."""
NUM_STEPS = 60
LONGEST_TAIL = 0.995  # Histograms end at this quantile, so that a few rows do not squeeze the rest.

MAX_IMAGE_BYTES, MAX_MAP_BYTES = 44_000, 10_000
"""Largest size of an encoded image and of a heat map on the page."""
QUALITIES = (90, 80, 65, 50, 35, 20)
MAP_SHARE = 0.5  # A heat map's side, as a share of an image's side.
BRIGHTEST_QUANTILE = 0.995  # A single extreme pixel must not darken all others.


def draw_trend(trend: Sequence[TrendPoint]) -> dict[str, str]:
    """Return charts of the score and of the failed rows over the runs, as SVG by title."""
    days = [f"{date.fromisoformat(run.night):%d %b}\n{run.started_at[11:16]}" for run in trend]
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
        each.set_xticks(places, days)
    return {
        SCORE: _to_svg(figure, "trend_score"),
        "failed rows, %": _to_svg(failed_figure, "trend_failed"),
    }


def draw_distributions(run: Distribution, baseline: Distribution | None, name: str) -> str:
    """Return a chart of a group's scores, and of the baseline's in the same axes, as SVG.

    No other chart on the page may have the name.
    """
    figure, axes = _axes()
    samples = [sample for sample in (run, baseline) if sample is not None]
    top = max(sample.quantile(LONGEST_TAIL) for sample in samples) or 1.0
    edges = np.linspace(0, top, NUM_STEPS + 1)
    for sample, colour, is_filled in ((run, "run", True), (baseline, "baseline", False)):
        if sample is None:
            continue
        counts, _ = np.histogram(sample.values, edges, weights=sample.counts)
        axes.stairs(100 * counts / sample.num_rows, edges, fill=is_filled, color=COLOURS[colour],
                    alpha=0.6 if is_filled else 1, linewidth=1.4)  # fmt: skip
        axes.axvline(sample.quantile(0.5), color=COLOURS[colour], linestyle="--", linewidth=1)
    axes.set_xlim(0, top)
    axes.set_xlabel(SCORE)
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


@dataclass(frozen=True)
class Picture:
    """One image of a pair: reference, distorted, or a stream's heat map."""

    name: str
    data_uri: str
    brightest: float | None = None  # value with the brightest colour; None if not a heat map


@dataclass(frozen=True)
class ShownPair:
    """A pair on a contact sheet. Its id and URIs are without secrets."""

    pair: PickedPair
    pair_id: str
    uris: tuple[str, ...]  # of reference and distorted; empty if the manifest holds the bytes
    pictures: tuple[Picture, ...]  # empty if the images cannot be loaded
    problem: str  # why there are no pictures, or ""


def show_pairs(
    sheets: Mapping[Order, Sequence[PickedPair]], run: FinishedRun, side_px: int
) -> tuple[dict[Order, list[ShownPair]], list[str]]:
    """Load the images of contact sheets, shrink them, and compute heat maps.

    The run's own settings say which images may be fetched. Returns the pairs by sheet, and notes
    for people.
    """
    if not sheets:
        return {}, []
    model, notes = _load_model_of(run)
    pairs = {pair.pair_id: pair for picked in sheets.values() for pair in picked}
    rules = ImagesConfig.model_validate(run.record.config["images"])
    uris = [pair.uris for pair in pairs.values() if pair.uris is not None]
    with closing(load_pairs(uris, rules)) as loaded:
        shown = {pair_id: _show(pair, loaded, model, side_px) for pair_id, pair in pairs.items()}
    return {
        name: [shown[pair.pair_id] for pair in picked] for name, picked in sheets.items()
    }, notes


def _load_model_of(run: FinishedRun) -> tuple[SPIPS | None, list[str]]:
    """Return the model that scored the run, or None and a note that says why it is missing."""
    try:
        model = load_model(ModelSourceConfig.model_validate(run.record.config["model"]))
    except (SpipsError, ContractError, FaultError, ValidationError) as error:
        line = " ".join(redact(str(error)).split())
        return None, [f"no heat maps: the run's model cannot be loaded: {line}"]
    if model.digest != run.model_digest:
        expected, got = run.model_digest[:16], model.digest[:16]
        return None, [f"no heat maps: expected the run's model, digest {expected}, got {got}"]
    return model, []


def _show(
    pair: PickedPair, loaded: Iterator[pa.Table], model: SPIPS | None, side_px: int
) -> ShownPair:
    """Return a pair with its pictures; if it has URIs, its images are the next loaded ones."""
    pair_id = redact(pair.pair_id)
    if pair.uris is None:
        problem = "the manifest holds the images as bytes, and results do not repeat them"
        return ShownPair(pair, pair_id, (), (), problem)
    uris = tuple(redact(uri) for uri in pair.uris)
    row = next(loaded)
    status, error = (row.column(name)[0].as_py() for name in ("status", "error"))
    if status != Status.OK:
        return ShownPair(pair, pair_id, uris, (), f"{status}: {error}")
    roles = ("reference", "distorted")
    images = [images_of(row, f"{role}_pixels", [0])[0] for role in roles]
    pictures = [
        Picture(role, _encode(image.permute(1, 2, 0).numpy(), side_px, MAX_IMAGE_BYTES))
        for role, image in zip(roles, images, strict=True)
    ]
    if model is not None:
        maps = model.quality_maps(*(image[None] for image in images))
        pictures += _paint({name: m[0].float().cpu().numpy() for name, m in maps.items()}, side_px)
    return ShownPair(pair, pair_id, uris, tuple(pictures), "")


def _paint(maps: Mapping[str, NDArray[np.float32]], side_px: int) -> Iterator[Picture]:
    """Yield the heat maps of a pair on one colour scale, so that streams can be compared."""
    values = np.concatenate([map_.ravel() for map_ in maps.values()])
    brightest = max(float(np.quantile(values, BRIGHTEST_QUANTILE)), 1e-6)
    for name, map_ in maps.items():
        colours = colormaps["inferno"](np.clip(map_ / brightest, 0, 1), bytes=True)[..., :3]
        yield Picture(name, _encode(colours, round(side_px * MAP_SHARE), MAX_MAP_BYTES), brightest)


def _encode(pixels: NDArray[np.uint8], side_px: int, max_bytes: int) -> str:
    """Return an image as a data URI, in the best quality and then size that the bytes allow."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    while True:
        image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=quality)
            if buffer.tell() <= max_bytes:
                text = base64.b64encode(buffer.getvalue()).decode()
                return f"data:image/webp;base64,{text}"
        side_px = side_px * 3 // 4
