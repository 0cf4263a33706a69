import pytest
import torch

from spips_core import SPIPS, DmosScale, ModelConfig

SCALE = DmosScale(exponent=1.3, midpoint=0.2, half_width=11, num_ratings=400)


def test_the_expected_dmos_is_the_weibull_curve():
    scores = torch.tensor([0.0, 0.05, 0.2, 1.0])
    expected = 100 * (1 - 0.5 ** ((scores / 0.2) ** 1.3))
    got = SCALE.expected_dmos(scores)
    assert got.dtype == torch.float32
    assert got[0] == 0
    assert got[2].item() == pytest.approx(50)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("exponent", [0.05, 1.0, 20.0])
def test_it_never_falls_and_stays_between_0_and_100(exponent):
    scale = DmosScale(exponent, 0.2, 11, 400)
    scores = torch.logspace(-44, 38, 1000)
    got = scale.expected_dmos(torch.cat([torch.zeros(1), scores]))
    assert got[0] == 0
    assert got.isfinite().all()
    assert (got.diff() >= 0).all()
    assert got.max() <= 100
    near = scale.expected_dmos(torch.linspace(0.17, 0.23, 100))
    assert (near.diff() > 0).all()


def test_it_does_not_depend_on_the_batch_by_a_bit():
    scores = torch.rand(1003, generator=torch.Generator().manual_seed(0))
    together = SCALE.expected_dmos(scores)
    for length in (1, 3, 8, 17):
        apart = torch.cat([SCALE.expected_dmos(part) for part in scores.split(length)])
        assert torch.equal(apart, together)


def test_a_model_with_a_scale_returns_it_and_one_without_none(embedded, photos, noisy_photos):
    scores = embedded.score(photos, noisy_photos)
    assert torch.equal(scores.expected_dmos, embedded.dmos_scale.expected_dmos(scores.score))
    assert (scores.expected_dmos > 0).all()
    assert (embedded.score(photos, photos).expected_dmos == 0).all()
    assert SPIPS.untrained(ModelConfig()).score(photos, noisy_photos).expected_dmos is None
