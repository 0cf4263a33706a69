"""The report in a real browser; skipped where no Chromium is installed."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline.audits.audit import audit
from pipeline.audits.baseline import open_runs
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.figures.tables import open_tables
from pipeline.audits.report import write_report

HOSTILE = "<script>document.title='broken into'</script>$x^{$\"'>"
NUM_PAIRS = 60


def columns(folder, *, worse=0.0):
    generator = np.random.default_rng(0)
    rows, waves = np.mgrid[:120, :160]
    picture = 127 + 60 * np.sin(rows / 5) + 60 * np.cos(waves / 9)
    reference = np.repeat(picture[..., None], 3, axis=2)
    references = [folder / f"r{i // 3}.png" for i in range(NUM_PAIRS)]
    for path in references:
        Image.fromarray(reference.astype(np.uint8)).save(path)
    noisy = reference + generator.normal(0, 40, reference.shape)
    made = [folder / f"d{i % 3}_{worse}.png" for i in range(NUM_PAIRS)]
    for path in made[:3]:
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    values = (generator.lognormal(-2, 0.5, NUM_PAIRS) * (1 + worse)).tolist()
    values[:2] = [None, None]
    uris = list(map(str, made))
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


@pytest.fixture(scope="module")
def report(write_shared_run, tmp_path_factory):
    """Path of a report on a run that became worse."""
    from spips_core import SPIPS

    folder = tmp_path_factory.mktemp("report")
    digest = SPIPS.load("embedded").digest
    now = columns(folder, worse=0.5)
    now["spips_score"][-1] = 9.0  # the worst, with a source that must not become a link
    run = write_shared_run(now, digest=digest, finished_at="2026-01-03T02:00:00+00:00")
    before = write_shared_run(columns(folder), "before", digest=digest)
    gates = [
        {"figure": "failed_fraction", "at_most": 0.5},
        {"column": "spips_score", "figure": "mean", "rise_at_most": 0.01},
        {"column": "spips_score", "figure": "mean", "rise_at_most": 0.01, "each_group": True},
    ]
    config = AuditScoresConfig.model_validate(
        {"scores": {"uri": run}, "baseline": {"uri": before}, "group_by": ["maker"],
         "compare_by": "maker", "output": {"uri": str(folder / "audit")}, "gates": gates,
         "report": {"pairs_per_sheet": 4}}
    )  # fmt: skip
    opened, baseline, notes, _ = open_runs(config, allow_different_models=False)
    with open_tables(opened, baseline, config.group_by) as tables:
        found = audit(config, tables, opened, baseline, notes)
    write_report(found, opened, config)
    return folder / "audit" / "audit.html"


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
    assert worst.startswith("FAILED\n")
    worst = worst.removeprefix("FAILED\n")
    assert re.fullmatch(
        re.escape(f"{HOSTILE}: mean of spips_score rose by ") + r"0\.\d+, allowed 0\.01; "
        r"and 2 more gates are broken \(all rows, plain\)", worst,
    )  # fmt: skip
    assert page.title() == f"Failed: {worst} (run night)"
    assert "Worse than the baseline." in page.locator("#verdict").inner_text()
    states = page.locator("#gates tbody td:first-child").all_inner_texts()
    assert states == ["broken", "broken", "broken", "kept"]
    for table in ("#groups", "#models", "#duels", "#margins"):
        assert HOSTILE in page.locator(table).inner_text()
    assert page.locator("#failures td").nth(2).inner_text() == f"expected {HOSTILE}"
    assert page.locator("article header strong").first.text_content() == f"{HOSTILE}{NUM_PAIRS - 1}"
    links = page.locator("article a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(links) == {"file:"}
    assert "javascript:alert(1)" in page.locator("article").first.text_content()


def test_groups_are_sorted_by_a_click_on_a_column(open_page):
    page = open_page()
    for column in (1, 3):
        head = page.locator("#groups th button").nth(column)
        values = f"rows => rows.map(row => Number(row.cells[{column}].dataset.value))"
        for order in ("descending", "ascending"):
            head.click()
            got = page.locator("#groups tbody.each tr").evaluate_all(values)
            assert got == sorted(got, reverse=order == "descending")
            assert head.locator("..").get_attribute("aria-sort") == order
    assert len(set(got)) == 2
    assert page.locator("#groups tbody").first.inner_text().startswith("all rows")


def cut_of(unit):
    """How much of the other picture covers a pair's own, and which one it is."""
    over = unit.locator(".over")
    cut = unit.locator(".frame").evaluate("frame => frame.style.getPropertyValue('--cut')")
    return cut, over.get_attribute("src")


