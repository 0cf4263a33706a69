"""The lists that docs/training.md makes of public data sets, from folders laid out as theirs."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spips_core.learning.rated_pairs import RatedPairs

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()
LINES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LAYOUTS = {  # images, and the list of ratings, of the worse image first
    "tid2013": (
        [
            "reference_images/I01.BMP",
            "distorted_images/i01_01_1.bmp",
            "distorted_images/I01_24_5.bmp",
        ],
        ("mos_with_names.txt", "2.5 I01_24_5.bmp\n5.51429 i01_01_1.bmp\n"),
        ["24", "1"],
    ),
    "kadid10k": (
        ["images/I01.png", "images/I01_01_01.png", "images/I01_25_05.png"],
        (
            "dmos.csv",
            "dist_img,ref_img,dmos,var\nI01_25_05.png,I01.png,1.2,.4\n"
            "I01_01_01.png,I01.png,4.57,.49\n",
        ),
        ["25", "1"],
    ),
    "CSIQ": (
        [
            "src_imgs/1600.png",
            "dst_imgs/awgn/1600.AWGN.1.png",
            "dst_imgs/jpeg2000/1600.jpeg2000.5.png",
        ],
        (
            "csiq.csv",
            "image,dst_idx,dst_type,dst_lev,dmos_std,dmos\n"
            "1600,3,jpeg 2000,5,.12,.9\n1600,1,noise,1,.061,.062\n",
        ),
        ["jpeg2000", "awgn"],
    ),
    "PIPAL": (
        ["Train_Ref/A0001.bmp", "Distortion_1/A0001_00_00.bmp", "Distortion_2/A0001_03_07.bmp"],
        ("Train_Label/A0001.txt", "A0001_03_07.bmp,1201.5\nA0001_00_00.bmp,1538.2\n"),
        ["3", "0"],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_lines_make_a_rated_set_of_a_data_set_as_it_is_unpacked(name, tmp_path, monkeypatch):
    images, (table, ratings), kinds = LAYOUTS[name]
    generator = np.random.default_rng(0)
    for path in [*images, table]:
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
    for path in images:
        pixels = generator.integers(0, 256, (96, 96, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / path)
    (tmp_path / name / table).write_text(ratings)
    monkeypatch.chdir(tmp_path)
    (lines,) = [lines for lines in LINES if f'"{name}' in lines]
    exec(lines, {})  # the lines that a reader pastes

    pairs = RatedPairs(tmp_path / name / "pairs.csv")
    assert pairs.targets.tolist() == [100.0, 0.0]
    assert pairs.kinds == kinds
    assert len(set(pairs.references)) == 1
    assert len({pairs[index].distorted.sum().item() for index in range(2)}) == 2
