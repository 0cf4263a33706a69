import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from spips_core import SPIPS, ModelConfig
from spips_core.config import STREAMS
from spips_core.heat_maps import draw_heat_maps

DARKEST, BRIGHTEST = colormaps["inferno"]([0.0, 1.0], bytes=True)[:, :3]
"""The ends of the colour scale."""


def decode(png):
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def pair(photos, noisy_photos):
    return photos[1], noisy_photos[1]


@pytest.fixture(scope="module")
def scores(pair):
    reference, distorted = pair
    return SPIPS.untrained(ModelConfig()).score(reference[None], distorted[None])


def spot(rows=slice(0, 64), columns=slice(0, 72)):
    map_ = torch.zeros(128, 144)
    map_[rows, columns] = 1
    return map_


def draw(pair, scores, **maps):
    return decode(draw_heat_maps(*pair, maps, scores))


@pytest.mark.parametrize(
    "streams", [STREAMS, ("percept", "semantic"), ("tradition",)], ids=lambda s: str(len(s))
)
def test_picture_of_a_model_is_wider_than_high(streams, pair):
    model = SPIPS.untrained(ModelConfig(streams=streams))
    reference, distorted = (image[None] for image in pair)
    maps = {name: m[0] for name, m in model.quality_maps(reference, distorted).items()}
    picture = draw(pair, model.score(reference, distorted), **maps)
    height_px, width_px, _ = picture.shape
    assert width_px > 1.5 * height_px
    assert width_px > 200 * (2 + len(streams))


def test_reference_and_distorted_are_shown_in_that_order(scores):
    red, blue = torch.zeros(2, 3, 128, 144, dtype=torch.uint8)
    red[0], blue[2] = 255, 255
    picture = draw((red, blue), scores, percept=torch.zeros(128, 144))
    columns = [
        np.flatnonzero((picture == colour).all(axis=2).sum(axis=0) > 50).mean()
        for colour in ([255, 0, 0], [0, 0, 255])
    ]
    assert columns[0] < columns[1] < picture.shape[1] / 2 + 50


def places(picture, colour):
    """Rows and columns of a colour as shares of the picture, without the bar at the right."""
    found = (picture[:, : int(picture.shape[1] * 0.9)] == colour).all(axis=2).nonzero()
    return [place / size for place, size in zip(found, picture.shape, strict=False)]


@pytest.mark.parametrize("is_swapped", [False, True])
def test_spots_are_where_the_maps_have_them_each_in_its_column(pair, scores, is_swapped):
    maps = {"percept": spot(slice(0, 64)), "semantic": torch.zeros(128, 144)}
    if is_swapped:
        maps = {"percept": torch.zeros(128, 144), "semantic": spot(slice(64, 128))}
    rows, columns = places(draw(pair, scores, **maps), BRIGHTEST)
    assert len(rows) > 10_000
    # The columns begin at 0, 0.22, 0.45 and 0.68, and their upper left or lower left is lit.
    assert (rows.mean() > 0.5) == is_swapped
    assert 0.44 + 0.23 * is_swapped < columns.min() < columns.max() < 0.57 + 0.23 * is_swapped


def test_all_maps_share_one_scale(pair, scores):
    equal = draw(pair, scores, percept=spot(), semantic=spot())
    dimmer = draw(pair, scores, percept=spot(), semantic=spot() / 5)
    assert (equal != dimmer).any(axis=2).sum() > 5000


def test_one_bright_pixel_does_not_darken_the_rest(pair, scores):
    border = spot()
    border[127, 143] = 1000
    plain, with_pixel = (draw(pair, scores, percept=map_) for map_ in (spot(), border))
    assert (plain != with_pixel).any(axis=2).sum() < 100


def test_maps_of_identical_images_are_dark(pair, scores):
    picture = draw(pair, scores, percept=torch.zeros(128, 144))
    assert len(places(picture, BRIGHTEST)[0]) == 0
    assert len(places(picture, DARKEST)[0]) > 70_000


def test_titles_show_the_scores(pair, scores):
    one = draw(pair, scores, percept=spot())
    for name in ("percept", "score"):
        changed = draw(pair, replace(scores, **{name: torch.tensor([7.1234])}), percept=spot())
        assert (one != changed).any()
