"""Every state of the report's page, drawn by a real browser; skipped where there is none.

The pictures are in build/report. Look at them after a change of the page.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.audits.audit import audit
from pipeline.audits.baseline import open_runs
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.figures.tables import open_tables
from pipeline.audits.page.pictures import Limits, Picture, ShownPair, _encode
from pipeline.audits.page.sheets import MAX_OTHER_MODELS, PickedPair
from pipeline.audits.report import NUM_GATES, render, write_report
from tests.pipeline.audits.conftest import STREAMS, run_audit, scores
from tests.pipeline.audits.nights import make_night, model

PICTURES = Path(__file__).parents[3] / "build" / "report"
P95 = {"column": "spips_score", "figure": "p95", "at_most": 0.15, "each_group": True}
RISE = {"column": "spips_score", "figure": "mean", "rise_at_most": 0.01, "each_group": True}
GATES = [P95, RISE, {"figure": "failed_fraction", "at_most": 0.05}]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Columns of two nights: in the second, model_b became worse."""
    folder = tmp_path_factory.mktemp("nights")
    return {
        "2026-11-25": make_night(folder, "2026-11-25"),
        "2026-11-26": make_night(folder, "2026-11-26", worse={"model_b": 5}, num_failed=2),
    }


@pytest.fixture
def make_report(write_run, tmp_path):
    """A function that writes runs and the report of the last one; returns the page's path."""

    def make(nights, **settings):
        for night, columns in nights.items():
            run = write_run(columns, night, night=night, digest=model().digest,
                            finished_at=f"{night}T02:00:00+00:00")  # fmt: skip
        has_baseline = len(nights) > 1
        config = AuditScoresConfig.model_validate(
            {"scores": {"uri": run}, "group_by": ["model"], "compare_by": "model",
             "baseline": {"uri": str(tmp_path / "scores") if has_baseline else None},
             "gates": GATES if has_baseline else [GATES[0], GATES[2]],
             "report": {"pairs_per_sheet": 3}, "output": {"uri": str(tmp_path / "audit")}}
            | settings
        )  # fmt: skip
        opened, baseline, notes, _ = open_runs(config, allow_different_models=False)
        with open_tables(opened, baseline, config.group_by) as tables:
            found = audit(config, tables, opened, baseline, notes)
        write_report(found, opened, config)
        return tmp_path / "audit" / "audit.html"

    return make


@pytest.fixture
def shoot(browser):
    """A function that opens a page and takes a picture of all of it; returns the open page."""
    pages = []

    def take(path, name, viewport=WIDE, scheme="light"):
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        page.goto(f"file://{path}")
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}_top.png")
        # Pairs out of view are not drawn; here all are.
        page.add_style_tag(content=".pair { content-visibility: visible !important; }")
        page.screenshot(path=PICTURES / f"{name}.png", full_page=path.stat().st_size < 10e6)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        pages.append(page)
        return page

    yield take
    for page in pages:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE])
def test_a_failed_night(nights, make_report, shoot, viewport, scheme):
    page = shoot(make_report(nights), f"failed_{viewport['width']}_{scheme}", viewport, scheme)
    assert page.locator("h1").inner_text().startswith("FAILED\nmodel_b: ")


def test_a_phone_shows_each_failure_whole_with_its_error_below(nights, make_report, shoot):
    columns = dict(nights["2026-11-26"])
    columns["error"] = [error and f"{error}: " + "x/" * 60 for error in columns["error"]]
    page = shoot(make_report({"2026-11-26": columns}), "failures_390", PHONE)
    box = page.locator("#failures").bounding_box()
    for row in page.locator("#failures tbody tr").all():
        name, error = (row.locator("td").nth(i).bounding_box() for i in (1, 2))
        assert error["y"] >= name["y"] + name["height"]
        assert error["width"] > 0.9 * box["width"]
    assert page.evaluate("(e => e.scrollWidth - e.clientWidth)(failures.parentElement)") == 0


