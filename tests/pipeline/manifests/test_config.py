import pytest
from pydantic import ValidationError

from pipeline.manifests.config import MakeManifestConfig


def problem_of(**sections) -> str:
    with pytest.raises(ValidationError) as caught:
        MakeManifestConfig.model_validate({"output": {"uri": "m.parquet"}} | sections)
    (error,) = caught.value.errors()
    return error["msg"]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, "got none"),
        ({"folders": {"references": "a"}}, "got no folders.candidates"),
        ({"folders": {"candidates": ["a"]}}, "got no folders.references"),
        ({"folders": {"references": "a"}, "source": {"uri": "a.csv"}}, "got both"),
        ({"folders": {"match": "(?P<a>.)"}, "source": {"uri": "a.csv"}}, "expected folders with"),
        (
            {"folders": {"references": "a", "candidates": ["b"]}, "source": {"model_column": "m"}},
            "expected source.uri with source.model_column",
        ),
    ],
)
def test_settings_name_folders_or_one_source(sections, expected):
    assert expected in problem_of(**sections)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("(", "a regular expression"),
        ("[0-9]+", "expected named groups"),
        ("(?P<model>.)(?P<status>.)", "other names of groups than model, status"),
    ],
)
def test_an_expression_has_named_groups_that_can_be_columns(match, expected):
    folders = {"references": "a", "candidates": ["b"], "match": match}
    assert expected in problem_of(folders=folders)


def test_a_manifest_is_named_parquet():
    source = {"uri": "a.csv"}
    assert "ends in .parquet" in problem_of(source=source, output={"uri": "a.csv"})
    MakeManifestConfig.model_validate({"source": source, "output": {"uri": "a.PARQUET"}})
