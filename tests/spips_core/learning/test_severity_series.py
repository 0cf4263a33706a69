from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from spips_core.learning.datasets import read_image
from spips_core.learning.distortions import distort
from spips_core.learning.severity_series import SeveritySeries
from tests.spips_core.learning.conftest import as_tensor, pixels, refuse, write_image

KINDS = ["gaussian_noise", "jpeg", "warped"]


@pytest.fixture
def photo_folder(tmp_path):
    folder = tmp_path / "photos"
    for seed in range(4):
        write_image(folder / f"{seed}.png", seed, (100, 110))
    return folder


def make_series(folder, kinds=KINDS, *, num_series=10, side_px=96, seed=1):
    return SeveritySeries(folder, kinds, num_series=num_series, side_px=side_px, seed=seed)


def test_a_series_is_a_cut_of_its_photograph_at_five_rising_levels(photo_folder):
    set_ = make_series(photo_folder)
    assert len(set_) == len(set_.kinds) == len(set_.references) == 10
    for index in (0, 3, 9):
        example = set_[index]
        assert example.distorted.shape == (5, *example.reference.shape) == (5, 3, 96, 96)
        photo = read_image(photo_folder / set_.references[index])
        windows = photo.unfold(1, 96, 1).unfold(2, 96, 1)
        found = (windows == example.reference[:, None, None]).all(dim=(0, 3, 4))
        assert found.sum() == 1
        cut = example.reference.permute(1, 2, 0).numpy()
        if set_.kinds[index] == "jpeg":
            expected = [as_tensor(distort(cut, "jpeg", level)) for level in range(1, 6)]
            assert torch.equal(example.distorted, torch.stack(expected))
        errors = (example.distorted - example.reference.float()).square().mean(dim=(1, 2, 3))
        assert (errors.diff() > 0).all()


def test_a_place_with_nothing_to_distort_is_not_used(tmp_path):
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[100:, 100:] = pixels(1, (100, 100))
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "sky.png")
    for example in make_series(tmp_path / "photos", ["gaussian_blur"], num_series=30):
        levels = [example.reference, *example.distorted]
        assert not any(torch.equal(a, b) for a, b in pairwise(levels))


def test_levels_of_a_series_share_their_random_numbers(photo_folder):
    example = make_series(photo_folder, ["gaussian_noise"])[0]
    noise = (example.distorted[:2] - example.reference.float()).flatten(1)
    inside = (example.distorted[:2].flatten(1) % 255 > 0).all(dim=0)  # not clipped
    assert torch.corrcoef(noise[:, inside])[0, 1] > 0.95


def test_the_same_seed_gives_the_same_series_and_another_seed_others(photo_folder):
    one, two, other = (make_series(photo_folder, seed=seed) for seed in (1, 1, 2))
    assert (one.references, one.kinds) == (two.references, two.kinds)
    for index in (9, 0, 5):
        assert torch.equal(one[index].distorted, two[index].distorted)
        assert not torch.equal(one[index].distorted, other[index].distorted)


def test_series_of_one_photograph_and_kind_do_not_share_their_noise(photo_folder):
    def noise(seed, index):
        example = make_series(photo_folder, ["gaussian_noise"], num_series=8, seed=seed)[index]
        return example.distorted[0].float() - example.reference

    noises = torch.stack([noise(1, 0), noise(1, 4), noise(2, 0)]).flatten(1)
    assert noises.std(dim=1).min() > 4
    assert torch.corrcoef(noises).sum().item() == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("kinds", [KINDS, [*KINDS, "hue"]], ids=len)
def test_photographs_and_kinds_take_turns(photo_folder, kinds):
    set_ = make_series(photo_folder, kinds, num_series=4 * len(kinds))
    assert sorted(set_.references[:4]) == ["0.png", "1.png", "2.png", "3.png"]
    assert set_.references == set_.references[:4] * len(kinds)
    assert [set_.kinds.count(kind) for kind in kinds] == [4] * len(kinds)
    pairs = set(zip(set_.references, set_.kinds, strict=True))
    assert len(pairs) == len(set_)


def test_unknown_kinds_are_refused_and_named(photo_folder):
    refuse(
        lambda: make_series(photo_folder, ["jpeg", "jpg"]),
        "expected distortions among",
        "['jpg']",
    )
    refuse(lambda: make_series(photo_folder, []), "expected distortions among")


def test_series_need_photographs_of_at_least_their_side(photo_folder, tmp_path):
    assert make_series(photo_folder, side_px=100)[0].reference.shape == (3, 100, 100)
    set_ = make_series(photo_folder, side_px=101)
    path = photo_folder / set_.references[0]
    refuse(lambda: set_[0], f"{path}: expected sides of at least 101 px, got 100 x 110")
    refuse(lambda: make_series(tmp_path / "none"), f"{tmp_path / 'none'}: expected .jpg or .png")
