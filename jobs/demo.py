"""Make image pairs from real photographs with real codecs and filters, score them, show a table.

The photographs are those that scikit-image and scikit-learn ship inside their packages (the
`dev` extra). Beside the good pairs stands one broken row for each status that a row can have.
"""

import argparse
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import skimage.data
import sklearn.datasets
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from jobs import score_manifest
from jobs.run_job import DONE
from pipeline.runs.finished import open_scores

WIDTH_PX, HEIGHT_PX = 384, 256
MAX_PIXELS = 16_777_216
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code of the scoring job.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to")
    folder = parser.parse_args(arguments).output.resolve()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [*make_pairs(folder / "images"), *make_broken_rows(folder / "images")]
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    code = score_manifest.main(
        [
            "--config=conf/debug/score_manifest.yaml",
            f"--manifest.uri={folder / 'manifest.parquet'}",
            f"--images.allowed_uri_prefixes={folder}",
            f"--images.max_pixels={MAX_PIXELS}",
            f"--output.uri={folder / 'scores'}",
        ]
    )
    if code == DONE:
        newest = max((folder / "scores").glob("run_id=*/_SUCCESS"), key=lambda p: p.stat().st_mtime)
        show(newest.parent)
    return code


def photographs() -> dict[str, Image.Image]:
    """Return seven photographs, cropped to one size, by name."""
    arrays = {
        name: getattr(skimage.data, name)()
        for name in ("astronaut", "cat", "coffee", "hubble_deep_field", "rocket")
    }
    arrays |= {
        name.removesuffix(".jpg"): sklearn.datasets.load_sample_image(name)
        for name in ("china.jpg", "flower.jpg")
    }
    return {name: _crop(Image.fromarray(array)) for name, array in arrays.items()}


def _crop(image: Image.Image) -> Image.Image:
    left, top = (image.width - WIDTH_PX) // 2, (image.height - HEIGHT_PX) // 2
    return image.crop((left, top, left + WIDTH_PX, top + HEIGHT_PX))


def _encoded(format_: str, **options: Any) -> Callable[[Image.Image], tuple[bytes, str]]:
    def distort(image: Image.Image) -> tuple[bytes, str]:
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        return buffer.getvalue(), format_.lower()

    return distort


def _filtered(
    change: Callable[[Image.Image], Image.Image],
) -> Callable[[Image.Image], tuple[bytes, str]]:
    return lambda image: _encoded("PNG")(change(image))


def _blur(radius_px: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius_px))


def _noise(sigma: float) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, sigma, (HEIGHT_PX, WIDTH_PX, 3))
        return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))

    return change


def _resample(factor: float) -> Callable[[Image.Image], Image.Image]:
    small = round(WIDTH_PX / factor), round(HEIGHT_PX / factor)
    return lambda image: image.resize(small).resize((WIDTH_PX, HEIGHT_PX))


def _colour_shift(levels: int) -> Callable[[Image.Image], Image.Image]:
    shift = np.array([levels, 0, -levels])
    return lambda image: Image.fromarray(
        (np.asarray(image).astype(np.int16) + shift).clip(0, 255).astype(np.uint8)
    )


DISTORTIONS = {
    "jpeg": [_encoded("JPEG", quality=quality) for quality in (80, 50, 30, 15, 5)],
    "webp": [_encoded("WEBP", quality=quality) for quality in (80, 50, 25, 10, 1)],
    "blur": [_filtered(_blur(radius_px)) for radius_px in (0.5, 1, 2, 3, 5)],
    "noise": [_filtered(_noise(sigma)) for sigma in (4, 8, 16, 32, 64)],
    "resampling": [_filtered(_resample(factor)) for factor in (1.5, 2, 3, 4, 6)],
    "colour shift": [_filtered(_colour_shift(levels)) for levels in (4, 8, 16, 32, 48)],
}
"""Each distortion from weak (level 1) to strong (level 5)."""


def make_pairs(folder: Path) -> Iterator[Row]:
    """Write every photograph and its distorted versions, and yield their manifest rows.

    Args:
        folder: where the images go.
    """
    for photo, image in photographs().items():
        reference = folder / f"{photo}.png"
        reference.write_bytes(_encoded("PNG")(image)[0])
        for distortion, levels in DISTORTIONS.items():
            for level, distort in enumerate(levels, start=1):
                content, suffix = distort(image)
                pair_id = f"{photo}-{distortion.replace(' ', '-')}-{level}"
                distorted = folder / f"{pair_id}.{suffix}"
                distorted.write_bytes(content)
                yield {
                    "pair_id": pair_id,
                    "reference_uri": str(reference),
                    "distorted_uri": str(distorted),
                    "photo": photo,
                    "distortion": distortion,
                    "level": level,
                }


def make_broken_rows(folder: Path) -> Iterator[Row]:
    """Write images that cannot be scored, and yield a manifest row for each status.

    There is none for non_finite: a sound model gives 8-bit images a finite score.

    Args:
        folder: where the images go.
    """
    photo = folder / "astronaut.png"
    whole = photo.read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bomb.png").write_bytes(empty_png(30_000))
    with Image.open(photo) as image:
        image.resize((64, 64)).save(folder / "thumbnail.png")
        image.resize((300, 200)).save(folder / "smaller.png")
    for status, reference, distorted in (
        ("missing", photo, folder / "absent.png"),
        ("forbidden", photo, Path("/etc/hostname")),
        ("unreadable", photo, folder),
        ("decode_error", photo, folder / "truncated.png"),
        ("too_large", photo, folder / "bomb.png"),
        ("too_small", folder / "thumbnail.png", folder / "thumbnail.png"),
        ("size_mismatch", photo, folder / "smaller.png"),
    ):
        yield {
            "pair_id": f"broken-{status}",
            "reference_uri": str(reference),
            "distorted_uri": str(distorted),
            "photo": None,
            "distortion": None,
            "level": None,
        }


def empty_png(side_px: int) -> bytes:
    """Return a black and white PNG of side_px x side_px, a few kilobytes whatever its size.

    Args:
        side_px: height and width in pixels.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + checksum

    header = side_px.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])  # 1 bit, grey
    compressor = zlib.compressobj(9)
    row = bytes(1 + (side_px + 7) // 8)
    pixels = b"".join(compressor.compress(row) for _ in range(side_px)) + compressor.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def show(run_folder: Path) -> None:
    """Print the counts by status, the mean scores, and where the results lie.

    Args:
        run_folder: a finished run.
    """
    console = Console()
    scores = open_scores(str(run_folder)).to_table().to_pandas()
    failed = Table(title="rows that could not be scored")
    for heading in ("status", "pair_id", "error"):
        failed.add_column(heading, overflow="fold")
    for row in scores[scores.status != "ok"].sort_values("status").itertuples():
        failed.add_row(row.status, row.pair_id, row.error)
    console.print(failed)

    means = scores[scores.status == "ok"].pivot_table(
        index="distortion", columns="level", values="spips_score", sort=False
    )
    table = Table(title="mean spips_score by distortion and level (0: identical; lower is better)")
    table.add_column("distortion")
    means = means.sort_index(axis="columns")  # rows come in the order of writing
    for level in means.columns:
        table.add_column(f"level {int(level)}", justify="right")
    for distortion, values in means.iterrows():
        table.add_row(str(distortion), *(f"{value:.4f}" for value in values))
    console.print(table)
    console.print(
        f"results: {run_folder}/scores/*/*.parquet, {run_folder}/run.json", soft_wrap=True
    )


if __name__ == "__main__":
    sys.exit(main())
