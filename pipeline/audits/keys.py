"""What makes a group: values of pass-through columns as exact, readable text.

Only this file turns values into keys, so that keys can be compared wherever they come from.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.schema import is_text

Key = tuple[str | None, ...]
"""The key of a group: the values of its columns as text, None for null. The group of all rows has
the key ()."""
KEY_TYPES = "texts, numbers, flags, dates or times"


def can_be_key(type_: pa.DataType) -> bool:
    """Return whether `to_keys` takes a column of this type."""
    if pa.types.is_dictionary(type_):
        return can_be_key(type_.value_type)
    checks = (is_text, pa.types.is_primitive, pa.types.is_decimal, pa.types.is_null)
    return any(check(type_) for check in checks)


def to_keys(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return each value as text; null stays null.

    Equal values have equal texts, and different values have different ones. All NaN are equal, and
    so are 0 and -0. Times with a time zone are shown in UTC, durations with their unit.
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
    return pc.binary_join_element_wise(texts, unit, "")
