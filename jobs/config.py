"""Load a job's settings: a YAML file, overridden by the command line, checked all at once."""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from jobs.completion import complete_options
from jobs.settings_options import add_settings, overrides_of, sections_in
from pipeline.runs.errors import ContractError, did_you_mean
from pipeline.runs.uris import redact

Config = TypeVar("Config", bound=BaseModel)


def find_examples() -> Path:
    """Return the folder of example settings files: conf/ of a checkout, or its installed copy."""
    installed = Path(__file__).with_name("conf")
    return installed if installed.is_dir() else Path(__file__).parents[1] / "conf"


def load_config(
    config_class: type[Config],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    positional: tuple[str, str] | None = None,
) -> tuple[Config, argparse.Namespace]:
    """Read the file of --config, override it with the command line, and validate the result.

    Args:
        config_class: the job's settings; each field becomes an option --section.field.
        parser: has the job's own options; --config and the settings' options are added to it.
        arguments: command line; None takes the process's.
        positional: name in the help, and setting, of the argument without an option's name.

    Returns:
        The settings, and the job's own options.

    Raises:
        ContractError: the file cannot be read, or a key, option or value is wrong; all problems are
            listed.
    """
    parser.allow_abbrev = False
    add_settings(parser, config_class, positional)
    complete_options(parser)
    # Otherwise an argument after the options would not be seen.
    options, unknown = parser.parse_known_intermixed_args(arguments)
    names = [name for action in parser._actions for name in action.option_strings]
    problems = _explain_unknown(unknown, names)
    num_unknown = len(problems)
    overrides: dict[str, Any] = {}
    try:
        overrides = overrides_of(options, config_class, positional)
    except ContractError as error:
        problems += error.problems
    values: dict[str, Any] = {}
    if options.config is not None:
        try:
            values = _read_yaml(Path(options.config))
        except ContractError as error:
            raise ContractError(*problems, *error.problems) from error
    if len(problems) > num_unknown:  # without the options that cannot be read, others seem absent
        raise ContractError(*problems)
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


def _explain_unknown(unknown: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a line for each unknown option, but none for the value that follows one."""
    return [
        f"command line: unknown option {redact(option)}"
        + did_you_mean(option.partition("=")[0], names)
        for before, option in zip(["", *unknown], unknown, strict=False)
        if option.startswith("-") or not before.startswith("-") or "=" in before
    ]


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
        return f"{setting}: unknown setting{_similar_setting(entry['loc'], config_class)}"
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


def _similar_setting(location: Sequence[Any], config_class: type[BaseModel]) -> str:
    """Return a question with the name most like an unknown one, of those in the same section."""
    section: type[BaseModel] = config_class
    for part in location[:-1]:
        if part in section.model_fields:  # otherwise the number of a list's entry
            section = next(sections_in(section.model_fields[part].annotation), section)
    return did_you_mean(str(location[-1]), section.model_fields)
