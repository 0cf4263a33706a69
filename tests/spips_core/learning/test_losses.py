import math

import pytest
import torch

from spips_core.learning.losses import (
    RATING_TEMPERATURE,
    STEP,
    PreferenceNet,
    jury_loss,
    preference_loss,
    rating_loss,
    severity_loss,
    within_reference_loss,
)

DMOS = torch.tensor([0.0, 30.0, 60.0, 100.0])
RISING = torch.tensor([0.1, 0.2, 0.35, 0.8])


def value_and_gradient(loss, scores):
    scores = scores.clone().requires_grad_()
    value = loss(scores)
    value.backward()
    return value.item(), scores.grad


def rated(scores):
    return rating_loss(scores, DMOS)


def test_worse_rated_images_are_pushed_up_and_better_rated_down():
    _, gradient = value_and_gradient(rated, torch.full((4,), 0.3))
    assert (gradient[:2] > 0).all()
    assert (gradient[2:] < 0).all()


def test_rating_loss_is_log_2_where_scores_cannot_tell_and_small_where_they_can():
    assert rated(torch.full((4,), 0.3)).item() == pytest.approx(math.log(2))
    assert rated(RISING).item() < 0.01
    assert rated(RISING.flip(0)).item() > 5


def test_rating_loss_by_hand():
    scores = torch.tensor([1.0, 1.1])
    expected = math.log(1 + math.exp(-math.log(1.1) / 0.1))
    assert rating_loss(scores, torch.tensor([10.0, 20.0])).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [rated, lambda scores: severity_loss(scores[None])])
def test_scale_of_the_scores_does_not_matter(loss):
    scores = torch.tensor([0.1, 0.12, 0.35, 0.3])
    value, gradient = value_and_gradient(loss, scores)
    assert loss(100 * scores).item() == pytest.approx(value, rel=1e-4)
    # Growing all scores alike changes nothing, so the gradient has no part in that direction.
    assert (gradient * scores).sum().item() == pytest.approx(0, abs=1e-5)


def test_rating_loss_does_not_depend_on_the_order_or_shape_of_the_batch():
    scores, order = torch.tensor([0.3, 0.1, 0.2, 0.25]), torch.tensor([2, 0, 3, 1])
    shuffled = rating_loss(scores[order], DMOS[order])
    assert shuffled.item() == pytest.approx(rated(scores).item(), rel=1e-6)
    assert torch.equal(rated(scores[:, None]), rated(scores))


def test_rating_loss_is_the_same_with_both_directions_turned_round():
    scores = torch.tensor([0.3, 0.1, 0.2, 0.25])
    turned = rating_loss(1 / scores, 100 - DMOS)
    assert turned.item() == pytest.approx(rated(scores).item(), rel=1e-5)


def test_ratings_that_are_close_give_0_and_no_push():
    scores = torch.tensor([0.1, 0.5, 0.3])
    close = torch.tensor([50.0, 54.9, 52.0])
    value, gradient = value_and_gradient(lambda s: rating_loss(s, close), scores)
    assert (value, gradient.tolist()) == (0, [0, 0, 0])
    clear = torch.tensor([50.0, 55.1, 52.0])
    value, gradient = value_and_gradient(lambda s: rating_loss(s, clear), scores)
    assert value > 0
    assert (gradient != 0).tolist() == [True, True, False]


def test_within_a_reference_only_its_own_versions_are_compared():
    scores = torch.tensor([0.1, 0.5, 0.3, 0.2])
    dmos = torch.tensor([10.0, 60.0, 20.0, 80.0])
    references = torch.tensor([0, 1, 0, 1])
    got = within_reference_loss(scores, dmos, references)
    expected = torch.stack(
        [rating_loss(scores[chosen], dmos[chosen]) for chosen in ([0, 2], [1, 3])]
    ).mean()
    assert got.item() == pytest.approx(expected.item())
    assert got != rating_loss(scores, dmos)
    assert within_reference_loss(scores, dmos, torch.arange(4)) == 0


def test_jury_loss_compares_all_images_whose_ranks_differ_clearly():
    scores = torch.tensor([[0.1, 0.3], [0.2, 0.9]])
    ranks = torch.tensor([[0.1, 0.35], [0.5, float("nan")]])
    # Only the first and the third differ by more than .3; the fourth is not judged.
    expected = math.log1p(math.exp(-math.log(0.2 / 0.1) / RATING_TEMPERATURE))
    assert jury_loss(scores, ranks).item() == pytest.approx(expected, rel=1e-4)
    _, gradient = value_and_gradient(lambda s: jury_loss(s, ranks), scores)
    assert gradient[0, 0] > 0 > gradient[1, 0]
    assert gradient[0, 1] == gradient[1, 1] == 0
    assert jury_loss(scores, torch.full((2, 2), float("nan"))) == 0


def test_severity_loss_pushes_the_ends_apart():
    _, gradient = value_and_gradient(severity_loss, torch.full((1, 5), 0.4))
    assert gradient[0, 0] > 0
    assert gradient[0, -1] < 0
    assert gradient[0, 1:-1].abs().max() < 1e-6


def test_severity_loss_asks_for_a_step_between_levels():
    def rising_by(step):
        return severity_loss(0.01 * torch.exp(step * torch.arange(5.0))[None]).item()

    assert rising_by(STEP) == pytest.approx(math.log(2), rel=1e-4)
    losses = [rising_by(step) for step in (-1, 0, 0.05, STEP, 0.3, 2)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.001


def test_every_severity_series_counts_the_same():
    both = torch.stack([RISING, RISING.flip(0)])
    halves = [severity_loss(series[None]).item() for series in both]
    assert severity_loss(both).item() == pytest.approx(sum(halves) / 2)


@pytest.mark.parametrize("loss", [rated, lambda scores: severity_loss(scores[None])])
def test_scores_of_0_keep_value_and_gradient_finite(loss):
    for scores in (torch.zeros(4), torch.tensor([0.0, 0.5, 0.0, 0.7])):
        value, gradient = value_and_gradient(loss, scores)
        assert math.isfinite(value)
        assert gradient.isfinite().all()


def test_preference_loss_is_the_cross_entropy_of_the_nets_share():
    torch.manual_seed(0)
    net, scores = PreferenceNet(), torch.rand(6, 2)
    preferences = torch.tensor([0.0, 1.0, 0.5, 0.2, 0.8, 1.0])
    share = torch.sigmoid(net(scores[:, 0], scores[:, 1]))
    expected = -(preferences * share.log() + (1 - preferences) * (1 - share).log()).mean()
    assert preference_loss(net, scores, preferences).item() == pytest.approx(expected.item())


def test_net_learns_that_the_nearer_image_is_preferred():
    torch.manual_seed(1)
    net, scores = PreferenceNet(), torch.rand(128, 2)
    preferences = (scores[:, 1] < scores[:, 0]).float()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = preference_loss(net, scores, preferences)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.25
    fresh = torch.rand(200, 2)
    chosen = net(fresh[:, 0], fresh[:, 1]) > 0
    assert (chosen == (fresh[:, 1] < fresh[:, 0])).float().mean() > 0.9


def test_preferences_separate_two_distances_that_start_equal():
    torch.manual_seed(2)
    net, logs = PreferenceNet(), torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([*net.parameters(), logs], 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        # Each pair is shown both ways round, so that the net cannot answer without the distances.
        distances = torch.cat([logs, logs.flip(1)]).exp()
        loss = preference_loss(net, distances, torch.tensor([1.0, 0.0]))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    assert (logs[0, 0] - logs[0, 1]).abs().item() > 0.2
