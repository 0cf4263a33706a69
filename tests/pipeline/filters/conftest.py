"""A synthetic run, and what filters do to it."""

import numpy as np

from pipeline.filters.config import FilterScoresConfig
from pipeline.filters.rules import make_rules, summarise
from pipeline.runs.finished import open_run

BOUNDS = [
    {"column": "spips_score", "at_most": 0.3},
    {"column": "psnr_db", "at_least": 25},
    {"column": "spips_score", "at_most_quantile": 0.8, "within": ["maker"]},
]


def filtered_columns(n=200):
    """Columns of a run with five failed rows, made by three makers of which one is null."""
    generator = np.random.default_rng(0)
    status = ["missing"] * 5 + ["ok"] * (n - 5)
    ok = np.array(status) == "ok"
    score = np.where(ok, generator.lognormal(-2, 0.8, n), np.nan)
    return {
        "pair_id": [f"p{i}" for i in range(n)],
        "maker": [["a", "b", None][i % 3] for i in range(n)],
        "status": status,
        "spips_score": [None if np.isnan(s) else float(np.float32(s)) for s in score],
        "psnr_db": [40 - i % 20 if s == "ok" else None for i, s in enumerate(status)],
    }


def rules_of(uri, **settings):
    config = FilterScoresConfig.model_validate(
        {"scores": {"uri": uri}, "output": {"uri": "unused"}} | settings
    )
    return make_rules(config, open_run(uri))


def summary_of(uri, bounds, **settings):
    """What a filtering with bounds would do to a run."""
    return summarise(rules_of(uri, bounds=bounds, **settings), open_run(uri))


def num_kept(uri, bounds):
    return summary_of(uri, bounds).kept
