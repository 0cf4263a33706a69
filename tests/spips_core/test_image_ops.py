import numpy as np
import pytest
import torch
from scipy import ndimage

from spips_core.image_ops import (
    enlarge,
    gaussian_blur,
    halve,
    reflect_borders,
    to_unit_range,
    unit_length,
)


def noise(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


@pytest.mark.parametrize("size", [(6, 6), (17, 30), (96, 64)])
def test_blur_is_scipys_with_mirrored_borders(size):
    images = noise(2, 3, *size)
    got = gaussian_blur(reflect_borders(images, 5), 11, 1.5)
    expected = ndimage.gaussian_filter(images.numpy(), 1.5, radius=5, mode="mirror", axes=(2, 3))
    np.testing.assert_allclose(got, expected, atol=1e-14)


def test_blur_leaves_its_input_and_the_neighbouring_images_alone():
    images = torch.zeros(2, 2, 13, 13)
    images[0, 1, 6, 6] = 1
    before = images.clone()
    blurred = gaussian_blur(reflect_borders(images, 5), 11, 1.5)
    assert torch.equal(images, before)
    assert blurred[0, 1].sum().item() == pytest.approx(1, abs=1e-6)
    assert (blurred[0, 0] == 0).all()
    assert (blurred[1] == 0).all()


def test_blur_keeps_a_constant_up_to_the_border():
    images = torch.full((1, 3, 9, 11), 0.7, dtype=torch.float64)
    assert torch.allclose(
        gaussian_blur(reflect_borders(images, 5), 11, 1.5), images, rtol=0, atol=1e-15
    )


def test_every_8_bit_level_becomes_its_255th():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = (np.arange(256) / 255).astype(np.float32)
    np.testing.assert_allclose(to_unit_range(levels, torch.float32).flatten(), expected, rtol=1e-7)
    assert to_unit_range(levels, torch.float32).max() == 1


def test_bytes_keep_their_layout_and_are_left_as_they_were():
    decoded = torch.arange(2 * 5 * 4 * 3, dtype=torch.uint8).view(2, 5, 4, 3)
    images = decoded.permute(0, 3, 1, 2)
    result = to_unit_range(images, torch.float32)
    assert result.stride() == images.stride()
    assert torch.equal(result, images.float() / 255)
    assert images.flatten(1).amax(dim=1).tolist() == [59, 119]


@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_keep_their_values_in_the_type_asked_for(given, dtype):
    images = noise(1, 3, 4, 4).to(given)
    result = to_unit_range(images, dtype)
    assert result.dtype == dtype
    assert torch.equal(result, images.to(dtype))


def test_halving_averages_and_drops_an_odd_row_and_column():
    images = torch.arange(15.0).view(1, 1, 3, 5)
    assert halve(images).tolist() == [[[[3.0, 5.0]]]]


def test_enlarging_interpolates_between_pixel_centres():
    maps = torch.tensor([[[[0.0, 4.0]]]])
    assert enlarge(maps, 1, 4).tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]


def test_enlarged_maps_stay_between_the_lowest_and_highest_value():
    maps = noise(2, 1, 6, 8)
    large = enlarge(maps, 97, 131)
    assert large.shape == (2, 1, 97, 131)
    assert large.min() >= maps.min()
    assert large.max() <= maps.max()


def test_feature_vectors_get_length_1_whatever_their_scale():
    features = torch.cat([noise(1, 5, 3, 4) + 0.1, 1000 * noise(1, 5, 3, 4) + 0.1])
    lengths = unit_length(features).square().sum(dim=1).sqrt()
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-8)
    assert torch.allclose(unit_length(7 * features), unit_length(features), atol=1e-8)


def test_feature_vectors_of_zeros_stay_zeros_with_finite_gradients():
    features = torch.zeros(1, 5, 3, 4, requires_grad=True)
    unit = unit_length(features)
    unit.sum().backward()
    assert (unit == 0).all()
    assert features.grad.isfinite().all()
