"""The command line's options for a job's settings: one for each field, described by the field."""

import argparse
import types
from collections.abc import Iterator
from datetime import date
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from pipeline.runs.errors import ContractError
from pipeline.runs.uris import redact

OUTPUT = "output.uri"
"""The setting that -o and --output are short for."""
SHORT = {"output.reuse_from": ("--reuse-from",)}
"""Other names of options."""
METAVARS = {int: "NUMBER", float: "NUMBER", date: "YYYY-MM-DD", str: "TEXT", tuple: "LIST"}
YAML_KEYS = "{KEY: VALUE, ...}"


def settings_of(
    config_class: type[BaseModel], section: str = "", *, is_needed: bool = True
) -> Iterator[tuple[str, FieldInfo, bool]]:
    """Yield each setting of a settings class: section.field, its field, and if it must be given.

    A section that may be null needs none of its settings, and is a setting itself.
    """
    for name, field in config_class.model_fields.items():
        kinds = _alternatives(field.annotation)
        if len(kinds) == 1 and _is_section(kinds[0]):
            must_be_there = is_needed and (kinds[0] is field.annotation)
            if kinds[0] is not field.annotation:
                yield f"{section}{name}", field, False
            yield from settings_of(kinds[0], f"{section}{name}.", is_needed=must_be_there)
        else:
            yield f"{section}{name}", field, is_needed and field.is_required()


def add_settings(
    parser: argparse.ArgumentParser,
    config_class: type[BaseModel],
    positional: tuple[str, str] | None,
) -> None:
    """Add --section.field for each setting, and the short ways to give input and output.

    Args:
        parser: of the job.
        config_class: the job's settings.
        positional: name in the help, and setting, of the argument without an option's name.
    """
    settings = {name: field for name, field, _ in settings_of(config_class)}
    required = {name for name, _, must_be_given in settings_of(config_class) if must_be_given}
    usage = [parser.usage or "%(prog)s"]
    parser.add_argument("--config", metavar="FILE", help="YAML file with the settings below")
    if positional is not None:
        metavar, setting = positional
        text = f"short for --{setting}={metavar}"
        kinds = _alternatives(settings[setting].annotation)
        takes_many = any(get_origin(kind) is tuple for kind in kinds)
        nargs = "*" if takes_many else "?"
        parser.add_argument("positional", metavar=metavar, nargs=nargs, help=text)
        usage.append(f"{metavar} ..." if takes_many else metavar)
        required -= {setting}
    if OUTPUT in required:
        text = f"short for --{OUTPUT}=URI"
        parser.add_argument("-o", "--output", dest="short_output", metavar="URI", help=text)
        usage.append("-o URI")
        required -= {OUTPUT}
    usage += [f"--{name}=..." for name in settings if name in required]
    parser.usage = " ".join([*usage, "[--config FILE] [--SECTION.SETTING=VALUE ...]"])
    groups: dict[str, Any] = {}
    for name, field in settings.items():
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(f"settings of {section or 'the job'}")
        option = groups[section].add_argument(
            f"--{name}", *SHORT.get(name, ()), metavar=_metavar(field.annotation),
            default=argparse.SUPPRESS, help=_help(field).replace("%", "%%"),
        )  # fmt: skip
        if choices := _choices(field.annotation):
            option.completer = partial(_complete, choices)  # argcomplete's attribute


def overrides_of(
    options: argparse.Namespace,
    config_class: type[BaseModel],
    positional: tuple[str, str] | None,
) -> dict[str, Any]:
    """Return the settings that a command line gives, as a YAML file would hold them.

    Raises:
        ContractError: a list is not YAML, or a setting is given in two ways.
    """
    given, problems = vars(options), []
    settings = {name: field for name, field, _ in settings_of(config_class)}
    values = {name: text for name, text in given.items() if name in settings}
    shorts = {"short_output": (OUTPUT, "--output")}
    if positional is not None:
        shorts["positional"] = (positional[1], positional[0])
    for dest, (setting, shown) in shorts.items():
        if not given.get(dest):
            continue
        if setting in values:
            problems.append(f"command line: expected {shown} or --{setting}, got both")
        values[setting] = given[dest]
    overrides: dict[str, Any] = {}
    for name, text in values.items():
        whole = next((one for one in values if name.startswith(f"{one}.")), None)
        if whole is not None:
            problems.append(f"command line: expected --{whole} or --{name}, got both")
            continue
        try:
            value = text if isinstance(text, list) else _parse(text, settings[name].annotation)
        except yaml.YAMLError as error:
            cause = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
            problems.append(
                f"command line: expected --{name} as in YAML, such as '[a, b]', got "
                f"{redact(repr(text))}: {redact(cause)}"
            )
            continue
        *sections, last = name.split(".")
        inside = overrides
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[last] = value
    if problems:
        raise ContractError(*problems)
    return overrides


def _parse(text: str, annotation: Any) -> Any:
    """Return an option's value: lists and mappings as in YAML, everything else as its text.

    A list may leave out its brackets: a,b is [a, b].
    """
    if text == "null":
        return None
    kinds = {get_origin(kind) or kind for kind in _alternatives(annotation)}
    if not kinds & {tuple, dict} and not any(map(_is_section, kinds)):
        return text
    if tuple in kinds and not text.lstrip().startswith(("[", "{")):
        return [part.strip() for part in text.split(",")]
    return yaml.safe_load(text)


def _alternatives(annotation: Any) -> list[Any]:
    """Return the types that a field takes, without None."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    if hasattr(annotation, "__metadata__"):  # Annotated[type, ...]
        return _alternatives(annotation.__origin__)
    return [] if annotation is type(None) else [annotation]


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections that a field takes, or that the entries of its list are."""
    for kind in _alternatives(annotation):
        if _is_section(kind):
            yield kind
        else:
            yield from (section for part in get_args(kind) for section in sections_in(part))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the values that a field, or an entry of its list, can have; none if any text can."""
    for kind in _alternatives(annotation):
        if kind is bool:
            return ("true", "false")
        if get_origin(kind) is Literal:
            return tuple(map(str, get_args(kind)))
        if get_origin(kind) is tuple:
            return _choices(get_args(kind)[0])
    return ()


def _complete(choices: tuple[str, ...], **_: object) -> tuple[str, ...]:
    return choices


def _metavar(annotation: Any) -> str:
    (kind,) = _alternatives(annotation)
    if get_origin(kind) is not tuple and (choices := _choices(kind)):
        return "{" + ",".join(choices) + "}"
    if get_origin(kind) is dict or _is_section(kind):
        return YAML_KEYS
    return METAVARS[get_origin(kind) or kind]


def _help(field: FieldInfo) -> str:
    """Return a field's description, the values of its list, an example and the default."""
    text = (field.description or "").rstrip(".") + "."
    for kind in _alternatives(field.annotation):
        if get_origin(kind) is tuple and (choices := _choices(kind)):
            text += f" Values: {', '.join(choices)}."
    for example in field.examples or ():
        text += f" Example: '{_as_yaml(example)}'."
    if field.is_required():
        return f"{text} (required)"
    return f"{text} (default: {_as_yaml(field.get_default())})"


def _as_yaml(value: Any) -> str:
    """Return a value in one line, as it would be written on the command line."""
    value = to_jsonable_python(value)
    if isinstance(value, str):
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
