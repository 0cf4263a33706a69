import pytest
import torch
from PIL import Image

from spips_core import SPIPS, ModelConfig
from spips_core.errors import DatasetError
from spips_core.learning.embedding import embed
from spips_core.learning.rated_pairs import RatedPairs

INDICES = range(7)


def write_image(path, image):
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def pairs(seven_pairs, tmp_path):
    """Seven pairs, each in its own two files."""
    rows = ["reference,distorted,dmos"]
    for index, images in enumerate(zip(*seven_pairs, strict=True)):
        for name, image in zip("rd", images, strict=True):
            write_image(tmp_path / f"{name}{index}.png", image)
        rows.append(f"r{index}.png,d{index}.png,{index}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    return RatedPairs(tmp_path / "pairs.csv")


@pytest.fixture(scope="module")
def model():
    return SPIPS.untrained(ModelConfig())


def run(model, pairs, cache=None, indices=INDICES, report=lambda *_: None):
    return embed(model, pairs, indices, cache=cache, report=report)


def num_kept(folder):
    """How many different sets of means were made into a cache."""
    return len(list(folder.glob("*.safetensors")))


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, means in one.items():
        assert len(means) == len(two[name])
        assert all(torch.equal(a, b) for a, b in zip(means, two[name], strict=True))


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(fusion="mlp", feature_norm="none"),
        ModelConfig(streams=("percept", "semantic")),
    ],
    ids=["default", "mlp", "two streams"],
)
def test_means_are_those_of_the_maps_and_score_as_the_images_do(config, pairs, seven_pairs):
    model = SPIPS.untrained(config)
    quality = run(model, pairs)
    with torch.no_grad():
        expected = model.quality_means(*seven_pairs)
    assert quality.keys() == expected.keys()
    for name, means in quality.items():
        for mean, of_batch in zip(means, expected[name], strict=True):
            assert mean.shape == (7, 1, of_batch.shape[1])
            torch.testing.assert_close(mean[:, 0], of_batch, rtol=1e-4, atol=1e-9)
    pairs_means = {name: [q.flatten(0, 1) for q in qs] for name, qs in quality.items()}
    with torch.no_grad():
        score = model.fuse(model.stream_means(pairs_means))
    torch.testing.assert_close(score, model.score(*seven_pairs).score, rtol=1e-4, atol=0)


def test_examples_come_in_the_order_asked_for(model, pairs):
    forwards, chosen = run(model, pairs), run(model, pairs, indices=[5, 1])
    for name, means in chosen.items():
        for tap, mean in enumerate(means):
            assert torch.equal(mean, forwards[name][tap][[5, 1]])


def test_second_call_takes_everything_from_the_cache(model, pairs, tmp_path):
    cache, reports = tmp_path / "new" / "cache", []
    first = run(model, pairs, cache, report=lambda *done: reports.append(done))
    assert reports == [(number, 7) for number in range(1, 8)]
    reports.clear()
    second = run(model, pairs, cache, report=lambda *done: reports.append(done))
    assert reports == [(7, 7)]
    assert_equal(first, second)
    assert num_kept(cache) == 1


def test_cache_gives_the_taps_back_in_their_order(tmp_path, models, pairs):
    model = models["squeezenet1_1"]  # the one with the most taps
    first = run(model, pairs, tmp_path, [0, 1])
    assert_equal(first, run(model, pairs, tmp_path, [0, 1]))
    assert [q.shape[2] for q in first["percept"]] == [64, 128, 256, 384, 384]


@pytest.mark.parametrize(
    "other",
    [
        lambda: SPIPS.untrained(ModelConfig(), seed=9),
        lambda: SPIPS.untrained(ModelConfig(feature_norm="none")),
        lambda: SPIPS.untrained(ModelConfig(streams=("percept", "semantic"))),
    ],
    ids=["trunk", "feature norm", "streams"],
)
def test_another_model_does_not_use_the_cache(model, other, pairs, tmp_path):
    run(model, pairs, tmp_path)
    run(other(), pairs, tmp_path)
    assert num_kept(tmp_path) == 2


def test_other_streams_on_the_same_trunk_use_the_cache(model, pairs, tmp_path):
    first = run(model, pairs, tmp_path)
    other = SPIPS.untrained(ModelConfig(fusion="mlp"), seed=9)
    other.trunk.load_state_dict(model.trunk.state_dict())
    assert_equal(first, run(other, pairs, tmp_path))
    assert num_kept(tmp_path) == 1


def edit_list(pairs, old, new):
    pairs.path.write_text(pairs.path.read_text().replace(old, new))
    return RatedPairs(pairs.path)


@pytest.mark.parametrize(("old", "new"), [("r5.png", "r6.png"), ("d4.png", "d1.png")])
def test_another_image_in_the_list_does_not_use_the_cache(model, pairs, tmp_path, old, new):
    run(model, pairs, tmp_path)
    edited = edit_list(pairs, old, new)
    assert_equal(run(model, edited, tmp_path), run(model, edited))
    assert num_kept(tmp_path) == 2


def test_another_order_does_not_use_the_cache(model, pairs, tmp_path):
    run(model, pairs, tmp_path)
    run(model, pairs, tmp_path, [0, 2, 1, 3, 4, 5, 6])
    assert num_kept(tmp_path) == 2


@pytest.mark.parametrize("name", ["r0", "d1", "r5", "d6"])
def test_changed_pixels_are_noticed(model, pairs, tmp_path, name):
    run(model, pairs, tmp_path)
    write_image(tmp_path / f"{name}.png", torch.zeros(3, 96, 112, dtype=torch.uint8))
    assert_equal(run(model, pairs, tmp_path), run(model, pairs))
    assert num_kept(tmp_path) == 2


def test_an_image_that_is_too_small_is_named(model, pairs, tmp_path):
    for name in ("r3", "d3"):
        write_image(tmp_path / f"{name}.png", torch.zeros(3, 96, 95, dtype=torch.uint8))
    with pytest.raises(DatasetError, match=r"r3\.png: .*sides of at least 96 px, got 96 x 95"):
        run(model, pairs)


def test_a_run_that_failed_leaves_nothing_in_the_cache(model, pairs, tmp_path):
    (tmp_path / "d5.png").rename(tmp_path / "away.png")
    with pytest.raises(DatasetError, match=r"d5\.png: expected an image"):
        run(model, pairs, tmp_path / "cache")
    (tmp_path / "away.png").rename(tmp_path / "d5.png")
    assert_equal(run(model, pairs, tmp_path / "cache"), run(model, pairs))
