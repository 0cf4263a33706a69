"""Nights of photographs, made worse by three models and scored by the packaged one."""

from functools import cache
from itertools import product

import numpy as np
import torch
from PIL import Image

from jobs.demo import photographs
from spips_core import SPIPS
from spips_core.learning.distortions import distort

SIDE_PX = 192
STREAMS = ("tradition", "percept", "semantic")
MODELS = {"model_a": ("webp", 1), "model_b": ("jpeg", 2), "model_c": ("gaussian_blur", 1)}


@cache
def model():
    return SPIPS.load("embedded")


def crops():
    """Yield parts of the demo's photographs, with their names."""
    for name, photo in photographs().items():
        for number, (left, top) in enumerate(product((0, 192), (0, 64))):
            yield f"{name}-{number}", photo.crop((left, top, left + SIDE_PX, top + SIDE_PX))


def make_night(folder, night, worse=None, num_failed=0):
    """Write the images of one night; return the columns of its results.

    Args:
        folder: where the images are written.
        night: YYYY-MM-DD, a folder of the models' images.
        worse: the level of distortion of some models in this night, by model.
        num_failed: number of rows that are missing.
    """
    levels = {name: level for name, (_, level) in MODELS.items()} | (worse or {})
    rows = []
    for photo, image in crops():
        reference = folder / "targets" / f"{photo}.png"
        reference.parent.mkdir(exist_ok=True)
        image.save(reference)
        for name, (kind, _) in MODELS.items():
            distorted = folder / night / name / f"{photo}.png"
            distorted.parent.mkdir(exist_ok=True, parents=True)
            pixels = distort(np.asarray(image), kind, levels[name])
            Image.fromarray(pixels).save(distorted)
            rows.append((f"{name}/{photo}", name, str(reference), str(distorted), image, pixels))
    ids, names, references, distorted, images, pixels = zip(*rows, strict=True)
    pairs = [torch.from_numpy(np.stack(p)).permute(0, 3, 1, 2) for p in (images, pixels)]
    with torch.no_grad():
        scores = model().score(*pairs)
    values = {
        "spips_score": scores.score, "psnr_db": scores.psnr_db, "ssim": scores.ssim,
        **{f"{name}_score": getattr(scores, name) for name in STREAMS},
    }  # fmt: skip
    status = ["missing"] * num_failed + ["ok"] * (len(ids) - num_failed)
    return {
        "pair_id": list(ids), "model": list(names), "reference_uri": list(references),
        "distorted_uri": list(distorted), "status": status,
        "error": ["expected an image, got no object" if s != "ok" else "" for s in status],
        **{name: [v if s == "ok" else None for v, s in zip(column.tolist(), status, strict=True)]
           for name, column in values.items()},
    }  # fmt: skip
