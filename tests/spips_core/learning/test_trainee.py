import dataclasses

import pytest
import torch

from spips_core import SPIPS, ModelConfig
from spips_core.learning.batches import EmbeddedSource, ImageSource
from spips_core.learning.embedding import quality_means
from spips_core.learning.trainee import finish, predict
from tests.spips_core.learning.conftest import (
    Pairs,
    batches_of_one,
    make_source,
    train,
    trainee_of,
)


def test_finishing_keeps_the_order_and_sets_the_scale(model):
    sources = [
        make_source(model, "rated", 60, 1, seed=1),
        make_source(model, "severity_series", 20, 5, seed=2),
    ]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 4)
    before = [predict(trainee, batches_of_one(source)).flatten() for source in sources]
    model = finish(trainee, (batch for source in sources for batch in batches_of_one(source)))
    after = []
    of_streams = {name: [] for name in model.config.streams}
    with torch.no_grad():
        for source in sources:
            pairs = {
                name: [q.flatten(0, 1) for q in qs] for name, qs in source.quality_means.items()
            }
            means = model.stream_means(pairs)
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
    sources = [make_source(model, "rated", 60, 1, seed=1)]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 4)
    batches = list(batches_of_one(sources[0]))
    with torch.no_grad():
        contributions = sum(
            torch.stack([w * m for w, m in zip(model.fusion.weights, means.values(), strict=True)])
            for means in map(trainee.stream_means, batches)
        )
    finished = finish(trainee, iter(batches))
    shares = (contributions / contributions.sum()).flatten()
    assert torch.allclose(finished.fusion.weights, shares, atol=1e-4)


def test_finishing_once_more_gives_the_same_model(model):
    sources = [make_source(model, "rated", 40, 1, seed=1)]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 2)
    first, second = (finish(trainee, batches_of_one(sources[0])).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_model_scores_identical_images_0_and_can_be_saved(model, photos, tmp_path):
    sources = [make_source(model, "rated", 40, 1, seed=1)]
    trainee = trainee_of(model, sources)
    train(trainee, sources, 2)
    finished = finish(trainee, batches_of_one(sources[0]))
    assert finished.score(photos, photos).score.tolist() == [0, 0, 0]
    finished.save(tmp_path / "model.safetensors")
    assert SPIPS.load(tmp_path / "model.safetensors").config == model.config


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


def test_a_batch_of_means_and_its_weight_decide_the_loss():
    model = SPIPS.untrained(ModelConfig())
    source = make_source(model, "severity_series", 10, 5, seed=1)
    trainee = trainee_of(model, [source])
    batch = next(source.batches([list(range(10))]))
    double = dataclasses.replace(batch, weight=2.0)
    assert trainee([double]).item() == pytest.approx(2 * trainee([batch]).item())


def test_a_channel_that_is_silent_in_training_cannot_dominate_the_score():
    model = SPIPS.untrained(ModelConfig())
    source = make_source(model, "rated", 40, 1, seed=1)
    silent = source.quality_means["semantic"][0]
    silent[..., 0] = 0
    trainee = trainee_of(model, [source])
    finish(trainee, batches_of_one(source))
    weights = model.streams["semantic"].convs[0].weight.flatten()
    assert weights[0] * silent.mean() < 5 * (weights[1:] * silent.mean((0, 1))[1:]).sum()
