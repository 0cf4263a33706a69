"""Settings of the filter job."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.audits.config import Column, Columns, RunConfig, Value, given_bound
from pipeline.runs.settings import Section, Uri

StatusName = Literal[
    "ok", "missing", "forbidden", "unreadable", "decode_error", "too_large", "too_small",
    "size_mismatch", "non_finite", "crashed", "timed_out",
]  # fmt: skip
"""The values of Status. --help shows the names of an enum, which are not accepted."""
ROW_BOUNDS = ("at_most", "at_least", "at_most_quantile", "at_least_quantile")


class BoundConfig(Section):
    """A bound on a value of each kept row."""

    column: Column = Field(description="Column of the value.")
    at_most: Value | None = Field(None, description="Largest value kept.")
    at_least: Value | None = Field(None, description="Smallest value kept.")
    at_most_quantile: float | None = Field(
        None, ge=0, le=1, description="Keep values up to this quantile of all ok rows."
    )
    at_least_quantile: float | None = Field(
        None, ge=0, le=1, description="Keep values from this quantile of all ok rows upwards."
    )
    within: Columns = Field(
        (),
        description="Pass-through columns, as for group_by of the audit: take the quantile of rows "
        "that share their values.",
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = given_bound(self, ROW_BOUNDS)
        if self.within and not given.endswith("quantile"):
            raise ValueError(f"expected a quantile with within, got {given}")
        return self


class BestConfig(Section):
    """How many rows of each reference are kept."""

    n: int = Field(
        1,
        gt=0,
        description="If best_per_reference is given: number of rows kept of each reference, those "
        "with the lowest spips_score, and of equal scores those with the first pair_id.",
    )
    reference_column: str | None = Field(
        None,
        description="Pass-through column that names each pair's reference. null: the manifest's "
        "own column of reference URIs; needed if the manifest holds the images' bytes.",
    )


class FilterOutputConfig(Section):
    """Where kept and rejected rows are written."""

    uri: Uri = Field(
        description="New or empty folder for manifest/, rejects/ and summary.json; any fsspec URI."
    )
    rows_per_file: int = Field(100_000, gt=0, description="Largest number of rows in a file.")


class FilterScoresConfig(Section):
    """All settings of jobs/filter_scores.py."""

    scores: RunConfig
    statuses: tuple[StatusName, ...] = Field(
        ("ok",),
        min_length=1,
        description="Statuses that are kept. Only ok rows have values, so only they keep a bound.",
    )
    bounds: tuple[BoundConfig, ...] = Field(
        (),
        description="Bounds on values; a kept row keeps all of them.",
        examples=[[{"column": "spips_score", "at_most": 0.3}]],
    )
    best_per_reference: BestConfig | None = Field(
        None,
        description="Of the rows that keep the status and the bounds, keep only the best ones of "
        "each reference. null: keep all.",
        examples=[{"n": 1}],
    )
    output: FilterOutputConfig
