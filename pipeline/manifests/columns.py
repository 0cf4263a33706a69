"""Choose the columns of a source, and make the manifest's columns of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifests.config import MANIFEST_COLUMNS, SourceConfig
from pipeline.manifests.source import Source, absolute_uri, list_first
from pipeline.runs.errors import ContractError, did_you_mean
from pipeline.runs.schema import RESERVED_COLUMNS, is_bytes, is_image_struct, is_text
from pipeline.runs.uris import redact_uri

ENDINGS = ("_uri", "_bytes", "", "_image", "_path")
"""What follows reference or distorted in the names that are recognised, the first one first."""
ID_NAMES = ("pair_id", "id")


@dataclass(frozen=True)
class Columns:
    """Names of a source's columns.

    Attributes:
        reference: the undistorted images.
        distorted: the images to judge.
        pair_id: ids; None if they are made.
        model: what is called model in the manifest; None if nothing changes its name.
        passed: the other columns.
        left_out: other columns with encoded images, which results would not hold either.
    """

    reference: str
    distorted: str
    pair_id: str | None
    model: str | None
    passed: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def read(self) -> list[str]:
        """All that are read, each once."""
        named = (self.reference, self.distorted, self.pair_id, self.model, *self.passed)
        return list(dict.fromkeys(name for name in named if name is not None))


def choose_columns(config: SourceConfig, schema: pa.Schema, uri: str) -> Columns:
    """Return the columns that the settings name, or else those with names that are recognised.

    Raises:
        ContractError: a column is missing, of a wrong type, or has a name that is taken; all
            problems are listed.
    """
    names, problems = schema.names, []
    listed = ", ".join(names)
    chosen: dict[str, str | None] = {}
    for image in ("reference", "distorted"):
        known = [f"{image}{ending}" for ending in ENDINGS]
        chosen[image] = getattr(config, f"{image}_column") or _first(known, names)
        if chosen[image] is None:
            problems.append(
                f"source.{image}_column: expected a column named {', '.join(known[:-1])} or "
                f"{known[-1]}, or this setting, got {listed} at {uri}{_meant(known, names)}"
            )
    chosen["pair_id"] = config.pair_id_column or _first(ID_NAMES, names)
    chosen["model"] = config.model_column
    problems += [
        f"source.{role}_column: expected a column {name!r}, got {listed} at {uri}"
        f"{did_you_mean(name, names)}"
        for role, name in chosen.items()
        if name is not None and name not in names
    ]
    problems += [
        f"source.uri: expected one column {name!r}, got several at {uri}"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise ContractError(*problems)
    used = [name for name in chosen.values() if name is not None]
    rest = [name for name in names if name not in used]
    left_out = [name for name in rest if _holds_images(schema.field(name).type)]
    passed = [name for name in rest if name not in left_out]
    problems = _check_types(chosen, schema)
    problems += _check_names(chosen, passed, uri)
    if problems:
        raise ContractError(*problems)
    return Columns(
        str(chosen["reference"]), str(chosen["distorted"]), chosen["pair_id"], chosen["model"],
        tuple(passed), tuple(left_out),
    )  # fmt: skip


def _first(known: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)


def _meant(known: Sequence[str], names: Sequence[str]) -> str:
    """Return a question with the column most like one that is recognised, or nothing."""
    plain = {name.strip().lower() for name in names}
    hints = (did_you_mean(one, names) for one in sorted(known, key=lambda one: one not in plain))
    return next(filter(None, hints), "")


def _holds_images(type_: pa.DataType) -> bool:
    return is_bytes(_plain(type_)) or is_image_struct(type_)


def _check_types(chosen: dict[str, str | None], schema: pa.Schema) -> list[str]:
    problems = []
    for role in ("reference", "distorted"):
        type_ = _plain(schema.field(chosen[role]).type)
        if not (is_text(type_) or _holds_images(type_)):
            problems.append(
                f"source.{role}_column: expected {chosen[role]!r} to be URIs (string), encoded "
                f"images (binary) or a struct of bytes and path, got {type_}"
            )
    if chosen["pair_id"] is not None:
        type_ = _plain(schema.field(chosen["pair_id"]).type)
        if not (is_text(type_) or pa.types.is_integer(type_)):
            problems.append(
                f"source.pair_id_column: expected {chosen['pair_id']!r} to be string or integer, "
                f"got {type_}"
            )
    return problems


def _check_names(chosen: dict[str, str | None], passed: Sequence[str], uri: str) -> list[str]:
    problems = []
    if chosen["reference"] == chosen["distorted"]:
        problems.append(
            f"source.distorted_column: expected another column than the references', got "
            f"{chosen['distorted']!r}"
        )
    taken = {*MANIFEST_COLUMNS} - ({"model"} if chosen["model"] is None else set())
    problems += [
        f"source.uri: column {name!r} would be taken for another one of the manifest; choose it "
        f"with a setting, or rename it in {uri}"
        for name in passed
        if name in taken
    ]
    reserved = [name for name in passed if name in RESERVED_COLUMNS]
    if reserved:
        problems.append(
            f"source.uri: expected no columns of results, got {', '.join(reserved)}; rename them "
            f"in {uri}"
        )
    return problems


def arrange(source: Source, columns: Columns) -> Iterator[pa.Table]:
    """Yield the manifest's rows, table by table.

    Raises:
        ContractError: there are no rows, or one has no id, or an image of another kind than the
            first row's.
    """
    is_encoded: dict[str, bool] = {}
    first_row = 0
    for table in source.read(columns.read):
        if not len(table):
            continue
        made: dict[str, pa.Array] = {}
        names = {"reference": columns.reference, "distorted": columns.distorted}
        for image, name in names.items():
            column = _to_plain(table.column(name))
            if image not in is_encoded:
                is_encoded[image] = _has_bytes(column)
            kind = "bytes" if is_encoded[image] else "uri"
            made[f"{image}_{kind}"] = _images(column, kind, source.base, name, first_row)
        ids = {"pair_id": _ids(table, columns, first_row)}
        model = {} if columns.model is None else {"model": _to_plain(table.column(columns.model))}
        passed = {
            name: _to_number(table.column(name), source.numbers[name])
            if name in source.numbers
            else _to_plain(table.column(name))
            for name in columns.passed
        }
        yield pa.table(ids | made | model | passed)
        first_row += len(table)
    if not first_row:
        raise ContractError(f"source.uri: expected rows, got none at {source.uri}")


def _has_bytes(column: pa.Array) -> bool:
    if is_image_struct(column.type):
        return bool(pc.struct_field(column, "bytes").null_count < len(column))
    return is_bytes(column.type)


def _images(column: pa.Array, kind: str, base: str, name: str, first_row: int) -> pa.Array:
    """Return encoded images or absolute URIs.

    Raises:
        ContractError: an image of the column is of the other kind.
    """
    if is_image_struct(column.type):
        field, other = ("bytes", "path") if kind == "bytes" else ("path", "bytes")
        chosen = pc.struct_field(column, field)
        wrong = pc.and_(pc.is_null(chosen), pc.is_valid(pc.struct_field(column, other)))
        if pc.any(wrong).as_py():
            row = first_row + pc.index(wrong, True).as_py()
            raise ContractError(
                f"source.uri: expected {field} in every row of {name!r} as in the first rows, got "
                f"only {other} in row {row}, counted from 0"
            )
        column = chosen
    if kind == "bytes":
        return column.cast(_plain(column.type))
    return pa.array([uri and absolute_uri(base, uri) for uri in column.to_pylist()], pa.string())


def _ids(table: pa.Table, columns: Columns, first_row: int) -> pa.Array:
    """Return ids: the column's, else the texts that name the distorted images, else numbers."""
    if columns.pair_id is not None:
        name = columns.pair_id
        ids = _to_plain(table.column(name)).cast(pa.string())
    else:
        name = columns.distorted
        ids = _to_plain(table.column(name))
        if not is_text(ids.type):
            rows = range(first_row, first_row + len(table))
            return pa.array([f"{row:09d}" for row in rows], pa.string())
        # Ids stand in every result and message; the URI's column alone may hold a secret.
        ids = pa.array([uri and redact_uri(uri) for uri in ids.to_pylist()], pa.string())
    missing = pc.fill_null(pc.equal(ids, ""), True)
    if pc.any(missing).as_py():
        row = first_row + pc.index(missing, True).as_py()
        raise ContractError(
            f"source.uri: expected an id in every row, got no {name!r} in row {row}, counted from 0"
        )
    return ids.cast(pa.string())


def _to_number(column: pa.ChunkedArray, type_: pa.DataType) -> pa.Array:
    texts = column.combine_chunks()
    return pc.if_else(pc.equal(texts, ""), None, texts).cast(type_)


def _to_plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as a type that scoring reads: no views, dictionaries or extensions."""
    array = column.combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.cast(_plain(array.type))


def _plain(type_: pa.DataType) -> pa.DataType:
    """Return the type that scoring reads instead of another one."""
    if isinstance(type_, pa.BaseExtensionType):
        return _plain(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return _plain(type_.value_type)
    if pa.types.is_string_view(type_) or pa.types.is_null(type_):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(type_) else type_


def describe_left_out(columns: Columns) -> list[str]:
    """Return a note on the columns that were left out."""
    if not columns.left_out:
        return []
    return [f"columns left out, as they hold other images: {list_first(columns.left_out)}"]
