import subprocess
import sys

import pytest

from jobs import audit_scores, filter_scores, score_manifest
from jobs.run_job import WRONG
from pipeline.scoring.config import ScoreManifestConfig
from tests.jobs.conftest import REPOSITORY

GIVEN = ["--manifest.uri=in.parquet", "--output.uri=out"]


def problems_of(arguments, capfd) -> list[str]:
    assert score_manifest.main(arguments) == WRONG
    captured = capfd.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_all_problems_of_config_and_command_line_are_listed_at_once(tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_text("images: {max_pixels: -1, colour: red}\nsurprise: 1\nfailure: 3\n")
    problems = problems_of(
        [f"--config={path}", "--model.precision=int3", "--images.max_bites=3", "--nonsense"], capfd
    )
    for expected in (
        "--images.max_bites=3",
        "--nonsense",
        "images.max_pixels: Input should be greater than 0, got -1",
        "images.colour: unknown setting",
        "surprise: unknown setting",
        "failure",
        "model.precision",
        "manifest.uri: required",
        "output.uri: required",
    ):
        assert sum(expected in problem for problem in problems) == 1, (expected, problems)
    assert len(problems) == 9


def test_an_unknown_setting_names_the_one_that_was_meant(tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_text("images: {max_pixel: 1}\nmodle: {}\nzzz: 1\n")
    problems = problems_of([*GIVEN, f"--config={path}", "--output.runid=x", "--dry-rn"], capfd)
    assert problems == [
        "error: command line: unknown option --output.runid=x; did you mean --output.run_id?",
        "error: command line: unknown option --dry-rn; did you mean --dry-run?",
        "error: images.max_pixel: unknown setting; did you mean max_pixels?",
        "error: modle: unknown setting; did you mean model?",
        "error: zzz: unknown setting",
    ]


@pytest.mark.parametrize(
    ("job", "argument", "expected"),
    [
        (audit_scores, "--gates=[{column: spips_score, figure: p95, at_most: 1}, {at_mst: 0.35}]",
         "error: gates.1.at_mst: unknown setting; did you mean at_most?"),
        (filter_scores, "--best_per_reference={m: 1}",
         "error: best_per_reference.m: unknown setting"),
        (filter_scores, "--best_per_reference={reference: a}",
         "error: best_per_reference.reference: unknown setting; did you mean reference_column?"),
    ],
)  # fmt: skip
def test_an_unknown_setting_in_a_list_or_in_a_section_that_may_be_null_names_it_too(
    job, argument, expected, capfd
):
    assert job.main(["run", "-o", "out", argument]) == WRONG
    assert expected in capfd.readouterr().err.splitlines()


def test_a_value_instead_of_a_section_is_one_line(tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_text("images: 3")
    assert problems_of([*GIVEN, f"--config={path}"], capfd) == [
        "error: images: expected keys and values, got 3"
    ]


def test_a_mistake_in_yaml_is_named_with_its_file_and_line(tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_text("images:\n  resize: {a\n")
    (problem,) = problems_of([*GIVEN, f"--config={path}"], capfd)
    assert problem.startswith(f"error: --config: {path} cannot be read: ")
    assert "at line 2, column 11" in problem
    assert "unicode string" not in problem


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "--images.allowed_uri_prefixes=/a,b/c",
            "prefixes: expected a URI or an absolute path, got a relative path: 'b/c'\n",
        ),
        (
            "--images.allowed_uri_prefixes=file://there/a",
            "expected file:///path or file://localhost/path, got host there: 'file://there/a'\n",
        ),
        ("--output.run_id=../escape", "output.run_id"),
        ("--failure.max_failed_fraction=1.5", "failure.max_failed_fraction"),
        ("--images.min_side_px=95", "images.min_side_px"),
        ("--images.max_bytes=many", "images.max_bytes"),
        ("--compute.scorers=0", "compute.scorers"),
        ("--model.checkpoint=s3://bucket/model.safetensors", "checkpoint_sha256"),
        ("--model.checkpoint_sha256=abc", "model.checkpoint_sha256"),
        ("--config=absent.yaml", "absent.yaml cannot be read"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(argument, expected, capfd):
    (problem,) = problems_of([*GIVEN, argument], capfd)
    assert problem.startswith("error: ")
    assert expected in f"{problem}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("output: {run_id: 2026-11-20}", "expected a text, got date 2026-11-20; put it in quotes"),
        ("output: {run_id: 7}", "got int 7; put it in quotes"),
        ("output: {run_id: 7.50}", "got float 7.5; put it in quotes"),
        ("output: {run_id: yes}", "got bool True; put it in quotes"),
        ("output: {night: 20261120}", "output.night: expected a date, YYYY-MM-DD, got 20261120"),
        ("images: {allowed_uri_prefixes: /a}", "prefixes: expected a list, got '/a'\n"),
    ],
)
def test_a_value_of_another_type_is_one_line_that_says_how_to_write_it(
    text, expected, tmp_path, capfd
):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    (problem,) = problems_of([*GIVEN, f"--config={path}"], capfd)
    assert expected in f"{problem}\n"


def test_a_night_and_a_quoted_run_id_may_be_dates(tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_text("output: {night: 2026-11-20, run_id: '2026-11-20'}")
    (problem,) = problems_of([*GIVEN, f"--config={path}", "--compute.scorers=0"], capfd)
    assert "compute.scorers" in problem


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "text", "\x00", "images: 2026-99-99"])
def test_a_file_without_settings_is_refused(text, tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    (problem,) = problems_of([*GIVEN, f"--config={path}"], capfd)
    assert str(path) in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("images: {}\nmodel: {}\nimages: {}\n", ["images on lines 1 and 3"]),
        ("images:\n  resize: 128\n  # a comment\n  resize: 128\n",
         ["images.resize on lines 2 and 4"]),
        ("images: {resize: 128, resize: 256, resize: null}\n",
         ["images.resize on lines 1 and 1 and 1"]),
        ("a: [{b: {c: 1, c: 2}}]\nd: 1\nd: 2\n", ["a.b.c on lines 1 and 1", "d on lines 2 and 3"]),
        ("a: &a [*a]\na: 1\n", ["a on lines 1 and 2"]),
        ("images: &same {resize: 128, resize: 128}\nmodel: *same\n",
         ["images.resize on lines 1 and 1"]),
    ],
)  # fmt: skip
def test_each_repeated_key_is_one_line_with_file_key_and_line_numbers(
    text, expected, tmp_path, capfd
):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert problems_of([*GIVEN, f"--config={path}"], capfd) == [
        f"error: --config: {path}: expected each key once, got {keys}" for keys in expected
    ]


