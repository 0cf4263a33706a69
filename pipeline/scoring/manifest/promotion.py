"""Find the columns of a manifest whose files have different types."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.dataset

from pipeline.runs.schema import is_bytes, is_image_struct, is_text
from pipeline.runs.uris import redact
from pipeline.scoring.manifest.files import ManifestFiles


def merge_schemas(
    files: ManifestFiles, schemas: Sequence[pa.Schema]
) -> tuple[pa.Schema, list[str], set[str]]:
    """Return the columns that can hold the rows of all files, the problems, and whose they are.

    Types are promoted as Arrow's permissive promotion does. Views become plain types, and a
    dictionary beside plain values becomes plain.

    Args:
        files: the files.
        schemas: their columns, in the same order.
    """
    keys = next(iter(files.values.values()), {})
    in_files = schemas[0] if files.table is None else files.table
    names = dict.fromkeys(name for name in in_files.names if name not in keys)
    unclear = {n for schema in schemas for n in schema.names if schema.names.count(n) > 1}
    problems = [f"manifest: expected one column {name!r}, got several" for name in sorted(unclear)]
    fields = []
    for name in names:
        found = {
            path: schema.field(schema.names.index(name))
            for path, schema in zip(files.paths, schemas, strict=True)
            if name in schema.names
        }
        if found:
            field, misfits = _merge_column(name, found)
            problems += misfits
            unclear |= {name} if misfits else set()
        else:  # of a table that got this column later
            field = in_files.field(name)
        nullable = field.nullable or len(found) < len(schemas)
        fields.append(pa.field(name, field.type, nullable))
    if files.table is None:
        unclear |= {n for schema in schemas for n in {*schema.names} ^ {*schemas[0].names}}
        problems += _find_absent(files.paths, schemas)
        both = [
            (k, p) for p, s in zip(files.paths, schemas, strict=True) for k in keys if k in s.names
        ]
        problems += [
            f"manifest.uri: expected column {key!r} in the names of folders or in the files, got "
            f"it in both: {redact(path)}"
            for key, path in both[:1]
        ]
    fields += [pa.field(key, value.type) for key, value in keys.items()]
    return pa.schema(fields), problems, unclear


def _find_absent(paths: Sequence[str], schemas: Sequence[pa.Schema]) -> list[str]:
    """Return the problems of loose files that lack a column, or have one more."""
    first, problems = schemas[0], []
    for path, schema in zip(paths[1:], schemas[1:], strict=True):
        for name in sorted({*first.names} ^ {*schema.names}):
            types = [
                one.types[one.names.index(name)] if name in one.names else "absent"
                for one in (first, schema)
            ]
            problems.append(
                f"manifest: expected column {name!r} as {types[0]} (as in {redact(paths[0])}), "
                f"got {types[1]} in {redact(path)}"
            )
    return problems


def _merge_column(name: str, found: Mapping[str, pa.Field]) -> tuple[pa.Field, list[str]]:
    """Return the type that holds a column of all files, and the files that do not fit."""
    (first, field), *others = found.items()
    merged, problems = _plain(field.type), []
    for path, other in others:
        promoted = promote(merged, _plain(other.type))
        if promoted is None:
            problems.append(
                f"manifest: expected column {name!r} as {merged} (as in {redact(first)}), got "
                f"{other.type} in {redact(path)}"
            )
        else:
            merged = promoted
    return pa.field(name, merged, any(one.nullable for one in found.values())), problems


def promote(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both, or None if there is none."""
    if one == other:
        return one
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if pa.types.is_dictionary(one) != pa.types.is_dictionary(other):
        return promote(*(t.value_type if pa.types.is_dictionary(t) else t for t in (one, other)))
    if is_text(one) != is_text(other):  # Arrow takes texts for bytes, and so URIs for images
        return None
    try:
        schemas = [pa.schema([("", type_)]) for type_ in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def _plain(type_: pa.DataType) -> pa.DataType:
    """Return the type that stages read instead of a view, or of one inside."""
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_plain(field.type)) for field in type_])
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        kind = pa.list_ if pa.types.is_list(type_) else pa.large_list
        return kind(type_.value_field.with_type(_plain(type_.value_type)))
    return type_


def check_values(
    files: ManifestFiles, schemas: Sequence[pa.Schema], rows: pyarrow.dataset.Dataset
) -> list[str]:
    """Return the problems of values that their promoted type cannot hold, such as 2**53 + 1.

    Args:
        files: the files.
        schemas: their columns.
        rows: their rows, with the promoted columns.
    """
    problems = []
    fragments = {fragment.path: fragment for fragment in rows.get_fragments()}
    for path, schema in zip(files.paths, schemas, strict=True):
        for field in schema:
            index = rows.schema.get_field_index(field.name)
            if index < 0 or not _can_lose(field.type, rows.schema.field(index).type):
                continue
            try:
                for _ in fragments[path].to_batches(rows.schema, columns=[field.name]):
                    pass
            except pa.ArrowInvalid as error:
                problems.append(
                    f"manifest: expected column {field.name!r} with values that "
                    f"{rows.schema.field(index).type} can hold, as it is in other files, got "
                    f"others in {redact(path)}: {error}"
                )
    return problems


def _can_lose(type_: pa.DataType, promoted: pa.DataType) -> bool:
    """Return whether a promotion must be tried with the values."""
    if type_ == promoted or pa.types.is_null(type_) or is_image_struct(type_):
        return False
    value = _plain(type_.value_type if pa.types.is_dictionary(type_) else type_)
    return not (is_text(value) or is_bytes(value))
