import sys

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from spips_core.errors import PeerError
from spips_core.learning.peers import LPIPS_NAMES, load_peer
from spips_core.trunk import Trunk, load_trunk_weights

pytest.importorskip("piq")
pytest.importorskip("lpips")


@pytest.fixture(scope="module")
def series():
    """(2, 3, 176, 184) references, and the same with no, weak and strong noise, uint8.

    MS-SSIM of piq needs sides above 160 px.
    """
    crops = [photo()[80:256, 120:304] for photo in (data.astronaut, data.chelsea)]
    references = torch.stack([torch.tensor(crop).permute(2, 0, 1) for crop in crops])
    noise = torch.randn(references.shape, generator=torch.Generator().manual_seed(1))
    levels = [(references + s * noise).round().clamp(0, 255).to(torch.uint8) for s in (0, 6, 25)]
    return references, levels


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache of torch, and a proxy that refuses every connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def scores_of(metric, series):
    references, levels = series
    return torch.stack([metric(references, distorted) for distorted in levels])


def check_order(metric, series):
    scores = scores_of(metric, series)
    assert scores.shape == (3, 2)
    assert scores.isfinite().all()
    assert not scores.requires_grad
    assert (scores.diff(dim=0) > 0).all()
    references, levels = series
    alone = torch.cat([metric(references[i : i + 1], levels[1][i : i + 1]) for i in (0, 1)])
    torch.testing.assert_close(scores[1], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim", "vif"])
def test_more_noise_scores_higher_and_none_the_lowest(name, series):
    check_order(load_peer(name, trunk_weights={}), series)


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "vif"])
def test_identical_images_reach_the_metrics_best(name, series):
    scores = scores_of(load_peer(name, trunk_weights={}), series)[0]
    assert scores.tolist() == pytest.approx([-1, -1], abs=1e-4)


def test_psnr_is_that_of_scikit_image_turned_round(series):
    references, levels = series
    expected = [
        -peak_signal_noise_ratio(*(images[i].numpy() for images in (references, levels[2])))
        for i in (0, 1)
    ]
    metric = load_peer("psnr", trunk_weights={})
    np.testing.assert_allclose(metric(references, levels[2]), expected, rtol=1e-4)


@pytest.mark.parametrize("trunk", LPIPS_NAMES)
def test_lpips_is_0_for_identical_images_and_rises_with_noise(trunk, series, trunk_files):
    metric = load_peer(f"lpips_{trunk}", trunk_weights={trunk: str(trunk_files[trunk])})
    assert scores_of(metric, series)[0].tolist() == [0, 0]
    check_order(metric, series)


@pytest.mark.parametrize("trunk", LPIPS_NAMES)
def test_lpips_weighs_the_features_of_the_trunk_it_is_given(trunk, series, trunk_files):
    import lpips

    metric = load_peer(f"lpips_{trunk}", trunk_weights={trunk: str(trunk_files[trunk])})
    own = Trunk(trunk)
    load_trunk_weights(own, trunk_files[trunk])
    # The weights that the library trained on people's choices; they are installed with its code.
    file = f"{lpips.__path__[0]}/weights/v0.1/{LPIPS_NAMES[trunk]}.pth"
    weights = torch.load(file, "cpu", weights_only=True)
    references, levels = series
    expected = torch.zeros(2)
    taps = zip(own(references / 255), own(levels[2] / 255), strict=True)
    for index, pair in enumerate(taps):
        one, two = (features / features.norm(dim=1, keepdim=True) for features in pair)
        weighted = (weights[f"lin{index}.model.1.weight"] * (one - two).nan_to_num() ** 2).sum(1)
        expected += weighted.mean(dim=(1, 2))
    torch.testing.assert_close(metric(references, levels[2]), expected, rtol=1e-3, atol=0)


def refuse(name, *parts, **trunk_weights):
    with pytest.raises(PeerError) as error:
        load_peer(name, trunk_weights=trunk_weights)
    for part in (f"{name}: ", *parts):
        assert part in str(error.value)


def test_dists_whose_weights_cannot_be_fetched_is_refused(offline):
    refuse("dists", "its weights cannot be loaded: ")


@pytest.mark.parametrize("trunk", LPIPS_NAMES)
def test_lpips_whose_trunk_cannot_be_fetched_is_refused(offline, trunk):
    refuse(f"lpips_{trunk}", "its weights cannot be loaded: torchvision could not fetch")


def test_lpips_with_a_missing_or_foreign_trunk_is_refused(tmp_path, trunk_files):
    missing, foreign = str(tmp_path / "none.pth"), str(trunk_files["squeezenet1_1"])
    refuse("lpips_alexnet", f"backbone weights {missing}: expected", alexnet=missing)
    refuse("lpips_alexnet", f"backbone weights {foreign}: missing", alexnet=foreign)


@pytest.mark.parametrize(("name", "library"), [("ssim", "piq"), ("lpips_alexnet", "lpips")])
def test_a_library_that_is_not_installed_is_named(monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)  # makes importing it fail
    refuse(name, "pip install 'spips[evaluation]' first", library)
