"""The trainer on quality means of made-up pairs, and on images."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from spips_core import SPIPS, ModelConfig
from spips_core.errors import DatasetError
from spips_core.learning.datasets import Example
from spips_core.learning.embedding import quality_means
from spips_core.learning.train import (
    EmbeddedSource,
    ImageSource,
    Trainee,
    epoch_batches,
    finish,
    fold_of,
    make_optimizer,
    mean_quality,
    predict,
    rate_factor,
    train_epoch,
)


def made_up(model, kind, num, k, seed, weight=1.0):
    """Quality means that grow with what people say, each channel on a scale of its own."""
    generator = torch.Generator().manual_seed(seed)
    channels = {
        name: [conv.in_channels for conv in stream.convs] for name, stream in model.streams.items()
    }
    strength = torch.rand(num, k, generator=generator).sort(dim=1).values + 0.05
    quality = {}
    for name, sizes in channels.items():
        quality[name] = []
        for size in sizes:
            scale = 10 ** torch.empty(size).uniform_(-4, 0, generator=generator)
            noise = torch.rand(num, k, size, generator=generator)
            quality[name].append((strength[..., None] + 0.3 * noise) * scale)
    if kind == "triplets":
        targets = (strength[:, 0] > strength[:, 1]).float()
    else:
        targets = 100 * strength[:, 0]
    return EmbeddedSource(kind, weight, targets, torch.arange(num) % 5, quality)


def everything(source):
    return source.batches([[i] for i in range(len(source.targets))])


def trainee_of(model, sources, **options):
    members = [np.arange(len(source.targets)) for source in sources]
    steps = epoch_batches(sources, members, batch_size=16, num_steps=4, seed=0)
    torch.manual_seed(0)
    return Trainee(model, mean_quality(model, steps), **options)


def train(trainee, sources, num_epochs, first=0, optimizer=None, learning_rate=0.02):
    optimizer = optimizer or make_optimizer(
        trainee, learning_rate=learning_rate, trunk_learning_rate=None
    )
    members = [np.arange(len(source.targets)) for source in sources]
    losses = []
    for epoch in range(first, num_epochs):
        torch.manual_seed(epoch)
        steps = epoch_batches(sources, members, batch_size=16, num_steps=4, seed=epoch)
        factor = rate_factor(epoch, num_epochs)
        losses.append(train_epoch(trainee, optimizer, steps, factor=factor))
    return losses


@pytest.fixture(params=["weighted", "mlp"])
def model(request):
    return SPIPS.untrained(ModelConfig(fusion=request.param))


@pytest.mark.parametrize(("kind", "k"), [("rated", 1), ("severity_series", 5), ("triplets", 2)])
def test_the_loss_of_every_kind_of_judgement_falls(model, kind, k):
    sources = [made_up(model, kind, 40, k, seed=1)]
    losses = train(trainee_of(model, sources), sources, 10, learning_rate=1.0)
    assert losses[-1] < 0.95 * losses[0]


def test_training_on_a_mixture_leaves_every_stream_weight_at_or_above_0(model):
    sources = [
        made_up(model, "rated", 40, 1, seed=1),
        made_up(model, "severity_series", 20, 5, seed=2),
    ]
    trainee = trainee_of(model, sources, dropout=0.5)
    train(trainee, sources, 10, learning_rate=0.2)
    assert all((weight >= 0).all() for weight in model.streams.parameters())
    assert any((weight == 0).any() for weight in model.streams.parameters())  # some were clamped


def test_in_mode_lin_the_trunk_stays_as_it_is(model):
    before = model.trunk.digest()
    sources = [made_up(model, "rated", 40, 1, seed=1)]
    train(trainee_of(model, sources), sources, 2)
    assert model.trunk.digest() == before


def test_a_pull_keeps_the_weights_nearer_to_their_start(model):
    sources = [made_up(model, "rated", 40, 1, seed=1)]
    departures = []
    for weight_decay_to_init in (0.0, 10.0):
        trainee = trainee_of(
            copy.deepcopy(model), sources, weight_decay_to_init=weight_decay_to_init
        )
        train(trainee, sources, 5)
        departures.append(trainee.departure().item())
    assert departures[1] < 0.1 * departures[0]


def test_finishing_changes_no_order_and_sets_the_scale(model):
    sources = [
        made_up(model, "rated", 60, 1, seed=1),
        made_up(model, "severity_series", 20, 5, seed=2),
    ]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 4)
    before = [predict(trainee, everything(source)).flatten() for source in sources]
    model = finish(trainee, (batch for source in sources for batch in everything(source)))
    after = []
    of_streams = {name: [] for name in model.config.streams}
    with torch.no_grad():
        for source in sources:
            quality = {name: [q.flatten(0, 1) for q in qs] for name, qs in source.quality.items()}
            means = model.stream_means(quality)
            after.append(model.fuse(means))
            for name, mean in means.items():
                of_streams[name].append(mean)
    ratio = torch.cat(after) / torch.cat(before)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3)
    assert torch.quantile(torch.cat(after), 0.95).item() == pytest.approx(1, rel=1e-3)
    for name, mean in of_streams.items():
        expected = torch.cat(after).mean().item()
        assert torch.cat(mean).mean().item() == pytest.approx(expected, rel=1e-3), name


def test_finished_fusion_weights_are_the_streams_shares_of_the_score():
    model = SPIPS.untrained(ModelConfig())
    sources = [made_up(model, "rated", 60, 1, seed=1)]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 4)
    batches = list(everything(sources[0]))
    with torch.no_grad():
        contributions = sum(
            torch.stack([w * m for w, m in zip(model.fusion.weights, means.values(), strict=True)])
            for means in map(trainee.means, batches)
        )
    finished = finish(trainee, iter(batches))
    shares = (contributions / contributions.sum()).flatten()
    assert torch.allclose(finished.fusion.weights, shares, atol=1e-4)


def test_finishing_once_more_gives_the_same_model(model):
    sources = [made_up(model, "rated", 40, 1, seed=1)]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 2)
    first, second = (finish(trainee, everything(sources[0])).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_model_scores_identical_images_0_and_can_be_saved(model, photos, tmp_path):
    sources = [made_up(model, "rated", 40, 1, seed=1)]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 2)
    finished = finish(trainee, everything(sources[0]))
    assert finished.score(photos, photos).score.tolist() == [0, 0, 0]
    finished.save(tmp_path / "model.safetensors")
    assert SPIPS.load(tmp_path / "model.safetensors").config == model.config


def test_resumed_training_is_the_same_to_the_bit(model):
    sources = [made_up(model, "rated", 40, 1, seed=1), made_up(model, "triplets", 30, 2, seed=3)]
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


class Pairs:
    """Two rated pairs, as a data set."""

    def __init__(self, references, distorted):
        self.references = ["a", "b", "c"]
        self.targets = np.array([10.0, 50.0, 90.0])
        self._images = references, distorted

    def __len__(self):
        return 3

    def __getitem__(self, index):
        references, distorted = self._images
        return Example(references[index], distorted[index][None], float(self.targets[index]))


def test_images_are_scored_as_their_quality_means_are(photos, noisy_photos):
    model = SPIPS.untrained(ModelConfig())
    pairs = Pairs(photos[..., :96, :96], noisy_photos[..., :96, :96])
    images = ImageSource("rated", 1.0, pairs, [2, 0], crop_px=96, num_loaders=0)
    quality = [quality_means(model, pairs[i].reference, pairs[i].distorted) for i in (2, 0)]
    joined = {
        name: [torch.cat([q[name][tap] for q in quality]) for tap in range(len(taps))]
        for name, taps in quality[0].items()
    }
    dmos, references = torch.tensor([90.0, 10.0]), torch.tensor([1, 0])
    embedded = EmbeddedSource("rated", 1.0, dmos, references, joined)
    trainee = trainee_of(model, [embedded])
    by_images = predict(trainee, images.batches([[0, 1]]))
    by_means = predict(trainee, embedded.batches([[0, 1]]))
    assert torch.allclose(by_images, by_means, rtol=1e-4)


def test_in_mode_tune_the_trunk_learns_too(photos, noisy_photos):
    model = SPIPS.untrained(ModelConfig())
    before = model.trunk.digest()
    pairs = Pairs(photos, noisy_photos)
    source = ImageSource("rated", 1.0, pairs, [0, 1, 2], crop_px=96, num_loaders=0)
    scales = mean_quality(model, iter([list(source.batches([[0, 1, 2]]))]))
    trainee = Trainee(model, scales)
    optimizer = make_optimizer(trainee, learning_rate=0.02, trunk_learning_rate=1e-3)
    steps = epoch_batches([source], [np.arange(3)], batch_size=3, num_steps=1, seed=0)
    train_epoch(trainee, optimizer, steps, factor=1.0)
    assert model.trunk.digest() != before


def test_an_image_smaller_than_the_crop_is_refused(photos, noisy_photos):
    pairs = Pairs(photos, noisy_photos)
    source = ImageSource("rated", 1.0, pairs, [0], crop_px=256, num_loaders=0)
    with pytest.raises(DatasetError, match="at least 256 px, got 128 x 144"):
        next(source.batches([[0]]))


def test_one_epoch_draws_every_example_once_before_any_twice():
    model = SPIPS.untrained(ModelConfig())
    source = made_up(model, "rated", 12, 1, seed=1)
    batches = list(epoch_batches([source], [np.arange(12)], batch_size=4, num_steps=3, seed=5))
    drawn = torch.cat([step[0].targets for step in batches])
    assert torch.equal(drawn.sort().values, source.targets.sort().values)


def test_a_small_set_is_drawn_again_within_an_epoch():
    model = SPIPS.untrained(ModelConfig())
    source = made_up(model, "rated", 3, 1, seed=1)
    steps = list(epoch_batches([source], [np.arange(3)], batch_size=4, num_steps=5, seed=5))
    assert [len(step[0].targets) for step in steps] == [3] * 5


def test_folds_deal_out_references_and_keep_each_together():
    references = ["b", "a", "c", "a", "d", "b"]
    assert fold_of(references, 2).tolist() == [1, 0, 0, 0, 1, 1]


def test_a_picture_that_two_sets_share_is_in_one_fold():
    one, other = ["r0", "r1", "r2", "r3"], ["r1", "r2", "r3", "r4"]
    folds = [fold_of(references, 2, [*one, *other]).tolist() for references in (one, other)]
    assert folds == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_a_batch_of_means_and_its_weight_decide_the_loss():
    model = SPIPS.untrained(ModelConfig())
    source = made_up(model, "severity_series", 10, 5, seed=1)
    trainee = trainee_of(model, [source])
    batch = next(source.batches([list(range(10))]))
    double = dataclasses.replace(batch, weight=2.0)
    assert trainee([double]).item() == pytest.approx(2 * trainee([batch]).item())


def test_a_channel_that_is_silent_in_training_cannot_rule_the_score_elsewhere():
    model = SPIPS.untrained(ModelConfig())
    source = made_up(model, "rated", 40, 1, seed=1)
    silent = source.quality["semantic"][0]
    silent[..., 0] = 0
    trainee = trainee_of(model, [source])
    finish(trainee, everything(source))
    weights = model.streams["semantic"].convs[0].weight.flatten()
    assert weights[0] * silent.mean() < 5 * (weights[1:] * silent.mean((0, 1))[1:]).sum()
