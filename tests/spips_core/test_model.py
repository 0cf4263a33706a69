import copy
import pickle

import piq
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch.nn import functional

from spips_core import SPIPS, ModelConfig
from spips_core.trunk import BACKBONES
from tests.spips_core.conftest import tensors_of

STREAMS = ("tradition", "percept", "semantic")


def add_noise(images, num_steps, seed=0):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + num_steps * noise).round().clamp(0, 255).to(torch.uint8)


def assert_identical(scores):
    for name in ("score", *STREAMS):
        value = getattr(scores, name)
        assert value is None or (value == 0).all(), name
    assert (scores.psnr_db == torch.inf).all()
    assert (scores.ssim == 1).all()
    assert (scores.ms_ssim == 1).all()


@pytest.mark.parametrize("size", [(96, 96), (97, 131)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_identical_pair_scores_zero_in_every_stream(models, photos, backbone, size):
    images = photos[..., : size[0], : size[1]]
    model = models[backbone]
    assert_identical(model.score(images, images.clone()))
    assert_identical(model.score(images[:1] / 255, images[:1] / 255))
    with torch.no_grad():
        assert (model(images, images) == 0).all()
    assert all((map_ == 0).all() for map_ in model.quality_maps(images, images).values())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_pairs", [1, 2, 7])
def test_identical_pair_scores_zero_in_every_precision_and_batch(seven_pairs, precision, num_pairs):
    images = seven_pairs[0][:num_pairs]
    assert_identical(SPIPS.load(precision=precision).score(images, images))


@pytest.mark.parametrize("fusion", ["weighted", "mlp"])
@pytest.mark.parametrize("feature_norm", ["unit", "none"])
def test_identical_pair_scores_zero_with_every_option(photos, fusion, feature_norm):
    model = SPIPS.untrained(ModelConfig(fusion=fusion, feature_norm=feature_norm))
    assert_identical(model.score(photos, photos))


@pytest.mark.parametrize("level", [0, 255])
def test_identical_flat_images_score_zero(embedded, level):
    flat = torch.full((1, 3, 96, 96), level, dtype=torch.uint8)
    assert_identical(embedded.score(flat, flat))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_different_pair_scores_above_zero_in_every_stream(models, photos, noisy_photos, backbone):
    scores = models[backbone].score(photos[..., :97, :131], noisy_photos[..., :97, :131])
    for value in tensors_of(scores):
        assert value.shape == (3,)
        assert value.dtype == torch.float32
        assert (value > 0).all()
        assert value.isfinite().all()


def test_feature_norms_score_differently(photos, noisy_photos):
    configs = [ModelConfig(feature_norm=norm) for norm in ("unit", "none")]
    unit, none = (SPIPS.untrained(config).score(photos, noisy_photos) for config in configs)
    assert torch.equal(unit.tradition, none.tradition)
    assert ((unit.percept - none.percept).abs() > 0.1 * unit.percept).all()
    assert ((unit.semantic - none.semantic).abs() > 0.1 * unit.semantic).all()


@pytest.mark.parametrize(
    "streams",
    [("tradition", "percept"), ("percept", "semantic"), ("tradition",), ("semantic",)],
    ids="+".join,
)
def test_left_out_stream_has_no_sub_score_and_classic_metrics_stay(
    embedded, photos, noisy_photos, streams
):
    model = SPIPS.untrained(ModelConfig(streams=streams))
    scores = model.score(photos, noisy_photos)
    assert [name for name in STREAMS if getattr(scores, name) is not None] == list(streams)
    assert list(model.quality_maps(photos, noisy_photos)) == list(streams)
    assert list(model.fusion_weights) == list(streams)
    full = embedded.score(photos, noisy_photos)
    for metric in ("psnr_db", "ssim", "ms_ssim"):
        assert torch.equal(getattr(scores, metric), getattr(full, metric))
    assert (scores.score > 0).all()


def test_weighted_score_is_the_sum_of_weight_times_sub_score(embedded, photos, noisy_photos):
    model = copy.deepcopy(embedded)
    model.fusion.logits.data = torch.tensor([0.3, -1.0, 2.0])
    scores = model.score(photos, noisy_photos)
    weights = model.fusion_weights
    assert sum(weights.values()) == pytest.approx(1, abs=1e-6)
    total = sum(weight * getattr(scores, name) for name, weight in weights.items())
    assert torch.allclose(scores.score, total, rtol=0, atol=1e-6)


def test_perceptron_has_no_weights_to_report():
    assert SPIPS.untrained(ModelConfig(fusion="mlp")).fusion_weights is None


def test_classic_metrics_are_those_of_piq_and_scikit_image(embedded, photos, noisy_photos):
    scores = embedded.score(photos, noisy_photos)
    pair = [
        functional.pad(images.double() / 255, (5, 5, 5, 5), mode="reflect")
        for images in (photos, noisy_photos)
    ]
    ssim = piq.ssim(*pair, data_range=1.0, reduction="none", downsample=False)
    assert torch.allclose(scores.ssim.double(), ssim, rtol=0, atol=5e-6)
    for i in range(3):
        psnr_db = peak_signal_noise_ratio(photos[i].numpy(), noisy_photos[i].numpy())
        assert scores.psnr_db[i].item() == pytest.approx(psnr_db, abs=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_score_does_not_depend_on_the_rest_of_the_batch(models, seven_pairs, backbone):
    model = models[backbone]
    references, distorted = seven_pairs
    batch = model.score(references, distorted)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    shuffled = model.score(references[order], distorted[order])
    for i in (0, 3, 6):
        alone = model.score(references[i : i + 1], distorted[i : i + 1])
        for name in ("score", *STREAMS, "ssim", "ms_ssim"):
            expected = getattr(batch, name)[i].item()
            assert getattr(alone, name).item() == pytest.approx(expected, rel=0, abs=1e-6)
        assert alone.psnr_db.item() == pytest.approx(batch.psnr_db[i].item(), rel=1e-6)
    assert torch.allclose(shuffled.score, batch.score[order], rtol=0, atol=1e-6)
    assert batch.score.unique().numel() == 7


def test_stronger_noise_scores_higher(embedded, photos):
    levels = torch.stack(
        [embedded.score(photos, add_noise(photos, steps)).score for steps in (2, 5, 10, 20, 40)]
    )
    assert (levels.diff(dim=0) > 0).all()


def test_stronger_blur_scores_higher(embedded, photos):
    from torchvision.transforms.functional import gaussian_blur

    blurred = [gaussian_blur(photos, 31, sigma) for sigma in (0.5, 1, 2, 4)]
    levels = torch.stack([embedded.score(photos, images).score for images in blurred])
    assert (levels.diff(dim=0) > 0).all()


@pytest.mark.parametrize("backbone", ["alexnet_slim", "squeezenet1_1"])
def test_quality_maps_have_the_size_of_the_images_and_the_means_of_the_streams(
    models, photos, noisy_photos, backbone
):
    pair = photos[..., :97, :131], noisy_photos[..., :97, :131]
    scores, maps = models[backbone].score(*pair), models[backbone].quality_maps(*pair)
    assert list(maps) == list(STREAMS)
    for name, map_ in maps.items():
        assert map_.shape == (3, 97, 131)
        assert map_.min() >= 0
        assert torch.allclose(map_.mean(dim=(1, 2)), getattr(scores, name), rtol=0.02)


def test_quality_maps_are_highest_where_a_patch_was_changed(embedded, photos):
    top, left, side = 16, 80, 48
    patch = (..., slice(top, top + side), slice(left, left + side))
    distorted = photos.clone()
    distorted[patch] = add_noise(photos, 60)[patch]
    for map_ in embedded.quality_maps(photos, distorted).values():
        for one in map_:
            row, column = divmod(one.argmax().item(), one.shape[1])
            # The deepest features are 16 px apart, a pixel of MS-SSIM's fifth scale is 16 px wide.
            assert top - 24 <= row < top + side + 24
            assert left - 24 <= column < left + side + 24
            assert one[patch].mean() > 10 * one[96:, :48].mean()


def test_bfloat16_scores_and_streams_are_within_two_percent_of_float32(
    embedded, photos, noisy_photos
):
    model = SPIPS.load(precision=torch.bfloat16)
    assert model.digest == embedded.digest
    half, full = model.score(photos, noisy_photos), embedded.score(photos, noisy_photos)
    for name in ("score", *STREAMS):
        assert torch.allclose(getattr(half, name), getattr(full, name), rtol=0.02)
    assert not torch.equal(half.semantic, full.semantic)


def test_making_a_model_leaves_the_random_state_alone_and_depends_on_the_seed(photos, noisy_photos):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    one = SPIPS.untrained(ModelConfig(), seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(10)
    two, other = SPIPS.untrained(ModelConfig(), seed=5), SPIPS.untrained(ModelConfig(), seed=6)
    assert two.trunk.digest() == one.trunk.digest() != other.trunk.digest()
    scores = [model.score(photos, noisy_photos).score for model in (one, two, other)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_a_model_can_be_pickled(embedded, photos, noisy_photos):
    again = pickle.loads(pickle.dumps(embedded))
    assert torch.equal(
        again.score(photos, noisy_photos).score, embedded.score(photos, noisy_photos).score
    )


def test_loading_a_model_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    SPIPS.load("embedded")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_scores_as_the_cpu_does(models, photos, noisy_photos, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as in the job
    for model in models.values():
        on_gpu = copy.deepcopy(model).cuda()
        got = on_gpu.score(photos, noisy_photos)  # uint8 on the CPU
        expected = model.score(photos, noisy_photos)
        for name in ("score", *STREAMS, "psnr_db", "ssim", "ms_ssim"):
            assert getattr(got, name).is_cuda
            assert torch.allclose(getattr(got, name).cpu(), getattr(expected, name), rtol=1e-4)
        assert_identical(on_gpu.score(photos, photos))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_making_a_model_leaves_the_random_state_of_the_gpu_alone():
    before = torch.cuda.get_rng_state()
    SPIPS.untrained(ModelConfig(), seed=before.sum().item())
    assert torch.equal(torch.cuda.get_rng_state(), before)
