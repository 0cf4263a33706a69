"""Options of the command line, made from settings classes."""

import argparse
from datetime import date
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field

from jobs.settings_options import add_settings, overrides_of
from pipeline.runs.errors import ContractError, did_you_mean
from pipeline.runs.settings import Section, Uri

Names = Annotated[tuple[str, ...], AfterValidator(lambda names: names)]


class Rule(Section):
    column: str
    at_most: float


class Source(Section):
    uri: Uri = Field(description="The source.")
    night: date | None = Field(None, description="The night.")


class Target(Section):
    uri: Uri = Field(description="The target.")


class Settings(Section):
    source: Source
    kinds: tuple[Literal["a", "b"], ...] = Field((), description="Kinds, 50 % of them.")
    names: Names | None = Field(("x", "y"), description="Names.")
    rules: tuple[Rule, ...] = Field(
        (), description="Rules.", examples=[[{"column": "c", "at_most": 1}]]
    )
    levels: dict[str, tuple[float, ...]] = Field({"c": (0.5,)}, description="Levels")
    strict: bool = Field(True, description="Strictness.")
    extra: Rule | None = Field(None, description="A section that may be null.")
    output: Target


POSITIONAL = ("SOURCE", "source.uri")


def overrides(*arguments, positional=POSITIONAL):
    parser = argparse.ArgumentParser()
    add_settings(parser, Settings, positional)
    options, unknown = parser.parse_known_intermixed_args(arguments)
    assert not unknown
    return overrides_of(options, Settings, positional)


@pytest.mark.parametrize(
    "arguments",
    [
        ("in", "-o", "out"),
        ("-o", "out", "in"),
        ("--output", "out", "in"),
        ("--output=out", "--source.uri=in"),
        ("--source.uri", "in", "--output.uri", "out"),
    ],
)
def test_input_and_output_have_short_forms_at_any_place(arguments):
    assert overrides(*arguments) == {"source": {"uri": "in"}, "output": {"uri": "out"}}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--kinds=a,b", {"kinds": ["a", "b"]}),
        ("--kinds=[a, b]", {"kinds": ["a", "b"]}),
        ('--kinds=["a", "b"]', {"kinds": ["a", "b"]}),
        ("--names=[]", {"names": []}),
        ("--names=null", {"names": None}),
        ("--names=2026-11-20", {"names": ["2026-11-20"]}),
        ("--rules=[{column: c, at_most: 1}]", {"rules": [{"column": "c", "at_most": 1}]}),
        ("--levels={c: [0.1, 0.2]}", {"levels": {"c": [0.1, 0.2]}}),
        ("--extra.at_most=3", {"extra": {"at_most": "3"}}),
        ("--extra={column: c, at_most: 3}", {"extra": {"column": "c", "at_most": 3}}),
        ("--extra=null", {"extra": None}),
        ("--strict=false", {"strict": "false"}),
        ("--source.uri=007", {"source": {"uri": "007"}}),
        ("--source.night=2026-11-20", {"source": {"night": "2026-11-20"}}),
    ],
)
def test_lists_and_mappings_are_written_as_in_yaml_and_the_rest_is_text(argument, expected):
    assert overrides(argument) == expected


def test_every_wrong_value_is_listed():
    with pytest.raises(ContractError) as caught:
        overrides("in", "--source.uri=other", "--rules=[{column: c", "--levels={c: [}")
    first, second, third = caught.value.problems
    assert first == "command line: expected SOURCE or --source.uri, got both"
    assert second.startswith(
        "command line: expected --rules as in YAML, such as '[a, b]', got '[{column: c': "
    )
    assert "at line 1, column" in second
    assert "unicode string" not in second
    assert third.startswith("command line: expected --levels as in YAML")


def test_secrets_in_a_wrong_list_are_hidden():
    with pytest.raises(ContractError) as caught:
        overrides("--names=[https://me:secret@host/a")
    assert "secret" not in str(caught.value)


def test_help_shows_values_examples_and_defaults_as_they_are_written():
    parser = argparse.ArgumentParser(prog="job")
    add_settings(parser, Settings, POSITIONAL)
    text = " ".join(parser.format_help().split())
    for expected in (
        "usage: job SOURCE -o URI [--config FILE] [--SECTION.SETTING=VALUE ...]",
        "--source.night YYYY-MM-DD The night. (default: null)",
        "--kinds LIST Kinds, 50 % of them. Values: a, b. (default: [])",
        "--rules LIST Rules. Example: '[{column: c, at_most: 1}]'. (default: [])",
        "--levels {KEY: VALUE, ...} Levels. (default: {c: [0.5]})",
        "--strict {true,false} Strictness. (default: true)",
        "--output.uri TEXT The target. (required)",
    ):
        assert expected in text


def test_a_name_without_a_similar_one_gets_no_question():
    assert did_you_mean("scroe", ["score", "audit"]) == "; did you mean score?"
    assert did_you_mean("zzz", ["score", "audit"]) == ""


def test_a_section_that_may_be_null_is_given_whole_or_by_its_settings():
    with pytest.raises(ContractError) as caught:
        overrides("--extra={column: c}", "--extra.at_most=3")
    (problem,) = caught.value.problems
    assert problem == "command line: expected --extra or --extra.at_most, got both"
