import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from spips_core.image_ops import reflect_borders
from spips_core.quality_maps import psnr
from spips_core.quality_maps.psnr import decibels
from spips_core.quality_maps.ssim import BORDER_PX, WindowMoments, window_moments


def psnr_db(reference, distorted):
    return decibels((reference - distorted).square().mean(dim=(1, 2, 3)))


def psnr_map(reference, distorted):
    bordered = (reflect_borders(images, BORDER_PX) for images in (reference, distorted))
    return psnr.psnr_map(window_moments(*bordered))


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


def test_black_against_white_has_psnr_0():
    black = torch.zeros(1, 3, 8, 8)
    assert psnr_db(black, 1 - black).item() == 0


def test_map_follows_equation_1():
    moments = WindowMoments(*torch.rand(4, 2, 3, 5, 6, dtype=torch.float64).unbind())
    error = moments.error_variance + 0.02 * moments.mean_error**2
    psnr_of_window = -10 * torch.log10(error)
    masking = moments.energy_variance / 2 + 0.01
    normalized = masking / (10 ** (-psnr_of_window / 10) + masking)
    got = psnr.psnr_map(moments)
    assert torch.allclose(got, 1 - normalized, rtol=1e-12)
    assert 0 < got.min() < got.max() < 1


def test_noise_counts_more_than_a_shift_of_the_same_strength_and_less_where_it_is_masked(photos):
    generator = torch.Generator().manual_seed(1)
    flat = torch.full((1, 3, 96, 96), 0.5, dtype=torch.float64)
    noise = 0.05 * torch.randn(flat.shape, generator=generator, dtype=torch.float64)
    shift = torch.full_like(flat, 0.05)
    on_flat = psnr_map(flat, flat + noise).mean()
    assert on_flat > 10 * psnr_map(flat, flat + shift).mean() > 0
    busy = flat + 0.2 * torch.randn(flat.shape, generator=generator, dtype=torch.float64)
    assert psnr_map(busy, busy + noise).mean() < on_flat / 2


def test_map_rises_with_the_difference(photos):
    reference = photos.double() / 255
    means = [psnr_map(reference, reference * factor).mean() for factor in (0.99, 0.9, 0.5, 0)]
    assert means == sorted(means)


def test_map_depends_on_the_window_and_its_own_channel_only():
    reference = torch.full((2, 3, 30, 40), 0.5)
    distorted = reference.clone()
    distorted[1, 2, 15, 20] = 0.9
    seen = psnr_map(reference, distorted).nonzero()
    assert seen[:, :2].unique(dim=0).tolist() == [[1, 2]]
    assert (seen[:, 2].min(), seen[:, 2].max()) == (15 - BORDER_PX, 15 + BORDER_PX)
    assert (seen[:, 3].min(), seen[:, 3].max()) == (20 - BORDER_PX, 20 + BORDER_PX)


def test_map_gradient_is_the_derivative_and_finite_for_identical_images():
    generator = torch.Generator().manual_seed(2)
    pair = torch.rand(2, 1, 3, 12, 12, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda pair: psnr_map(*pair), pair)
    images = torch.zeros(1, 3, 12, 12)
    distorted = images.clone().requires_grad_()
    psnr_map(images, distorted).sum().backward()
    assert distorted.grad.isfinite().all()
