"""Draw docs/expected_dmos.jpg: one photograph, made worse until a given DMOS is expected.

`make scale-picture` runs this with the packaged checkpoint "embedded".
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

from spips_core import SPIPS
from spips_core.learning.distortions import DISTORTIONS, Pixels

TARGETS = (5, 20, 40, 60)
KINDS = {
    "jpeg": ("JPEG quality {:.0f}", 100, 1),
    "gaussian_blur": ("blur of {:.1f} px", 0, 12),
    "gaussian_noise": ("noise of {:.0f} / 255", 0, 128),
    "brighter": ("brighter by {:.0f} / 255", 0, 160),
}
"""Label, weakest and strongest strength of each kind of distortion."""
NUM_HALVINGS = 12
LABEL_PX, GAP_PX = 20, 4


def expected_dmos(model: SPIPS, reference: Pixels, distorted: Pixels) -> float:
    """Return what people would say of one pair."""
    pair = (torch.tensor(pixels).permute(2, 0, 1)[None] for pixels in (reference, distorted))
    dmos = model.score(*pair).expected_dmos
    if dmos is None:
        raise SystemExit("error: expected a checkpoint with a scale, got one without")
    return dmos.item()


def distort_to(
    model: SPIPS, reference: Pixels, kind: str, target: float
) -> tuple[Pixels, float, float]:
    """Return a distorted image with about the target DMOS, its strength, and its DMOS."""
    _, low, high = KINDS[kind]
    tried = []
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        # The same random numbers at every strength, so that noise only grows.
        pixels = DISTORTIONS[kind].apply(reference, middle, np.random.default_rng(0))
        dmos = expected_dmos(model, reference, pixels)
        tried.append((abs(dmos - target), middle, dmos, pixels))
        low, high = (middle, high) if dmos < target else (low, middle)
    _, strength, dmos, pixels = min(tried, key=lambda one: one[0])
    return pixels, int(strength) if kind == "jpeg" else strength, dmos


def draw(model: SPIPS, reference: Pixels) -> Image.Image:
    """Return the picture: a row for each kind, a column for each target, pixels at their size."""
    side_px = reference.shape[0]
    width_px, height_px = side_px + GAP_PX, side_px + LABEL_PX + GAP_PX
    size_px = (1 + len(TARGETS)) * width_px - GAP_PX, len(KINDS) * height_px - GAP_PX
    picture = Image.new("RGB", size_px, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for row, (kind, (label, *_)) in enumerate(KINDS.items()):
        shown = [(reference, "reference: 0")]
        for target in TARGETS:
            pixels, strength, dmos = distort_to(model, reference, kind, target)
            shown.append((pixels, f"{label.format(strength)}: {dmos:.1f}"))
        for column, (pixels, text) in enumerate(shown):
            left, top = column * width_px, row * height_px
            pen.text((left, top + 2), text, "black", font)
            picture.paste(Image.fromarray(pixels), (left, top + LABEL_PX))
    return picture


if __name__ == "__main__":
    photograph = np.ascontiguousarray(skimage.data.astronaut()[16:224, 120:328])
    path = Path(__file__).parent / "expected_dmos.jpg"
    draw(SPIPS.load("embedded"), photograph).save(path, quality=92, subsampling=0)
