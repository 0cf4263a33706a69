import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.audits.config import ReportConfig
from pipeline.audits.figures.candidates import ModelRows
from pipeline.audits.leaderboard import (
    NUM_BLOCKS,
    PRIOR_TIES,
    TieRule,
    add_up,
    compare,
    compare_models,
    strengths,
)
from tests.pipeline.audits.leaderboards import by_model, generated

EQUAL = TieRule(0.0)  # only equal scores tie


def compared(scores, *, rule=EQUAL, draws=200, seed=0, missing=None):
    """A comparison of models "0", "1" ... by (R, M) scores, some of them missing."""
    counts = np.ones_like(scores) if missing is None else 1.0 - missing
    names = [str(r) for r in range(len(scores))]
    sums = np.where(counts > 0, scores, np.nan)
    rows = [ModelRows(str(m), int(counts[:, m].sum()), float(np.nanmean(sums[:, m])), [0.0, 0.0])
            for m in range(scores.shape[1])]  # fmt: skip
    report = ReportConfig(bootstrap_samples=draws, seed=seed)
    return compare_models(rows, [(names, counts, sums)], rule, report)


def test_the_largest_margins_of_all_chunks_are_kept():
    scores = generated(500)
    names = [str(r) for r in range(500)]
    chunks = [(names[i : i + 100], np.ones((100, 3)), scores[i : i + 100])
              for i in range(0, 500, 100)]  # fmt: skip
    _, extremes = add_up(chunks, ["0", "1", "2"], EQUAL)
    leads = np.delete(scores, 1, axis=1).min(axis=1) - scores[:, 1]
    order = np.argsort(-leads)
    assert [row.reference for row in extremes.won_most[1]] == [names[r] for r in order[:3]]
    assert [row.reference for row in extremes.lost_most[1]] == [names[r] for r in order[:-4:-1]]


def test_models_that_tie_as_the_best_share_the_reference():
    _, found = compare(np.ones((2, 3)), np.array([[0.10, 0.11, 0.2], [0.3, 0.1, 0.3]]),
                       TieRule(0.02))  # fmt: skip
    assert found.best.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
    assert found.tied[0, 0].tolist() == [0, 1, 0]
    assert found.won[1, 1].tolist() == [1, 0, 1]
    assert found.wins[0, 0].tolist() == [0, 0.5, 1]


def test_two_strengths_are_the_log_odds_of_the_wins():
    wins = np.array([[[0, 30.0], [10, 0]], [[0, 5.0], [0, 0]]])
    half = PRIOR_TIES / 2
    first, second = strengths(wins)
    assert first[0] - first[1] == pytest.approx(np.log((30 + half) / (10 + half)), abs=1e-4)
    assert second[0] - second[1] == pytest.approx(np.log((5 + half) / half), abs=1e-4)
    assert first.sum() == pytest.approx(0)


def test_strengths_give_each_model_the_wins_that_it_has():
    wins = np.random.default_rng(0).integers(0, 100, (1, 6, 6)).astype(float)
    wins[0, range(6), range(6)] = 0
    (found,) = strengths(wins)
    with_prior = wins[0] + PRIOR_TIES / 2 * (1 - np.eye(6))
    odds = found[:, None] - found[None, :]
    expected = (with_prior + with_prior.T) / (1 + np.exp(-odds))
    assert expected.sum(axis=1) == pytest.approx(with_prior.sum(axis=1), rel=1e-4)


def simulated_night(seed, num_references=300, draws=500):
    """One night of three models, "0" the best, with the truth of each figure, by name.

    Scores are content, the same for all models, plus a model's own shift, plus noise.
    """
    shifts, noise, visible = np.array([0.0, 0.01, 0.025]), 0.03, 0.01
    generator = np.random.default_rng(seed)
    content = generator.lognormal(-2, 0.5, (num_references, 1))
    scores = content + shifts + generator.normal(0, noise, (num_references, 3))
    spread = stats.norm(0, noise * 2**0.5)
    gaps = shifts[None, :] - shifts[:, None]
    won = (spread.cdf(gaps - visible) + spread.cdf(gaps + visible)) / 2
    strong = strengths(1e9 * won[None] * (1 - np.eye(3)))[0]
    rows = by_model(
        compared(scores, rule=TieRule(visible), draws=draws, seed=10_000 + seed).standings()
    )
    pairs = []
    for m, shift in enumerate(shifts):
        row = rows[str(m)]
        pairs.append((f"mean {m}", row.mean, np.exp(-2 + 0.5**2 / 2) + shift))
        pairs.append((f"strength {m}", row.strength, strong[m]))
        pairs += [(f"win rate {m} {duel.other}", duel.win_rate, won[m, int(duel.other)])
                  for duel in row.against]  # fmt: skip
    held = {name: found.low <= truth <= found.high for name, found, truth in pairs}
    return list(rows) == ["0", "1", "2"], held


def test_of_a_hundred_nights_the_order_is_right_and_intervals_hold_the_truth():
    nights = [simulated_night(seed) for seed in range(1001, 1101)]
    assert sum(is_right for is_right, _ in nights) >= 95
    held = pd.DataFrame([names for _, names in nights]).sum()
    assert len(held) == 3 + 3 + 6
    assert held.min() >= 90
    assert held.mean() < 99  # intervals that hold everything say nothing


def test_blocks_of_many_references_give_the_intervals_of_the_references_themselves():
    scores = generated(4 * NUM_BLOCKS)
    row = by_model(compared(scores, draws=2000).standings())["1"]
    z = stats.norm.ppf(0.975)
    width = 2 * z * scores[:, 1].std() / len(scores) ** 0.5
    assert row.mean.high - row.mean.low == pytest.approx(width, rel=0.1)
    rate = next(duel for duel in row.against if duel.other == "0").win_rate
    width = 2 * z * (rate.value * (1 - rate.value) / len(scores)) ** 0.5
    assert rate.high - rate.low == pytest.approx(width, rel=0.1)


def test_a_model_that_always_wins_has_a_strength_without_an_interval_and_an_exact_win_rate():
    first, second = compared(np.array([[0.1, 0.2]] * 20)).standings()
    assert (first.model, second.model) == ("0", "1")
    assert first.strength.value == pytest.approx(np.log(20.5 / 0.5) / 2, abs=1e-3)
    assert first.strength.low is None
    rate = first.against[0].win_rate
    exact = stats.binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert (rate.value, rate.high) == (1, 1)
    assert rate.low == pytest.approx(exact.low)
    assert second.against[0].win_rate.high == pytest.approx(1 - exact.low)


def test_references_that_a_model_has_alone_count_for_its_mean_only():
    missing = np.zeros((40, 3))
    missing[:20, 1:] = 1  # the first 20 references are model 0's alone
    missing[20:25, 2] = 1
    found = compared(generated(40), missing=missing)
    rows = by_model(found.standings())
    assert (rows["0"].references, rows["1"].references, rows["2"].references) == (40, 20, 15)
    assert {duel.other: duel.references for duel in rows["0"].against} == {"1": 20, "2": 15}
    assert found.total.best.sum() == 20
    assert found.total.met.sum(axis=0).tolist() == [20, 20, 15]
    assert all(int(margin.reference) >= 20 for margin in rows["0"].won_most)
