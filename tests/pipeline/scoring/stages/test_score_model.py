import pytest
import torch

from pipeline.runs.errors import ContractError, FaultError
from pipeline.scoring.config import ModelSourceConfig
from pipeline.scoring.stages.model import load_model
from spips_core import SPIPS, CheckpointError, ModelConfig
from tests.pipeline.scoring.stages.scorers import make_rows, make_scorer


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory):
    """A checkpoint on AlexNet's trunk, with random weights."""
    model = SPIPS(ModelConfig(backbone="alexnet"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.trunk.initialise()
    path = tmp_path_factory.mktemp("alexnet") / "model.safetensors"
    model.save(path)
    return str(path)


def test_lpips_is_filled_if_the_settings_ask_for_it(alexnet_file):
    rows = make_rows(3, broken={1})
    without = make_scorer(ModelSourceConfig(checkpoint=alexnet_file))(rows).to_pylist()
    source = ModelSourceConfig(checkpoint=alexnet_file, lpips=True)
    got = make_scorer(source)(rows).to_pylist()
    assert [row["lpips"] for row in without] == [None] * 3
    assert got[1]["lpips"] is None
    first, third = got[0].pop("lpips"), got[2].pop("lpips")
    assert 0 < first != third > 0
    assert [{**row, "lpips": None} for row in got] == without


def test_lpips_of_another_trunk_is_refused():
    with pytest.raises(CheckpointError, match=r"lpips: expected .*, got alexnet_slim"):
        load_model(ModelSourceConfig(lpips=True))


def test_another_model_than_planned_is_a_fault():
    with pytest.raises(FaultError, match="expected digest 0000 as on the driver, got"):
        make_scorer(expected_digest="0000")


def test_a_checkpoint_with_another_sha256_is_an_error(tmp_path):
    path = tmp_path / "model.safetensors"
    SPIPS.untrained(ModelConfig()).save(path)
    with pytest.raises(ContractError, match=f"expected sha256 {'0' * 64}"):
        load_model(ModelSourceConfig(checkpoint=str(path), checkpoint_sha256="0" * 64))


def test_a_packaged_checkpoint_is_checked_too():
    with pytest.raises(ContractError, match=f"expected sha256 {'0' * 64}"):
        load_model(ModelSourceConfig(checkpoint="embedded", checkpoint_sha256="0" * 64))


@pytest.mark.parametrize(
    ("checkpoint", "got"),
    [("embeded", "embeded; did you mean embedded?"), ("/no/x.safetensors", "/no/x.safetensors")],
)
def test_a_checkpoint_that_does_not_exist_is_an_error_that_names_those_of_the_package(
    checkpoint, got
):
    with pytest.raises(ContractError) as raised:
        load_model(ModelSourceConfig(checkpoint=checkpoint))
    names = "alexnet, embedded, squeezenet1_1"
    assert str(raised.value) == f"checkpoint: expected one of {names}, or a file, got {got}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_a_fault():
    with pytest.raises(FaultError, match=r"compute\.gpus_per_scorer: expected a CUDA GPU"):
        make_scorer(use_gpu=True)
