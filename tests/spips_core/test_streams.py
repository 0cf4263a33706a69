import pytest
import torch

from spips_core.streams import Stream, stream_map, stream_mean

CHANNELS = (4, 2)


@pytest.fixture
def quality_maps():
    generator = torch.Generator().manual_seed(6)
    return [
        torch.rand(3, 4, 8, 12, generator=generator),
        torch.rand(3, 2, 4, 6, generator=generator),
    ]


def test_maps_of_zeros_give_exactly_0_whatever_the_weights(quality_maps):
    stream = Stream(CHANNELS)
    for conv in stream.convs:
        torch.nn.init.normal_(conv.weight)
    features = stream([torch.zeros_like(q) for q in quality_maps])
    assert [(feature == 0).all().item() for feature in features] == [True, True]


def test_each_set_of_maps_gives_one_weighted_sum_of_its_channels(quality_maps):
    stream = Stream(CHANNELS)
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0]), torch.tensor([3.0, 0.25])
    for conv, weight in zip(stream.convs, weights, strict=True):
        conv.weight.data = weight.view(1, -1, 1, 1)
    for feature, q, weight in zip(stream(quality_maps), quality_maps, weights, strict=True):
        expected = sum(w * channel for w, channel in zip(weight, q.unbind(dim=1), strict=True))
        assert feature.shape == (3, 1, *q.shape[2:])
        assert torch.allclose(feature[:, 0], expected)


def test_negative_weights_cannot_make_a_feature_negative(quality_maps):
    stream = Stream(CHANNELS)
    for conv in stream.convs:
        torch.nn.init.constant_(conv.weight, -1)
    assert all((feature == 0).all() for feature in stream(quality_maps))


def test_untrained_stream_grows_with_every_quality_channel(quality_maps):
    stream = Stream(CHANNELS)
    for q in quality_maps:
        q.requires_grad_()
    sum(feature.sum() for feature in stream(quality_maps)).backward()
    assert all((q.grad > 0).all() for q in quality_maps)


def test_mean_weighs_every_map_alike_whatever_its_size():
    features = [torch.full((2, 1, 8, 8), 1.0), torch.full((2, 1, 2, 2), 5.0)]
    features[1][1] = 9.0
    assert stream_mean(features).tolist() == [3.0, 5.0]


def test_mean_of_a_map_is_over_its_pixels():
    feature = torch.tensor([1.0, 2.0, 3.0, 10.0]).view(1, 1, 2, 2)
    assert stream_mean([feature]).tolist() == [4.0]


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
    features = [q[:, :1] for q in quality_maps]
    means = stream_map(features, 32, 48).mean(dim=(1, 2))
    assert torch.allclose(means, stream_mean(features), rtol=1e-5)
