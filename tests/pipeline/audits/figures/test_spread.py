"""Intervals of pairs that share references."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pipeline.audits.figures.distribution import interval_of, share_interval
from pipeline.audits.figures.spread import BLOCKS, Spread, mask_references, measure_spreads
from tests.pipeline.audits.conftest import run_audit, scores
from tests.pipeline.audits.figures.test_distribution import counted

CONNECTION = duckdb.connect(config={"threads": 1})


def measure(values, references, limits, groups=None):
    """The spreads of a table as ScoreTables makes it, with a number for each reference."""
    columns = {
        "x": np.asarray(values, np.float32),
        "reference": np.asarray(references, np.uint64),
        "g": pa.array(groups or [None] * len(values), pa.int32()),
    }
    CONNECTION.register("run", pa.table(columns))
    mask_references(CONNECTION, "run")
    return measure_spreads(CONNECTION, "run", "x", limits)


def spread_of(values, references, limits=()):
    return measure(values, references, {0: limits})[0]


def draw(generator, num_references, pairs, correlation):
    """Scores of `pairs` pairs of each reference, with a correlation within references."""
    of_reference = generator.normal(size=(num_references, 1))
    of_pair = generator.normal(size=(num_references, pairs))
    values = np.sqrt(correlation) * of_reference + np.sqrt(1 - correlation) * of_pair
    return values.ravel(), np.repeat(np.arange(num_references), pairs)


def test_the_design_effect_is_that_of_the_definition():
    generator = np.random.default_rng(0)
    references = generator.integers(0, 12, 60)
    values = generator.normal(1, 1, 60) + references / 6
    of_limit = values <= 1.5

    def expected(values):
        mean = values.mean()
        sums = np.array([(values[references == r] - mean).sum() for r in range(12)])
        return 12 / 11 * (sums**2).sum() / ((values - mean) ** 2).sum()

    found = spread_of(values, references, [1.5])
    assert found.references == 12
    assert found.mean == pytest.approx(expected(values.astype(np.float32)), rel=1e-4)
    assert found.shares == pytest.approx([expected(of_limit.astype(float))], rel=1e-4)


def test_one_pair_of_each_reference_has_no_effect_but_the_number_of_references():
    values, references = draw(np.random.default_rng(0), 50, 1, 0)
    found = spread_of(values, references, [0.0])
    assert found.mean == pytest.approx(50 / 49)
    assert found.shares == pytest.approx([50 / 49])


def test_groups_are_measured_apart_and_together():
    values, references = [0.0, 1, 2, 3, np.inf, np.nan], [0, 0, 1, 1, 2, 3]
    found = measure(values, references, {0: [1.0], 1: [1.0], 2: [1.0]}, [1, 1, 1, 2, 2, None])
    assert {group: spread.references for group, spread in found.items()} == {0: 3, 1: 2, 2: 2}


def test_few_references_are_counted_exactly_and_many_in_blocks():
    few = np.arange(3000) * BLOCKS  # all in one block
    many = np.arange(3000, 100_000)
    groups = [1] * len(few) + [2] * len(many)
    found = measure(np.zeros(100_000), [*few, *many], dict.fromkeys(range(3), ()), groups)
    counts = {group: spread.references for group, spread in found.items()}
    assert counts == {0: BLOCKS, 1: 3000, 2: BLOCKS}


def test_references_whose_hashes_are_alike_are_counted_one_by_one(write_run):
    # Of these 40, two have the same hash modulo BLOCKS.
    columns = scores(n=40) | {"reference_uri": [f"/r/{i}.png" for i in range(40)]}
    record = run_audit(write_run(columns)).record
    assert record.figures[0].references == 40
    assert "the intervals are rough: 40 references instead of 60 or more" in record.notes


def test_what_cannot_be_told_makes_no_interval_or_the_widest():
    alone = spread_of([1.0, 2, 3], [5, 5, 5], [2.0])
    assert alone == Spread(1, 0.0, [0.0])
    assert alone.num_draws(3) == 0
    equal = spread_of([0.3] * 20, np.arange(20) // 2, [0.3])
    assert equal.num_draws(20) == 20
    assert equal.widen(np.full(3, 0.3), 0.3, 0.95).tolist() == [0.3] * 3
    assert equal.effective_rows(20, 0.95).tolist() == [10]  # each reference counts once


@pytest.mark.parametrize("pairs", [1, 4, 16])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5])
def test_intervals_cover_the_truth_as_often_as_they_say(pairs, correlation):
    generator = np.random.default_rng(0)
    nights, covered = 150, np.zeros(3)
    for _ in range(nights):
        values, references = draw(generator, 60, pairs, correlation)
        sample, limit = counted(values), np.quantile(values, 0.9)
        spread = spread_of(values, references, [limit, 1.0])
        draws = spread.widen(sample.mean_draws(400, generator), values.mean(), 0.95)
        of_quantile, of_share = spread.effective_rows(len(values), 0.95)
        intervals = (
            interval_of(draws, 0.95),
            sample.quantile_interval(0.9, 0.95, of_quantile),
            share_interval((values <= 1.0).mean(), of_share, 0.95),
        )
        truths = (0.0, 1.2816, 0.8413)
        covered += [
            low <= truth <= high for (low, high), truth in zip(intervals, truths, strict=True)
        ]
    # Of 150 nights, 95 % are covered to within 3.6 %; rows as draws cover 51 % in the worst case.
    assert (covered / nights >= 0.89).all(), covered / nights
