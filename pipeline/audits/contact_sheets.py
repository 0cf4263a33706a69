"""Pairs for people to look at: the images and the streams' heat maps, small enough for a page."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.audits.tables import Row
from pipeline.runs.errors import FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status
from pipeline.runs.uris import redact
from pipeline.scoring.config import ImagesConfig, ModelSourceConfig
from pipeline.scoring.load import load_pair
from pipeline.scoring.score import describe_model, load_model, stack_pixels
from spips_core import SPIPS, SpipsError

MAX_IMAGE_BYTES, MAX_MAP_BYTES = 44_000, 10_000
"""Of one encoded image, and of one heat map, on a page."""
QUALITIES = (90, 80, 65, 50, 35, 20)
MAP_SHARE = 0.5  # of an image's side
BRIGHTEST_QUANTILE = 0.995  # one pixel at a border must not darken all the others


@dataclass(frozen=True)
class Picture:
    """One image of a pair.

    Attributes:
        name: reference, distorted, or the stream whose heat map it is.
        data_uri: the image itself.
        brightest: of a heat map, the value of its brightest colour.
    """

    name: str
    data_uri: str
    brightest: float | None = None


@dataclass(frozen=True)
class ShownPair:
    """A pair on a contact sheet.

    Attributes:
        pair_id: its id.
        row: its scores.
        uris: of reference and distorted, without secrets; empty if the manifest held the bytes.
        pictures: reference, distorted and heat maps; empty if the images cannot be had.
        problem: why there are no pictures, or "".
    """

    pair_id: str
    row: Row
    uris: tuple[str, ...]
    pictures: tuple[Picture, ...]
    problem: str


def show_pairs(
    sheets: Mapping[str, Sequence[Row]], run: FinishedRun, side_px: int
) -> tuple[dict[str, list[ShownPair]], list[str]]:
    """Fetch, shrink and explain the pairs of contact sheets.

    Args:
        sheets: result rows, by sheet's name.
        run: that they are from; its own rules say which images may be fetched.
        side_px: longest side of an image on the page.

    Returns:
        The pairs by sheet, and notes for people.
    """
    if not sheets:
        return {}, []
    model, notes = _model_of(run)
    shown: dict[str, ShownPair] = {}
    for rows in sheets.values():
        for row in rows:
            pair_id = str(row[run.pair_id_column])
            if pair_id not in shown:
                shown[pair_id] = _show(pair_id, row, run, model, side_px)
    pairs = {
        name: [shown[str(row[run.pair_id_column])] for row in rows] for name, rows in sheets.items()
    }
    return pairs, notes


def _model_of(run: FinishedRun) -> tuple[SPIPS | None, list[str]]:
    """Return the model that scored the run, if it is still to be had."""
    expected = run.model_digest
    try:
        model = load_model(ModelSourceConfig.model_validate(run.record.config["model"]))
        got = describe_model(model).digest
    except (SpipsError, FaultError, ValidationError) as error:
        line = " ".join(redact(str(error)).split())
        return None, [f"no heat maps: the run's model cannot be loaded: {line}"]
    if got != expected:
        return None, [
            f"no heat maps: the run's model has digest {expected[:16]}, the one at hand {got[:16]}"
        ]
    return model, []


def _show(pair_id: str, row: Row, run: FinishedRun, model: SPIPS | None, side_px: int) -> ShownPair:
    pair_id = redact(pair_id)
    if run.image_columns is None:
        return ShownPair(pair_id, row, (), (), "the manifest held the images, results do not")
    reference, distorted = (str(row[name]) for name in run.image_columns)
    uris = redact(reference), redact(distorted)
    rules = ImagesConfig.model_validate(run.record.config["images"])
    loaded = load_pair(reference, distorted, rules)
    status, error = (loaded.column(name)[0].as_py() for name in ("status", "error"))
    if status != Status.OK:
        return ShownPair(pair_id, row, uris, (), f"{status}: {error}")
    stacks = [stack_pixels(loaded, f"{role}_pixels", [0]) for role in ("reference", "distorted")]
    pictures = [
        Picture(role, _encode(stack[0].permute(1, 2, 0).numpy(), side_px, MAX_IMAGE_BYTES))
        for role, stack in zip(("reference", "distorted"), stacks, strict=True)
    ]
    if model is not None:
        maps = {
            name: map_[0].float().cpu().numpy()
            for name, map_ in model.quality_maps(*stacks).items()
        }
        pictures += _paint(maps, side_px)
    return ShownPair(pair_id, row, uris, tuple(pictures), "")


def _paint(maps: Mapping[str, NDArray[np.float32]], side_px: int) -> Iterator[Picture]:
    """Yield the heat maps of a pair on one scale of colours, so that streams can be compared."""
    values = np.concatenate([map_.ravel() for map_ in maps.values()])
    brightest = max(float(np.quantile(values, BRIGHTEST_QUANTILE)), 1e-6)
    for name, map_ in maps.items():
        colours = colormaps["inferno"](np.clip(map_ / brightest, 0, 1), bytes=True)[..., :3]
        small = round(side_px * MAP_SHARE)
        yield Picture(name, _encode(colours, small, MAX_MAP_BYTES), brightest)


def _encode(pixels: NDArray[np.uint8], side_px: int, max_bytes: int) -> str:
    """Return an image as a data URI: shrunk to a side, then as good as the bytes allow."""
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
