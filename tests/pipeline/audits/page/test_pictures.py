import base64

import numpy as np
import pytest
from PIL import Image

from pipeline.audits.page.pictures import (
    MAX_IMAGE_BYTES,
    MAX_MAP_BYTES,
    NUM_MAPS,
    PAGE_BYTES,
    Limits,
    show_pairs,
)
from pipeline.audits.page.sheets import PickedPair
from pipeline.runs.finished import open_run
from spips_core import SPIPS
from tests.pipeline.audits.conftest import run_audit


def shown_of(run, side_px=384):
    """The one pair on each of a run's contact sheets, and the notes."""
    found = run_audit(run, report={"pairs_per_sheet": 1, "bootstrap_samples": 100})
    sheets, notes = show_pairs(found.sheets, open_run(run), side_px)
    return sheets["worst"][0], notes


@pytest.fixture
def columns(tmp_path):
    """A pair of noise images, which no encoder can make small."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 600, 800, 3), np.uint8)
    for name, pixels in zip("rd", noise, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return {
        "pair_id": ["a"],
        "spips_score": [0.5],
        "reference_uri": [str(tmp_path / "r.png")],
        "distorted_uri": [str(tmp_path / "d.png")],
    }


def test_a_pair_is_two_images_and_three_heat_maps_of_limited_size(columns, write_run):
    shown, notes = shown_of(write_run(columns, digest=SPIPS.load("embedded").digest))
    names = ["reference", "distorted", "tradition", "percept", "semantic"]
    assert [picture.name for picture in shown.pictures] == names
    assert (shown.problem, notes) == ("", [])
    for picture in shown.pictures:
        is_map = picture.brightest is not None
        content = base64.b64decode(picture.data_uri.removeprefix("data:image/webp;base64,"))
        assert len(content) <= (MAX_MAP_BYTES if is_map else MAX_IMAGE_BYTES)
        assert is_map == (picture.name not in ("reference", "distorted"))


def test_without_the_run_s_model_a_note_says_so_and_only_the_images_are_shown(columns, write_run):
    shown, notes = shown_of(write_run(columns, digest="b" * 64))
    assert [picture.name for picture in shown.pictures] == ["reference", "distorted"]
    (note,) = notes
    assert note.startswith("no heat maps: expected the run's model, digest bbbbbbbbbbbbbbbb, got ")


def test_a_pair_whose_images_are_lost_says_why(columns, write_run, tmp_path):
    (tmp_path / "d.png").unlink()
    shown, _ = shown_of(write_run(columns))
    assert shown.pictures == ()
    assert shown.problem.startswith("missing: ")
    assert shown.uris == (columns["reference_uri"][0], columns["distorted_uri"][0])


@pytest.mark.parametrize(("num_pairs", "num_related"), [(1, 0), (8, 1), (300, 1), (312, 6)])
def test_all_pictures_together_fit_on_the_page(num_pairs, num_related):
    pair = PickedPair("a", ("/r.png", "/d.png"), None, {}, {}, related=(None,) * num_related)
    limits = Limits.of({"worst": [pair] * num_pairs}, 384)
    num_bytes = (2 + num_related) * limits.image_bytes + NUM_MAPS * limits.map_bytes
    assert num_pairs * num_bytes * 4 / 3 <= PAGE_BYTES
    assert (limits.image_bytes == MAX_IMAGE_BYTES) == (num_pairs < 300)


def test_an_earlier_image_is_shown_unless_it_is_lost_or_was_overwritten(
    columns, write_run, tmp_path
):
    run = write_run(columns, finished_at="2026-01-03T02:00:00+00:00")

    def shown_with(distorted_uri, name):
        before = write_run(columns | {"distorted_uri": [distorted_uri]}, name)
        found = run_audit(run, before, report={"pairs_per_sheet": 1, "bootstrap_samples": 100})
        sheets, _ = show_pairs(found.sheets, open_run(run), 384)
        return sheets["worst"][0]

    Image.new("RGB", (800, 600)).save(tmp_path / "before.png")
    shown = shown_with(str(tmp_path / "before.png"), "whole")
    assert [(picture.name, picture.kind) for picture in shown.pictures] == [
        ("reference", "reference"), ("before, 2 Jan", "before"), ("now, 3 Jan", "now"),
    ]  # fmt: skip
    assert shown.lost == ()
    shown = shown_with(str(tmp_path / "absent.png"), "lost")
    assert [picture.kind for picture in shown.pictures] == ["reference", "now"]
    assert shown.lost[0].startswith("before, 2 Jan: missing: distorted: expected an image, got")
    shown = shown_with(columns["distorted_uri"][0], "same")
    (lost,) = shown.lost
    assert lost.startswith("before, 2 Jan: its image had the same URI as now")
