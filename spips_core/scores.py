"""What a comparison returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """The scores of N pairs; every tensor is (N,) float32.

    Attributes:
        score: the SPIPS score, 0 for identical images, lower is better.
        expected_dmos: the rating that people would give, in [0, 100], 0 for identical images, lower
            is better; see `DmosScale`. None if the model's checkpoint has no scale.
        tradition: mean of the traditional stream; None if the model has no such stream.
        percept: mean of the stream of low-level features; None if the model has no such stream.
        semantic: mean of the stream of high-level features; None if the model has no such stream.
        psnr_db: in decibels, +inf for identical images, higher is better.
        ssim: in [-1, 1], 1 for identical images, higher is better.
        ms_ssim: in [0, 1], 1 for identical images, higher is better.
        lpips: LPIPS v0.1, 0 for identical images, lower is better. None if the model was loaded
            without it.
    """

    score: Tensor
    expected_dmos: Tensor | None
    tradition: Tensor | None
    percept: Tensor | None
    semantic: Tensor | None
    psnr_db: Tensor
    ssim: Tensor
    ms_ssim: Tensor
    lpips: Tensor | None
