"""The noise of figures, simulated: false alarms, planted rises, two states, nights far off."""

import numpy as np
import pytest

from pipeline.audits.gates.noise import learn_noise

NIGHT_NOISE = 0.005
"""Standard deviation of a figure from night to night, as a share of it."""


def learn(values, accepted=()):
    return learn_noise([f"n{i}" for i in range(len(values))], list(values), 0.05, accepted)


def breaks(earlier, tonight, *, falls=False, step=0.0):
    noise = learn(earlier)
    state = noise.nearest(tonight, falls=falls)
    change = (state.centre - tonight) if falls else (tonight - state.centre)
    return change > max(noise.margin(state), step)


def share_of_alarms(generator, num_earlier, rise, noise=NIGHT_NOISE, nights=200):
    alarms = 0
    for _ in range(nights):
        figures = 1 + noise * generator.normal(size=num_earlier + 1)
        alarms += breaks(figures[:-1], figures[-1] + rise)
    return alarms / nights


def draw_scores(generator, num_nights, num_pairs=300, *, same_pairs=True):
    """Scores of nights of an unchanged model, (nights, pairs)."""
    content = generator.lognormal(-2.5, 0.8, (1 if same_pairs else num_nights, num_pairs))
    return content * generator.lognormal(0, 0.2, (num_nights, num_pairs))


FIGURES = {
    "mean": lambda scores: scores.mean(axis=1),
    "p95": lambda scores: np.quantile(scores, 0.95, axis=1),
    "share_above": lambda scores: (scores > 0.2).mean(axis=1),
}


@pytest.mark.parametrize("num_nights", [5, 14])
@pytest.mark.parametrize("same_pairs", [True, False])
@pytest.mark.parametrize("figure", FIGURES)
def test_an_unchanged_model_breaks_a_gate_as_rarely_as_the_rate_says(
    figure, same_pairs, num_nights
):
    generator, alarms, nights = np.random.default_rng(0), 0, 400
    step = 1 / 300 if figure == "share_above" else 0
    for _ in range(nights):
        scores = draw_scores(generator, num_nights + 1, same_pairs=same_pairs)
        values = FIGURES[figure](scores)
        alarms += breaks(values[:-1], values[-1], step=step)
    assert alarms / nights <= 0.07, alarms / nights  # of 400 nights, 5 % is 20 +- 4.4


def test_a_rise_of_two_percent_is_found_by_fourteen_nights():
    assert share_of_alarms(np.random.default_rng(0), 14, 0.02) >= 0.85
    assert share_of_alarms(np.random.default_rng(0), 7, 0.02) >= 0.85
    assert share_of_alarms(np.random.default_rng(0), 14, 0.02, noise=0.02) < 0.5


def flip(generator, num_nights, apart):
    """Figures of nights in one of two states, each on two nights at least; then tonight's."""
    while True:
        states = generator.integers(0, 2, num_nights + 1)
        if 2 <= states[:-1].sum() <= num_nights - 2:
            return 1 + NIGHT_NOISE * (apart * states + generator.normal(size=num_nights + 1))


@pytest.mark.parametrize("apart", [5, 10, 40])
def test_a_model_that_flips_between_two_states_breaks_no_gate(apart):
    generator = np.random.default_rng(apart)
    nights = [flip(generator, 7, apart) for _ in range(50)]
    assert sum(breaks(figures[:-1], figures[-1]) for figures in nights) == 0


def test_two_states_are_named_and_what_is_in_neither_breaks_the_gate():
    earlier = [0.100, 0.1501, 0.1002, 0.0999, 0.1499, 0.1, 0.15]
    noise = learn(earlier)
    assert [state.nights for state in noise.states] == [("n0", "n2", "n3", "n5"),
                                                        ("n1", "n4", "n6")]  # fmt: skip
    assert [state.centre for state in noise.states] == pytest.approx([0.100025, 0.15])
    assert noise.spread == pytest.approx(0.000115, abs=1e-5)
    assert [value for value in (0.1001, 0.1499, 0.15, 0.125, 0.17)
            if breaks(earlier, value)] == [0.125, 0.17]  # fmt: skip
    assert [value for value in (0.1001, 0.1499, 0.15, 0.125, 0.08)
            if breaks(earlier, value, falls=True)] == [0.125, 0.08]  # fmt: skip


def test_nights_of_one_state_are_rarely_taken_for_two():
    generator = np.random.default_rng(0)
    seen = sum(len(learn(generator.normal(size=7)).states) > 1 for _ in range(500))
    assert seen <= 15  # 1 % is expected


def test_a_night_far_from_all_others_does_not_hide_a_rise():
    usual = [0.1, 0.1003, 0.0998, 0.1001, 0.0999, 0.1002, 0.0997, 0.1, 0.1001]
    for far in (0.2, 0.01):
        noise = learn([*usual, far])
        assert noise.left_out == ("n9",)
        assert len(noise.states) == 1
        assert breaks([*usual, far], 0.102)
    assert breaks([*usual, 0.2], 0.2)


def test_a_night_that_was_accepted_is_a_state_of_its_own():
    figures = [0.1, 0.1003, 0.0998, 0.1001, 0.0999, 0.1002, 0.15]
    accepted = learn(figures, accepted=["n6"])
    assert [state.nights[-1] for state in accepted.states] == ["n5", "n6"]
    assert accepted.nearest(0.1502).centre == 0.15


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_nights_that_are_all_equal_allow_for_rounding_only(value):
    assert not breaks([value] * 7, value * (1 + 1e-7))
    assert breaks([value] * 7, value + 1e-4)


def test_the_margin_of_one_state_is_student_s():
    noise = learn([1.0, 2.0, 3.0, 4.0, 5.0])
    assert noise.margin(noise.states[0]) == pytest.approx(2.131847 * 1.581139 * 1.2**0.5)
