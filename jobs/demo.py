"""Make image pairs from photographs, score them, and show a table.

The photographs are part of scikit-image and scikit-learn (the `dev` extra). Each is distorted in
six ways at five levels. The manifest also has one broken row for each status that a row can have.

exit codes: as of score_manifest.py, which scores the pairs
  0    done
  1    fault: fix the cause and run the same command again; it resumes
  2    the folder cannot be used; nothing was scored
  130  interrupted; the same command resumes
"""

import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import skimage.data
import sklearn.datasets
from PIL import Image
from rich.console import Console
from rich.table import Table

from jobs import score_manifest
from jobs.run_job import exit_code_of, make_parser, prepare_process
from pipeline.runs.finished import open_scores
from spips_core.learning.distortions import NUM_LEVELS, distort

KINDS = (
    "jpeg", "webp", "gaussian_blur", "gaussian_noise", "resample_bicubic", "colour_cast",
)  # fmt: skip
WIDTH_PX, HEIGHT_PX = 384, 256
MAX_PIXELS = 16_777_216
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Returns:
        The exit code of the scoring job.
    """
    parser = make_parser("jobs/demo.py", __doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to")
    folder = parser.parse_args(arguments).output.resolve()
    prepare_process()
    return exit_code_of(lambda: _make_and_score(folder))


def _make_and_score(folder: Path) -> int:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [*make_pairs(folder / "images"), *make_broken_rows(folder / "images")]
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    return score_manifest.main(
        [
            "--config=conf/debug/score_manifest.yaml",
            f"--manifest.uri={folder / 'manifest.parquet'}",
            f"--images.allowed_uri_prefixes={folder}",
            f"--images.max_pixels={MAX_PIXELS}",
            f"--output.uri={folder / 'scores'}",
        ],
        show,
    )


def photographs() -> dict[str, Image.Image]:
    """Return seven photographs by name, cropped to one size."""
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


def make_pairs(folder: Path) -> Iterator[Row]:
    """Write every photograph and its distorted versions, and yield their manifest rows."""
    for photo, image in photographs().items():
        reference = folder / f"{photo}.png"
        _save(image, reference)
        for kind in KINDS:
            for level in range(1, NUM_LEVELS + 1):
                pair_id = f"{photo}-{kind}-{level}"
                distorted = folder / f"{pair_id}.png"
                _save(Image.fromarray(distort(np.asarray(image), kind, level)), distorted)
                yield {
                    "pair_id": pair_id,
                    "reference_uri": str(reference),
                    "distorted_uri": str(distorted),
                    "photo": photo,
                    "distortion": kind,
                    "level": level,
                }


def _save(image: Image.Image, path: Path) -> None:
    """Save an image, unless a demo before has: a file that is written anew has changed."""
    if path.exists():
        with Image.open(path) as before:
            if before.size == image.size and before.tobytes() == image.tobytes():
                return
    image.save(path)


def _write(path: Path, content: bytes) -> None:
    if not (path.exists() and path.read_bytes() == content):
        path.write_bytes(content)


def make_broken_rows(folder: Path) -> Iterator[Row]:
    """Write images that cannot be scored, and yield a manifest row for each status.

    Except non_finite, crashed and timed_out, to which no image brings the packaged models.
    """
    photo = folder / "astronaut.png"
    whole = photo.read_bytes()
    _write(folder / "truncated.png", whole[: len(whole) // 2])
    _write(folder / "bomb.png", empty_png(30_000))
    with Image.open(photo) as image:
        _save(image.resize((64, 64)), folder / "thumbnail.png")
        _save(image.resize((300, 200)), folder / "smaller.png")
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
    """Return a black PNG of side_px x side_px, 1 bit a pixel: a small file even if it is large."""

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


def show(run_folder: str) -> None:
    """Print the rows that failed, the mean scores, and the paths of the results."""
    console = Console()
    scores = open_scores(run_folder).to_table().to_pandas()
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
    console.print(f"results: {run_folder}/scores/*.parquet, {run_folder}/run.json", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
