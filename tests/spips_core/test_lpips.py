import pytest
import torch
from safetensors.torch import load_file

from spips_core import SPIPS, CheckpointError, ModelConfig
from spips_core.learning.peers import LPIPS_NAMES, load_peer
from spips_core.lpips import lpips_weights
from spips_core.trunk import BACKBONES


def load(name, trunk_files, folder, **settings):
    """An untrained model, loaded from a file as a trained one is."""
    weights = trunk_files.get(name)
    model = SPIPS.untrained(ModelConfig(backbone=name, **settings), backbone_weights=weights)
    model.save(folder / "model.safetensors")
    return SPIPS.load(folder / "model.safetensors", lpips=True)


@pytest.mark.parametrize("name", LPIPS_NAMES)
def test_lpips_is_that_of_its_authors_package(name, trunk_files, tmp_path, seven_pairs):
    pytest.importorskip("lpips")
    peer = load_peer(f"lpips_{name}", trunk_weights={name: str(trunk_files[name])})
    model = load(name, trunk_files, tmp_path)
    got = model.score(*seven_pairs).lpips
    torch.testing.assert_close(got, peer(*seven_pairs), rtol=0, atol=1e-5)
    assert got[0] == 0  # identical
    assert got[-1] > 0.01
    flat = torch.zeros_like(seven_pairs[0])  # features of length 0, where the conventions differ
    got = model.score(seven_pairs[0], flat).lpips
    torch.testing.assert_close(got, peer(seven_pairs[0], flat), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LPIPS_NAMES)
def test_the_weights_are_those_of_its_authors_package(name):
    lpips = pytest.importorskip("lpips")
    file = f"{lpips.__path__[0]}/weights/v0.1/{LPIPS_NAMES[name]}.pth"
    theirs = torch.load(file, "cpu", weights_only=True)
    ours = load_file(lpips_weights()[name])
    assert len(ours) == len(theirs) == len(BACKBONES[name].taps)
    for index in range(len(ours)):
        assert torch.equal(ours[f"lin{index}"], theirs[f"lin{index}.model.1.weight"].flatten())


def test_lpips_does_not_depend_on_the_batch_by_a_bit(trunk_files, tmp_path, seven_pairs):
    model = load("alexnet", trunk_files, tmp_path)
    encoded = [model.encode(images, batch_invariant=True) for images in seven_pairs]
    together = model.compare(*encoded).lpips
    apart = [model.compare(*(images[i : i + 1] for images in encoded)).lpips for i in range(7)]
    assert torch.equal(torch.cat(apart), together)


def test_lpips_needs_no_stream_but_the_features(trunk_files, tmp_path, seven_pairs):
    whole = load("alexnet", trunk_files, tmp_path).score(*seven_pairs).lpips
    streams = ("tradition", "percept")
    part = load("alexnet", trunk_files, tmp_path, streams=streams).score(*seven_pairs).lpips
    assert torch.equal(part, whole)


def test_a_model_with_lpips_has_the_scores_digest_and_file_of_one_without(
    trunk_files, tmp_path, seven_pairs
):
    model = load("alexnet", trunk_files, tmp_path)
    without = SPIPS.load(tmp_path / "model.safetensors")
    assert without.digest == model.digest
    scores, others = model.score(*seven_pairs), without.score(*seven_pairs)
    assert others.lpips is None
    assert torch.equal(scores.score, others.score)
    model.save(tmp_path / "again.safetensors")
    files = [load_file(tmp_path / f"{name}.safetensors") for name in ("model", "again")]
    assert files[0].keys() == files[1].keys()


@pytest.mark.parametrize(
    ("name", "settings", "got"),
    [
        ("alexnet_slim", {}, "alexnet_slim, unit"),
        ("vgg16", {}, "vgg16, unit"),
        ("alexnet", {"feature_norm": "none"}, "alexnet, none"),
        ("alexnet", {"streams": ("tradition",)}, "alexnet, unit, streams tradition"),
    ],
)
def test_other_features_than_lpips_s_are_refused(name, settings, got, trunk_files, tmp_path):
    with pytest.raises(CheckpointError) as error:
        load(name, trunk_files, tmp_path, **settings)
    assert "lpips: expected a model with the trunk alexnet or squeezenet1_1" in str(error.value)
    assert got in str(error.value)
    assert "\n" not in str(error.value)
