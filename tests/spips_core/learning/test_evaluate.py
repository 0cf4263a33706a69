import numpy as np
import pytest

from spips_core.learning.evaluate import FIGURES, MAIN_FIGURE, agreements
from spips_core.learning.metrics import plcc, srcc

REFERENCES = [f"r{i // 4}" for i in range(40)]
GENERATOR = np.random.default_rng(1)
DMOS = GENERATOR.uniform(0, 100, 40)
CHOICES = GENERATOR.permutation(np.arange(40) % 2).astype(float)
TRIPLET = np.stack([0.5 + CHOICES, 1.5 - CHOICES], axis=1)
SERIES = np.arange(5.0) + GENERATOR.uniform(0, 0.9, (40, 5))
EXAMPLES = {
    "rated": (DMOS[:, None] / 100, DMOS),
    "triplets": (TRIPLET, CHOICES),
    "just_noticeable": (1 - CHOICES[:, None], CHOICES),
    "severity_series": (SERIES, np.zeros(40)),
    "jury": (SERIES, np.where(np.arange(40)[:, None] == 7, np.nan, SERIES / 6)),
}
"""By kind, scores that agree with people everywhere, and what people said."""

WORST = {
    "rated": {"srcc": -1, "krcc": -1, "plcc_fitted": 1, "rank_agreement": 0},
    "triplets": {name: 0 if name == "two_afc" else -1 for name in FIGURES["triplets"]},
    "just_noticeable": {"map": 0.5, "plcc": -1, "srcc": -1, "krcc": -1},
    "severity_series": {"rising": 0},
    "jury": {"srcc": -1},
}
"""By kind, the figures of the same scores turned round; the logistic fit has no direction."""


def figures(kind, scores, targets, *, references=REFERENCES, num_samples=0, seed=0):
    results = agreements(kind, scores, targets, references, num_samples=num_samples, seed=seed)
    return {result.figure: result for result in results}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_perfect_scores_get_1_and_inverted_ones_the_least(kind):
    scores, targets = EXAMPLES[kind]
    perfect = {name: r.value for name, r in figures(kind, scores, targets).items()}
    assert perfect == pytest.approx(dict.fromkeys(FIGURES[kind], 1))
    inverted = {name: r.value for name, r in figures(kind, -scores, targets).items()}
    assert inverted == pytest.approx(WORST[kind])


@pytest.mark.parametrize("kind", EXAMPLES)
def test_unrelated_scores_stay_between(kind):
    scores, targets = EXAMPLES[kind]
    unrelated = np.random.default_rng(2).uniform(size=scores.shape)
    for name, result in figures(kind, unrelated, targets).items():
        assert result.value < 0.8, name
        assert result.value > WORST[kind][name] or name == "plcc_fitted"


def test_every_kind_has_a_main_figure_of_its_own():
    assert MAIN_FIGURE.keys() == FIGURES.keys()
    assert all(MAIN_FIGURE[kind] in FIGURES[kind] for kind in FIGURES)


def test_binary_figures_see_only_who_wins_and_continuous_ones_by_how_much():
    scores = np.array([[0.1, 0.2], [0.1, 0.9], [0.8, 0.7], [0.9, 0.1], [0.4, 0.4]])
    preferences = np.array([0.3, 0.1, 0.7, 0.8, 0.5])
    got = figures("triplets", scores, preferences, references=list("abcde"))
    decided = [0, 0, 1, 1, 0.5]
    assert got["plcc_binary"].value == pytest.approx(plcc(decided, preferences))
    assert got["srcc_binary"].value == pytest.approx(srcc(decided, preferences))
    differences = scores[:, 0] - scores[:, 1]
    assert got["plcc_continuous"].value == pytest.approx(plcc(differences, preferences))
    assert got["srcc_continuous"].value == pytest.approx(1)
    assert got["two_afc"].value == pytest.approx((0.7 + 0.9 + 0.7 + 0.8 + 0.5) / 5)


def test_rank_agreement_compares_within_references_only():
    scores, dmos = np.array([[1.0], [2.0], [0.1], [0.2]]), np.array([0.0, 10.0, 80.0, 90.0])
    together = figures("rated", scores.repeat(2, 0), dmos.repeat(2), references=["a"] * 8)
    apart = figures("rated", scores.repeat(2, 0), dmos.repeat(2), references=list("aaaabbbb"))
    assert apart["rank_agreement"].value == 1
    assert together["rank_agreement"].value == pytest.approx(2 / 6)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_without_draws_there_are_no_intervals(kind):
    for result in figures(kind, *EXAMPLES[kind]).values():
        assert np.isnan([result.low, result.high]).all()
        assert result.num_examples == 40


@pytest.mark.parametrize("kind", EXAMPLES)
def test_intervals_surround_the_figures_of_imperfect_scores(kind):
    scores, targets = EXAMPLES[kind]
    noise = np.random.default_rng(3).normal(0, scores.std() / 2, scores.shape)
    noisy = scores + noise
    for name, result in figures(kind, noisy, targets, num_samples=20).items():
        assert result.low <= result.value <= result.high, name
        assert 0 < result.high - result.low < 0.7, name


def test_interval_of_rank_agreement_keeps_references_apart_however_drawn():
    # Within each reference the order is right, between them it is not.
    scores = np.array([10.0 - r + 0.1 * i for r in range(6) for i in range(3)])[:, None]
    dmos = np.array([10.0 * r + 6.0 * i for r in range(6) for i in range(3)])
    references = [f"r{r}" for r in range(6) for _ in range(3)]
    got = figures("rated", scores, dmos, references=references, num_samples=8)["rank_agreement"]
    assert (got.value, got.low, got.high) == (1, 1, 1)


def test_intervals_depend_on_nothing_but_the_seed():
    scores = np.random.default_rng(4).uniform(size=(40, 5))
    one, two, other = (
        figures("severity_series", scores, np.zeros(40), num_samples=30, seed=seed)["rising"]
        for seed in (1, 1, 2)
    )
    assert one == two
    assert (one.low, one.high) != (other.low, other.high)
