"""Sphinx settings: `make docs` builds these pages and the API reference into build/docs."""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import numpy.typing as npt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from sphinx.application import Sphinx

from pipeline.runs.settings import Section

project = "SPIPS"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
html_theme_options = {"description": "Score image pairs at scale", "page_width": "1100px"}
html_show_copyright = False
html_copy_source = False

myst_heading_anchors = 3
# Links to SECURITY.md and the like, which have no page here; the tests check that the files exist.
suppress_warnings = ["myst.xref_missing"]

default_role = "py:obj"  # a name in `backticks` links to its own entry, if it has one
autodoc_default_options = {"exclude-members": "model_config"}  # pydantic's
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Sphinx would spell out the union of all types that it stands for.
npt.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})

BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")


def dotted_settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting of a section, and of the sections inside it, by its full name."""
    for name, field in section.model_fields.items():
        inside = [
            type_
            for type_ in (field.annotation, *get_args(field.annotation))
            if isinstance(type_, type) and issubclass(type_, BaseModel)
        ]
        is_list = get_origin(field.annotation) is tuple
        if not inside or is_list:
            yield f"{prefix}{name}", field
        for inner in inside:
            yield from dotted_settings(inner, f"{prefix}{name}{'[]' if is_list else ''}.")


def describe(field: FieldInfo) -> str:
    """Return a setting's choices, bounds and default."""
    types = (field.annotation, *get_args(field.annotation))
    choices = [json.dumps(c) for type_ in types if get_origin(type_) is Literal
               for c in get_args(type_)]  # fmt: skip
    facts = [" | ".join(choices)] if choices else []
    facts += [
        f"{symbol} {getattr(bound, name)}"
        for bound in field.metadata
        for name, symbol in BOUNDS.items()
        if hasattr(bound, name)
    ]
    if field.is_required():
        return ", ".join(["required", *facts])
    default = json.dumps(to_jsonable_python(field.get_default()))
    return ", ".join([f"default ``{default}``", *facts])


def list_settings(
    app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]
) -> None:
    """Append every setting to the docstring of a job's settings class."""
    if what == "class" and issubclass(item, Section):
        for setting, field in dotted_settings(item):
            lines += ["", f"``{setting}`` ({describe(field)})", f"    {field.description}"]


def drop_signature(app: Sphinx, what: str, name: str, item: Any, *_: Any) -> tuple[str, str] | None:
    """Leave out the constructor's arguments of settings and records, which their text describes."""
    return ("", "") if what == "class" and issubclass(item, BaseModel) else None


def keep_text(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Keep what napoleon or reStructuredText would take for markup.

    Indented lines after a colon are equations in ASCII. Docstrings give no types, so words before a
    colon are no type.
    """
    kept: list[str] = []
    block_margin: int | None = None
    for line in lines:
        margin, before = _margin(line), kept[-1] if kept else ""
        has_no_type = before.strip() == "Returns:" or (not kept and what == "property")
        if block_margin is not None and line and margin <= block_margin:
            kept.append("")
            block_margin = None
        elif before.endswith(":") and before.strip() not in SECTIONS and margin > _margin(before):
            kept[-1:] = [f"{before}:", ""]
            block_margin = _margin(before)
        text = line[margin:] if block_margin is not None else line[margin:].replace("|", r"\|")
        kept.append(f"{line[:margin]}{': ' * has_no_type}{text}")
    lines[:] = kept


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def setup(app: Sphinx) -> None:
    """Connect the functions above; Sphinx calls this."""
    app.connect("autodoc-process-docstring", keep_text, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", list_settings)
    app.connect("autodoc-process-signature", drop_signature)
