import pytest
import torch

from spips_core import ImageError


def test_images_encoded_apart_score_as_together(embedded, seven_pairs):
    references, distorted = seven_pairs
    together = embedded.score(references, distorted)
    apart = embedded.compare(embedded.encode(references), embedded.encode(distorted / 255))
    assert torch.allclose(apart.score, together.score, rtol=0, atol=1e-6)


def test_one_reference_serves_many_distorted_images(embedded, seven_pairs):
    references, distorted = seven_pairs
    first = references[:1].expand_as(references)
    expected = embedded.score(first, distorted)
    encoded = embedded.encode(references[:1])[torch.zeros(7, dtype=torch.long)]
    got = embedded.compare(encoded, embedded.encode(distorted))
    for name in ("score", "tradition", "percept", "semantic", "ssim", "ms_ssim"):
        assert torch.allclose(getattr(got, name), getattr(expected, name), rtol=0, atol=1e-6)


def test_encode_refuses_what_score_refuses(embedded):
    with pytest.raises(ImageError, match=r"images: expected floats in \[0, 1\], got 0 to 255"):
        embedded.encode(torch.tensor([0.0, 255.0]).repeat(1, 3, 96, 48))
    with pytest.raises(ImageError, match="images: expected sides of at least 96 px"):
        embedded.encode(torch.zeros(1, 3, 95, 200))


def test_encodings_that_do_not_match_are_refused(embedded, seven_pairs):
    references, distorted = (embedded.encode(images) for images in seven_pairs)
    for other in (distorted[:1], embedded.encode(seven_pairs[1][..., :100])):
        with pytest.raises(ImageError, match="expected as many reference and distorted images"):
            embedded.compare(references, other)


def test_parts_that_do_not_add_up_are_refused(embedded):
    for lengths in ([1, 1], [-1, 4]):
        with pytest.raises(ValueError, match=r"expected lengths >= 0 that add up to 3, got \["):
            embedded.encode_parts(torch.zeros(3, 3, 96, 96), lengths)
