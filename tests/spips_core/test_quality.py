import pytest
import torch

from spips_core.image_ops import to_unit_range
from spips_core.kernels import EAGER
from spips_core.quality import feature_means, tradition_means
from spips_core.quality_maps.ms_ssim import image_pyramid
from spips_core.quality_maps.psnr import psnr_map
from spips_core.quality_maps.ssim import structure_loss, window_moments


@pytest.mark.parametrize("size", [(96, 96), (97, 131), (112, 143), (128, 144)])
def test_means_are_those_of_the_maps_each_at_its_own_size(photos, noisy_photos, size):
    pair = [
        to_unit_range(images[..., : size[0], : size[1]], torch.float64)
        for images in (photos, noisy_photos)
    ]
    pyramids = [image_pyramid(images) for images in pair]
    got = tradition_means(*pyramids, EAGER)
    moments = list(map(window_moments, *pyramids))
    losses = list(map(structure_loss, moments))
    expected = [*psnr_map(moments[0]).mean(dim=(2, 3)).T, *losses[0].quality_map.mean(dim=(2, 3)).T]
    expected += [loss.contrast.mean(dim=(1, 2, 3)) / 2 for loss in losses[:-1]]
    expected += [losses[-1].quality_map.mean(dim=(1, 2, 3))]
    assert torch.allclose(got.quality, torch.stack(expected, dim=1), rtol=1e-12)
    assert torch.allclose(got.ssim, losses[0].ssim_map.mean(dim=(1, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("backbone", ["alexnet_slim", "squeezenet1_1"])
def test_feature_means_are_those_of_the_squared_differences(models, seven_pairs, backbone):
    encodings = [models[backbone].encode(images) for images in seven_pairs]
    references, distorted = (encoding.features for encoding in encodings)
    means = feature_means(references, distorted)
    assert [mean.shape[1] for mean in means] == [feature.shape[1] for feature in references]
    for got, r, d in zip(means, references, distorted, strict=True):
        expected = (d.double() - r.double()).square().mean(dim=(2, 3))
        assert torch.allclose(got.double(), expected, rtol=1e-5, atol=1e-9)
