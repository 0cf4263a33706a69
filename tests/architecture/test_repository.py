"""The repository keeps its own promises: settings files, documents and constants agree."""

import argparse
import re
from pathlib import Path

import pytest
import yaml

from jobs.config import load_config
from pipeline.config import MIN_SIDE_PX, ScoreManifestConfig
from pipeline.schema import PIXEL_FIELDS, RESERVED_COLUMNS, Status
from spips_core import MIN_SIDE_PX as MODEL_MIN_SIDE_PX

REPOSITORY = Path(__file__).parents[2]
GIVEN = ["--manifest.uri=in", "--output.uri=out"]


@pytest.mark.parametrize("name", ["conf/score_manifest.yaml", "conf/debug/score_manifest.yaml"])
def test_every_settings_file_is_complete_but_for_the_two_uris(name):
    path = REPOSITORY / name
    config, _ = load_config(
        ScoreManifestConfig, argparse.ArgumentParser(), [*GIVEN, f"--config={path}"]
    )
    assert config.manifest.uri == "in"


def test_the_main_settings_file_lists_every_setting_at_its_default():
    listed = yaml.safe_load((REPOSITORY / "conf/score_manifest.yaml").read_text())
    defaults = ScoreManifestConfig.model_validate(
        {"manifest": {"uri": "in"}, "output": {"uri": "out"}}
    ).model_dump(mode="json")
    del defaults["manifest"]["uri"], defaults["output"]["uri"]
    assert listed == defaults


def test_the_pipeline_s_smallest_side_is_the_model_s():
    assert MIN_SIDE_PX == MODEL_MIN_SIDE_PX


def test_every_status_and_result_column_is_explained():
    text = (REPOSITORY / "docs/results.md").read_text()
    hidden = {field.name for field in PIXEL_FIELDS}
    for name in [status.value for status in Status] + sorted(RESERVED_COLUMNS - hidden):
        assert f"`{name}`" in text


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docs/model.md", "docs/results.md"]
)
def test_every_link_and_path_in_a_document_leads_somewhere(name):
    document = REPOSITORY / name
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


def test_the_readme_lists_every_job():
    jobs = {f"`jobs/{path.name}`" for path in (REPOSITORY / "jobs").glob("*.py")}
    text = (REPOSITORY / "README.md").read_text()
    assert {job for job in jobs if job not in text} == {"`jobs/__init__.py`", "`jobs/config.py`"}
