"""The repository keeps its own promises: settings files, documents and constants agree."""

import argparse
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import yaml

from jobs.cli import COMMANDS
from jobs.config import load_config
from pipeline.audits.config import AuditScoresConfig, MeasureNoiseConfig
from pipeline.filters.config import FilterScoresConfig, StatusName
from pipeline.learning.config import DistillTrunkConfig, EvaluateConfig, TrainConfig
from pipeline.manifests.config import MakeManifestConfig
from pipeline.runs.schema import PIXEL_FIELDS, RESERVED_COLUMNS, Status
from pipeline.scoring.config import MIN_SIDE_PX, ScoreManifestConfig
from spips_core import MIN_SIDE_PX as MODEL_MIN_SIDE_PX
from spips_core import packaged_checkpoints

REPOSITORY = Path(__file__).parents[2]


JOBS = {
    "score_manifest": (ScoreManifestConfig, {"manifest": {"uri": "in"}, "output": {"uri": "out"}}),
    "audit_scores": (AuditScoresConfig, {"scores": {"uri": "in"}, "output": {"uri": "out"}}),
    "filter_scores": (FilterScoresConfig, {"scores": {"uri": "in"}, "output": {"uri": "out"}}),
    "measure_noise": (MeasureNoiseConfig, {"scores": {"uris": ["in"]}}),
    "make_manifest": (
        MakeManifestConfig,
        {"source": {"uri": "in"}, "output": {"uri": "m.parquet"}},
    ),
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


def test_a_filter_takes_every_status():
    assert get_args(StatusName) == tuple(Status)


@pytest.mark.parametrize("job", JOBS)
def test_the_help_of_a_job_shows_choices_as_they_are_written(job, capfd):
    with pytest.raises(SystemExit):
        load_config(JOBS[job][0], argparse.ArgumentParser(), ["--help"])
    choices = re.findall(r"\{([\w,]+)\}", capfd.readouterr().out)
    assert not [choice for names in choices for choice in names.split(",") if choice.isupper()]


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "conf/checkpoints").glob("**/*.yaml")), ids=lambda path: path.stem
)
def test_the_settings_of_every_packaged_checkpoint_are_valid(path):
    config_classes = {
        "embedded_trunk": DistillTrunkConfig, "evaluation": EvaluateConfig,
    } | {f"families/{name}": EvaluateConfig for name in packaged_checkpoints()}  # fmt: skip
    name = str(path.relative_to(REPOSITORY / "conf/checkpoints").with_suffix(""))
    config_class = config_classes.get(name, TrainConfig)
    load_config(config_class, argparse.ArgumentParser(), [f"--config={path}"])


def test_the_pipeline_s_smallest_side_is_the_model_s():
    assert MIN_SIDE_PX == MODEL_MIN_SIDE_PX


def test_every_status_and_result_column_is_explained():
    text = (REPOSITORY / "docs/results.md").read_text()
    hidden = {field.name for field in PIXEL_FIELDS}
    for name in [status.value for status in Status] + sorted(RESERVED_COLUMNS - hidden):
        assert f"`{name}`" in text


DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
LINK = re.compile(r"""(?:\]\(|src=")(?!https?:)([^)"#]*)#?([^)"]*)[)"]""")


def anchors(document):
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_in_a_document_leads_somewhere(document):
    links = LINK.findall(document.read_text())
    targets = [(document.parent / path if path else document, anchor) for path, anchor in links]
    missing = [path for path, _ in targets if not path.exists()]
    missing += [anchor for path, anchor in targets if anchor and anchor not in anchors(path)]
    assert not missing


def test_the_documents_have_links():
    assert len(LINK.findall((REPOSITORY / "README.md").read_text())) > 20


def test_the_readme_lists_every_job():
    commands = {
        f"jobs/{path.name}"
        for path in (REPOSITORY / "jobs").glob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path.stem != "cli"  # it runs jobs
    }
    pattern = r"^\| `(jobs/(\w+)\.py)`(?: \(`(\w+)`\))? \|"
    rows = re.findall(pattern, (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert sorted(path for path, _, _ in rows) == sorted(commands)
    named = {command: module for _, module, command in rows if command}
    assert named == {command: module for command, (module, _) in COMMANDS.items()}


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    newest = re.search(r"^## ([\d.]+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project["version"] == citation["version"] == newest[1]


def test_no_file_of_the_code_has_over_350_lines():
    folders = ("docs", "jobs", "pipeline", "spips_core")
    files = [path for folder in folders for path in REPOSITORY.glob(f"{folder}/**/*.py")]
    lengths = {str(p.relative_to(REPOSITORY)): len(p.read_text().splitlines()) for p in files}
    assert len(lengths) > 50
    assert not {name: length for name, length in lengths.items() if length > 350}