def test_a_section_without_keys_takes_its_defaults(tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_text("images:\n  # max_pixels: 1\ncompute:\n")
    (problem,) = problems_of([*GIVEN, f"--config={path}", "--compute.scorers=0"], capfd)
    assert "compute.scorers" in problem


def test_the_command_line_overrides_the_file_field_by_field(tmp_path):
    import argparse

    from jobs.config import load_config

    path = tmp_path / "config.yaml"
    path.write_text(
        "images: {max_pixels: 1000, max_bytes: 2000, resize: 128, allowed_uri_prefixes: [/x]}\n"
    )
    arguments = [
        *GIVEN,
        f"--config={path}",
        "--images.max_bytes=3000",
        "--images.resize=null",
        "--images.allowed_uri_prefixes=/a,/b",
    ]
    config, _ = load_config(ScoreManifestConfig, argparse.ArgumentParser(), arguments)
    assert config.images.max_pixels == 1000
    assert config.images.max_bytes == 3000
    assert config.images.resize is None
    assert config.images.allowed_uri_prefixes == ("/a", "/b")


def test_help_names_every_setting_with_its_meaning(capfd):
    with pytest.raises(SystemExit) as stopped:
        score_manifest.main(["--help"])
    assert stopped.value.code == 0
    out = " ".join(capfd.readouterr().out.split())
    for section, field in ScoreManifestConfig.model_fields.items():
        for name, inner in field.annotation.model_fields.items():
            assert f"--{section}.{name}" in out
            assert inner.description.split(";")[0] in out.replace("- ", "-")
    assert "exit codes" in out


def test_help_and_wrong_settings_do_not_wait_for_torch_or_ray():
    code = (
        "import sys; from jobs import score_manifest; score_manifest.main(['--x']); "
        "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
