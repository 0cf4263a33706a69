"""Every state of the report's page, drawn by a real browser; skipped where there is none.

The pictures are in build/report. Look at them after a change of the page.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.audits.audit import audit
from pipeline.audits.baseline import open_runs
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.report import NUM_GATES, write_report
from pipeline.audits.tables import open_tables
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

    def make(nights, digest=None, **settings):
        for night, columns in nights.items():
            run = write_run(columns, night, night=night, digest=digest or model().digest,
                            finished_at=f"{night}T02:00:00+00:00")  # fmt: skip
        has_baseline = len(nights) > 1
        config = AuditScoresConfig.model_validate(
            {"scores": {"uri": run}, "group_by": ["model"], "compare_by": "model",
             "baseline": {"uri": str(tmp_path / "scores") if has_baseline else None},
             "gates": GATES if has_baseline else [GATES[0], GATES[2]],
             "report": {"pairs_per_sheet": 3}, "output": {"uri": str(tmp_path / "audit")}}
            | settings
        )  # fmt: skip
        opened, baseline, notes = open_runs(config, allow_different_models=False)
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
        page.screenshot(path=PICTURES / f"{name}.png", full_page=len(page.content()) < 10e6)
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


def test_a_thousand_groups_and_a_hundred_pairs_a_sheet(nights, make_report, shoot):
    report = {"pairs_per_sheet": 100, "bootstrap_samples": 100}
    # Without the run's model there are no heat maps, which would take minutes.
    path = make_report(thousand_groups(nights), "a" * 64, group_by=["prompt"], report=report)
    assert path.stat().st_size < 24e6  # docs/audit.md says so
    page = shoot(path, "thousand_groups")
    assert page.locator("#groups tbody.each tr").count() == 1000
    assert page.locator("#gates tbody tr").count() == NUM_GATES
    assert page.locator("#sheet1 .pair").count() == 100
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    sys.stdout.write(
        f"{path.stat().st_size / 1e6:.1f} MB, loaded in {timing['loadEventEnd']:.0f} ms\n"
    )


def thousand_groups(nights):
    """Return nights in which every pair is there many times, in a thousand groups."""
    generator = np.random.default_rng(0)
    found = {}
    for night, columns in nights.items():
        rows = np.resize(np.flatnonzero(np.array(columns["status"]) == "ok"), 12_000)
        scores = np.array(columns["spips_score"], np.float64)[rows]
        found[night] = {
            name: [columns[name][i] for i in rows]
            for name in ("model", "reference_uri", "distorted_uri")
        } | {
            "pair_id": [f"{columns['pair_id'][i]}-{n}" for n, i in enumerate(rows)],
            "prompt": [f"prompt {n % 1000:03}" for n in range(len(rows))],
            "spips_score": (scores * generator.lognormal(0, 0.2, len(rows))).tolist(),
        }
    return found
