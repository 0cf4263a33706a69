import piq
import pytest
import torch

from spips_core.quality_maps.ms_ssim import combine_scales, image_pyramid, ms_ssim_map
from spips_core.quality_maps.ssim import BORDER_PX, StructureLoss, structure_loss, window_moments


def structure_pyramid(reference, distorted):
    moments = map(window_moments, image_pyramid(reference), image_pyramid(distorted))
    return list(map(structure_loss, moments))


def ms_ssim(pyramid):
    factors = [1 - scale.contrast.mean(dim=(2, 3)) for scale in pyramid[:-1]]
    return combine_scales(torch.stack([*factors, pyramid[-1].ssim_map.mean(dim=(2, 3))]))


def test_identical_pair_is_0_at_every_scale_and_1_in_all(photos):
    pyramid = structure_pyramid(photos / 255, photos / 255)
    assert (ms_ssim_map(pyramid) == 0).all()
    assert (ms_ssim(pyramid) == 1).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [(176, 176), (176, 192)])
def test_scales_without_borders_give_the_ms_ssim_of_piq(
    photos, noisy_photos, size, dtype, tolerance
):
    height_px, width_px = size
    tiled = [images.repeat(1, 1, 2, 2) for images in (photos, noisy_photos)]
    pair = [images[..., :height_px, :width_px] for images in tiled]
    interiors = [
        StructureLoss(*(term[..., 5:-5, 5:-5] for term in scale))
        for scale in structure_pyramid(*(images.to(dtype) / 255 for images in pair))
    ]
    expected = piq.multi_scale_ssim(
        *(images.double() / 255 for images in pair), data_range=1.0, reduction="none"
    )
    assert torch.allclose(ms_ssim(interiors).double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(96, 96), (97, 131), (128, 144)])
def test_map_has_a_channel_a_scale_at_the_size_of_the_images(noisy_photos, photos, size):
    height_px, width_px = size
    reference = photos[..., :height_px, :width_px] / 255
    distorted = noisy_photos[..., :height_px, :width_px] / 255
    map_ = ms_ssim_map(structure_pyramid(reference, distorted))
    assert map_.shape == (3, 5, height_px, width_px)
    assert map_.min() >= 0
    assert map_.max() <= 1
    assert (map_.mean(dim=(2, 3)) > 0).all()


def test_scales_halve_and_drop_an_odd_row_or_column(photos):
    images = photos[..., :97, :131] / 255
    expected = [(97, 131), (48, 65), (24, 32), (12, 16), (6, 8)]
    sizes = [tuple(scale.contrast.shape[2:]) for scale in structure_pyramid(images, images)]
    assert sizes == expected
    border = 2 * BORDER_PX
    sizes = [tuple(scale.shape[2:]) for scale in image_pyramid(images)]
    assert sizes == [(height_px + border, width_px + border) for height_px, width_px in expected]


def test_checkers_that_average_out_are_seen_at_the_finest_scale_only(photos):
    rows, columns = torch.arange(96).view(96, 1), torch.arange(128).view(1, 128)
    checkers = ((rows + columns) % 2 * 2 - 1).double() / 16
    reference = 0.25 + photos[..., :96, :128].double() / 510
    means = ms_ssim_map(structure_pyramid(reference, reference + checkers)).mean(dim=(2, 3))
    assert (means[:, 0] > 0.05).all()
    assert (means[:, 1:] < 1e-12).all()


def test_brightness_is_seen_at_the_coarsest_scale_only(photos):
    reference = photos[..., :96, :128].double() / 510
    map_ = ms_ssim_map(structure_pyramid(reference, reference + 0.25))
    assert map_[:, :4].max() < 1e-12
    assert map_[:, 4].min() > 0.02


def test_inverted_images_score_0_and_not_nan(photos):
    images = photos / 255
    assert (ms_ssim(structure_pyramid(images, 1 - images)) == 0).all()


def test_one_inverted_colour_costs_a_third(photos):
    reference = photos[:1] / 255
    distorted = reference.clone()
    distorted[:, 1] = 1 - reference[:, 1]
    assert ms_ssim(structure_pyramid(reference, distorted)).item() == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 1.0, None])
def test_gradient_is_finite_for_identical_images(photos, level):
    images = photos[:1, :, :96, :96] / 255 if level is None else torch.full((1, 3, 96, 96), level)
    distorted = images.clone().requires_grad_()
    ms_ssim_map(structure_pyramid(images, distorted)).sum().backward()
    assert distorted.grad.isfinite().all()
