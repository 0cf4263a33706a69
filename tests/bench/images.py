"""The photographs that the benchmark scores: scikit-image's, cut and spoiled."""

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from skimage import data
from torch import Tensor

JPEG_QUALITIES = (90, 60, 40, 25, 10)


@lru_cache
def photographs() -> list[Image.Image]:
    return [Image.fromarray(photo()) for photo in (data.astronaut, data.coffee, data.chelsea)]


def cut(number: int, side_px: int) -> Image.Image:
    """Return a square of one of the photographs, another one for each number."""
    photos = photographs()
    photo = photos[number % len(photos)]
    scale = max(1, 1.25 * side_px / min(photo.size))
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
    generator = np.random.default_rng(number)
    left, top = (int(generator.integers(0, room - side_px + 1)) for room in photo.size)
    return photo.crop((left, top, left + side_px, top + side_px))


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def batch(num_pairs: int, side_px: int) -> tuple[Tensor, Tensor]:
    """Return references and JPEG versions, uint8 (N, 3, H, W), channels innermost in memory."""
    references = [cut(number, side_px) for number in range(num_pairs)]
    distorted = [
        Image.open(io.BytesIO(jpeg(image, JPEG_QUALITIES[number % len(JPEG_QUALITIES)])))
        for number, image in enumerate(references)
    ]
    stacks = (np.stack([np.asarray(i) for i in images]) for images in (references, distorted))
    reference, other = (torch.from_numpy(stack).permute(0, 3, 1, 2) for stack in stacks)
    return reference, other


def write_manifest(
    folder: Path, num_rows: int, *, side_px: int, pairs_per_reference: int = 1, num_files: int = 320
) -> Path:
    """Write JPEG pairs and their manifest.

    The bytes of each pair are its own, so that no scorer can use scores again.

    Args:
        folder: for images and manifest.
        num_rows: of the manifest.
        side_px: side of the square images.
        pairs_per_reference: pairs that follow each other with one reference.
        num_files: pictures to make; a longer manifest has them again, in files with other bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    references, distorted = [], []
    for number in range(num_files):
        image = cut(number // pairs_per_reference, side_px)
        if number % pairs_per_reference == 0:
            references.append(jpeg(image, 95))
        distorted.append(jpeg(image, JPEG_QUALITIES[number % len(JPEG_QUALITIES)]))

    def write(name: str, contents: list[bytes], number: int) -> str:
        path = folder / f"{name}{number}.jpg"
        if not path.exists():  # decoders ignore what follows the image
            path.write_bytes(contents[number % len(contents)] + b"%d" % number)
        return str(path)

    columns = {
        "pair_id": [f"{row:08d}" for row in range(num_rows)],
        "reference_uri": [
            write("r", references, row // pairs_per_reference) for row in range(num_rows)
        ],
        "distorted_uri": [write("d", distorted, row) for row in range(num_rows)],
    }
    manifest = folder / f"manifest-{num_rows}.parquet"
    pq.write_table(pa.table(columns), manifest)
    return manifest
