from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audits.figures.keys import can_be_key, to_keys
from pipeline.audits.records import label_of
from pipeline.runs.errors import ContractError
from tests.pipeline.audits.conftest import problems_of, run_audit
from tests.pipeline.filters.conftest import num_kept

YEAR_12000_S = 316_516_204_800
NUMBERS = pa.array([*range(1, 11), *range(10**9, 10**9 + 10)])
COUNTED = [
    pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin"),
    pa.timestamp("ns", "UTC"), pa.duration("ns"), pa.duration("s"), pa.int64(), pa.uint64(),
]  # fmt: skip
COLUMNS = {
    **{str(type_): NUMBERS.view(type_) for type_ in (*COUNTED, pa.time64("ns"))},
    "date32": pa.array(range(20), pa.int32()).view(pa.date32()),
    "float16": pa.array(np.arange(20, dtype=np.float16) / 4),
    "float": pa.array([0.1 * i for i in range(20)], pa.float32()),
    "double": pa.array([*(0.1 * i for i in range(18)), float("nan"), float("inf")]),
    "decimal128": pa.array([Decimal(i) / 4 for i in range(20)], pa.decimal128(9, 3)),
    "decimal256": pa.array([Decimal(i) / 4 for i in range(20)], pa.decimal256(50, 3)),
    "large_string": pa.array([f"é {i}\n" for i in range(20)], pa.large_string()),
    "dictionary": pa.array([*(str(i) for i in range(19)), None]).dictionary_encode(),
    "year 12000": pa.array(range(YEAR_12000_S, YEAR_12000_S + 20)).view(pa.timestamp("s")),
    "the last years": pa.array(range(2**63 - 20, 2**63)).view(pa.timestamp("us")),
}  # fmt: skip


def within(name):
    return [{"column": "spips_score", "at_most_quantile": 0.5, "within": [name]}]


@pytest.mark.parametrize("name", COLUMNS)
def test_each_value_of_any_plain_type_is_a_group_of_its_own(name, write_run):
    run = write_run({"pair_id": [f"p{i}" for i in range(20)], "made": COLUMNS[name],
                     "spips_score": [0.1 + 0.01 * i for i in range(20)]})  # fmt: skip
    assert num_kept(run, within("made")) == 20
    found = run_audit(run, group_by=["made"])
    groups = {row.group for row in found.record.statuses}
    assert len(groups) == 21
    assert {tuple(pair.group.values()) for pair in found.sheets["random"]} < groups
    assert all(label_of(group).isprintable() for group in groups)
    assert set(found.record.to_table()["group_made"].to_pylist()) == {
        value for group in groups - {()} for value in group
    } | {None}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([1500], pa.timestamp("ms", "America/New_York")), "1970-01-01 00:00:01.5Z"),
        (pa.array([1], pa.timestamp("ns", "Nowhere/Here")), "1970-01-01 00:00:00.000000001Z"),
        (pa.array([YEAR_12000_S], pa.timestamp("s")), "12000-01-01 00:00:00"),
        (pa.array([-YEAR_12000_S], pa.timestamp("s")), "-8060-01-02 00:00:00"),
        (pa.array([2**63 - 1], pa.timestamp("us")), f"{2**63 - 1} us since 1970"),
        (pa.array([-(2**63)], pa.timestamp("ms", "UTC")), f"{-(2**63)} ms since 1970"),
        (pa.array([-(2**31)], pa.int32()).view(pa.date32()), f"{-(2**31)} days since 1970"),
        (pa.array([10**15], pa.int64()).view(pa.date64()), f"{10**15} ms since 1970"),
        (pa.array(["<value out of range: 1>"]), "<value out of range: 1>"),
        (pa.array([100], pa.duration("us")), "100 us"),
        (pa.array([1000], pa.time64("ns")), "00:00:00.000001"),
        (pa.array([Decimal("10.50")], pa.decimal256(50, 2)), "10.5"),
        (pa.array([np.float16(-0.0)]), "0"),
        (pa.array([100]), "100"),
        (pa.array(["1.500"]), "1.500"),
        (pa.array([True]), "true"),
        (pa.nulls(1), None),
    ],
    ids=str,
)  # fmt: skip
def test_keys_are_readable(column, text):
    assert to_keys(column).to_pylist() == [text]


NUMBER = st.integers(0, 2**63 - 1)


@settings(deadline=None)
@given(st.sampled_from(COUNTED), NUMBER, NUMBER | st.none())
def test_values_are_equal_exactly_if_their_keys_are(type_, first, other):
    second = first ^ 1 if other is None else other  # nearly equal
    keys = to_keys(pa.array([first, second, first]).view(type_)).to_pylist()
    assert (keys[0] == keys[1]) == (first == second)
    assert keys[0] == keys[2]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1]] * 20),
        pa.array([{"a": 1}] * 20),
        pa.array([b"\xff"] * 20),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((20, 2))),
        pa.array([b"0" * 16] * 20, pa.uuid()),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_that_cannot_make_groups_is_one_line_that_names_it(column, write_run):
    assert not can_be_key(column.type)
    run = write_run({"pair_id": [f"p{i}" for i in range(20)], "spips_score": [0.1] * 20,
                     "odd": column})  # fmt: skip
    expected = f"expected texts, numbers, flags, dates or times in column 'odd' of {run}, got "
    (problem,) = problems_of(run, group_by=["odd"])
    assert problem.startswith(f"group_by: {expected}")
    with pytest.raises(ContractError) as caught:
        num_kept(run, within("odd"))
    (problem,) = caught.value.problems
    assert problem.startswith(f"bounds.0.within: {expected}")
    assert "\n" not in problem
