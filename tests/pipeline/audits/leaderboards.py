"""Scores of several models for the tests of leaderboards."""

import numpy as np


def generated(num_references=60, shifts=(0.0, 0.01, 0.03), seed=0):
    generator = np.random.default_rng(seed)
    content = generator.lognormal(-2, 0.5, (num_references, 1))
    return content + shifts + generator.normal(0, 0.02, (num_references, len(shifts)))


def by_model(standings):
    return {row.model: row for row in standings}
