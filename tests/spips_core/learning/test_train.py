import copy

import numpy as np
import pytest
import torch

from spips_core import SPIPS, ModelConfig
from spips_core.learning.batches import ImageSource, epoch_batches
from spips_core.learning.train import make_optimizer, rate_factor, train_epoch
from spips_core.learning.trainee import Trainee, channel_scales
from tests.spips_core.learning.conftest import Pairs, make_source, train, trainee_of


@pytest.mark.parametrize(("kind", "k"), [("rated", 1), ("severity_series", 5), ("triplets", 2)])
def test_the_loss_of_every_kind_of_judgement_falls(model, kind, k):
    sources = [make_source(model, kind, 40, k, seed=1, useful_every=4)]
    losses = train(trainee_of(model, sources), sources, 10, learning_rate=1.0)
    assert losses[-1] < 0.95 * losses[0]


def test_training_on_a_mixture_leaves_every_stream_weight_at_or_above_0(model):
    sources = [
        make_source(model, "rated", 40, 1, seed=1, useful_every=4),
        make_source(model, "severity_series", 20, 5, seed=2, useful_every=4),
    ]
    trainee = trainee_of(model, sources, dropout=0.5)
    train(trainee, sources, 10, learning_rate=0.2)
    assert all((weight >= 0).all() for weight in model.streams.parameters())
    assert any((weight == 0).any() for weight in model.streams.parameters())  # some were clamped


def test_in_mode_lin_the_trunk_stays_as_it_is(model):
    before = model.trunk.digest()
    sources = [make_source(model, "rated", 40, 1, seed=1)]
    train(trainee_of(model, sources), sources, 2)
    assert model.trunk.digest() == before


def test_weight_decay_to_init_keeps_the_weights_nearer_to_their_start(model):
    sources = [make_source(model, "rated", 40, 1, seed=1)]
    distances = []
    for weight_decay_to_init in (0.0, 10.0):
        trainee = trainee_of(
            copy.deepcopy(model), sources, weight_decay_to_init=weight_decay_to_init
        )
        train(trainee, sources, 5)
        distances.append(trainee.distance_from_init().item())
    assert distances[1] < 0.1 * distances[0]


def test_resumed_training_is_the_same_to_the_bit(model):
    sources = [
        make_source(model, "rated", 40, 1, seed=1),
        make_source(model, "triplets", 30, 2, seed=3),
    ]
    whole = trainee_of(copy.deepcopy(model), sources, dropout=0.5)
    train(whole, sources, 4)

    first = trainee_of(copy.deepcopy(model), sources, dropout=0.5)
    optimizer = make_optimizer(first, learning_rate=0.02, trunk_learning_rate=None)
    for epoch in range(2):
        torch.manual_seed(epoch)
        members = [np.arange(len(source.targets)) for source in sources]
        steps = epoch_batches(sources, members, batch_size=16, num_steps=4, seed=epoch)
        train_epoch(first, optimizer, steps, factor=rate_factor(epoch, 4))
    second = trainee_of(copy.deepcopy(model), sources, dropout=0.5)
    second.load_state_dict(first.state_dict())
    resumed = make_optimizer(second, learning_rate=0.02, trunk_learning_rate=None)
    resumed.load_state_dict(optimizer.state_dict())
    train(second, sources, 4, first=2, optimizer=resumed)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_in_mode_tune_the_trunk_learns_too(photos, noisy_photos):
    model = SPIPS.untrained(ModelConfig())
    before = model.trunk.digest()
    pairs = Pairs(photos, noisy_photos)
    source = ImageSource("rated", 1.0, pairs, [0, 1, 2], crop_px=96, num_loaders=0)
    scales = channel_scales(model, iter([list(source.batches([[0, 1, 2]]))]))
    trainee = Trainee(model, scales)
    optimizer = make_optimizer(trainee, learning_rate=0.02, trunk_learning_rate=1e-3)
    steps = epoch_batches([source], [np.arange(3)], batch_size=3, num_steps=1, seed=0)
    train_epoch(trainee, optimizer, steps, factor=1.0)
    assert model.trunk.digest() != before
