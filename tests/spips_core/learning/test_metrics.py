from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import rankdata

from spips_core.learning.metrics import (
    bootstrap_interval,
    fitted_plcc,
    jury_srcc,
    just_noticeable_map,
    krcc,
    plcc,
    rank_agreement,
    rising_share,
    srcc,
    two_afc,
)

X = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
Y = [2.0, 7.0, 1.0, 8.0, 2.0, 8.0]


def test_plcc_is_pearsons_and_srcc_pearsons_of_ranks():
    assert plcc(X, Y) == pytest.approx(np.corrcoef(X, Y)[0, 1])
    assert srcc(X, Y) == pytest.approx(np.corrcoef(rankdata(X), rankdata(Y))[0, 1])


def test_krcc_is_tau_b_counted_pair_by_pair():
    pairs = [(i, j) for i in range(6) for j in range(i)]
    signs = [(np.sign(X[i] - X[j]), np.sign(Y[i] - Y[j])) for i, j in pairs]
    untied = [sum(sign[axis] != 0 for sign in signs) for axis in (0, 1)]
    assert untied == [14, 13]
    assert krcc(X, Y) == pytest.approx(sum(x * y for x, y in signs) / (14 * 13) ** 0.5)


def test_orders_see_only_ranks_and_plcc_only_lines():
    x = np.arange(1.0, 9.0)
    assert [srcc(x, x**5), krcc(x, -(x**5)), plcc(x, 3 - 2 * x)] == pytest.approx([1, -1, -1])
    assert plcc(x, x**5) < 0.95


@pytest.mark.parametrize("correlation", [srcc, krcc, plcc, fitted_plcc])
@pytest.mark.parametrize(
    ("scores", "ratings"),
    [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [2]), ([], [])],
    ids=["scores", "ratings", "one", "none"],
)
def test_correlation_of_constants_is_nan(correlation, scores, ratings):
    assert np.isnan(correlation(scores, ratings))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_logistic_fit_straightens_a_logistic_curve(sign, scale):
    generator = np.random.default_rng(1)
    x = generator.uniform(0, 10, 60)
    ratings = sign * 100 / (1 + np.exp(-4 * (x - 3))) + generator.normal(0, 2, 60)
    assert abs(plcc(scale * x, ratings)) < 0.85
    assert fitted_plcc(scale * x, ratings) > 0.995


def test_logistic_fit_is_never_worse_than_the_line():
    generator = np.random.default_rng(2)
    for _ in range(5):
        x, y = generator.normal(size=(2, 12))
        assert 1 >= fitted_plcc(x, y) >= abs(plcc(x, y)) - 1e-12


def test_rank_agreement_counts_clear_pairs_of_each_reference():
    references = ["a", "a", "a", "b", "b"]
    dmos = [0, 20, 60, 10, 90]
    assert rank_agreement([1, 2, 3, 0, 9], dmos, references) == 1
    assert rank_agreement([3, 2, 1, 9, 0], dmos, references) == 0
    assert rank_agreement([1, 3, 2, 9, 9], dmos, references) == (1 + 1 + 0 + 0.5) / 4


def test_pairs_of_different_references_are_not_compared():
    assert rank_agreement([1, 2, 0.1, 0.2], [0, 10, 80, 90], ["a", "a", "b", "b"]) == 1
    assert np.isnan(rank_agreement([1, 2], [0, 90], ["a", "b"]))


def test_pairs_rated_closer_than_5_are_left_out():
    assert np.isnan(rank_agreement([1, 2], [50, 54.9], ["a", "a"]))
    assert rank_agreement([1, 2], [50, 55.1], ["a", "a"]) == 1
    assert rank_agreement([1, 2, 3], [50, 46, 60], ["a"] * 3) == 1


def test_two_afc_gives_each_choice_the_share_that_made_it():
    # The first is chosen, the second, and neither.
    assert two_afc([1, 5, 3], [2, 4, 3], [0.2, 0.7, 1]) == pytest.approx((0.8 + 0.7 + 0.5) / 3)
    assert two_afc([1, 5], [2, 4], [0, 1]) == 1
    assert two_afc([2, 4], [1, 5], [0, 1]) == 0


def slow_average_precision(scores, shares):
    """By the definition: at each recall, the best precision of any cut that reaches it."""
    shares = [Fraction(share).limit_denominator(1000) for share in shares]
    cuts = []
    for cut in sorted(set(scores)):
        within = [share for score, share in zip(scores, shares, strict=True) if score <= cut]
        cuts.append((sum(within) / sum(shares), sum(within) / len(within)))
    area, reached = Fraction(0), Fraction(0)
    for recall, _ in cuts:
        best = max(precision for other, precision in cuts if other >= recall)
        area += (recall - reached) * best
        reached = recall
    return float(area)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_values", [4, 1000], ids=["ties", "few ties"])
