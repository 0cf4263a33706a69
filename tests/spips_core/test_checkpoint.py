import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file
from skimage import data

from spips_core import SPIPS, CheckpointError, ModelConfig, packaged_checkpoints
from spips_core.checkpoint import known_pair, read_checkpoint
from spips_core.learning.distortions import DISTORTIONS, NUM_LEVELS, distort
from spips_core.learning.metrics import rising_share


@pytest.fixture
def saved(embedded, tmp_path):
    embedded.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def read(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def edit_metadata(path, **changes):
    """Rewrite a checkpoint's metadata; None takes a key away."""
    tensors, metadata = read(path)
    metadata = {key: value for key, value in (metadata | changes).items() if value is not None}
    save_file(tensors, path, metadata)


def edit_config(path, **changes):
    _, metadata = read(path)
    edit_metadata(path, config=json.dumps(json.loads(metadata["config"]) | changes))


def refuse(path, *parts, **keywords):
    """Load, and check that one CheckpointError names the file and every part."""
    with pytest.raises(CheckpointError) as error:
        SPIPS.load(path, **keywords)
    for part in (str(path), *parts):
        assert part in str(error.value)


def test_packaged_checkpoints_are_small_trained_and_have_a_card():
    assert set(packaged_checkpoints()) == {"embedded", "alexnet", "squeezenet1_1"}
    for name, path in packaged_checkpoints().items():
        assert path.stat().st_size < 5_000_000
        stored = read_checkpoint(path)
        assert stored.training["held_out_fold"] == "none"
        assert f"make checkpoint-{name}" in path.with_suffix(".md").read_text()


def test_the_embedded_checkpoint_scores_stronger_distortions_higher(embedded):
    rising = {}
    for kind in DISTORTIONS:
        scores = []
        for number, photo in enumerate((data.astronaut(), data.coffee())):
            pixels = np.ascontiguousarray(photo[60:252, 120:312])
            levels = [distort(pixels, kind, level, number) for level in range(1, NUM_LEVELS + 1)]
            images = torch.stack([torch.tensor(p).permute(2, 0, 1) for p in (pixels, *levels)])
            reference = images[:1].expand_as(images[1:])
            scores.append(embedded.score(reference, images[1:]).score.numpy())
        rising[kind] = rising_share(np.stack(scores))
    assert np.mean(list(rising.values())) >= 0.99
    assert min(rising.values()) >= 0.9, rising


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
def test_packaged_streams_refuse_a_trunk_that_they_were_not_trained_on(name, trunk_files):
    refuse(packaged_checkpoints()[name], "expected the trunk with digest",
           backbone_weights=trunk_files[name])  # fmt: skip


def test_known_pair_is_the_same_as_when_checkpoints_were_made():
    reference, distorted = known_pair()
    assert (reference.shape, distorted.shape) == ((1, 3, 96, 128), (1, 3, 96, 128))
    weights = torch.arange(1, 3 * 96 * 128 + 1)
    sums = [
        (images.flatten() * weights).sum().item() % 1_000_003 for images in (reference, distorted)
    ]
    assert sums == [881945, 85457]


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(streams=("percept", "semantic"), feature_norm="none"),
        ModelConfig(streams=("tradition", "percept"), fusion="mlp"),
    ],
    ids=["default", "no tradition", "mlp"],
)
def test_round_trip_keeps_config_digest_training_and_scores(config, tmp_path, seven_pairs):
    model = SPIPS.untrained(config, seed=3)
    model.training_record = {"data": "BAPPS", "epochs": "10"}
    model.save(tmp_path / "one.safetensors")
    one = SPIPS.load(tmp_path / "one.safetensors")
    one.save(tmp_path / "two.safetensors")
    two = SPIPS.load(str(tmp_path / "two.safetensors"))
    assert one.config == two.config == config
    assert one.training_record == two.training_record == {"data": "BAPPS", "epochs": "10"}
    assert len(one.digest) == 64
    assert one.digest == two.digest
    expected = model.score(*seven_pairs).score
    assert torch.equal(one.score(*seven_pairs).score, expected)
    assert torch.equal(two.score(*seven_pairs).score, expected)


