"""The repository keeps its own promises: settings files, documents and constants agree."""

import argparse
import re
from pathlib import Path

import pytest
import yaml

from jobs.config import load_config
from pipeline.audits.config import AuditScoresConfig, FilterScoresConfig
from pipeline.learning.config import DistillTrunkConfig, EvaluateConfig, TrainConfig
from pipeline.runs.schema import PIXEL_FIELDS, RESERVED_COLUMNS, Status
from pipeline.scoring.config import MIN_SIDE_PX, ScoreManifestConfig
from spips_core import MIN_SIDE_PX as MODEL_MIN_SIDE_PX

REPOSITORY = Path(__file__).parents[2]


JOBS = {
    "score_manifest": (ScoreManifestConfig, {"manifest": {"uri": "in"}, "output": {"uri": "out"}}),
    "audit_scores": (AuditScoresConfig, {"scores": {"uri": "in"}, "output": {"uri": "out"}}),
    "filter_scores": (FilterScoresConfig, {"scores": {"uri": "in"}, "output": {"uri": "out"}}),
    "train": (TrainConfig, {"data": {}, "output": {"uri": "out"}}),
    "evaluate": (EvaluateConfig, {"data": {}, "output": {"uri": "out"}}),
    "distill_trunk": (
        DistillTrunkConfig,
        {"photos": {"path": "in"}, "output": {"path": "t.safetensors"}},
    ),
}
"""The settings class of each job, and what a user must give."""


def options(given):
    return [f"--{s}.{key}={value}" for s, values in given.items() for key, value in values.items()]


@pytest.mark.parametrize("folder", ["conf", "conf/debug"])
@pytest.mark.parametrize("job", JOBS)
def test_every_settings_file_is_complete_but_for_what_a_user_must_give(folder, job):
    config_class, given = JOBS[job]
    path = REPOSITORY / folder / f"{job}.yaml"
    load_config(config_class, argparse.ArgumentParser(), [*options(given), f"--config={path}"])


@pytest.mark.parametrize("job", JOBS)
def test_the_main_settings_file_lists_every_setting_at_its_default(job):
    config_class, given = JOBS[job]
    listed = yaml.safe_load((REPOSITORY / f"conf/{job}.yaml").read_text())
    defaults = config_class.model_validate(given).model_dump(mode="json")
    for section, values in given.items():
        for key in values:
            del defaults[section][key]
    assert listed == {section: values for section, values in defaults.items() if values}


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "conf/checkpoints").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_settings_of_every_packaged_checkpoint_are_valid(path):
    config_class = {"embedded_trunk": DistillTrunkConfig, "evaluation": EvaluateConfig}.get(
        path.stem, TrainConfig
    )
    load_config(config_class, argparse.ArgumentParser(), [f"--config={path}"])


def test_the_pipeline_s_smallest_side_is_the_model_s():
    assert MIN_SIDE_PX == MODEL_MIN_SIDE_PX


def test_every_status_and_result_column_is_explained():
    text = (REPOSITORY / "docs/results.md").read_text()
    hidden = {field.name for field in PIXEL_FIELDS}
    for name in [status.value for status in Status] + sorted(RESERVED_COLUMNS - hidden):
        assert f"`{name}`" in text


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
    ],
)
def test_every_link_and_path_in_a_document_leads_somewhere(name):
    document = REPOSITORY / name
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


def test_the_readme_lists_every_job():
    jobs = {f"`jobs/{path.name}`" for path in (REPOSITORY / "jobs").glob("*.py")}
    text = (REPOSITORY / "README.md").read_text()
    own = {f"`jobs/{name}.py`" for name in ("__init__", "config", "run_job")}
    assert {job for job in jobs if job not in text} == own
