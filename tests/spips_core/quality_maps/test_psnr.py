import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from spips_core.quality_maps.psnr import decibels, error_means, psnr_map


def psnr_db(reference, distorted):
    return decibels((reference - distorted).square().mean(dim=(1, 2, 3)))


def test_identical_pair_has_infinite_psnr_and_a_map_of_zeros(photos):
    images = photos / 255
    assert (psnr_db(images, images) == math.inf).all()
    assert (psnr_map(images, images) == 0).all()


@pytest.mark.parametrize(("dtype", "tolerance_db"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_psnr_agrees_with_scikit_image_on_8_bit_photos(photos, noisy_photos, dtype, tolerance_db):
    got = psnr_db(photos.to(dtype) / 255, noisy_photos.to(dtype) / 255)
    pairs = zip(photos.numpy(), noisy_photos.numpy(), strict=True)
    expected = [peak_signal_noise_ratio(r, d, data_range=255) for r, d in pairs]
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance_db)


def test_means_are_those_of_the_map_and_of_the_squared_error(photos, noisy_photos):
    pair = [images.double() / 255 for images in (photos, noisy_photos)]
    means = error_means(*(images.flatten(0, 1) for images in pair)).view(2, 3, 3)
    assert torch.allclose(means[0], psnr_map(*pair).mean(dim=(2, 3)), rtol=1e-12)
    assert torch.allclose(decibels(means[1].mean(dim=1)), psnr_db(*pair), rtol=1e-12)


def test_black_against_white_has_psnr_0():
    black = torch.zeros(1, 3, 8, 8)
    assert psnr_db(black, 1 - black).item() == 0


def test_map_is_0_at_one_8_bit_step_at_every_level_and_up_to_it():
    levels = torch.arange(255).view(1, 1, 1, 255).expand(1, 3, 1, 255)
    reference, one_step = levels.float() / 255, (levels + 1).float() / 255
    assert psnr_map(reference, one_step).max() < 1e-5
    assert (psnr_map(reference, reference + 0.9 / 255) == 0).all()


def test_map_is_1_at_full_swing():
    black = torch.zeros(1, 3, 4, 5)
    assert torch.allclose(psnr_map(black, 1 - black), torch.ones_like(black), atol=1e-6)


def test_map_follows_equation_1_for_every_difference():
    steps = torch.arange(1, 256, dtype=torch.float64)
    reference = torch.zeros(1, 3, 15, 17, dtype=torch.float64)
    distorted = (steps / 255).view(1, 1, 15, 17).expand(1, 3, 15, 17)
    psnr = -20 * np.log10(steps.numpy() / 255)
    expected = 1 - np.clip(psnr / (20 * np.log10(255)), 0, 1)
    for map_ in (psnr_map(reference, distorted), psnr_map(distorted, reference)):
        assert map_.shape == (1, 3, 15, 17)
        np.testing.assert_allclose(map_[0, 1].flatten(), expected, atol=1e-12)
    assert (np.diff(expected) > 0).all()


def test_map_depends_on_its_own_pixel_and_channel_only():
    reference = torch.full((2, 3, 6, 7), 0.5)
    distorted = reference.clone()
    distorted[1, 2, 3, 4] = 0.9
    assert psnr_map(reference, distorted).nonzero().tolist() == [[1, 2, 3, 4]]


def test_map_gradient_is_finite_for_every_difference():
    reference = torch.zeros(1, 3, 2, 4)
    differences = torch.tensor([0, 1e-30, 0.5 / 255, 1 / 255, 2 / 255, 0.5, 1, 1]).view(1, 1, 2, 4)
    distorted = differences.repeat(1, 3, 1, 1).requires_grad_()
    psnr_map(reference, distorted).sum().backward()
    assert distorted.grad.isfinite().all()
    assert (distorted.grad[..., 1, :2] > 0).all()
