"""Photos, backbone weights and models that the tests of spips_core share; none may be changed."""

from dataclasses import astuple

import pytest
import torch
from skimage import data
from torch import nn
from torchvision.models import get_model, squeezenet1_1

from spips_core import SPIPS, ModelConfig
from spips_core.trunk import BACKBONES


def tensors_of(scores):
    """All of a comparison's results that the model has."""
    return [values for values in astuple(scores) if values is not None]


@pytest.fixture(scope="session")
def photos():
    """(3, 3, 128, 144) uint8: an astronaut, a cup of coffee and a cat."""
    crops = [photo()[80:208, 120:264] for photo in (data.astronaut, data.coffee, data.chelsea)]
    return torch.stack([torch.tensor(crop).permute(2, 0, 1) for crop in crops])


@pytest.fixture(scope="session")
def noisy_photos(photos):
    """The photos with Gaussian noise of 12 8-bit steps, uint8."""
    noise = 12 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(1))
    return (photos + noise).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="session")
def seven_pairs(photos):
    """References and distorted (7, 3, 96, 112) uint8, each of its own content and strength."""
    generator = torch.Generator().manual_seed(2)
    crops = [photos[..., :96, :112], photos[..., 32:, 32:], photos[:1, :, :96, 32:]]
    references = torch.cat(crops)
    strengths = torch.tensor([0, 2, 5, 10, 20, 40, 80]).view(7, 1, 1, 1)
    noise = strengths * torch.randn(references.shape, generator=generator)
    return references, (references + noise).round().clamp(0, 255).to(torch.uint8)


def random_features(name):
    """Weights of a trunk under torchvision's names, large enough to be seen deep down."""
    generator = torch.Generator().manual_seed(3)
    with torch.device("meta"):
        features = get_model(name).features
    features.to_empty(device="cpu")
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.normal_(layer.bias, std=0.01, generator=generator)
    return {f"features.{key}": value for key, value in features.state_dict().items()}


@pytest.fixture(scope="session")
def trunk_files(tmp_path_factory):
    """Files of random weights by backbone, as a user would have them.

    AlexNet's is a .pth with a classifier, VGG16's a .safetensors without, and SqueezeNet's the
    whole state dict of torchvision's model.
    """
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    classifier = {
        f"classifier.{i}.{key}": torch.zeros(2) for i in (1, 4, 6) for key in ("weight", "bias")
    }
    torch.save(random_features("alexnet") | classifier, folder / "alexnet.pth")
    save_file(random_features("vgg16"), folder / "vgg16.safetensors")
    model = squeezenet1_1()
    model.load_state_dict(model.state_dict() | random_features("squeezenet1_1"))
    torch.save(model.state_dict(), folder / "squeezenet1_1.pth")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def models(trunk_files):
    """An untrained model of every backbone, by name."""
    return {
        name: SPIPS.untrained(ModelConfig(backbone=name), backbone_weights=trunk_files.get(name))
        for name in BACKBONES
    }


@pytest.fixture(scope="session")
def embedded():
    """The checkpoint in the package."""
    return SPIPS.load("embedded")
