"""Which pairs the sheets show, and the images next to them."""

import numpy as np
import pytest

from pipeline.audits.page.sheets import MAX_BOUNDS, NEAREST
from tests.pipeline.audits.conftest import run_audit

GATE = {"column": "spips_score", "figure": "p95"}


def columns(night="1", **others):
    """Ten references, each with the pairs of models a and b, whose scores are 0.01 to 0.2."""
    models = ["a", "b"] * 10
    return {
        "pair_id": [f"{model}{i // 2}" for i, model in enumerate(models)],
        "model": models,
        "reference_uri": [f"/r{i // 2}.png" for i in range(20)],
        "distorted_uri": [f"/{night}/{model}{i // 2}.png" for i, model in enumerate(models)],
        "spips_score": [(i + 1) / 100 for i in range(20)],
        "ssim": [1 - (i + 1) / 100 for i in range(20)],
    } | others


def sheets_of(run, baseline=None, **settings):
    return run_audit(run, baseline, report={"bootstrap_samples": 100}, **settings).sheets


@pytest.mark.parametrize(
    ("gate", "title", "within", "beyond"),
    [
        (GATE | {"at_most": 0.1}, "Nearest to spips_score 0.1: all rows",
         ["b4", "a4"], ["a5", "b5"]),
        (GATE | {"at_most": 0.1, "each_group": True}, "Nearest to spips_score 0.1: b",
         ["b4", "b3"], ["b5", "b6"]),
        (GATE | {"figure": "share_above", "threshold": 0.055, "at_most": 0.5},
         "Nearest to spips_score 0.055: all rows", ["a2", "b1"], ["b2", "a3"]),
        ({"column": "ssim", "figure": "p5", "at_least": 0.9}, "Nearest to ssim 0.9: all rows",
         ["b4", "a4"], ["a5", "b5"]),
        (GATE | {"at_most": 0.001}, "Nearest to spips_score 0.001: all rows", [], ["a0", "b0"]),
    ],
)  # fmt: skip
def test_the_pairs_nearest_to_a_broken_bound_are_shown(gate, title, within, beyond, write_run):
    sheets = sheets_of(write_run(columns()), gates=[gate], group_by=["model"])
    assert list(sheets)[:2] == ["worst", title]
    remarks = {pair.pair_id: pair.remark for pair in sheets[title]}
    assert list(remarks) == [*within, *beyond]
    assert {remarks[id_] for id_ in within} <= {"within the bound"}
    assert {remarks[id_] for id_ in beyond} == {"beyond the bound"}
    assert len(beyond) == NEAREST
    assert {pair.remark for pair in sheets["worst"]} == {""}


def test_bounds_that_no_pair_can_have_and_kept_gates_have_no_sheet(write_run):
    gates = [
        {"figure": "failed_fraction", "at_most": 0},
        {"column": "spips_score", "figure": "mean", "rise_at_most": 0.01},
        GATE | {"at_most": 0.9},
    ]
    now = columns(status=["missing"] + ["ok"] * 19, spips_score=[None] + [0.5] * 19)
    sheets = sheets_of(write_run(now), write_run(columns("0"), "before"), gates=gates)
    assert list(sheets) == ["worst", "most changed", "random"]


def test_only_the_worst_bounds_have_a_sheet_and_each_only_one(write_run):
    gates = [GATE | {"figure": figure, "at_most": bound} for bound in (0.01, 0.02, 0.03, 0.04)
             for figure in ("p95", "p99")]  # fmt: skip
    sheets = sheets_of(write_run(columns()), gates=gates)
    nearest = [title for title in sheets if title.startswith("Nearest")]
    assert nearest == [f"Nearest to spips_score 0.0{n}: all rows" for n in range(1, MAX_BOUNDS + 1)]


def test_a_pair_has_the_image_of_the_newest_night_before(write_run):
    oldest = write_run(columns("0"), "oldest", finished_at="2026-01-01T02:00:00+00:00")
    before = columns("1", status=["missing"] + ["ok"] * 19, spips_score=[None] + [0.01] * 19)
    write_run(before, "before", finished_at="2026-01-02T02:00:00+00:00")
    run = write_run(columns("2"), "now", finished_at="2026-01-03T02:00:00+00:00")
    sheets = sheets_of(run, oldest.rpartition("/")[0])
    pair = sheets["worst"][0]
    (earlier,) = pair.related
    assert (pair.name, pair.uris) == ("now, 3 Jan", ("/r9.png", "/2/b9.png"))
    assert (earlier.name, earlier.uris) == ("before, 2 Jan", ("/r9.png", "/1/b9.png"))
    assert earlier.score == np.float32(0.01)


def test_a_pair_that_failed_the_night_before_has_no_earlier_image(write_run):
    before = columns("1", status=["ok"] * 19 + ["missing"], spips_score=[0.01] * 19 + [None])
    sheets = sheets_of(write_run(columns("2"), "now"), write_run(before, "before"))
    first, second, *_ = sheets["worst"]
    assert (first.pair_id, first.name, first.related) == ("b9", "distorted", ())
    assert len(second.related) == 1


def test_other_models_of_the_same_reference_are_next_to_a_pair_best_first(write_run):
    more = columns()
    for name, value in (
        ("pair_id", "c9"),
        ("model", "c"),
        ("reference_uri", "/r9.png"),
        ("distorted_uri", "/1/c9.png"),
        ("spips_score", 0.05),
        ("ssim", 0.9),
    ):
        more[name] = [*more[name], value]
    run = write_run(more)
    sheets = sheets_of(run, compare_by="model")
    pair = sheets["worst"][0]
    assert (pair.name, pair.pair_id) == ("b", "b9")
    assert [(one.name, one.uris[1]) for one in pair.related] == [("c", "/1/c9.png"),
                                                                 ("a", "/1/a9.png")]  # fmt: skip
    assert sheets_of(run)["worst"][0].related == ()
