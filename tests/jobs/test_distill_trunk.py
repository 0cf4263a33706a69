"""Distil a trunk with the command that a user types."""

import pytest
from safetensors.torch import save_file

from jobs import distill_trunk
from spips_core import SPIPS, ModelConfig
from spips_core.trunk import Trunk


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory):
    """AlexNet's features with random weights."""
    trunk = Trunk("alexnet")
    trunk.initialise()
    path = tmp_path_factory.mktemp("trunk") / "alexnet.safetensors"
    save_file(trunk.state_dict(), path)
    return path


def test_a_distilled_trunk_can_be_trained_on(judged, tmp_path, trunk_file, capsys):
    path = tmp_path / "trunk.safetensors"
    arguments = [
        "--config=conf/debug/distill_trunk.yaml",
        f"--photos.path={judged / 'photos'}",
        f"--teacher.backbone_weights={trunk_file}",
        f"--output.path={path}",
    ]
    assert distill_trunk.main(arguments) == 0
    assert str(path) in capsys.readouterr().out
    assert list(tmp_path.glob("*.unfinished")) == []
    SPIPS.untrained(ModelConfig(), backbone_weights=path)
