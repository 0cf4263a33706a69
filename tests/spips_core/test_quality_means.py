import os
import subprocess
import sys

import pytest
import torch

from spips_core import SPIPS, ImageError
from spips_core.image_ops import enlarge
from spips_core.quality_means import enlarged_mean_weights


@pytest.mark.parametrize("size", [(96, 96), (97, 131), (112, 143), (128, 144)])
@pytest.mark.parametrize("backbone", ["alexnet_narrow", "squeezenet1_1"])
def test_sub_scores_are_the_means_of_the_streams_over_whole_maps(
    models, photos, noisy_photos, backbone, size
):
    model = models[backbone]
    pair = photos[..., : size[0], : size[1]], noisy_photos[..., : size[0], : size[1]]
    with torch.no_grad():
        of_maps = model.stream_means(model.quality(*pair))
    scores = model.score(*pair)
    for name, mean in of_maps.items():
        assert torch.allclose(getattr(scores, name), mean, rtol=2e-6, atol=1e-7), name


@pytest.mark.parametrize(("side_px", "full_px"), [(48, 96), (6, 96), (65, 131), (8, 131), (1, 7)])
def test_pixels_count_as_often_as_they_are_enlarged(side_px, full_px):
    weights = enlarged_mean_weights(side_px, full_px, torch.float64, torch.device("cpu"))
    maps = torch.rand(1, 1, side_px, 5, dtype=torch.float64)
    expected = enlarge(maps, full_px, 5).mean(dim=2)
    assert torch.allclose((maps * weights[:, None]).sum(dim=2), expected, rtol=0, atol=1e-12)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)


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


@pytest.mark.slow
def test_compiled_passes_score_as_eager_ones_for_every_size_and_batch(photos, noisy_photos):
    eager, compiled = SPIPS.load(), SPIPS.load()
    before = compiled.passes
    compiled.compile_kernels()
    assert compiled.passes != before
    for size in ((96, 128), (97, 131), (128, 128)):
        for num_pairs in (1, 3):
            pair = [
                images[:num_pairs, :, : size[0], : size[1]] for images in (photos, noisy_photos)
            ]
            got, expected = compiled.score(*pair), eager.score(*pair)
            for name in ("score", "tradition", "psnr_db", "ssim", "ms_ssim"):
                difference = getattr(got, name) - getattr(expected, name)
                assert difference.abs().max() <= 1e-5, (name, size, num_pairs)
            identical = compiled.score(pair[0], pair[0])
            assert (identical.score == 0).all()
            assert (identical.ssim == 1).all()


def test_model_stays_as_it_was_where_nothing_can_compile(tmp_path):
    script = """
import torch
from spips_core import SPIPS, CompilationError
from spips_core.checkpoint import known_pair
model = SPIPS.load()
passes, before = model.passes, model.score(*known_pair()).score
try:
    model.compile_kernels()
except CompilationError as error:
    print(error)
assert model.passes == passes
assert torch.equal(model.score(*known_pair()).score, before)
"""
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    got = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert got.stdout.startswith("expected to compile, got ")
    assert got.stdout.count("\n") == 1


def test_weights_of_a_very_long_side_need_no_more_memory_than_the_side():
    with torch.inference_mode():  # as scoring does; a matrix of side x side would take 40 GB
        weights = enlarged_mean_weights(50_000, 100_001, torch.float64, torch.device("cpu"))
    assert weights.shape == (50_000,)
    assert weights.sum().item() == pytest.approx(1, abs=1e-9)
    assert not weights.requires_grad