def test_no_baseline(nights, make_report, shoot):
    page = shoot(make_report({"2026-11-26": nights["2026-11-26"]}), "no_baseline")
    assert "change" not in page.locator("#groups thead").inner_text()


@pytest.mark.parametrize("gates", [[], GATES[:1]])
def test_all_rows_failed(nights, make_report, shoot, gates):
    columns = {
        name: [None] * len(values) if name.endswith(("_score", "psnr_db", "ssim")) else values
        for name, values in nights["2026-11-26"].items()
    }
    columns |= {"status": ["missing"] * len(columns["pair_id"])}
    columns |= {"error": ["expected an image, got no object"] * len(columns["pair_id"])}
    page = shoot(make_report({"2026-11-26": columns}, gates=gates), f"all_failed_{len(gates)}")
    assert "o row has a" in page.locator("h1").inner_text()


def test_one_group(nights, make_report, shoot):
    columns = nights["2026-11-26"]
    chosen = [i for i, name in enumerate(columns["model"]) if name == "model_a"]
    one = {name: [values[i] for i in chosen] for name, values in columns.items()}
    page = shoot(make_report({"2026-11-26": one}, compare_by=None), "one_group")
    assert page.locator("#groups .heat").count() == 0


def test_a_thousand_groups_and_a_hundred_pairs_a_sheet(write_run, tmp_path, shoot):
    gate = {"column": "spips_score", "figure": "mean", "at_most": 0.1, "each_group": True}
    found = run_audit(write_run(scores()), write_run(scores(seed=1), "before"),
                      group_by=["maker"], gates=[gate])  # fmt: skip
    page = tmp_path / "audit.html"
    page.write_text(render(with_groups(found, 1000), full_sheets(100), ()))
    assert page.stat().st_size < 24e6  # docs/audit.md says so
    opened = shoot(page, "thousand_groups")
    assert opened.locator("#groups tbody.each tr").count() == 1000
    assert opened.locator("#gates tbody tr").count() == NUM_GATES[0]
    assert opened.locator("#sheet1 .pair").count() == 100
    timing = opened.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    sys.stdout.write(
        f"{page.stat().st_size / 1e6:.1f} MB, loaded in {timing['loadEventEnd']:.0f} ms\n"
    )


def with_groups(found, number):
    """Return an audit in which its first group is there that many times."""
    record, first = found.record, ("a",)

    def repeat(rows):
        copied = [row for row in rows if row.group == first]
        copies = [
            row.model_copy(update={"group": (f"prompt {i:04}, in the style of a long name",)})
            for i in range(number)
            for row in copied
        ]
        return tuple([row for row in rows if not row.group] + copies)

    names = ("statuses", "figures", "changes", "gates")
    lists = {name: repeat(getattr(record, name)) for name in names}
    return replace(found, record=record.model_copy(update=lists))


def full_sheets(num_pairs):
    """Return three sheets with as many and as large pictures as they can have."""
    related = (None,) * (1 + MAX_OTHER_MODELS)
    pair = PickedPair("p", ("/r.png", "/d.png"), 0.1, {"spips_score": 0.3}, {}, related=related)
    names = ("worst", "most changed", "random")
    limits = Limits.of(dict.fromkeys(names, [pair] * num_pairs), 384)
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3), np.uint8)
    image = _encode(noise, 384, limits.image_bytes)
    heat = _encode(noise, 192, limits.map_bytes)
    kinds = ["reference", "before", "now", *["model"] * MAX_OTHER_MODELS]
    pictures = [Picture(kind, image, kind, 0.3) for kind in kinds]
    pictures += [Picture(name, heat, "map", brightest=1.0) for name in STREAMS]
    return {
        name: [ShownPair(pair, f"{name} {i}", pair.uris, tuple(pictures), "")
               for i in range(num_pairs)]
        for name in names
    }  # fmt: skip