def test_a_pair_s_pictures_are_flipped_in_place_and_compared_with_a_slider(open_page):
    page = open_page()
    pair = page.locator(".pair:has(.frame)").first
    pair.scroll_into_view_if_needed()  # what is out of view is not drawn
    kinds = pair.locator("figure").evaluate_all("all => all.map(one => one.className)")
    assert kinds == ["reference", "before", "now", "model", "map", "map", "map"]
    sources = pair.locator("figure img").evaluate_all("all => all.map(one => one.src)")
    pair.locator("[data-flip]").click()
    assert cut_of(pair) == ("100%", sources[0])
    assert pair.locator("[data-flip]").get_attribute("aria-pressed") == "true"
    own, over = pair.locator(".frame img").first, pair.locator(".over")
    assert own.bounding_box() == over.bounding_box()  # in place
    page.keyboard.press("Space")  # the button has the focus
    assert cut_of(pair) == ("0%", sources[0])
    pair.locator("select").select_option(index=1)  # the night before
    assert cut_of(pair) == ("100%", sources[1])
    pair.locator("select").focus()
    page.keyboard.press("Tab")  # the button
    page.keyboard.press("Tab")  # the slider
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert cut_of(pair) == ("70%", sources[1])


def test_a_picture_is_enlarged_and_flipped(open_page):
    page = open_page(viewport={"width": 1280, "height": 900})
    pair = page.locator(".pair:has(.frame)").first
    pair.scroll_into_view_if_needed()  # what is out of view is not drawn
    small = pair.locator("img").first.bounding_box()["width"]
    sources = pair.locator("figure img").evaluate_all("all => all.map(one => one.src)")
    pair.locator("figure.map button").last.click()
    viewer = page.locator("dialog")
    own = viewer.locator(".frame img").first
    assert own.bounding_box()["width"] > 2 * small
    assert own.get_attribute("src") == sources[2]
    assert cut_of(viewer) == ("100%", sources[-1])
    own.click(force=True)
    assert cut_of(viewer) == ("0%", sources[-1])
    viewer.locator(".muted").click()
    page.keyboard.press("Space")
    assert cut_of(viewer) == ("100%", sources[-1])
    page.keyboard.press("Escape")
    assert not viewer.is_visible()


def test_a_search_keeps_the_groups_and_pairs_with_a_text(open_page):
    page = open_page()
    search, shown = page.get_by_label("Find groups and pairs"), "all => all.map(one => one.hidden)"
    search.fill("PLAIN")
    assert page.locator("#groups tbody.each tr").evaluate_all(shown) == [True, False]
    assert page.locator("#groups tbody.all tr").is_visible()
    assert page.locator("#found").inner_text().startswith("1 group, ")
    search.fill(f"{HOSTILE}{NUM_PAIRS - 1}")
    visible = page.locator(".pair:not([hidden]) header strong").all_text_contents()
    assert set(visible) == {f"{HOSTILE}{NUM_PAIRS - 1}"}
    search.fill("nobody")
    assert page.locator(".pair:visible").count() == 0
    assert page.locator("section.sheet .none:visible").count() == page.locator(".sheet").count()
    search.fill("")
    assert page.locator("#groups tr:visible").count() == 4
    assert page.locator("#found").inner_text() == ""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_navigation_stays_in_view_and_leads_to_every_section(width, open_page):
    page = open_page(viewport={"width": width, "height": 800})
    links = page.locator("#contents a")
    targets = links.evaluate_all("all => all.map(one => one.hash)")
    assert len(set(targets)) == len(targets) > 8
    for target in targets:
        assert page.locator(target).count() == 1
    links.last.click()
    page.wait_for_function("window.scrollY > 1000")
    assert page.locator("#contents").bounding_box()["y"] == 0


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
        boxes = [cell.bounding_box() for cell in row.locator("td:visible").all()]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
        assert all(box["width"] > 0 and box["y"] >= boxes[0]["y"] for box in boxes)
        assert row.inner_text().startswith(("broken\n", "kept\n"))
    # The label of a number is generated by CSS, so that inner_text does not have it.
    labels = rows.first.locator("td[data-head]").evaluate_all(
        "cells => cells.map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert [label.split()[0].strip('"') for label in labels] == ["value", "95", "bound", "distance"]
    bounds = page.locator("#gates td[data-head=bound]").all_inner_texts()
    assert bounds == ["0.01", "0.01", "0.01", "0.5"]
