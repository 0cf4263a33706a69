import numpy as np
import pytest
import torch

from spips_core import SPIPS, ModelConfig
from spips_core.dmos_scale import DmosScale
from spips_core.learning.batches import EmbeddedSource, ImageSource
from spips_core.learning.dmos_fit import fit_dmos_scale, score_whole
from spips_core.learning.embedding import embed, make_embedder
from tests.spips_core.learning.conftest import Pairs


@pytest.mark.parametrize(("exponent", "midpoint"), [(0.7, 0.02), (1.2, 0.2), (3.0, 40.0)])
def test_the_curve_behind_noisy_ratings_is_found_with_its_interval(exponent, midpoint):
    generator = np.random.default_rng(0)
    scores = midpoint * generator.lognormal(0, 1, 2000)
    true = DmosScale(exponent, midpoint, 0, 1).expected_dmos(torch.tensor(scores)).numpy()
    ratings = true + generator.normal(0, 8, 2000)  # like LIVE's, some lie outside of 0 to 100
    scale = fit_dmos_scale(scores, ratings)
    assert scale.exponent == pytest.approx(exponent, rel=0.03)
    assert scale.midpoint == pytest.approx(midpoint, rel=0.03)
    assert scale.half_width == pytest.approx(1.645 * 8, rel=0.03)  # 90 % of a normal distribution
    assert scale.num_ratings == 2000


def test_no_other_curve_has_a_smaller_squared_error():
    generator = np.random.default_rng(1)
    scores = generator.lognormal(-1.7, 1, 300)
    ratings = 100 * (1 - np.exp(-3 * scores)) + generator.normal(0, 5, 300)  # of another form

    def error(exponent, midpoint):
        curve = DmosScale(exponent, midpoint, 0, 1).expected_dmos(torch.tensor(scores)).numpy()
        return np.square(curve - ratings).mean()

    scale = fit_dmos_scale(scores, ratings)
    for factor in (0.97, 1.03):
        assert error(scale.exponent * factor, scale.midpoint) > error(
            scale.exponent, scale.midpoint
        )
        assert error(scale.exponent, scale.midpoint * factor) > error(
            scale.exponent, scale.midpoint
        )


@pytest.mark.parametrize(
    ("scores", "ratings"),
    [
        ([0.0, 0.1, 0.2, 0.4], [0, 20, 60, 90]),
        ([0.0, 0.0], [0, 50]),
        ([0.3], [40]),
        ([0.1, 0.2, 0.4], [90, 60, 20]),  # against people
        ([0.1, 0.1, 0.1], [10, 20, 30]),
    ],
)
def test_few_and_odd_scores_make_a_scale_too(scores, ratings):
    scale = fit_dmos_scale(scores, ratings)
    assert scale.expected_dmos(torch.tensor([0.0, 1.0])).isfinite().all()


def test_whole_pairs_score_as_users_score_them_from_images_or_means(photos, noisy_photos):
    model, pairs = SPIPS.untrained(ModelConfig()), Pairs(photos, noisy_photos)
    expected = model.score(photos, noisy_photos).score
    images = ImageSource("rated", 1.0, pairs, [2, 0, 1], crop_px=96, num_loaders=0)
    pairs.files, pairs.kinds = [], [""] * 3
    means = embed(make_embedder(model), pairs, [2, 0, 1], cache=None, report=lambda *_: None)
    targets = torch.tensor(pairs.targets)
    embedded = EmbeddedSource("rated", 1.0, targets, torch.arange(3), means)
    for source in (images, embedded):
        got = score_whole(model, source, [[1], [2, 0]])
        torch.testing.assert_close(got, expected[[0, 1, 2]], rtol=1e-5, atol=0)
