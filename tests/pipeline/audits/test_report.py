"""The report in a real browser; skipped where no Chromium is installed."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline.audits.audit import audit
from pipeline.audits.baseline import open_runs
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.report import write_report
from pipeline.audits.tables import open_tables

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
HOSTILE = "<script>document.title='broken into'</script>$x^{$\"'>"
NUM_PAIRS = 60

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # Chromium does not start its sandbox as root, and containers often run as root.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def columns(folder, *, worse=0.0):
    generator = np.random.default_rng(0)
    rows, waves = np.mgrid[:120, :160]
    picture = 127 + 60 * np.sin(rows / 5) + 60 * np.cos(waves / 9)
    reference = np.repeat(picture[..., None], 3, axis=2)
    references = [folder / f"r{i // 3}.png" for i in range(NUM_PAIRS)]
    for path in references:
        Image.fromarray(reference.astype(np.uint8)).save(path)
    noisy = reference + generator.normal(0, 40, reference.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "d.png")
    values = (generator.lognormal(-2, 0.5, NUM_PAIRS) * (1 + worse)).tolist()
    values[:2] = [None, None]
    uris = [str(folder / "d.png")] * NUM_PAIRS
    uris[-1] = "javascript:alert(1)"
    return {
        "pair_id": [f"{HOSTILE}{i}" for i in range(NUM_PAIRS)],
        "maker": [HOSTILE if i % 3 else "plain" for i in range(NUM_PAIRS)],
        "reference_uri": list(map(str, references)),
        "distorted_uri": uris,
        "status": ["missing"] * 2 + ["ok"] * (NUM_PAIRS - 2),
        "error": [f"expected {HOSTILE}"] * 2 + [""] * (NUM_PAIRS - 2),
        **dict.fromkeys(("spips_score", "tradition_score", "percept_score"), values),
        "semantic_score": values,
        "psnr_db": [None, None] + [30.0] * (NUM_PAIRS - 2),
    }


@pytest.fixture
def report(write_run, tmp_path):
    """Path of a report on a run that became worse."""
    from spips_core import SPIPS

    digest = SPIPS.load("embedded").digest
    now = columns(tmp_path, worse=0.5)
    now["spips_score"][-1] = 9.0  # the worst, with a source that must not become a link
    run = write_run(now, digest=digest, finished_at="2026-01-03T02:00:00+00:00")
    before = write_run(columns(tmp_path), "before", digest=digest)
    gates = [
        {"figure": "failed_fraction", "at_most": 0.5},
        {"column": "spips_score", "figure": "mean", "rise_at_most": 0.01},
        {"column": "spips_score", "figure": "mean", "rise_at_most": 0.01, "each_group": True},
    ]
    config = AuditScoresConfig.model_validate(
        {"scores": {"uri": run}, "baseline": {"uri": before}, "group_by": ["maker"],
         "compare_by": "maker", "output": {"uri": str(tmp_path / "audit")}, "gates": gates}
    )  # fmt: skip
    opened, baseline, notes, _ = open_runs(config, allow_different_models=False)
    with open_tables(opened, baseline, config.group_by) as tables:
        found = audit(config, tables, opened, baseline, notes)
    write_report(found, opened, config)
    return tmp_path / "audit" / "audit.html"


@pytest.fixture
def open_page(browser, report):
    """Opens the report; afterwards nothing may have gone wrong or been fetched."""
    pages, problems = [], []

    def open_(**options):
        page = browser.new_page(**options)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url[:80])
                if not request.url.startswith(("data:", f"file://{report}")) else None)  # fmt: skip
        page.goto(f"file://{report}")
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert problems == []


def test_the_verdict_comes_first_and_what_a_manifest_holds_stays_text(open_page):
    page = open_page()
    worst = page.locator("h1").inner_text()
    assert worst.startswith("Failed\n")
    worst = worst.removeprefix("Failed\n")
    assert re.fullmatch(
        re.escape(f"{HOSTILE}: mean of spips_score rose by ") + r"0\.\d+, allowed 0\.01; "
        "and 2 more gates are broken", worst,
    )  # fmt: skip
    assert page.title() == f"Failed: {worst} (run night)"
    assert "Worse than the baseline." in page.locator("#verdict").inner_text()
    states = page.locator("#gates tbody td:first-child").all_inner_texts()
    assert states == ["broken", "broken", "broken", "kept"]
    for table in ("#groups", "#models", "#duels", "#margins"):
        assert HOSTILE in page.locator(table).inner_text()
    assert page.locator("#failures td").nth(2).inner_text() == f"expected {HOSTILE}"
    assert page.locator("article header strong").first.inner_text() == f"{HOSTILE}{NUM_PAIRS - 1}"
    links = page.locator("article a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(links) == {"file:"}
    assert "javascript:alert(1)" in page.locator("article").first.inner_text()


def test_groups_are_sorted_by_a_click_on_a_column(open_page):
    page = open_page()
    for column in (1, 3):
        head = page.locator("#groups th button").nth(column)
        values = f"rows => rows.map(row => Number(row.cells[{column}].dataset.value))"
        for order in ("descending", "ascending"):
            head.click()
            got = page.locator("#groups tbody tr").evaluate_all(values)
            assert got == sorted(got, reverse=order == "descending")
            assert head.locator("..").get_attribute("aria-sort") == order
    assert len(set(got)) == 3


def test_a_picture_is_enlarged_and_flipped_in_place(open_page):
    page = open_page(viewport={"width": 1000, "height": 700})
    pair = page.locator(".pictures").first
    assert pair.locator("button").evaluate_all("all => all.map(one => one.dataset.name)") == [
        "reference", "distorted", "tradition", "percept", "semantic",
    ]  # fmt: skip
    thumbnails = pair.locator("img")
    small = thumbnails.first.bounding_box()["width"]
    thumbnails.first.click()
    shown = page.locator("dialog img")
    assert shown.bounding_box()["width"] > 2 * small
    sources = [thumbnails.nth(i).get_attribute("src") for i in (0, 1)]
    assert shown.get_attribute("src") == sources[0]
    shown.click()
    assert shown.get_attribute("src") == sources[1]
    assert page.locator("dialog nav span").inner_text() == "distorted"
    page.keyboard.press("Space")
    assert shown.get_attribute("src") == sources[0]
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(scheme, open_page):
    page = open_page(color_scheme=scheme, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    luminance = "element => getComputedStyle(element).{}.match(/[0-9]+/g).map(Number)[0]"
    body = page.locator("body")
    paper, ink = (body.evaluate(luminance.format(name)) for name in ("backgroundColor", "color"))
    assert (paper < 60 < 180 < ink) if scheme == "dark" else (ink < 60 < 180 < paper)
    text = page.locator("svg text").first
    fill = text.evaluate(
        "element => getComputedStyle(element).fill.match(/[0-9]+/g).map(Number)[0]"
    )
    assert fill == ink  # charts take their colours from the page


def test_a_phone_shows_all_of_a_gate_and_its_state_first(open_page):
    page = open_page(viewport={"width": 390, "height": 800})
    rows = page.locator("#gates tbody tr")
    assert rows.count() == 4
    for row in rows.all():
        boxes = [cell.bounding_box() for cell in row.locator("td").all()]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
        assert all(box["width"] > 0 and box["y"] >= boxes[0]["y"] for box in boxes)
        assert row.inner_text().startswith(("broken\n", "kept\n"))
    # The label of a number is generated by CSS, so that inner_text does not have it.
    labels = rows.first.locator("td[data-head]").evaluate_all(
        "cells => cells.map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert [label.split()[0].strip('"') for label in labels] == ["value", "95", "bound", "margin"]
    bounds = page.locator("#gates td[data-head=bound]").all_inner_texts()
    assert bounds == ["0.01", "0.01", "0.01", "0.5"]
