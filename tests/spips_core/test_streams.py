import pytest
import torch

from spips_core.streams import Stream, stream_map

CHANNELS = (4, 2)


@pytest.fixture
def quality_maps():
    generator = torch.Generator().manual_seed(6)
    return [
        torch.rand(3, 4, 8, 12, generator=generator),
        torch.rand(3, 2, 4, 6, generator=generator),
    ]


def means_of(quality_maps):
    return [q.mean(dim=(2, 3)) for q in quality_maps]


def test_maps_of_zeros_give_exactly_0_whatever_the_weights(quality_maps):
    stream = Stream(CHANNELS)
    for conv in stream.convs:
        torch.nn.init.normal_(conv.weight)
    zeros = [torch.zeros_like(q) for q in quality_maps]
    assert [(feature == 0).all().item() for feature in stream.maps(zeros)] == [True, True]
    assert (stream(means_of(zeros)) == 0).all()


def test_each_set_of_maps_gives_one_weighted_sum_of_its_channels(quality_maps):
    stream = Stream(CHANNELS)
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0]), torch.tensor([3.0, 0.25])
    for conv, weight in zip(stream.convs, weights, strict=True):
        conv.weight.data = weight.view(1, -1, 1, 1)
    for feature, q, weight in zip(stream.maps(quality_maps), quality_maps, weights, strict=True):
        expected = sum(w * channel for w, channel in zip(weight, q.unbind(dim=1), strict=True))
        assert feature.shape == (3, 1, *q.shape[2:])
        assert torch.allclose(feature[:, 0], expected)


def test_negative_weights_cannot_make_a_feature_negative(quality_maps):
    stream = Stream(CHANNELS)
    for conv in stream.convs:
        torch.nn.init.constant_(conv.weight, -1)
    assert all((feature == 0).all() for feature in stream.maps(quality_maps))
    assert (stream(means_of(quality_maps)) == 0).all()


def test_untrained_stream_grows_with_every_quality_channel(quality_maps):
    stream = Stream(CHANNELS)
    means = [q.requires_grad_() for q in means_of(quality_maps)]
    stream(means).sum().backward()
    assert all((q.grad > 0).all() for q in means)


def test_mean_of_a_stream_is_the_mean_of_its_maps(quality_maps):
    stream = Stream(CHANNELS)
    features = stream.maps(quality_maps)
    expected = torch.stack([feature.mean(dim=(1, 2, 3)) for feature in features]).mean(dim=0)
    assert torch.allclose(stream(means_of(quality_maps)), expected, rtol=1e-6)


def test_mean_weighs_every_map_alike_whatever_its_size():
    stream = Stream((1, 1))
    for conv in stream.convs:
        torch.nn.init.constant_(conv.weight, 1)
    assert stream([torch.tensor([[1.0], [1.0]]), torch.tensor([[5.0], [9.0]])]).tolist() == [3, 5]


def test_heat_map_has_the_size_of_the_image_and_stands_where_the_features_stand():
    coarse, fine = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8)
    coarse[0, 0, 3, 0] = 1
    fine[0, 0, 7, 0] = 1
    map_ = stream_map([coarse, fine], 32, 48)
    assert map_.shape == (1, 32, 48)
    assert map_[0, 31, 0] == 1
    assert (map_[0, :16] == 0).all()
    assert (map_[0, :, 24:] == 0).all()


def test_mean_of_the_heat_map_is_the_mean_of_the_stream_at_whole_ratios(quality_maps):
    stream = Stream(CHANNELS)
    means = stream_map(stream.maps(quality_maps), 32, 48).mean(dim=(1, 2))
    assert torch.allclose(means, stream(means_of(quality_maps)), rtol=1e-5)
