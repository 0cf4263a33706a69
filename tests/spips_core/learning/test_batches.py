import numpy as np
import pytest
import torch

from spips_core import SPIPS, ModelConfig
from spips_core.errors import DatasetError
from spips_core.learning.batches import ImageSource, epoch_batches
from tests.spips_core.learning.conftest import Pairs, make_source


def test_an_image_smaller_than_the_crop_is_refused(photos, noisy_photos):
    pairs = Pairs(photos, noisy_photos)
    source = ImageSource("rated", 1.0, pairs, [0], crop_px=256, num_loaders=0)
    with pytest.raises(DatasetError, match="at least 256 px, got 128 x 144"):
        next(source.batches([[0]]))


def test_one_epoch_draws_every_example_once_before_any_twice():
    model = SPIPS.untrained(ModelConfig())
    source = make_source(model, "rated", 12, 1, seed=1)
    batches = list(epoch_batches([source], [np.arange(12)], batch_size=4, num_steps=3, seed=5))
    drawn = torch.cat([step[0].targets for step in batches])
    assert torch.equal(drawn.sort().values, source.targets.sort().values)


def test_a_small_set_is_drawn_again_within_an_epoch():
    model = SPIPS.untrained(ModelConfig())
    source = make_source(model, "rated", 3, 1, seed=1)
    steps = list(epoch_batches([source], [np.arange(3)], batch_size=4, num_steps=5, seed=5))
    assert [len(step[0].targets) for step in steps] == [3] * 5
