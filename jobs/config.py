"""Load a job's settings: a YAML file, overridden by the command line, checked all at once."""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline.runs.errors import ContractError
from pipeline.runs.uris import redact

Config = TypeVar("Config", bound=BaseModel)


class _CommandLine(BaseSettings):
    model_config = SettingsConfigDict(cli_parse_none_str="null", cli_hide_none_type=True)


def load_config(
    config_class: type[Config], parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[Config, argparse.Namespace]:
    """Read the file of --config, override it with the command line, and validate the result.

    Args:
        config_class: the job's settings; each field becomes an option --section.field.
        parser: has the job's own options; --config and the settings' options are added to it.
        arguments: command line; None takes the process's.

    Returns:
        The settings, and the job's own options.

    Raises:
        ContractError: the file cannot be read, or a key, option or value is wrong; all problems are
            listed.
    """
    parser.allow_abbrev = False
    parser.add_argument("--config", metavar="FILE", help="YAML file with the settings below")
    settings_class = create_model("Settings", __base__=(config_class, _CommandLine))
    source = CliSettingsSource[argparse.ArgumentParser](
        settings_class,  # type: ignore[arg-type]  # mypy does not see the two base classes
        root_parser=parser,
        cli_parse_args=False,
    )
    options, unknown = parser.parse_known_args(arguments)
    problems = [f"command line: unknown option {redact(option)}" for option in unknown]
    try:
        overrides = source(parsed_args=options)()
    except SettingsError as error:  # a list or mapping that is not JSON
        named = re.search(r'for (?:field )?"?([\w.]+)', str(error))
        name = f"--{named[1]} as JSON" if named else "JSON"
        cause = redact(str(error.__cause__ or error))
        problem = f"expected {name}, got a text that is not ({cause})"
        raise ContractError(*problems, f"command line: {problem}; or set it in YAML") from error
    values: dict[str, Any] = {}
    if options.config is not None:
        try:
            values = _read_yaml(Path(options.config))
        except ContractError as error:
            raise ContractError(*problems, *error.problems) from error
    try:
        config = config_class.model_validate(_merge(values, overrides))
    except ValidationError as error:
        entries = error.errors(include_url=False)
        wrong = {
            entry["loc"][:-1] for entry in entries
        }  # a list without its wrong entries is short
        problems += [
            _explain(entry, config_class)
            for entry in entries
            if entry["type"] != "too_short" or entry["loc"] not in wrong
        ]
    if problems:
        raise ContractError(*problems)
    return config, options


# pydantic-settings has a source for YAML files, but it accepts a missing file and repeated keys,
# and it refuses a section without keys.
def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the sections of a YAML file.

    Raises:
        ContractError: the file cannot be read, has no sections, or repeats keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ContractError(f"--config: {path} cannot be read: {line}") from error
    repeated = [
        f"--config: {path}: expected each key once, got {redact(key)} on lines "
        f"{' and '.join(map(str, lines))}"
        for key, lines in _find_repeated_keys(root, "", set())
    ]
    if repeated:
        raise ContractError(*repeated)
    if not isinstance(content, dict | None):
        raise ContractError(f"--config: expected sections in {path}, got {type(content).__name__}")
    # A section whose keys are all commented out is null; it takes its defaults.
    return {section: value for section, value in (content or {}).items() if value is not None}


def _find_repeated_keys(
    node: yaml.Node | None, prefix: str, seen: set[int]
) -> Iterator[tuple[str, list[int]]]:
    """Yield the repeated keys under a node, as section.key, with their line numbers."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _find_repeated_keys(item, prefix, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: defaultdict[str, list[int]] = defaultdict(list)
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            lines[name].append(key.start_mark.line + 1)
            yield from _find_repeated_keys(value, f"{name}.", seen)
        yield from ((name, numbers) for name, numbers in lines.items() if len(numbers) > 1)


def _merge(values: Any, overrides: Any) -> Any:
    """Return the settings with overrides merged into them, section by section."""
    if not isinstance(values, dict) or not isinstance(overrides, dict):
        return overrides
    merged = {key: _merge(values[key], overrides[key]) for key in values.keys() & overrides.keys()}
    return values | overrides | merged


def _explain(entry: Any, config_class: type[BaseModel]) -> str:
    """Return one of pydantic's problems as a line: the setting, what was expected, what was got."""
    setting = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{setting}: unknown setting"
    if entry["type"] == "missing":
        field = config_class.model_fields[entry["loc"][0]]
        if setting in config_class.model_fields and field.annotation is not None:  # a section
            inner = field.annotation.model_fields.items()
            needed = [
                f"{setting}.{name}" for name, inner_field in inner if inner_field.is_required()
            ]
            setting = " and ".join(needed) or setting
        return f"{setting}: required, but not given"
    if entry["type"] == "too_short":
        least, got = entry["ctx"]["min_length"], entry["ctx"]["actual_length"]
        return f"{setting}: expected at least {least} entries, got {got}"
    if entry["type"] in ("model_type", "dict_type"):
        return f"{setting}: expected keys and values, got {redact(repr(entry['input']))}"
    got = entry["input"]
    if entry["type"] == "string_type" and isinstance(got, date | int | float):
        return f"{setting}: expected a text, got {type(got).__name__} {got}; put it in quotes"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "tuple_type":
        message = "expected a list"
    if isinstance(got, dict) or ", got " in message:
        return f"{setting}: {message}" if setting else message
    return f"{setting}: {message}, got {redact(repr(got))}"
