"""Settings of the jobs that read scores: audit and filter."""

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from pipeline.runs.schema import Status
from pipeline.runs.settings import Section, Uri

Column = Literal[
    "spips_score", "tradition_score", "percept_score", "semantic_score", "psnr_db", "ssim",
    "ms_ssim",
]  # fmt: skip
GATE_BOUNDS = ("at_most", "at_least", "rise_at_most", "fall_at_most")
Figure = Literal["mean", "median", "p5", "p95", "p99", "share_above", "failed_fraction"]


class RunConfig(Section):
    """The run to read."""

    uri: Uri = Field(
        description="A finished run's folder, .../run_id=<id>, or a folder of runs, of which the "
        "newest finished one is taken; any fsspec URI."
    )


class BaselineConfig(Section):
    """What to compare it with."""

    uri: Uri | None = Field(
        None,
        description="A finished run's folder, or a folder of runs, of which the newest are taken "
        "that finished before this one; null: compare with nothing.",
    )
    last_runs: int = Field(
        7, gt=0, description="How many runs of a folder of runs; together they are the baseline."
    )


class GateConfig(Section):
    """A bound that a release must keep."""

    column: Column | None = Field(
        None, description="Column of the figure; null only for failed_fraction."
    )
    figure: Figure = Field(description="Figure of the column's values, over rows that are ok.")
    threshold: FiniteFloat | None = Field(
        None, description="Of share_above: count values above this."
    )
    at_most: FiniteFloat | None = Field(None, description="Broken above this.")
    at_least: FiniteFloat | None = Field(None, description="Broken below this.")
    rise_at_most: FiniteFloat | None = Field(
        None, ge=0, description="Broken when the mean rose by more than this over the baseline's."
    )
    fall_at_most: FiniteFloat | None = Field(
        None, ge=0, description="Broken when the mean fell by more than this below the baseline's."
    )
    each_group: bool = Field(
        False, description="Hold each group against it, instead of all rows together."
    )
    with_confidence: bool = Field(
        False,
        description="Broken only if the figure's whole confidence interval is beyond the bound.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = [name for name in GATE_BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of {', '.join(GATE_BOUNDS)}, got {given or 'none'}"
            )
        if self.compares and self.figure != "mean":
            raise ValueError(f"expected figure mean with {given[0]}, got {self.figure}")
        if (self.column is None) != (self.figure == "failed_fraction"):
            raise ValueError(f"expected a column for every figure but failed_fraction, got "
                             f"{self.column} for {self.figure}")  # fmt: skip
        if (self.threshold is None) == (self.figure == "share_above"):
            raise ValueError("expected a threshold with share_above, and only there")
        return self

    @property
    def bound_name(self) -> str:
        """Name of the bound that is given."""
        return next(name for name in GATE_BOUNDS if getattr(self, name) is not None)

    @property
    def compares(self) -> bool:
        """Whether it needs a baseline."""
        return self.rise_at_most is not None or self.fall_at_most is not None


class ReportConfig(Section):
    """How the report is made."""

    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of all intervals, 0.5 to 1.")
    bootstrap_samples: int = Field(1000, ge=100, description="Draws behind the means' intervals.")
    pairs_per_sheet: int = Field(
        8, ge=0, le=50, description="Pairs on each contact sheet: worst, most changed, random."
    )
    image_side_px: int = Field(
        384, ge=64, le=1024, description="Longest side of an image in the report, in pixels."
    )
    seed: int = Field(0, ge=0, description="Of the random sample and of the bootstrap.")


class AuditOutputConfig(Section):
    """Where the report goes."""

    uri: Uri = Field(
        description="Folder for audit.html, audit.json and audit.parquet; any fsspec URI. An "
        "earlier report there is replaced."
    )


class AuditScoresConfig(Section):
    """Everything that jobs/audit_scores.py needs."""

    scores: RunConfig
    baseline: BaselineConfig = BaselineConfig()
    group_by: tuple[str, ...] = Field(
        (), description="Pass-through columns; each combination of their values is a group."
    )
    thresholds: dict[Column, tuple[FiniteFloat, ...]] = Field(
        {"spips_score": (0.1, 0.3)},
        description="By column: tell the share of rows with values above each of these.",
    )
    gates: tuple[GateConfig, ...] = Field((), description="Bounds; a broken one is exit code 4.")
    report: ReportConfig = ReportConfig()
    output: AuditOutputConfig

    @model_validator(mode="after")
    def _gates_have_a_baseline(self) -> Self:
        if self.baseline.uri is None and any(gate.compares for gate in self.gates):
            raise ValueError("expected baseline.uri, since gates ask for a rise or fall, got none")
        return self


class BoundConfig(Section):
    """What a kept row's value must be."""

    column: Column = Field(description="Column of the value.")
    at_most: FiniteFloat | None = Field(None, description="Largest value kept.")
    at_least: FiniteFloat | None = Field(None, description="Smallest value kept.")
    at_most_quantile: float | None = Field(
        None, ge=0, le=1, description="Keep values up to this quantile of all ok rows."
    )
    at_least_quantile: float | None = Field(
        None, ge=0, le=1, description="Keep values from this quantile of all ok rows."
    )
    within: tuple[str, ...] = Field(
        (), description="Pass-through columns: take the quantile among rows of the same values."
    )

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        names = ("at_most", "at_least", "at_most_quantile", "at_least_quantile")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(names)}, got {given or 'none'}")
        if self.within and not given[0].endswith("quantile"):
            raise ValueError(f"expected a quantile with within, got {given[0]}")
        return self


class FilterOutputConfig(Section):
    """Where kept and rejected rows go."""

    uri: Uri = Field(
        description="Empty or new folder for manifest/, rejects/ and summary.json; any fsspec URI."
    )
    rows_per_file: int = Field(100_000, gt=0, description="Most rows in a file.")


class FilterScoresConfig(Section):
    """Everything that jobs/filter_scores.py needs."""

    scores: RunConfig
    statuses: tuple[Status, ...] = Field(
        (Status.OK,),
        min_length=1,
        description="Statuses that are kept. Only ok rows have values, so only they keep a bound.",
    )
    bounds: tuple[BoundConfig, ...] = Field((), description="All must hold for a row to be kept.")
    output: FilterOutputConfig