def digest_after_saving(model, path):
    model.save(path)
    return SPIPS.load(path).digest


@pytest.mark.parametrize(
    "name",
    [
        "trunk.features.0.bias", "trunk.features.10.weight", "streams.tradition.convs.0.weight",
        "streams.percept.convs.2.weight", "streams.semantic.convs.1.weight", "fusion.logits",
    ],
)  # fmt: skip
def test_digest_changes_with_one_number_of_any_tensor(embedded, tmp_path, name):
    model = copy.deepcopy(embedded)
    with torch.no_grad():
        weight = model.state_dict()[name]
        weight[(-1,) * weight.ndim] += 1e-4
    assert digest_after_saving(model, tmp_path / "nudged.safetensors") != embedded.digest


def test_digest_changes_with_the_config_alone(tmp_path):
    models = [SPIPS.untrained(ModelConfig(feature_norm=norm)) for norm in ("unit", "none")]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    digests = {digest_after_saving(model, tmp_path / "m.safetensors") for model in models}
    assert len(digests) == 2


def test_digest_does_not_depend_on_where_the_trunk_came_from(embedded, saved, tmp_path):
    weights = tmp_path / "trunk.safetensors"
    save_file(embedded.trunk.state_dict(), weights)
    heads = tmp_path / "heads.safetensors"
    embedded.save(heads, with_trunk=False)
    assert heads.stat().st_size < saved.stat().st_size / 10
    model = SPIPS.load(heads, backbone_weights=weights)
    assert model.digest == embedded.digest
    assert torch.equal(model.score(*known_pair()).score, embedded.score(*known_pair()).score)


def test_streams_refuse_another_trunk_and_name_both_digests(embedded, tmp_path):
    other = SPIPS.untrained(ModelConfig(), seed=9).trunk
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    embedded.save(tmp_path / "heads.safetensors", with_trunk=False)
    refuse(
        tmp_path / "heads.safetensors",
        f"expected the trunk with digest {embedded.trunk.digest()}",
        f"got {other.digest()}",
        backbone_weights=tmp_path / "other.safetensors",
    )


def test_whole_checkpoint_refuses_backbone_weights(saved, trunk_files):
    refuse(saved, "expected no backbone weights", backbone_weights=trunk_files["alexnet"])


def test_changed_trunk_in_the_file_is_refused(saved):
    tensors, metadata = read(saved)
    tensors["trunk.features.0.weight"][0, 0, 0, 0] += 1e-3
    save_file(tensors, saved, metadata)
    refuse(saved, f"expected the trunk with digest {metadata['trunk_digest']}")


def test_missing_extra_and_misshapen_tensors_are_all_listed(saved):
    tensors, metadata = read(saved)
    del tensors["fusion.logits"]
    tensors["streams.extra.weight"] = torch.zeros(2)
    tensors["streams.tradition.convs.0.weight"] = torch.zeros(1, 10, 1, 1)
    save_file(tensors, saved, metadata)
    refuse(
        saved,
        "missing fusion.logits",
        "extra streams.extra.weight",
        "streams.tradition.convs.0.weight: expected shape (1, 11, 1, 1), got (1, 10, 1, 1)",
    )


@pytest.mark.parametrize("num_bytes", [0, 5, 200, 5_000, -1])
def test_truncated_file_is_refused(saved, num_bytes):
    saved.write_bytes(saved.read_bytes()[:num_bytes])
    refuse(saved, "expected a safetensors file")


def test_negative_stream_weights_are_refused(saved):
    # Scores are made of the maps' means alone, which a ReLU that cuts would make wrong.
    tensors, metadata = read(saved)
    tensors["streams.percept.convs.1.weight"][0, 3] = -0.25
    save_file(tensors, saved, metadata)
    refuse(saved, "expected stream weights of at least 0, got -0.25")


def test_missing_file_and_unknown_name_are_refused(tmp_path):
    refuse(tmp_path / "none.safetensors", "expected a safetensors file")
    refuse("embeded", "expected a safetensors file")
    refuse(tmp_path, "expected a safetensors file")


def test_other_safetensors_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    refuse(tmp_path / "other.safetensors", "got none: not a SPIPS checkpoint")