def test_map_is_the_slow_average_precision_in_any_order(seed, num_values):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, num_values, 40) / 7
    shares = generator.integers(0, 4, 40) / 3
    expected = slow_average_precision(scores, shares)
    assert just_noticeable_map(scores, shares) == pytest.approx(expected, rel=1e-12)
    order = generator.permutation(40)
    assert just_noticeable_map(scores[order], shares[order]) == pytest.approx(expected, rel=1e-12)
    column = scores.reshape(-1, 1, 1, 1)
    assert just_noticeable_map(column, shares.reshape(-1, 1, 1, 1)) == pytest.approx(expected)


def test_map_by_hand():
    assert just_noticeable_map([1, 2, 3, 4], [1, 1, 0, 0]) == 1
    assert just_noticeable_map([1, 2, 3, 4], [0, 0, 1, 1]) == 0.5
    assert just_noticeable_map([1, 2, 3], [1, 0, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert just_noticeable_map([7, 7, 7, 7], [1, 0, 0, 0]) == 0.25
    assert np.isnan(just_noticeable_map([1, 2], [0, 0]))


def test_rising_share_counts_neighbouring_levels_and_no_ties():
    assert rising_share([[1, 2, 3], [1, 1, 0]]) == 0.5
    assert rising_share([[1, 2, 3], [0, 5, 6]]) == 1
    assert rising_share([[3, 2, 1]]) == 0


def test_jury_srcc_is_that_of_all_images_that_are_ranked():
    ranks = [[0.1, 0.4, np.nan], [0.2, 0.3, 0.9]]
    scores = [[1, 7, -5], [3, 2, 6]]
    assert jury_srcc(scores, ranks) == pytest.approx(
        srcc([1, 7, 3, 2, 6], [0.1, 0.4, 0.2, 0.3, 0.9])
    )
    assert np.isnan(jury_srcc(scores, np.full((2, 3), np.nan)))


@pytest.fixture
def groups():
    """Names of 20 references with 1 to 4 pairs each, not in order, and a value of each pair."""
    generator = np.random.default_rng(3)
    names = np.repeat([f"r{i}" for i in range(20)], generator.integers(1, 5, 20))
    names = generator.permutation(names).tolist()
    own = dict(zip(sorted(set(names)), generator.normal(5, 2, 20), strict=True))
    return names, np.array([own[name] for name in names])


def test_interval_surrounds_the_value_as_wide_as_references_allow():
    generator = np.random.default_rng(4)
    of_reference = generator.normal(5, 2, 50)
    values = of_reference.repeat(4)
    references = [str(i) for i in range(50) for _ in range(4)]
    low, high = bootstrap_interval(lambda chosen, _: values[chosen].mean(), references)
    expected = of_reference.mean() + np.array([-1.96, 1.96]) * of_reference.std() / 50**0.5
    np.testing.assert_allclose([low, high], expected, atol=0.1)


def test_interval_is_the_same_for_the_same_seed_only(groups):
    names, values = groups

    def interval(seed):
        return bootstrap_interval(
            lambda chosen, _: values[chosen].mean(), names, num_samples=50, seed=seed
        )

    assert interval(1) == interval(1) != interval(2)


def test_every_draw_brings_whole_references(groups):
    names, _ = groups
    draws = []
    bootstrap_interval(lambda *drawn: draws.append(drawn) or 0.0, names, num_samples=30)
    assert len(draws) == 30
    for chosen, draw in draws:
        assert set(draw) == set(range(20))
        for number in range(20):
            together = chosen[draw == number]
            name = names[together[0]]
            assert sorted(together) == [i for i, other in enumerate(names) if other == name]
    assert any(len(set(chosen)) < len(chosen) for chosen, _ in draws)


def test_interval_needs_two_references():
    assert np.isnan(bootstrap_interval(lambda *_: 1.0, ["a", "a", "a"])).all()
    assert bootstrap_interval(lambda *_: 1.0, ["a", "b"], num_samples=5) == (1, 1)


def test_draws_that_cannot_decide_are_left_out_of_the_interval():
    def figure(chosen, _):
        return 1.0 if len(set(chosen)) == 2 else float("nan")

    assert bootstrap_interval(figure, ["a", "b"], num_samples=20) == (1, 1)
    assert np.isnan(bootstrap_interval(lambda *_: float("nan"), ["a", "b"], num_samples=5)).all()
