"""Read lists of pairs: CSV, tab-separated values and JSON lines."""

import codecs
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
from fsspec import AbstractFileSystem

from pipeline.manifests.source import Source
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import describe

DELIMITERS = {".csv": ",", ".tsv": "\t"}
NAMES_OF_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
JSON_SUFFIXES = (".jsonl", ".ndjson")
BLOCK_BYTES = 16 * 2**20
"""What Arrow parses at once; a longer row is an error."""
ROWS_PER_PART = 100_000
"""Rows that are arranged at once."""


def open_list(fs: AbstractFileSystem, path: str, uri: str, base: str) -> Source:
    """Read a list.

    Args:
        fs: its store.
        path: the file, whose suffix says what it is.
        uri: the source, for messages.
        base: URI of the file's folder.

    Raises:
        ContractError: it has no rows, another encoding or delimiter, rows of different lengths or
            types, or is a JSON array.
    """
    content = fs.cat_file(path)
    if not content.strip():
        raise ContractError(f"source.uri: expected rows, got an empty file at {uri}")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in content[:100]:
        raise ContractError(
            f"source.uri: expected UTF-8, got UTF-16 or another encoding with zeros at {uri}; save "
            "the list as UTF-8"
        )
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ContractError(
            f"source.uri: expected UTF-8, got another encoding in line {line} of {uri}; save the "
            "list as UTF-8"
        ) from error
    suffix = PurePosixPath(path).suffix.lower()
    numbers: dict[str, pa.DataType] = {}
    if suffix in JSON_SUFFIXES:
        if content.lstrip().startswith(b"["):
            raise ContractError(
                f"source.uri: expected one JSON object per line, got a JSON array at {uri}"
            )
        rows = _read_json(content, uri)
    else:
        _check_delimiter(content, suffix, uri)
        rows = _read_csv(content, DELIMITERS[suffix], uri)
        numbers = _find_numbers(rows)

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        for batch in rows.select(list(columns)).to_batches(ROWS_PER_PART):
            yield pa.table(batch)

    return Source(uri, base, rows.schema, read, numbers=numbers)


def _check_delimiter(content: bytes, suffix: str, uri: str) -> None:
    """Refuse a list whose first line is divided by another character than its suffix says."""
    header = content.lstrip().partition(b"\n")[0].decode(errors="replace")
    delimiter = DELIMITERS[suffix]
    others = [char for char in NAMES_OF_DELIMITERS if char != delimiter and char in header]
    if delimiter not in header and others:
        expected, got = NAMES_OF_DELIMITERS[delimiter], NAMES_OF_DELIMITERS[others[0]]
        raise ContractError(
            f"source.uri: expected {expected} between the columns of a {suffix} file, got {got} at "
            f"{uri}; save it with {expected}"
        )


def _read_csv(content: bytes, delimiter: str, uri: str) -> pa.Table:
    """Return the rows of a CSV file, all columns as texts."""
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    blocks = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES)
    try:
        with pyarrow.csv.open_csv(io.BytesIO(content), blocks, parse) as reader:
            names = reader.schema.names
        convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        return pyarrow.csv.read_csv(io.BytesIO(content), blocks, parse, convert)
    except pa.ArrowInvalid as error:
        raise ContractError(
            f"source.uri: expected a value for each column in every row of {uri}, got "
            f"{describe(error)}"
        ) from error


def _find_numbers(rows: pa.Table) -> dict[str, pa.DataType]:
    """Return the types of the columns whose texts are numbers, written as programs write them."""
    numbers = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        is_empty = next(_texts(column), None) is None
        for type_, is_number in ((pa.int64(), _is_whole_number), (pa.float64(), _is_number)):
            if not is_empty and all(map(is_number, _texts(column))):
                numbers[name] = type_
                break
    return numbers


def _texts(column: pa.ChunkedArray) -> Iterator[str]:
    """Yield the texts of a column that are not empty, a chunk at a time."""
    return (text for chunk in column.chunks for text in chunk.to_pylist() if text)


def _is_whole_number(text: str) -> bool:
    """Return whether a text is an int64 that is written back as the same text; "001" is not."""
    try:
        return str(int(text)) == text and -(2**63) <= int(text) < 2**63
    except ValueError:
        return False


def _is_number(text: str) -> bool:
    """Return whether a text is a finite float64 that is written back as the same text."""
    try:
        number = float(text)
    except ValueError:
        return False
    written = repr(number)
    return math.isfinite(number) and text in (written, written.removesuffix(".0"))


def _read_json(content: bytes, uri: str) -> pa.Table:
    """Return the rows of JSON lines; texts stay texts, also those that Arrow takes for times."""
    blocks = pyarrow.json.ReadOptions(block_size=BLOCK_BYTES)
    try:
        rows = pyarrow.json.read_json(io.BytesIO(content), blocks)
    except pa.ArrowInvalid as error:
        raise ContractError(
            f"source.uri: expected one JSON object per line of {uri}, with values of one type for "
            f"each key, got {_explain_json(content, error)}"
        ) from error
    schema = pa.schema([field.with_type(_without_times(field.type)) for field in rows.schema])
    if schema == rows.schema:
        return rows
    parse = pyarrow.json.ParseOptions(explicit_schema=schema)
    return pyarrow.json.read_json(io.BytesIO(content), blocks, parse)


def _explain_json(content: bytes, error: pa.ArrowInvalid) -> str:
    """Return the first line that is no object, or else Arrow's reason."""
    lines = enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), start=1)
    wrong = next((number for number, line in lines if line.strip() and not _is_object(line)), None)
    if wrong is not None:
        return f"something else in line {wrong}"
    return re.sub(r" in row \d+$", "", describe(error))  # counted from 0 in each of its blocks


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _without_times(type_: pa.DataType) -> pa.DataType:
    """Return the type that Arrow would infer if it took no text for a time."""
    if pa.types.is_timestamp(type_) or pa.types.is_null(type_):
        return pa.string()
    if pa.types.is_list(type_):
        return pa.list_(_without_times(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_without_times(field.type)) for field in type_])
    return type_
