"""Compare models and peers with the command that a user types."""

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import evaluate
from spips_core import SPIPS, ModelConfig
from tests.jobs.judged_sets import sets


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with a model, and with two that have each not seen some references."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = SPIPS.untrained(ModelConfig())
    model.save(folder / "all.safetensors")
    for fold in (0, 1):
        parts = [f"{number}-{part}" for number in range(3) for part in (fold, fold + 2)]
        model.training_record = {
            "held_out_fold": f"{fold} of 2",
            "held_out_references": json.dumps([f"2afc/ref/{part}.png" for part in parts]),
        }
        model.save(folder / f"fold{fold}.safetensors")
    return folder


def test_evaluation_judges_folds_and_peers_on_every_kind_of_set(
    checkpoints, judged, tmp_path, capsys
):
    models = [
        {"name": "all", "checkpoint": str(checkpoints / "all.safetensors")},
        {
            "name": "folds",
            "checkpoint": str(checkpoints / "fold{fold}.safetensors"),
            "num_folds": 2,
        },
    ]
    arguments = [
        "--config=conf/debug/evaluate.yaml",
        *sets(judged, "rated", "triplets", "just_noticeable", "severity_series"),
        f"--models={json.dumps(models)}",
        f"--output.uri={tmp_path}",
    ]
    assert evaluate.main(arguments) == 0
    rows = pq.read_table(tmp_path / "evaluation.parquet").to_pylist()
    value = {
        (row["model"], row["set"], row["figure"]): row["value"] for row in rows if not row["subset"]
    }
    assert {model for model, _, _ in value} == {"all", "folds", "psnr", "ssim", "vif"}
    for model in ("all", "folds"):
        assert value[model, "2afc", "two_afc"] == pytest.approx(0.95)  # people agree to 9 in 10
        assert value[model, "jnd", "map"] == 1
        assert value[model, "rated", "rank_agreement"] == 1
        assert value[model, "series", "rising"] > 0.5
    assert value["psnr", "2afc", "two_afc"] == pytest.approx(0.95)
    text = (tmp_path / "evaluation.md").read_text()
    assert text in capsys.readouterr().out
    with Image.open(tmp_path / "evaluation.png") as picture:
        assert picture.width > 500
    scores = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(scores) == 5 * (36 + 12 + 12 + 6)


def test_evaluation_says_which_peer_it_could_not_measure(judged, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    arguments = [*sets(judged, "triplets"), f"--output.uri={tmp_path}", "--models=[]"]
    arguments += ['--peers.names=["psnr","dists"]', "--output.bootstrap_samples=0"]
    assert evaluate.main(arguments) == 0
    table = pq.read_table(tmp_path / "evaluation.parquet").to_pylist()
    notes = {row["model"]: (row["value"], row["note"]) for row in table if row["note"]}
    assert notes["dists"][0] is None
    assert (
        "dists could not be measured: dists: its weights cannot be loaded"
        in capsys.readouterr().out
    )
