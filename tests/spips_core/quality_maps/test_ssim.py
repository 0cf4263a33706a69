import numpy as np
import piq
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn import functional

from spips_core.image_ops import reflect_borders
from spips_core.quality_maps import ssim
from spips_core.quality_maps.ssim import BORDER_PX, window_moments

RADIUS_PX = 5
# piq's own float32 is 2e-5 from its float64, so its float64 is what both types are held to.
TOLERANCES = [(torch.float32, 5e-6), (torch.float64, 1e-12)]


def structure_loss(reference, distorted):
    """The losses of images without borders."""
    bordered = (reflect_borders(images, BORDER_PX) for images in (reference, distorted))
    return ssim.structure_loss(window_moments(*bordered))


def piq_ssim(reference, distorted):
    return piq.ssim(
        reference.double() / 255, distorted.double() / 255, data_range=1.0,
        kernel_size=11, kernel_sigma=1.5, reduction="none", downsample=False,
    )  # fmt: skip


def test_identical_pair_loses_nothing(photos):
    loss = structure_loss(photos / 255, photos / 255)
    assert (loss.luminance == 0).all()
    assert (loss.contrast == 0).all()
    assert (loss.quality_map == 0).all()
    assert (loss.ssim_map == 1).all()


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_mean_over_the_interior_is_the_ssim_of_piq(photos, noisy_photos, dtype, tolerance):
    whole = structure_loss(photos.to(dtype) / 255, noisy_photos.to(dtype) / 255).ssim_map
    got = whole[..., RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX].mean(dim=(1, 2, 3)).double()
    assert torch.allclose(got, piq_ssim(photos, noisy_photos), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_mean_over_the_map_is_the_ssim_of_piq_on_reflected_images(
    photos, noisy_photos, dtype, tolerance
):
    whole = structure_loss(photos.to(dtype) / 255, noisy_photos.to(dtype) / 255).ssim_map
    padded = [
        functional.pad(images.float(), (RADIUS_PX,) * 4, mode="reflect")
        for images in (photos, noisy_photos)
    ]
    assert whole.shape == photos.shape
    got = whole.mean(dim=(1, 2, 3)).double()
    assert torch.allclose(got, piq_ssim(*padded), rtol=0, atol=tolerance)


def test_every_interior_pixel_agrees_with_scikit_image(photos, noisy_photos):
    reference, distorted = photos[:1, :, :97, :131] / 255.0, noisy_photos[:1, :, :97, :131] / 255.0
    got = structure_loss(reference.double(), distorted.double()).ssim_map[0]
    _, expected = structural_similarity(
        reference[0].double().numpy(), distorted[0].double().numpy(), channel_axis=0, data_range=1,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
    )  # fmt: skip
    inner = np.s_[:, RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX]
    np.testing.assert_allclose(got.numpy()[inner], expected[inner], atol=1e-10)


def extreme_pairs():
    rows, columns = torch.arange(33).view(33, 1), torch.arange(41).view(1, 41)
    checkers = ((rows + columns) % 2).float().expand(1, 3, 33, 41)
    blocks = ((rows // 8 + columns // 8) % 2).float().expand(1, 3, 33, 41)
    black = torch.zeros(1, 3, 33, 41)
    noise = torch.rand(1, 3, 33, 41, generator=torch.Generator().manual_seed(0))
    return {
        "black and white": (black, 1 - black),
        "inverted checkers": (checkers, 1 - checkers),
        "inverted blocks": (blocks, 1 - blocks),
        "inverted noise": (noise, 1 - noise),
        "noise and black": (noise, black),
        "bright and a rounding away": (1 - black, 1 - black - 6e-8 * noise),
        "noise and a rounding away": (noise, noise * (1 - 1e-7)),
        "one brighter than the other": (noise / 2, noise / 2 + 0.3),
    }


@pytest.mark.parametrize("name", extreme_pairs())
def test_terms_and_maps_stay_in_their_ranges(name):
    loss = structure_loss(*extreme_pairs()[name])
    rounding = 1e-5
    for values, low, high in (
        (loss.luminance, 0, 1), (loss.contrast, 0, 2),
        (loss.quality_map, 0, 1), (loss.ssim_map, -1, 1),
    ):  # fmt: skip
        assert values.min() >= (low if low == 0 else low - rounding)
        assert values.max() <= high + rounding


def test_quality_map_is_the_similarity_turned_and_scaled(photos, noisy_photos):
    loss = structure_loss(photos.double() / 255, noisy_photos.double() / 255)
    expected = 1 - (loss.ssim_map + 1) / 2
    assert torch.allclose(loss.quality_map, expected, rtol=0, atol=1e-14)


def test_inverted_structure_is_less_than_no_similarity():
    reference, distorted = extreme_pairs()["inverted checkers"]
    assert structure_loss(reference, distorted).ssim_map.max() < -0.9


def test_brightness_changes_luminance_and_spares_contrast(photos):
    reference = photos.double() / 510
    loss = structure_loss(reference, reference + 0.25)
    assert loss.luminance.min() > 0.05
    assert loss.contrast.max() < 1e-12


def test_similarity_is_symmetric(photos, noisy_photos):
    reference, distorted = photos.double() / 255, noisy_photos.double() / 255
    one, other = structure_loss(reference, distorted), structure_loss(distorted, reference)
    assert torch.allclose(one.ssim_map, other.ssim_map, rtol=0, atol=1e-12)


def test_gradient_is_the_derivative():
    generator = torch.Generator().manual_seed(4)
    pair = [torch.rand(1, 2, 6, 7, generator=generator, dtype=torch.float64) for _ in range(2)]
    for images in pair:
        images.requires_grad_()
    assert torch.autograd.gradcheck(lambda r, d: structure_loss(r, d).quality_map, pair)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_gradient_is_finite_for_identical_flat_images(level):
    images = torch.full((1, 3, 12, 12), level)
    distorted = images.clone().requires_grad_()
    structure_loss(images, distorted).quality_map.sum().backward()
    assert distorted.grad.isfinite().all()
