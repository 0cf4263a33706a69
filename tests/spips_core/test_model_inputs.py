import pytest
import torch

from spips_core import SPIPS, ImageError
from tests.spips_core.conftest import tensors_of


def test_bytes_and_floats_of_the_same_images_score_equal(embedded, photos, noisy_photos):
    expected = tensors_of(embedded.score(photos, noisy_photos))
    for pair in (
        (photos / 255, noisy_photos / 255),
        (photos, noisy_photos / 255),
        (photos / 255, noisy_photos),
    ):
        assert all(map(torch.equal, tensors_of(embedded.score(*pair)), expected))


def test_memory_layout_does_not_change_the_score(embedded, photos, noisy_photos):
    expected = embedded.score(photos, noisy_photos).score
    transposed = [
        images.transpose(2, 3).contiguous().transpose(2, 3) for images in (photos, noisy_photos)
    ]
    channels_last = [
        images.to(memory_format=torch.channels_last) for images in (photos, noisy_photos)
    ]
    for pair in (transposed, channels_last, (photos, channels_last[1] / 255)):
        assert not pair[1].is_contiguous()
        assert torch.allclose(embedded.score(*pair).score, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.float64,
    ],
)
def test_images_in_other_floating_types_score_as_float32_does(embedded, dtype):
    images = torch.arange(2 * 3 * 96 * 97).view(2, 3, 96, 97) % 64 / 64  # exact in every type
    distorted = images.flip(3)
    expected = embedded.score(images, distorted).score
    got = embedded.score(images.to(dtype), distorted.to(dtype)).score
    assert torch.allclose(got, expected, rtol=1e-5)


def test_scores_do_not_depend_on_autocast(embedded, photos, noisy_photos):
    expected = tensors_of(embedded.score(photos, noisy_photos))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, tensors_of(embedded.score(photos, noisy_photos)), expected))
        pair = embedded.encode(photos), embedded.encode(noisy_photos)
        assert all(map(torch.equal, tensors_of(embedded.compare(*pair)), expected))


def test_models_load_the_same_under_any_default(embedded, photos, noisy_photos):
    expected = embedded.score(photos, noisy_photos).score
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            model = SPIPS.load("embedded")
            assert torch.equal(model.score(photos, noisy_photos).score, expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.digest == embedded.digest


def test_no_pairs_have_no_scores(embedded, photos):
    assert embedded.score(photos[:0], photos[:0]).score.shape == (0,)


@pytest.mark.parametrize("call", [SPIPS.score, SPIPS.forward, SPIPS.quality_maps])
def test_every_way_in_checks_shapes_and_types(embedded, photos, call):
    for reference, distorted in (
        (photos, photos[..., :-1]), (photos[:, :1], photos[:, :1]), (photos.long(), photos.long()),
        (photos[..., :95], photos[..., :95]),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=r"expected .*, got "):
            call(embedded, reference, distorted)


@pytest.mark.parametrize("call", [SPIPS.score, SPIPS.quality_maps])
@pytest.mark.parametrize(("scale", "shift"), [(2 / 255, -1), (1.0, 0)], ids=["-1 to 1", "0 to 255"])
def test_images_in_other_ranges_are_refused(embedded, photos, call, scale, shift):
    wrong = photos * scale + shift
    with pytest.raises(ImageError, match=r"reference: expected floats in \[0, 1\], got "):
        call(embedded, wrong, photos)
    with pytest.raises(ImageError, match=r"distorted: expected floats in \[0, 1\], got "):
        call(embedded, photos, wrong)
