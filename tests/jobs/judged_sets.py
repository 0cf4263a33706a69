"""Small judged sets of every kind, for the jobs that train and evaluate."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from spips_core.learning.distortions import distort

SIDE_PX = 112


@pytest.fixture(scope="session")
def judged(tmp_path_factory):
    """A folder with a 2AFC and a JND subset in BAPPS layout, rated pairs, and photographs."""
    root = tmp_path_factory.mktemp("judged")
    photos = [photo()[:224, :224] for photo in (data.astronaut, data.coffee, data.chelsea)]
    for name in ("ref", "p0", "p1", "judge"):
        (root / "2afc" / name).mkdir(parents=True)
    for name in ("p0", "p1", "same"):
        (root / "jnd" / name).mkdir(parents=True)
    (root / "photos").mkdir()
    rows = []
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(root / "photos" / f"{number}.png")
        for part in range(4):
            top, left = 112 * (part // 2), 112 * (part % 2)
            reference = np.ascontiguousarray(photo[top : top + SIDE_PX, left : left + SIDE_PX])
            stem = f"{number}-{part}"
            weak, strong = (distort(reference, "gaussian_noise", level, part) for level in (1, 4))
            images = {"ref": reference, "p0": weak, "p1": strong}
            if part % 2:
                images |= {"p0": strong, "p1": weak}
            for name, pixels in images.items():
                Image.fromarray(pixels).save(root / "2afc" / name / f"{stem}.png")
            np.save(root / "2afc" / "judge" / f"{stem}.npy", np.array([[0.9 * (part % 2)]]))
            Image.fromarray(reference).save(root / "jnd" / "p0" / f"{stem}.png")
            Image.fromarray(weak if part < 2 else strong).save(root / "jnd" / "p1" / f"{stem}.png")
            np.save(root / "jnd" / "same" / f"{stem}.npy", np.array([1.0 * (part < 2)]))
            for level in (1, 3, 5):
                path = root / "jnd" / f"{stem}-{level}.png"
                Image.fromarray(distort(reference, "gaussian_blur", level)).save(path)
                rows.append((f"2afc/ref/{stem}.png", str(path), 20.0 * level + part))
    names = ("reference", "distorted", "dmos")
    columns = {
        name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    pq.write_table(pa.table(columns), root / "pairs.parquet")
    return root


def sets(judged, *kinds):
    known = {
        "rated": [{"name": "rated", "path": str(judged / "pairs.parquet")}],
        "triplets": [{"name": "2afc", "path": str(judged / "2afc")}],
        "just_noticeable": [{"name": "jnd", "path": str(judged / "jnd")}],
        "severity_series": [
            {"name": "series", "path": str(judged / "photos"), "num_series": 6, "side_px": 112}
        ],
        "jury": [
            {
                "name": "jury",
                "path": str(judged / "photos"),
                "num_series": 6,
                "side_px": 112,
                "held_out": ["geometry", "blur"],
                "jurors": ["mdsi", "haarpsi"],
            }
        ],
    }
    return [f"--data.{kind}={json.dumps(known[kind])}" for kind in kinds]
