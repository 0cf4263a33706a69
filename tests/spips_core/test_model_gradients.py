import copy

import pytest
import torch

from spips_core import SPIPS, ModelConfig
from spips_core.trunk import BACKBONES


@pytest.fixture
def pair(photos):
    """(1, 3, 96, 96) float32, differing by 10 to 60 8-bit steps, away from the map's kinks."""
    reference = 0.25 + photos[:1, :, :96, :96] / 510
    generator = torch.Generator().manual_seed(9)
    steps = 10 + 50 * torch.rand(reference.shape, generator=generator)
    sign = torch.randint(0, 2, reference.shape, generator=generator) * 2 - 1
    return reference, reference + sign * steps / 255


@pytest.mark.parametrize(
    "config",
    [ModelConfig(), ModelConfig(streams=("percept", "semantic")), ModelConfig(fusion="mlp")],
    ids=["default", "no tradition", "mlp"],
)
def test_forward_scores_as_score_does(seven_pairs, config):
    model = SPIPS.untrained(config)
    got, expected = model(*seven_pairs).detach(), model.score(*seven_pairs).score
    assert torch.allclose(got, expected, rtol=0, atol=1e-6)
    assert (got[0] == 0) == (expected[0] == 0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_of_identical_images_are_finite(models, photos, backbone):
    photo = photos[:1, :, :96, :96] / 255
    reference = torch.cat([photo, torch.zeros_like(photo), torch.ones_like(photo)])
    reference.requires_grad_()
    distorted = reference.detach().clone().requires_grad_()
    models[backbone](reference, distorted).sum().backward()
    assert reference.grad.isfinite().all()
    assert distorted.grad.isfinite().all()


@pytest.mark.parametrize("config", [ModelConfig(), ModelConfig(fusion="mlp", feature_norm="none")])
def test_gradient_is_the_slope_of_the_score(pair, config):
    model = SPIPS.untrained(config)
    for which in (0, 1):
        images = [image.clone() for image in pair]
        images[which].requires_grad_()
        (gradient,) = torch.autograd.grad(model(*images).sum(), images[which])
        step = 1e-5 * gradient.sign()
        higher, lower = ([*pair], [*pair])
        higher[which], lower[which] = pair[which] + step, pair[which] - step
        with torch.no_grad():
            rise = (model(*higher) - model(*lower)).item() / 2
        assert rise == pytest.approx((gradient * step).sum().item(), rel=0.01)


def test_gradient_of_single_pixels_in_float64_is_their_slope(embedded, pair):
    model = copy.deepcopy(embedded).double()
    reference, distorted = (images.double() for images in pair)
    distorted.requires_grad_()
    (gradient,) = torch.autograd.grad(model(reference, distorted).sum(), distorted)
    for position in [(0, 0, 0, 0), (0, 1, 50, 47), (0, 2, 95, 30)]:
        step = torch.zeros_like(distorted)
        step[position] = 1e-6
        with torch.no_grad():
            rise = model(reference, distorted + step) - model(reference, distorted - step)
        assert rise.item() / 2e-6 == pytest.approx(gradient[position].item(), rel=1e-4)


def test_descent_on_the_score_brings_the_distorted_image_nearer(pair):
    # Untrained: a trained model need not ask for every pixel's error to fall.
    model = SPIPS.untrained(ModelConfig())
    reference, start = pair
    distorted = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([distorted], lr=0.01)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = model(reference, distorted).sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert (distorted - reference).square().mean() < (start - reference).square().mean()


@pytest.mark.parametrize("fusion", ["weighted", "mlp"])
def test_training_reaches_streams_and_fusion_and_spares_the_trunk(seven_pairs, fusion):
    model = SPIPS.untrained(ModelConfig(fusion=fusion))
    model(*seven_pairs).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("trunk."):
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().sum() > 0
