"""The pictures of contact sheets: images and heat maps, shrunk to what the page can hold."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.audits.page.sheets import PickedPair, RelatedImage
from pipeline.audits.records import SCORE
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status
from pipeline.runs.uris import redact
from pipeline.scoring.config import ImagesConfig, ModelSourceConfig
from pipeline.scoring.stages.load import load_pairs
from pipeline.scoring.stages.model import load_model
from pipeline.scoring.stages.pixels import images_of
from spips_core import SPIPS, SpipsError

MAX_IMAGE_BYTES, MAX_MAP_BYTES = 44_000, 10_000
"""Largest size of an encoded image and of a heat map on the page."""
PAGE_BYTES = 20_000_000
"""Largest size of all pictures together, as text on the page. Many pictures are smaller ones."""
QUALITIES = (90, 80, 65, 50, 35, 20)
MAP_SHARE = 0.5  # A heat map's side, as a share of an image's side.
BRIGHTEST_QUANTILE = 0.995  # A single extreme pixel must not darken all others.
NUM_MAPS = 3
KINDS = ("reference", "before", "now", "model", "map")
"""Kinds of pictures, in the order of a pair's row."""


@dataclass(frozen=True)
class Picture:
    """One image of a pair: reference, distorted, a related one, or a stream's heat map."""

    name: str
    data_uri: str
    kind: str  # one of KINDS
    score: float | None = None
    brightest: float | None = None  # value with the brightest colour; None if not a heat map


@dataclass(frozen=True)
class ShownPair:
    """A pair on a contact sheet. Its id and URIs are without secrets."""

    pair: PickedPair
    pair_id: str
    uris: tuple[str, ...]  # of reference and distorted; empty if the manifest holds the bytes
    pictures: tuple[Picture, ...]  # empty if the images cannot be loaded
    problem: str  # why there are no pictures, or ""
    lost: tuple[str, ...] = ()  # which related images are not shown, and why


class Limits(NamedTuple):
    """The largest picture: its longest side, and the sizes of an image and of a heat map."""

    side_px: int
    image_bytes: int
    map_bytes: int

    @classmethod
    def of(cls, sheets: Mapping[str, Sequence[PickedPair]], side_px: int) -> Self:
        """Return the limits with which the pictures of all sheets fit on the page."""
        shown = [pair for pairs in sheets.values() for pair in pairs if pair.uris]
        num_images = sum(2 + len(pair.related) for pair in shown)
        share = PAGE_BYTES * 3 / 4  # base64 makes 4 bytes of 3
        share /= max(num_images * MAX_IMAGE_BYTES + len(shown) * NUM_MAPS * MAX_MAP_BYTES, 1)
        share = min(share, 1)
        return cls(side_px, int(share * MAX_IMAGE_BYTES), int(share * MAX_MAP_BYTES))


Loaders = Mapping[str, Iterator[pa.Table]]
"""What loads the next image of each run, by the run's URI."""


def show_pairs(
    sheets: Mapping[str, Sequence[PickedPair]], run: FinishedRun, side_px: int
) -> tuple[dict[str, list[ShownPair]], list[str]]:
    """Load the images of contact sheets, shrink them, and compute heat maps.

    Each run's own settings say which of its images may be fetched. Returns the pairs by sheet, and
    notes for people.
    """
    if not sheets:
        return {}, []
    model, notes = _load_model_of(run)
    limits = Limits.of(sheets, side_px)
    pairs = {pair.pair_id: pair for picked in sheets.values() for pair in picked}
    uris: dict[str, list[tuple[str, str]]] = {run.uri: []}
    runs = {run.uri: run}
    for pair in pairs.values():
        uris[run.uri] += [pair.uris] if pair.uris else []
        for related in _loadable(pair):
            runs[related.run.uri] = related.run
            uris.setdefault(related.run.uri, []).append(related.uris)
    with ExitStack() as stack:
        loaders = {
            uri: stack.enter_context(closing(load_pairs(uris[uri], _rules_of(one))))
            for uri, one in runs.items()
        }
        shown = {id_: _show(pair, run, loaders, model, limits) for id_, pair in pairs.items()}
    return {
        name: [replace(shown[pair.pair_id], pair=pair) for pair in picked]
        for name, picked in sheets.items()
    }, notes


def _rules_of(run: FinishedRun) -> ImagesConfig:
    return ImagesConfig.model_validate(run.record.config["images"])


def _loadable(pair: PickedPair) -> Iterator[RelatedImage]:
    """Yield the related images that are other files than the pair's own."""
    for related in pair.related:
        if pair.uris and related.uris[1] != pair.uris[1]:
            yield related


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
    pair: PickedPair, run: FinishedRun, loaders: Loaders, model: SPIPS | None, limits: Limits
) -> ShownPair:
    """Return a pair with its pictures; its images are the next ones of the loaders."""
    pair_id = redact(pair.pair_id)
    if pair.uris is None:
        problem = "the manifest holds the images as bytes, and results do not repeat them"
        return ShownPair(pair, pair_id, (), (), problem)
    uris = tuple(redact(uri) for uri in pair.uris)
    own, problem = _images_of(next(loaders[run.uri]))
    pictures, lost = [], []
    for related in pair.related:
        kind = "before" if related.is_before else "model"
        if related.uris[1] == pair.uris[1]:
            lost.append(f"{related.name}: its image had the same URI as now, so it cannot be shown")
            continue
        images, reason = _images_of(next(loaders[related.run.uri]))
        if images:
            uri = _encode_image(images[1], limits)
            pictures.append(Picture(related.name, uri, kind, related.score))
        else:
            lost.append(f"{related.name}: {reason}")
    if not own:
        return ShownPair(pair, pair_id, uris, (), problem)
    reference, distorted = (_encode_image(image, limits) for image in own)
    pictures += [
        Picture("reference", reference, "reference"),
        Picture(pair.name, distorted, "now", pair.scores.get(SCORE)),
    ]
    if model is not None:
        maps = model.quality_maps(*(image[None] for image in own))
        pictures += _paint({name: m[0].float().cpu().numpy() for name, m in maps.items()}, limits)
    pictures.sort(key=lambda picture: KINDS.index(picture.kind))
    return ShownPair(pair, pair_id, uris, tuple(pictures), "", tuple(lost))


def _images_of(row: pa.Table) -> tuple[list[torch.Tensor], str]:
    """Return the pixels of a loaded pair, or nothing and the reason."""
    status, error = (row.column(name)[0].as_py() for name in ("status", "error"))
    if status != Status.OK:
        return [], f"{status}: {error}"
    return [images_of(row, f"{role}_pixels", [0])[0] for role in ("reference", "distorted")], ""


def _paint(maps: Mapping[str, NDArray[np.float32]], limits: Limits) -> Iterator[Picture]:
    """Yield the heat maps of a pair on one colour scale, so that streams can be compared."""
    values = np.concatenate([map_.ravel() for map_ in maps.values()])
    brightest = max(float(np.quantile(values, BRIGHTEST_QUANTILE)), 1e-6)
    for name, map_ in maps.items():
        colours = colormaps["inferno"](np.clip(map_ / brightest, 0, 1), bytes=True)[..., :3]
        uri = _encode(colours, round(limits.side_px * MAP_SHARE), limits.map_bytes)
        yield Picture(name, uri, "map", brightest=brightest)


def _encode_image(image: torch.Tensor, limits: Limits) -> str:
    return _encode(image.permute(1, 2, 0).numpy(), limits.side_px, limits.image_bytes)


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
