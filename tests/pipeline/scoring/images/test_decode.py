import numpy as np
import pytest
from PIL import Image

from jobs.demo import empty_png
from pipeline.runs.errors import RowError
from pipeline.runs.schema import Status
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images.decode import decode_image, fit_pair


@pytest.mark.parametrize("content", [b"", b"not an image", empty_png(100)[:45]])
def test_a_file_that_cannot_be_decoded_is_a_decode_error(content):
    with pytest.raises(RowError, match=f"expected an image.*, got {len(content)} bytes") as caught:
        decode_image(content, ImagesConfig(max_pixels=10_000))
    assert caught.value.status == Status.DECODE_ERROR


def test_a_huge_image_is_too_large_by_its_header():
    with pytest.raises(RowError, match=r"\(images\.max_pixels\), got 30000 x 30000") as caught:
        decode_image(empty_png(30_000)[:60], ImagesConfig())
    assert caught.value.status == Status.TOO_LARGE


def fit(reference_size, distorted_size, **rules):
    pair = Image.new("RGB", reference_size), Image.new("RGB", distorted_size)
    return [image.size for image in fit_pair(*pair, ImagesConfig(**rules))]


def test_sizes_that_differ_are_an_error_unless_resized():
    with pytest.raises(RowError, match=r"120 x 100 .* got 240 x 200") as caught:
        fit((100, 120), (200, 240))
    assert caught.value.status == Status.SIZE_MISMATCH
    assert fit((100, 120), (200, 240), size_mismatch="resize") == [(100, 120)] * 2


def test_nearly_equal_sizes_are_cropped_to_the_centre_of_their_common_area():
    rows, columns = np.mgrid[0:250, 0:361]
    large = Image.fromarray(np.stack([rows, columns % 256, columns // 256], -1).astype("u1"))
    small = large.crop((0, 1, 360, 249))  # a half pixel is dropped at the left
    rules = ImagesConfig(size_mismatch="crop", max_crop_px=2)
    for pair in ((large, small), (small, large)):
        reference, distorted = fit_pair(*pair, rules)
        assert reference.size == distorted.size == (360, 248)
        np.testing.assert_array_equal(np.asarray(reference), np.asarray(distorted))
    wide, high = large.crop((0, 0, 361, 240)), large.crop((0, 0, 351, 250))
    assert [image.size for image in fit_pair(wide, high, ImagesConfig(size_mismatch="crop"))] == (
        [(351, 240)] * 2
    )
    with pytest.raises(
        RowError, match=r"250 x 361 \(H x W\) within 2 px .* got 247 x 361"
    ) as caught:
        fit((361, 250), (361, 247), size_mismatch="crop", max_crop_px=2)
    assert caught.value.status == Status.SIZE_MISMATCH


@pytest.mark.parametrize(
    ("size", "expected"),
    [((200, 100), (256, 128)), ((100, 200), (128, 256)), ((301, 600), (128, 255))],
)
def test_resize_sets_the_shorter_side(size, expected):
    assert fit(size, size, resize=128) == [expected] * 2


def test_a_short_side_is_too_small_unless_resized():
    with pytest.raises(RowError, match="at least 96") as caught:
        fit((95, 200), (95, 200))
    assert caught.value.status == Status.TOO_SMALL
    assert fit((95, 200), (95, 200), resize=96) == [(96, 202)] * 2


def test_resizing_may_not_pass_the_limit_on_pixels():
    with pytest.raises(RowError, match="after resizing") as caught:
        fit((10, 1000), (10, 1000), resize=512, max_pixels=1_000_000)
    assert caught.value.status == Status.TOO_LARGE
