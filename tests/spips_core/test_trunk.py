from itertools import pairwise

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision.models import get_model, get_weight
from torchvision.models.squeezenet import Fire
from torchvision.transforms.functional import normalize

from spips_core import SPIPS, CheckpointError, ModelConfig
from spips_core.errors import FetchError
from spips_core.trunk import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Trunk,
    digest_of,
    load_trunk_weights,
)

# Channels, height and width at LPIPS's taps, for images of 97 x 131.
TAPS = {
    "alexnet": [(64, 23, 32), (192, 11, 15), (384, 5, 7), (256, 5, 7), (256, 5, 7)],
    "alexnet_slim": [(16, 23, 32), (48, 11, 15), (64, 5, 7), (64, 5, 7), (64, 5, 7)],
    "vgg16": [(64, 97, 131), (128, 48, 65), (256, 24, 32), (512, 12, 16), (512, 6, 8)],
    "squeezenet1_1": [
        (64, 48, 65), (128, 24, 32), (256, 12, 16),
        (384, 6, 8), (384, 6, 8), (512, 6, 8), (512, 6, 8),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def images(photos):
    return photos[:2, :, :97, :131] / 255


@pytest.mark.parametrize("name", TAPS)
def test_taps_have_the_published_channels_and_sizes_and_follow_a_relu(models, images, name):
    trunk = models[name].trunk
    with torch.no_grad():
        taps = trunk(images)
    assert [tuple(tap.shape) for tap in taps] == [(2, *shape) for shape in TAPS[name]]
    assert trunk.backbone.channels == tuple(channels for channels, _, _ in TAPS[name])
    for tap in taps:
        assert tap.min() == 0
        assert tap.max() > 0


def outputs_before_pools(model):
    """Every ReLU whose next layer is a pool: the five taps of VGG16."""
    layers = list(model.features)
    return [a for a, b in pairwise(layers) if isinstance(b, nn.MaxPool2d)]


@pytest.mark.parametrize(
    ("name", "tapped"),
    [
        ("alexnet", lambda m: [layer for layer in m.features if isinstance(layer, nn.ReLU)]),
        ("vgg16", outputs_before_pools),
        ("squeezenet1_1", lambda m: [layer for layer in m.features if isinstance(layer, Fire)]),
    ],
)
def test_taps_are_the_layers_of_torchvision_on_normalised_images(models, images, name, tapped):
    with torch.device("meta"):
        model = get_model(name)
    model.features.to_empty(device="cpu")
    trunk = models[name].trunk
    model.features.load_state_dict(trunk.features.state_dict())
    outputs = []
    for layer in tapped(model):
        layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output.clone()))
    with torch.no_grad():
        model.features(normalize(images, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
        taps = trunk(images)
    taps_of = {
        "alexnet": list(range(5)),
        "vgg16": list(range(5)),
        # LPIPS takes the first ReLU, then Fires 2, 4, 5, 6, 7 and 8.
        "squeezenet1_1": [1, 3, 4, 5, 6, 7],
    }[name]
    expected = [outputs[i] for i in taps_of]
    for tap, output in zip(taps[-len(expected) :], expected, strict=True):
        assert torch.allclose(tap, output, rtol=1e-5, atol=1e-5 * output.max().item())


@pytest.mark.parametrize("side_px", range(96, 104))
def test_maps_of_the_small_trunk_have_the_sizes_of_alexnet(models, side_px):
    images = torch.rand(1, 3, side_px, side_px + 33)
    with torch.no_grad():
        ours, theirs = (models[name].trunk(images) for name in ("alexnet_slim", "alexnet"))
    assert [tap.shape[2:] for tap in ours] == [tap.shape[2:] for tap in theirs]


def test_small_trunk_takes_images_without_normalization(models, images):
    trunk = models["alexnet_slim"].trunk
    with torch.no_grad():
        taps = trunk(images)
        assert torch.allclose(taps[-1], trunk.features(images), rtol=1e-5, atol=1e-6)


def test_folded_normalization_leaves_the_features_as_they_were(images):
    trunk = Trunk("alexnet_slim")
    trunk.initialise()
    torch.nn.init.normal_(trunk.features[0].bias)
    with torch.no_grad():
        expected = trunk.taps(normalize(images, mean=IMAGENET_MEAN, std=IMAGENET_STD))
        trunk.fold_normalization()
        taps = trunk(images)
    for tap, other in zip(taps, expected, strict=True):
        assert torch.allclose(tap, other, rtol=1e-4, atol=1e-5 * other.max().item())


def test_weights_in_the_file_are_the_weights_in_the_trunk(models, trunk_files):
    for name, path in trunk_files.items():
        if path.suffix == ".pth":
            stored = torch.load(path, weights_only=True)
            assert any(key.startswith("classifier.") for key in stored)
        else:
            stored = safetensors.torch.load_file(path)
        loaded = models[name].trunk.state_dict()
        assert loaded.keys() == {key for key in stored if key.startswith("features.")}
        assert all(torch.equal(stored[key], value) for key, value in loaded.items())


def test_every_difference_from_the_expected_tensors_is_listed(tmp_path):
    state = Trunk("alexnet_slim").state_dict()
    del state["features.0.bias"]
    state["features.3.weight"] = torch.zeros(48, 16, 5, 5)
    state["layer1.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError) as error:
        load_trunk_weights(Trunk("alexnet_slim"), tmp_path / "weights.pth")
    message = str(error.value)
    assert str(tmp_path / "weights.pth") in message
    assert "missing features.0.bias" in message
    assert "extra layer1.weight" in message
    assert "features.3.weight: expected shape (48, 16, 3, 3), got (48, 16, 5, 5)" in message


def test_weights_of_another_trunk_are_refused(trunk_files):
    with pytest.raises(CheckpointError, match=r"missing features\.6\.weight"):
        load_trunk_weights(Trunk("alexnet"), trunk_files["squeezenet1_1"])


def unreadable(folder, name):
    path = folder / name
    if name.startswith("garbage"):
        path.write_bytes(b"<html>404: not found</html>")
    elif name.startswith("empty"):
        path.write_bytes(b"")
    elif name.startswith("cut"):
        torch.save(Trunk("alexnet_slim").state_dict(), path)
        path.write_bytes(path.read_bytes()[:50_000])
    elif name.startswith("folder"):
        path.mkdir()
    elif name.startswith("tensor"):
        torch.save(torch.zeros(3), path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "missing.pth", "empty.pth", "cut.pth", "folder.pth",
        "garbage.pth", "tensor.pth",
        "missing.safetensors", "empty.safetensors", "garbage.safetensors", "folder.safetensors",
    ],
)  # fmt: skip
def test_unreadable_weights_are_one_checkpoint_error_with_the_path(tmp_path, name):
    path = unreadable(tmp_path, name)
    with pytest.raises(CheckpointError) as error:
        load_trunk_weights(Trunk("alexnet_slim"), path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_weights_file_is_never_run(tmp_path):
    torch.save({"features.0.weight": Payload(tmp_path / "executed")}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError):
        load_trunk_weights(Trunk("alexnet_slim"), tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()


def test_own_trunk_without_weights_asks_for_a_path():
    with pytest.raises(CheckpointError, match="expected a path to backbone weights"):
        load_trunk_weights(Trunk("alexnet_slim"), None)


def file_of(name):
    return get_weight(BACKBONES[name].torchvision_weights).url.rsplit("/", 1)[1]


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
def test_weights_in_the_cache_of_torchvision_need_no_network(no_network, models, trunk_files, name):
    (no_network / file_of(name)).symlink_to(trunk_files[name])
    model = SPIPS.untrained(ModelConfig(backbone=name))
    assert model.trunk.digest() == models[name].trunk.digest()


def test_failed_download_is_one_fetch_error_with_the_address(no_network):
    with pytest.raises(FetchError, match=r"could not fetch https://.*/vgg16-.*\.pth: "):
        SPIPS.untrained(ModelConfig(backbone="vgg16"))
    assert list(no_network.iterdir()) == []


def test_damaged_file_in_the_cache_of_torchvision_is_a_checkpoint_error(no_network):
    (no_network / file_of("alexnet")).write_bytes(b"<html>502: bad gateway</html>")
    with pytest.raises(CheckpointError, match=r"alexnet.*\.pth, got a damaged file") as caught:
        SPIPS.untrained(ModelConfig(backbone="alexnet"))
    assert not isinstance(caught.value, FetchError)


def test_digest_depends_on_names_shapes_values_and_description_only():
    values = torch.arange(6.0)
    digest = digest_of({"a": values, "b": values.view(2, 3)}, "text")
    same = {"b": values.view(3, 2).t().contiguous().t().reshape(2, 3), "a": values.double()}
    assert digest_of(same, "text") == digest
    nudged = values.clone()
    nudged[5] += 1e-6
    others = [
        digest_of({"a": values, "c": values.view(2, 3)}, "text"),
        digest_of({"a": values, "b": values.view(3, 2)}, "text"),
        digest_of({"a": nudged, "b": values.view(2, 3)}, "text"),
        digest_of({"a": values, "b": values.view(2, 3)}, "other"),
        digest_of({"a": values}, "text"),
    ]
    assert len({digest, *others}) == 6


def test_digest_reads_the_values_of_a_view_and_not_its_memory():
    values = torch.arange(6.0).view(2, 3)
    assert digest_of({"a": values.t()}) == digest_of({"a": values.t().contiguous()})
    assert digest_of({"a": values.t()}) != digest_of({"a": values.view(3, 2)})


def test_code_in_the_cache_of_torchvision_is_never_run(no_network, tmp_path):
    payload = {"features.0.weight": Payload(tmp_path / "executed")}
    torch.save(payload, no_network / file_of("alexnet"))
    with pytest.raises(CheckpointError, match="damaged"):
        SPIPS.untrained(ModelConfig(backbone="alexnet"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("state", [{0: torch.zeros(1)}, {"features.0.weight": [1.0]}])
def test_a_state_dict_without_tensors_by_name_is_a_checkpoint_error(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="not tensors by name"):
        load_trunk_weights(Trunk("alexnet_slim"), tmp_path / "weights.pth")
