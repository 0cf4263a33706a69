"""Values of a manifest's columns as text: the keys of groups, models and references."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import is_text

KEY_TYPES = "texts, numbers, flags, dates or times"


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