def test_other_version_is_refused(saved):
    for version in ("1", "2", "4"):
        edit_metadata(saved, spips_version=version)
        refuse(saved, f"expected checkpoint format 3, got {version}; train it again")


def test_tampered_known_score_is_refused(saved, embedded):
    score = embedded.score(*known_pair()).score.item()
    edit_metadata(saved, known_pair_score=repr(score * 1.001))
    refuse(saved, "expected its known pair to score", f"got {score:g}")


def test_changed_stream_is_caught_by_the_known_pair(saved):
    tensors, metadata = read(saved)
    tensors["streams.tradition.convs.0.weight"] *= 1.01
    save_file(tensors, saved, metadata)
    refuse(saved, "expected its known pair to score")


@pytest.mark.parametrize("value", ["nan", "inf", "0"])
def test_known_score_that_no_model_has_is_refused(saved, value):
    edit_metadata(saved, known_pair_score=value)
    refuse(saved, "expected its known pair to score")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backbone": "resnet50"}, "resnet50"),
        # The trunk of `embedded` up to version 0.5.
        ({"backbone": "alexnet_narrow"}, "'alexnet_slim'), got 'alexnet_narrow'"),
        ({"fusion": "sum"}, "sum"),
        ({"feature_norm": "l1"}, "l1"),
        ({"streams": ["tradition", "beauty"]}, "beauty"),
        ({"streams": ["semantic", "percept"]}, "semantic"),
        ({"streams": []}, "streams"),
        ({"depth": 3}, "depth"),
    ],
)
def test_unknown_names_in_the_config_are_refused(saved, changes, named):
    edit_config(saved, **changes)
    refuse(saved, named)


@pytest.mark.parametrize("key", ["config", "trunk_digest", "training", "known_pair_score"])
def test_incomplete_metadata_is_refused(saved, key):
    edit_metadata(saved, **{key: None})
    refuse(saved, "metadata cannot be read", key)


@pytest.mark.parametrize("key", ["config", "training", "known_pair_score", "expected_dmos"])
def test_damaged_metadata_is_refused(saved, key):
    edit_metadata(saved, **{key: "{"})
    refuse(saved, "metadata cannot be read")


def test_a_checkpoint_keeps_its_scale_or_has_none(saved, embedded, tmp_path):
    assert SPIPS.load(saved).dmos_scale == embedded.dmos_scale is not None
    edit_metadata(saved, expected_dmos=None)
    without = SPIPS.load(saved)
    assert without.dmos_scale is None
    without.save(tmp_path / "again.safetensors")
    again = SPIPS.load(tmp_path / "again.safetensors")
    assert (again.dmos_scale, again.digest) == (None, without.digest)


def test_digest_changes_with_the_scale(saved, embedded):
    scale = replace(embedded.dmos_scale, midpoint=0.5)
    edit_metadata(saved, expected_dmos=scale.to_json())
    digests = {embedded.digest, SPIPS.load(saved).digest}
    edit_metadata(saved, expected_dmos=None)
    assert len(digests | {SPIPS.load(saved).digest}) == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"exponent": -1}, "exponent: expected a finite number of at least 0, got -1"),
        ({"midpoint": 0}, "expected exponent and midpoint above 0"),
        ({"half_width": None}, "half_width"),
        ({"slope": 1}, "expected exponent, midpoint, half_width, num_ratings"),
    ],
)
def test_an_impossible_scale_is_refused(saved, embedded, change, named):
    scale = json.loads(embedded.dmos_scale.to_json()) | change
    edit_metadata(saved, expected_dmos=json.dumps(scale))
    refuse(saved, "metadata cannot be read", named)


def test_a_saved_checkpoint_is_as_readable_as_any_new_file(tmp_path):
    SPIPS.untrained(ModelConfig()).save(tmp_path / "model.safetensors")
    (tmp_path / "plain").write_text("")
    modes = [(tmp_path / name).stat().st_mode for name in ("model.safetensors", "plain")]
    assert modes[0] == modes[1]


def test_a_precision_without_a_stated_tolerance_is_refused():
    with pytest.raises(CheckpointError, match=r"precision: expected one of .* got torch\.float64"):
        SPIPS.load(precision=torch.float64)
