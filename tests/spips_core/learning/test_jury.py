import numpy as np
import piq
import pytest
import torch
from scipy import stats

from spips_core.learning.jury import JurySeries, mean_ranks
from tests.spips_core.learning.conftest import refuse, write_image

KINDS = ["gaussian_blur", "brighter", "shifted"]


@pytest.fixture
def photo_folder(tmp_path):
    for seed in range(3):
        write_image(tmp_path / "photos" / f"{seed}.png", seed, (100, 110))
    return tmp_path / "photos"


def judge(folder, jurors=("mdsi", "haarpsi"), *, kinds=KINDS, num_series=6, seed=1):
    reports = []
    series = JurySeries(
        folder, kinds, num_series=num_series, side_px=96, seed=seed, jurors=jurors,
        cache=folder.parent / "cache", report=lambda done, total: reports.append((done, total)),
    )  # fmt: skip
    return series, reports


def test_a_target_is_the_mean_rank_among_all_judged_images(photo_folder):
    series, reports = judge(photo_folder)
    assert reports[-1] == (4, 4)
    judged = [number for number, kind in enumerate(series.kinds) if kind != "shifted"]
    pairs = [(example.distorted, example.reference) for example in map(series.__getitem__, judged)]
    words = []
    for metric, sign in ((piq.mdsi, 1), (piq.haarpsi, -1)):
        values = [
            sign * metric(d / 255, (r / 255)[None].expand_as(d), reduction="none") for d, r in pairs
        ]
        words.append(stats.rankdata(torch.stack(values).double().numpy()) / 20)
    expected = (words[0] + words[1]).reshape(4, 5) / 2
    np.testing.assert_allclose(series.targets[judged], expected)
    np.testing.assert_array_equal(series[judged[0]].target, series.targets[judged[0]])


def test_the_jury_has_no_say_on_geometry(photo_folder):
    series, _ = judge(photo_folder)
    is_shifted = np.array(series.kinds) == "shifted"
    assert np.isnan(series.targets[is_shifted]).all()
    assert np.isfinite(series.targets[~is_shifted]).all()
    alone, reports = judge(photo_folder, kinds=["shifted"])
    assert np.isnan(alone.targets).all()
    assert reports == []


def test_verdicts_come_from_the_cache_until_something_changes(photo_folder):
    first, _ = judge(photo_folder)
    again, reports = judge(photo_folder)
    assert reports == []
    np.testing.assert_array_equal(again.targets, first.targets)
    for change in ({"seed": 2}, {"jurors": ["mdsi"]}, {"num_series": 5}):
        assert judge(photo_folder, **change)[1], change
    write_image(photo_folder / "1.png", 9, (100, 110))
    assert judge(photo_folder)[1]


def test_ranks_of_equal_words_are_shared():
    words = np.array([[[1.0, 2.0], [2.0, 4.0]], [[5.0, 5.0], [5.0, 5.0]]])
    expected = (np.array([[1, 2.5], [2.5, 4]]) + 2.5) / 8
    np.testing.assert_allclose(mean_ranks(words), expected)


def test_a_juror_that_is_unknown_or_cannot_take_the_size_is_named(photo_folder):
    refuse(lambda: judge(photo_folder, ["vsi", "fsim"]), "expected jurors among", "['fsim']")
    refuse(lambda: judge(photo_folder, ["iw_ssim"]), "jury: images of 96 x 96 px")
