import os
import subprocess
import sys

import pytest

from spips_core import SPIPS


@pytest.mark.slow
def test_compiled_kernels_score_as_eager_ones_for_every_size_and_batch(photos, noisy_photos):
    eager, compiled = SPIPS.load(), SPIPS.load()
    before = compiled.kernels
    compiled.compile_kernels()
    assert compiled.kernels != before
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


@pytest.mark.parametrize("missing", ["compiler", "cache"])
def test_model_stays_as_it_was_where_nothing_can_compile(tmp_path, missing):
    script = """
import torch
from spips_core import SPIPS, CompilationError
from spips_core.checkpoint import known_pair
model = SPIPS.load()
kernels, before = model.kernels, model.score(*known_pair()).score
try:
    model.compile_kernels()
except CompilationError as error:
    print(error)
assert model.kernels == kernels
assert torch.equal(model.score(*known_pair()).score, before)
"""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    if missing == "compiler":
        environment["CXX"] = "no-such-compiler"
    else:
        (tmp_path / "file").touch()
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "file" / "cache")
    got = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert got.stdout.startswith("expected to compile, got ")
    assert got.stdout.count("\n") == 1
