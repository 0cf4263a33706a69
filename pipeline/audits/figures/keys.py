"""Values of a manifest's columns as text, which name groups, models and references; and for SQL."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import SCORE_FIELDS, is_text

NO_VALUE = pc.scalar(pa.scalar(None, pa.float32()))

KEY_TYPES = "texts, numbers, flags, dates or times"


def reference_column_of(setting: str, run: FinishedRun, given: str | None) -> tuple[str, list[str]]:
    """Return the column that names each pair's reference, and the problems with it.

    Args:
        setting: name of the setting, for the problems.
        run: the run.
        given: the setting's value; None takes the manifest's own column of reference URIs.
    """
    if given is not None:
        return given, problems_of_keys(setting, run, [given])
    if run.image_columns is None:
        return "", [f"{setting}: expected a pass-through column that names each pair's reference, "
                    f"because the manifest of {run.uri} holds the images themselves, one of "
                    f"{', '.join(run.pass_through_columns)}, got none"]  # fmt: skip
    return run.image_columns[0], []


def can_be_key(type_: pa.DataType) -> bool:
    """Return whether `to_keys` takes a column of this type."""
    if pa.types.is_dictionary(type_):
        return can_be_key(type_.value_type)
    checks = (is_text, pa.types.is_primitive, pa.types.is_decimal, pa.types.is_null)
    return any(check(type_) for check in checks)


_NO_DATE = r"^<value out of range: (-?\d+)>Z?$"


def to_keys(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return each value as text; null stays null.

    Equal values have equal texts, and different values have different ones. All NaN are equal, and
    so are 0 and -0. Times with a time zone are shown in UTC, durations with their unit. Times that
    Arrow cannot show, beyond the year 32767, are shown as their number with its unit.
    """
    type_ = column.type
    if pa.types.is_dictionary(type_):
        return to_keys(column.cast(type_.value_type))
    if is_text(type_):
        return column.cast(pa.string())
    unit = ""
    if pa.types.is_timestamp(type_) and type_.tz is not None:
        column, unit = column.cast(pa.timestamp(type_.unit)), "Z"
    elif pa.types.is_duration(type_):
        unit = f" {type_.unit}"
    texts = column.cast(pa.string())
    if pa.types.is_floating(type_):
        texts = pc.replace_substring_regex(texts, r"^-0$", "0")
    texts = pc.replace_substring_regex(texts, r"\.0+$|(\.\d*[1-9])0+$", r"\1")
    texts = pc.binary_join_element_wise(texts, unit, "")
    if pa.types.is_temporal(type_):
        counted_in = "days" if pa.types.is_date32(type_) else getattr(type_, "unit", "ms")
        texts = pc.replace_substring_regex(texts, _NO_DATE, rf"\1 {counted_in} since 1970")
    return texts


def problems_of_keys(setting: str, run: FinishedRun, columns: Sequence[str]) -> list[str]:
    """Return a problem for each column of a setting that cannot make groups of a run's rows."""
    known = run.pass_through_columns
    problems = []
    for name in columns:
        if name not in known:
            problems.append(f"{setting}: expected a pass-through column of {run.uri}, one of "
                            f"{', '.join(known)}, got {name!r}")  # fmt: skip
        elif not can_be_key(type_ := run.scores.schema.field(name).type):
            problems.append(f"{setting}: expected {KEY_TYPES} in column {name!r} of {run.uri}, "
                            f"got {type_}")  # fmt: skip
    return problems


def stream(
    run: FinishedRun, columns: Sequence[str], group_by: Sequence[str] = ()
) -> pa.RecordBatchReader:
    """Return columns of the results for SQL as c0, c1 ..., and keys of groups as key0, key1 ...

    A score column that the run's version did not write yet is null.
    SQL ignores the case of names, and a manifest's own names may differ only in that.
    """
    missing = {field.name for field in SCORE_FIELDS} - set(run.score_columns)
    of_run = run.scores.schema
    types = [pa.float32() if name in missing else of_run.field(name).type for name in columns]
    fields = [pa.field(f"c{i}", type_) for i, type_ in enumerate(types)]
    fields += [pa.field(f"key{i}", pa.string()) for i in range(len(group_by))]
    schema = pa.schema(fields)
    values = [NO_VALUE if name in missing else pc.field(name) for name in columns]
    values += [pc.field(name) for name in group_by]
    scanner = run.scores.scanner(columns=dict(zip(schema.names, values, strict=True)))

    def with_keys(batch: pa.RecordBatch) -> pa.RecordBatch:
        keys = [to_keys(column) for column in batch.columns[len(columns) :]]
        return pa.record_batch([*batch.columns[: len(columns)], *keys], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, map(with_keys, scanner.to_batches()))
