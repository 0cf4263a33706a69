"""Train and resume with the command that a user types."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from jobs import train
from pipeline.runs.storage import open_store
from spips_core import SPIPS
from spips_core.learning.dmos_fit import fit_dmos_scale
from spips_core.learning.rated_pairs import RatedPairs
from tests.jobs.judged_sets import sets

REPOSITORY = Path(__file__).parents[2]
CONFIG = "--config=conf/debug/train.yaml"
TRAIN = [sys.executable, "jobs/train.py", CONFIG]


def finish(process):
    output, _ = process.communicate(timeout=300)
    return output


@pytest.fixture(scope="module")
def training_cluster():
    """Ray in this process, for trainings that need not be killed; it starts once for all."""
    ray.init("local", num_cpus=2, include_dashboard=True)
    yield
    ray.shutdown()


def start(*arguments):
    return subprocess.Popen(
        [*TRAIN, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def all_kinds(judged, output):
    """Arguments of a training on every kind of set, with two folds and one model per family."""
    return [
        *sets(judged, "rated", "triplets", "severity_series", "jury"),
        f"--data.cache={output / 'cache'}",
        f"--output.uri={output}",
        "--training.num_folds=2",
        "--training.by_family=true",
        "--training.epochs=8",
    ]


@pytest.fixture(scope="module")
def trained(judged, tmp_path_factory):
    """Output folder and log of a training with two folds that was killed and run again."""
    output = tmp_path_factory.mktemp("trained")
    arguments = all_kinds(judged, output)
    process = start(*arguments)
    deadline = time.monotonic() + 240
    while not list(output.glob("training/*/checkpoint_*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert not list(output.glob("*.safetensors"))
    process = start(*arguments)
    text = finish(process)
    assert process.returncode == 0, text
    return output, text


def test_a_killed_training_resumes_after_its_last_epoch(trained):
    output, text = trained
    assert "resumed after epoch" in text
    history = json.loads((output / "debug.json").read_text())
    assert [epoch["epoch"] for epoch in history] == list(range(1, 9))
    assert history[-1]["loss"] < history[0]["loss"]
    assert {"rated_srcc", "2afc_two_afc", "series_rising", "jury_srcc"} <= history[-1].keys()


def test_ctrl_c_ends_a_training_with_code_130_and_one_line(judged, tmp_path):
    process = start(
        *sets(judged, "triplets"), f"--output.uri={tmp_path}", "--training.epochs=100000"
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("training/*/checkpoint_*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    text = finish(process)
    assert process.returncode == 130, text[-2000:]
    assert "interrupted: run the same command again to go on" in text


def test_checkpoints_record_what_they_learned_from_but_no_paths(trained, judged):
    output, _ = trained
    model = SPIPS.load(output / "debug.safetensors")
    assert (
        model.training_record["data"]
        == "rated (36 rated), 2afc (12 triplets), series (6 severity_series), jury (6 jury)"
    )
    assert str(judged) not in json.dumps(model.training_record)
    fold = SPIPS.load(output / "debug-fold1.safetensors")
    assert fold.training_record["held_out_fold"] == "1 of 2"
    assert fold.training_record["held_out_family"] == "none"


def test_each_family_of_distortions_has_a_model_that_did_not_learn_from_it(trained):
    output, _ = trained
    models = {path.stem.removeprefix("debug-without-"): SPIPS.load(path)
              for path in output.glob("debug-without-*.safetensors")}  # fmt: skip
    assert set(models) == {"compression", "blur", "noise"}
    for family, model in models.items():
        assert model.training_record["held_out_family"] == family
        assert model.training_record["held_out_references"] == "[]"
    digests = {model.digest for model in models.values()}
    assert len(digests | {SPIPS.load(output / "debug.safetensors").digest}) == 4


def test_families_of_which_there_is_only_one_are_refused(judged, tmp_path, capsys):
    series = json.dumps([{"name": "s", "path": str(judged / "photos"), "kinds": ["jpeg", "webp"]}])
    arguments = [f"--data.severity_series={series}", "--training.by_family=true"]
    assert train.main([*arguments, f"--output.uri={tmp_path}"]) == 2
    expected = "training.by_family: expected severity series or a jury with at least two families"
    assert f"error: {expected} of distortions, got 1" in capsys.readouterr().err


def test_checkpoints_have_one_scale_fitted_to_the_scores_of_held_out_pairs(trained, judged):
    output, _ = trained
    scale = SPIPS.load(output / "debug.safetensors").dmos_scale
    folds = [SPIPS.load(output / f"debug-fold{fold}.safetensors") for fold in (0, 1)]
    assert [fold.dmos_scale for fold in folds] == [scale] * 2
    pairs = RatedPairs(judged / "pairs.parquet")
    scores = []
    for index, name in enumerate(pairs.references):
        (model,) = (fold for fold in folds if name in fold.training_record["held_out_references"])
        pair = pairs[index]
        scores.append(model.score(pair.reference[None], pair.distorted).score.item())
    expected = fit_dmos_scale(scores, pq.read_table(judged / "pairs.parquet")["dmos"].to_numpy())
    assert astuple(scale) == pytest.approx(astuple(expected), rel=1e-3)
    assert scale.num_ratings == 36


def test_a_finished_training_is_published_again_unchanged(trained, judged, training_cluster, capfd):
    output, _ = trained
    paths = sorted(output.glob("*.safetensors"))
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    arguments = all_kinds(judged, output)
    assert train.main([CONFIG, *arguments]) == 0
    assert "resumed after epoch 8" in capfd.readouterr().out
    after = [SPIPS.load(path) for path in paths]
    for path, content, model in zip(paths, before, after, strict=True):
        path.write_bytes(content)
        first = SPIPS.load(path)
        assert first.digest == model.digest
        assert first.training_record == model.training_record


@pytest.mark.parametrize("mode", ["tune", "scratch"])
def test_the_trunk_can_be_trained_too(judged, training_cluster, tmp_path, mode):
    arguments = [
        *sets(judged, "triplets"),
        f"--training.mode={mode}",
        "--training.epochs=1",
        f"--output.uri={tmp_path}",
    ]
    assert train.main([CONFIG, *arguments]) == 0
    model = SPIPS.load(tmp_path / "debug.safetensors")
    assert model.dmos_scale is None  # nobody rated anything
    assert model.trunk.digest() != SPIPS.untrained(model.config).trunk.digest()


def test_every_problem_of_a_training_is_listed_before_it_starts(judged, tmp_path, capsys):
    (tmp_path / "judge").mkdir()
    arguments = [
        '--data.rated=[{"name": "a", "path": "nowhere.csv"}]',
        f'--data.triplets=[{{"name": "a", "path": "{tmp_path}"}}]',
        '--data.severity_series=[{"name": "c", "path": "nowhere", "held_out": ["jpg"]}]',
        "--model.backbone_weights=nothing.safetensors",
        f"--output.uri={tmp_path / 'out'}",
    ]
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    for part in ("data.rated a: nowhere.csv", "data.triplets a:", "expected different names, got a",
                 "data.severity_series c:",
                 "model: backbone weights nothing.safetensors"):  # fmt: skip
        assert part in error


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--training.mode=lin2"], "training.mode"),
        (["--training.epochs=0"], "training.epochs"),
        (["--training.num_folds=1"], "training.num_folds"),
        (["--output.name=a/b"], "output.name"),
        (["--model.backbone=resnet"], "model.backbone"),
        (
            ['--data.jury=[{"name": "j", "path": "p"}]'],
            "data: expected cache, a folder for the jury",
        ),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path, capsys, arguments, problem):
    assert train.main([*arguments, f"--output.uri={tmp_path}", "--data.severity_series=[]"]) == 2
    assert f"error: {problem}" in capsys.readouterr().err


def test_more_folds_than_references_are_refused(judged, tmp_path, capsys):
    arguments = [
        *sets(judged, "severity_series"),
        "--training.num_folds=4",
        f"--output.uri={tmp_path}",
    ]
    assert train.main(arguments) == 2
    expected = "training.num_folds: expected at most the 3 references of series, got 4"
    assert expected in capsys.readouterr().err


def test_two_workers_train_one_model_into_an_object_store(judged, one_s3_store):
    process = start(
        *sets(judged, "rated"),
        "--workers.num_workers=2",
        "--training.num_folds=2",
        f"--output.uri={one_s3_store.bucket}/models",
    )
    text = finish(process)
    assert process.returncode == 0, text
    fs, path = open_store(f"{one_s3_store.bucket}/models")
    names = {name.rsplit("/", 1)[1] for name in fs.ls(path, detail=False)}
    assert {"debug.safetensors", "debug-fold0.safetensors", "debug.json", "training"} <= names
    history = json.loads(fs.cat_file(f"{path}/debug.json"))
    assert len(history) == 2
    assert -1 <= history[-1]["rated_srcc"] <= 1


def test_an_image_that_cannot_be_read_stops_a_training_with_its_name(
    judged, training_cluster, tmp_path, capfd
):
    broken = tmp_path / "2afc"
    for name in ("ref", "p0", "p1", "judge"):
        (broken / name).mkdir(parents=True)
        for path in sorted((judged / "2afc" / name).iterdir())[:2]:
            (broken / name / path.name).write_bytes(path.read_bytes())
    victim = sorted((broken / "p1").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:200])
    arguments = [
        f'--data.triplets=[{{"name": "2afc", "path": "{broken}"}}]',
        f"--output.uri={tmp_path / 'o'}",
    ]
    assert train.main([CONFIG, *arguments]) == 2
    captured = capfd.readouterr()
    assert f"error: data: {victim}: expected an image" in captured.err
    assert "[FailurePolicy] RETRY" not in captured.out + captured.err
