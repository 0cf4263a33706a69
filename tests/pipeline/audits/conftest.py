"""Synthetic runs, and audits of them."""

import shutil

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from pipeline.audits.audit import audit
from pipeline.audits.baseline import open_runs
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.figures.tables import open_tables
from pipeline.runs.errors import ContractError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
STREAMS = {"tradition_score": 0.2, "percept_score": 0.3, "semantic_score": 0.5}


def scores(n=400, seed=0, worse=None, num_failed=0):
    """Columns of a run: the same pairs for every seed, scored with a little noise."""
    content = np.random.default_rng(7).lognormal(-2.5, 0.8, n)
    noise = np.random.default_rng(seed)
    columns = {
        "pair_id": [f"p{i}" for i in range(n)],
        "maker": ["a" if i % 4 else "b" for i in range(n)],
        "status": ["missing"] * num_failed + ["ok"] * (n - num_failed),
    }
    for name in STREAMS:
        values = content * noise.lognormal(0, 0.1, n) * (1 + (worse or {}).get(name, 0))
        columns[name] = [None] * num_failed + values[num_failed:].tolist()
    total = sum(weight * np.array(columns[name], float) for name, weight in STREAMS.items())
    columns["spips_score"] = [None] * num_failed + total[num_failed:].tolist()
    columns["psnr_db"] = (
        [None] * num_failed + [np.inf] + (40 - 50 * content)[num_failed + 1 :].tolist()
    )
    return columns


def run_audit(run, earlier=None, *, allow_different_models=False, **settings):
    config = AuditScoresConfig.model_validate(
        {"scores": {"uri": run}, "baseline": {"uri": earlier}, "output": {"uri": "unused"},
         "report": {"bootstrap_samples": 200}} | settings
    )  # fmt: skip
    opened, others, notes, nights = open_runs(config, allow_different_models=allow_different_models)
    with open_tables(opened, others, config.group_by) as tables:
        return audit(config, tables, opened, others, notes, nights)


def problems_of(run, earlier=None, **settings):
    with pytest.raises(ContractError) as caught:
        run_audit(run, earlier, **settings)
    return caught.value.problems


def find(rows, **wanted):
    (row,) = (r for r in rows if all(getattr(r, name) == value for name, value in wanted.items()))
    return row


@pytest.fixture(scope="module")
def browser():
    """A real Chromium; without one, the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        # Chromium does not start its sandbox as root, and containers often run as root.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
