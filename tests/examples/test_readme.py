"""What README.md shows is what a reader gets."""

import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from spips_core import SPIPS

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


def test_the_python_lines_print_what_the_readme_says(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    (lines,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    exec(lines, {})  # the lines that a reader pastes
    printed = float(re.search(r"tensor\(\[([\d.]+)\]\)", capsys.readouterr().out)[1])
    shown = float(re.search(r"# tensor\(\[([\d.]+)\]\)", lines)[1])
    assert printed == pytest.approx(shown, abs=2e-4)  # the last digit differs between processors


def test_the_pictures_have_the_scores_that_the_readme_shows():
    pictures = re.findall(r'<img src="(docs/astronaut_jpeg_\d+\.jpg)"', README)
    shown = [float(score) for score in re.search(r"\| score \|(.*)\|", README)[1].split("|")]
    distorted = [np.asarray(Image.open(REPOSITORY / picture)) for picture in pictures]
    reference = np.broadcast_to(skimage.data.astronaut()[16:256, 80:400], (3, 240, 320, 3))
    pixels = (torch.tensor(np.array(images)) for images in (reference, distorted))
    scores = SPIPS.load("embedded").score(*(images.permute(0, 3, 1, 2) for images in pixels))
    assert scores.score.tolist() == pytest.approx(shown, abs=6e-4)
